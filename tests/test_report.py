"""The page about an evaluation: escaping, size."""

import html
import json
import os
import re
import urllib.parse

import numpy as np
from helpers import CLASS_NAMES, CLIP_NAME, write_evaluation, write_wav

from tagger import diagnosis, results
from tools import report


def page_of(eval_dir, clip_dir, against="") -> str:
    evaluation = diagnosis.read_evaluation(str(eval_dir))
    return report.make_page(
        evaluation,
        diagnosis.class_results(evaluation),
        eval_dir=str(eval_dir),
        clip_dir=str(clip_dir),
        against=str(against),
    )


def test_the_page_escapes_names_and_needs_nothing_else(tmp_path, capsys):
    eval_dir = tmp_path / "eval"
    write_evaluation(eval_dir, 1)
    write_evaluation(tmp_path / "<i>", 2)
    clips = tmp_path / "clips"
    clips.mkdir()
    name = CLIP_NAME.format(0)
    write_wav(clips / name, 3000 * np.sin(np.arange(50000) / 9))
    page = page_of(eval_dir, clips, tmp_path / "<i>")
    assert "<script>alert" not in page
    assert "<img src=x" not in page
    assert "<i>" not in page
    assert html.escape(CLASS_NAMES[1]) in page
    assert page.count("<script>") == 1
    assert page.count("<audio") == 30
    assert f'src="../clips/{urllib.parse.quote(name)}"' in page
    assert not re.search(r"https?://|url\(|@import", page)
    data = json.loads(re.search(r"const data = (.*);", page)[1])
    assert [found["name"] for found in data["classes"]] == CLASS_NAMES[:3]
    assert data["progress"][0] == [0, 0.3]
    assert page.count("data:image/png;base64,") == 1
    assert page.count("cannot be read") == 29
    err = capsys.readouterr().err
    assert re.search(r"^warning: --clip_dir: 29 clips .*clips$", err, re.MULTILINE)


def test_scores_of_another_step_than_the_best(tmp_path, capsys):
    write_evaluation(tmp_path / "eval", 1)
    marker = results.marker_path(str(tmp_path / "eval"), 10)
    marker.write_text("Overall lwlrap = 1.000000\n")
    page_of(tmp_path / "eval", tmp_path)
    assert "delete eval-10.txt" in capsys.readouterr().err


def test_a_large_evaluation_is_a_small_page(tmp_path):
    write_evaluation(tmp_path / "eval", 1, num_clips=4000)
    noise = np.random.default_rng(0).uniform(-30000, 30000, 4 * 44100)
    first = write_wav(tmp_path / CLIP_NAME.format(0), noise)
    for number in range(1, 4000):
        os.link(first, tmp_path / CLIP_NAME.format(number))
    page = page_of(tmp_path / "eval", tmp_path)
    assert page.count("data:image/png;base64,") == 30
    assert len(page) < 10e6
