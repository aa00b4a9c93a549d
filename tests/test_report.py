"""The page about an evaluation: escaping, size, missing scores."""

import html
import json
import os
import re
import urllib.parse

import numpy as np
import pytest
from helpers import CLASS_NAMES, CLIP_NAME, run_main, write_evaluation, write_wav

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


def test_a_folder_without_the_clips_is_an_error(tmp_path):
    write_evaluation(tmp_path / "eval", 1)
    with pytest.raises(ValueError, match="--clip_dir"):
        page_of(tmp_path / "eval", tmp_path)


@pytest.mark.parametrize("killed", [False, True])
def test_scores_of_another_step_than_the_best(
    dataset, trained, tmp_path, capsys, killed
):
    """The printed remedy works."""
    eval_dir = tmp_path / "eval"
    flags = dataset.eval_flags(trained, eval_dir)

    def warning_after_evaluation() -> str:
        assert run_main(flags) == 0
        capsys.readouterr()
        page_of(eval_dir, dataset.clip_dir)
        return capsys.readouterr().err

    assert warning_after_evaluation() == ""
    best = results.best_step(results.read_results(str(eval_dir)))
    if killed:  # before eval-N.txt was written
        results.marker_path(str(eval_dir), best).unlink()
    else:  # Two evaluators ended at the same time.
        with np.load(eval_dir / results.SCORES_FILE) as arrays:
            other = dict(arrays) | {"step": 4 if best != 4 else 2}
        np.savez(eval_dir / results.SCORES_FILE, **other)
    page_of(eval_dir, dataset.clip_dir)
    err = capsys.readouterr().err
    assert "evaluation again" in err
    named = re.findall(r"delete (eval-\d+\.txt)", err)
    assert named == [] if killed else [f"eval-{best}.txt"]
    for name in named:
        assert warning_after_evaluation() != ""
        (eval_dir / name).unlink()
    assert warning_after_evaluation() == ""


def test_a_large_evaluation_is_a_small_page(tmp_path):
    write_evaluation(tmp_path / "eval", 1, num_clips=4000)
    noise = np.random.default_rng(0).uniform(-30000, 30000, 4 * 44100)
    first = write_wav(tmp_path / CLIP_NAME.format(0), noise)
    for number in range(1, 4000):
        os.link(first, tmp_path / CLIP_NAME.format(number))
    page = page_of(tmp_path / "eval", tmp_path)
    assert page.count("data:image/png;base64,") == 30
    assert len(page) < 10e6
