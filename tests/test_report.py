"""The page about an evaluation: values, escaping, comparison."""

import json
import re

import numpy as np
import pytest
from helpers import write_wav
from sklearn.metrics import average_precision_score, f1_score

from tagger import results
from tagger.lwlrap import Lwlrap
from tools import report

NAMES = ["Bark", "</script><script>alert(1)", 'Bär "x"', "Unused"]


def write_evaluation(folder, seed: int, num_clips: int = 40):
    """Writes results with random scores that are higher for the labels."""
    rng = np.random.default_rng(0)
    labels = np.zeros([num_clips, len(NAMES)], np.float32)
    labels[np.arange(num_clips), np.arange(num_clips) % 3] = 1
    labels[::5, 0] = 1
    rng = np.random.default_rng(seed)
    scores = np.clip(0.4 * labels + rng.uniform(0, 0.6, labels.shape), 0, 1)
    folder.mkdir(parents=True)
    clips = [f"<b>{n:04d}.wav" for n in range(num_clips)]
    np.savez(
        folder / results.SCORES_FILE,
        step=20,
        class_names=np.array(NAMES),
        clips=np.array(clips),
        labels=labels,
        scores=scores,
    )
    lwlrap = Lwlrap(NAMES)
    lwlrap.accumulate(labels, scores)
    results.marker_path(str(folder), 20).write_text(f"{lwlrap}\n")
    results.marker_path(str(folder), 0).write_text("Overall lwlrap = 0.300000\n")
    return labels, scores, lwlrap


def page_of(eval_dir, clip_dir, against="") -> str:
    evaluation = report.read_evaluation(str(eval_dir))
    return report.make_page(
        evaluation,
        report.class_results(evaluation),
        eval_dir=str(eval_dir),
        clip_dir=str(clip_dir),
        against=str(against),
    )


def test_the_values_of_a_class(tmp_path):
    labels, scores, lwlrap = write_evaluation(tmp_path / "eval", 1)
    found = report.class_results(report.read_evaluation(str(tmp_path / "eval")))
    for index in range(3):
        result = found[index]
        truth, score = labels[:, index], scores[:, index]
        assert result.name == NAMES[index]
        assert result.num_clips == truth.sum()
        assert result.lwlrap == pytest.approx(lwlrap.per_class_lwlrap()[index])
        expected = average_precision_score(truth, score)
        assert result.average_precision == pytest.approx(expected)
        by_threshold = {t: f1_score(truth, score >= t) for t in score}
        assert result.f1 == pytest.approx(max(by_threshold.values()))
        assert by_threshold[result.threshold] == pytest.approx(result.f1)
    assert found[3].num_clips == 0
    assert np.isnan(found[3].average_precision)


def test_confused_pairs():
    labels = np.array([[1, 0, 0], [1, 0, 0], [0, 1, 1]], np.float32)
    scores = np.array([[0.5, 0.9, 0.1], [0.5, 0.6, 0.7], [0.1, 0.2, 0.3]])
    evaluation = report.Evaluation(1, ["A", "B", "C"], [], labels, scores, labels)
    assert report.confused_pairs(evaluation) == [("A", "B", 2, 1.0), ("A", "C", 1, 0.5)]


def test_two_evaluations_are_compared(tmp_path):
    *_, first = write_evaluation(tmp_path / "a", 1)
    *_, second = write_evaluation(tmp_path / "b", 2)
    differences = report.compare(
        *(report.read_evaluation(str(tmp_path / name)) for name in "ab")
    )
    names = [name for name, *_ in differences]
    assert names == ["all classes", *NAMES[:3]]
    values = np.array([row[1:] for row in differences])
    expected = first.overall_lwlrap() - second.overall_lwlrap()
    assert values[0, 0] == pytest.approx(expected)
    expected = first.per_class_lwlrap() - second.per_class_lwlrap()
    np.testing.assert_allclose(values[1:, 0], expected[:3])
    assert (values[:, 1] <= values[:, 0]).all()
    assert (values[:, 0] <= values[:, 2]).all()
    write_evaluation(tmp_path / "c", 1, num_clips=39)
    with pytest.raises(ValueError, match="--against"):
        report.compare(*(report.read_evaluation(str(tmp_path / n)) for n in "ac"))


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
    assert list(curves) == NAMES[:3]
    assert page.count("data:image/png;base64,") <= 1


def test_missing_results_are_named(tmp_path):
    with pytest.raises(ValueError, match="scores-best.npz"):
        report.read_evaluation(str(tmp_path))
    (tmp_path / results.SCORES_FILE).write_text("x")
    with pytest.raises(ValueError, match="cannot be read"):
        report.read_evaluation(str(tmp_path))


def test_a_large_evaluation_is_a_small_page(tmp_path):
    write_evaluation(tmp_path / "eval", 1, num_clips=4000)
    page = page_of(tmp_path / "eval", tmp_path)
    assert len(page) < 10e6
