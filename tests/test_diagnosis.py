"""What an evaluation says about its classes: values, pairs, comparison."""

import numpy as np
import pytest
from helpers import CLASS_NAMES, write_evaluation
from sklearn.metrics import average_precision_score, f1_score

from tagger import diagnosis, results


def test_the_values_of_a_class(tmp_path):
    labels, scores, lwlrap = write_evaluation(tmp_path / "eval", 1)
    found = diagnosis.class_results(diagnosis.read_evaluation(str(tmp_path / "eval")))
    for index in range(3):
        result = found[index]
        truth, score = labels[:, index], scores[:, index]
        assert result.name == CLASS_NAMES[index]
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
    evaluation = diagnosis.Evaluation(1, ["A", "B", "C"], [], labels, scores, labels)
    assert diagnosis.confused_pairs(evaluation) == [
        ("A", "B", 2, 1.0),
        ("A", "C", 1, 0.5),
    ]


def test_two_evaluations_are_compared(tmp_path):
    *_, first = write_evaluation(tmp_path / "a", 1)
    *_, second = write_evaluation(tmp_path / "b", 2)
    differences = diagnosis.compare(
        *(diagnosis.read_evaluation(str(tmp_path / name)) for name in "ab")
    )
    names = [name for name, *_ in differences]
    assert names == ["all classes", *CLASS_NAMES[:3]]
    values = np.array([row[1:] for row in differences])
    expected = first.overall_lwlrap() - second.overall_lwlrap()
    assert values[0, 0] == pytest.approx(expected)
    expected = first.per_class_lwlrap() - second.per_class_lwlrap()
    np.testing.assert_allclose(values[1:, 0], expected[:3])
    assert (values[:, 1] <= values[:, 0]).all()
    assert (values[:, 0] <= values[:, 2]).all()
    write_evaluation(tmp_path / "c", 1, num_clips=39)
    with pytest.raises(ValueError, match="--against"):
        diagnosis.compare(*(diagnosis.read_evaluation(str(tmp_path / n)) for n in "ac"))


def test_missing_results_are_named(tmp_path):
    with pytest.raises(ValueError, match="scores-best.npz"):
        diagnosis.read_evaluation(str(tmp_path))
    (tmp_path / results.SCORES_FILE).write_text("x")
    with pytest.raises(ValueError, match="cannot be read"):
        diagnosis.read_evaluation(str(tmp_path))
