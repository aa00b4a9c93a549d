"""The page about an evaluation: escaping, size."""

import json
import re

import numpy as np
from helpers import CLASS_NAMES, write_evaluation, write_wav

from tagger import diagnosis
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


def test_the_page_escapes_names_and_needs_nothing_else(tmp_path):
    eval_dir = tmp_path / "eval"
    write_evaluation(eval_dir, 1)
    write_evaluation(tmp_path / "<i>", 2)
    clips = tmp_path / "clips"
    clips.mkdir()
    write_wav(clips / "<b>0000.wav", 3000 * np.sin(np.arange(50000) / 9))
    page = page_of(eval_dir, clips, tmp_path / "<i>")
    assert "<script>alert" not in page
    assert "<b>" not in page
    assert "<i>" not in page
    assert "&lt;/script&gt;&lt;script&gt;alert(1)" in page
    assert page.count("<script>") == 1
    assert page.count("<audio") == 30
    assert 'src="../clips/%3Cb%3E0000.wav"' in page
    assert not re.search(r"https?://|url\(|@import", page)
    curves = json.loads(re.search(r"const curves = (.*);", page)[1])
    assert list(curves) == CLASS_NAMES[:3]
    assert page.count("data:image/png;base64,") <= 1


def test_a_large_evaluation_is_a_small_page(tmp_path):
    write_evaluation(tmp_path / "eval", 1, num_clips=4000)
    page = page_of(tmp_path / "eval", tmp_path)
    assert len(page) < 10e6
