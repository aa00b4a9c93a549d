"""Thresholds for a wanted precision, and what they detect in other clips."""

import os
import pathlib

import numpy as np
import pytest
from helpers import CLASS_NAMES, write_evaluation

from tools import score
from tools.report.detections import NEVER, find_detections, precision_thresholds
from tools.report.diagnosis import ALL_CLASSES, Evaluation, read_evaluation


def evaluation_of(labels, scores) -> Evaluation:
    labels, scores = (np.array(values, float).T for values in (labels, scores))
    names = [f"C{index}" for index in range(labels.shape[1])]
    clips = [f"{index}.wav" for index in range(len(labels))]
    return Evaluation(0, names, clips, labels, scores, labels)


def test_a_threshold_has_the_precision_with_a_confidence():
    """Ten right clips, a wrong one, three right ones with equal scores, wrong ones."""
    labels = [1] * 10 + [0] + [1] * 3 + [0] * 10
    scores = [*np.linspace(0.9, 0.81, 10), 0.8, 0.7, 0.7, 0.7, *np.linspace(0.6, 0, 10)]
    evaluation = evaluation_of([labels], [scores])
    for wanted, expected in (
        (0.93, NEVER),
        (0.92, 0.81),  # 10 of 10
        (0.85, 0.81),
        (0.84, 0.7),  # 13 of 14; not with only two of the equal scores
        (0.78, 0.7),
        (0.77, 0.6),  # 13 of 15
    ):
        assert precision_thresholds(evaluation, wanted) == [pytest.approx(expected)]


def test_few_clips_have_no_threshold():
    labels, scores = [1] * 9 + [0] * 9, [0.9] * 9 + [0.1] * 9
    evaluation = evaluation_of([labels, [0] * 18], [scores, scores])
    assert precision_thresholds(evaluation, 0.5).tolist() == [NEVER, NEVER]
    labels[9] = 1
    evaluation = evaluation_of([labels], [scores])
    assert precision_thresholds(evaluation, 0.9).tolist() == [0.9]


def test_detections_of_classes_and_of_all():
    evaluation = evaluation_of(
        [[1, 1, 1, 0], [0, 0, 1, 1], [0, 0, 0, 0]],
        [[0.9, 0.7, 0.2, 0.6], [0.4, 0.3, 0.2, 0.1], [0.5, 0, 0, 0]],
    )
    (never, _) = find_detections(evaluation_of([[1]], [[1.0]]), np.array([NEVER]))
    assert (never.count, never.recall) == (0, 0)
    assert str(never) == "0 detections, recall 0.000"
    first, second, third, total = find_detections(evaluation, np.array([0.6, 0.5, 0.5]))
    assert first[:4] == ("C0", 3, 0.6, 3)
    assert first.mean_score == pytest.approx(2.2 / 3)
    assert first.precision == first.recall == pytest.approx(2 / 3)
    # The quantiles of Beta(2.5, 1.5)
    assert (first.low, first.high) == pytest.approx((0.1767, 0.9613), abs=1e-4)
    assert second[:4] == ("C1", 2, 0.5, 0)
    assert np.isnan(second[4:8]).all()
    assert second.recall == 0
    assert (third.precision, third.low) == (0, 0)
    assert np.isnan(third.recall)
    assert str(third) == "1 detection, precision 0.000 (0.000 to 0.853)"
    assert total[:2] == (ALL_CLASSES, 5)
    assert total.count == 4
    assert (total.precision, total.recall) == pytest.approx((2 / 4, 2 / 5))


def test_thresholds_hold_for_other_clips(tmp_path):
    """Of 4,000 clips, half are used to choose thresholds."""
    for seed in (1, 2):
        write_evaluation(tmp_path / str(seed), seed, num_clips=2000)
    chosen, other = (read_evaluation(str(tmp_path / seed)) for seed in "12")
    thresholds = precision_thresholds(chosen, 0.9)
    *classes, total = find_detections(other, thresholds)
    assert [found.name for found in classes] == CLASS_NAMES
    for found in classes[:3]:
        assert found.precision == pytest.approx(0.9, abs=0.05)
        assert found.low < 0.9 < found.high
    assert classes[3].threshold == NEVER
    assert total.low < 0.9 < total.high


DATA_VARIABLE = "TAGGER_FSDKAGGLE2019_DIR"


@pytest.mark.skipif(DATA_VARIABLE not in os.environ, reason="no such data")
def test_the_precision_holds_for_the_other_half_of_real_clips(tmp_path):
    folder, where = pathlib.Path(os.environ[DATA_VARIABLE]), "usage=Public"
    names = ("submission_v3.csv", "test_post_competition.csv")
    paths = [str(folder / name) for name in names]
    score.score(*paths, where=where, class_map_path="", out=str(tmp_path))
    evaluation, counts = read_evaluation(str(tmp_path)), np.zeros(2)
    for seed in range(10):
        order = np.random.default_rng(seed).permutation(len(evaluation.clips))
        first, second = (
            evaluation._replace(
                labels=evaluation.labels[r], scores=evaluation.scores[r]
            )
            for r in np.array_split(order, 2)
        )
        *_, total = find_detections(second, precision_thresholds(first, 0.9))
        counts += total.count * np.array([np.nan_to_num(total.precision), 1])
    assert counts[0] / counts[1] == pytest.approx(0.9, abs=0.05)
