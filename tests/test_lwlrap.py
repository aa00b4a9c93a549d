"""lwlrap, compared with toy tables, scikit-learn, and its definition of ties."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import label_ranking_average_precision_score

from tagger.errors import UserError
from tagger.metrics.lwlrap import Lwlrap


def lwlrap_of(truth, scores) -> Lwlrap:
    lwlrap = Lwlrap([f"c{index}" for index in range(np.shape(truth)[1])])
    lwlrap.accumulate(np.array(truth), np.array(scores, float))
    return lwlrap


@pytest.mark.parametrize(
    ("truth", "scores", "per_class", "overall"),
    [
        ([[1, 0, 0]], [[3, 2, 1]], [1, 0, 0], 1),
        ([[0, 0, 1]], [[3, 2, 1]], [0, 0, 1 / 3], 1 / 3),
        ([[1, 0, 1]], [[3, 2, 1]], [1, 0, 2 / 3], 5 / 6),
        ([[0, 1, 1]], [[3, 2, 1]], [0, 1 / 2, 2 / 3], 7 / 12),
        ([[1, 1, 1]], [[3, 2, 1]], [1, 1, 1], 1),
        # Each label has the same weight: there are three labels and two clips.
        ([[1, 0, 0], [1, 1, 0]], [[1, 2, 3], [3, 2, 1]], [2 / 3, 1, 0], 7 / 9),
    ],
)
def test_toy_tables(truth, scores, per_class, overall):
    lwlrap = lwlrap_of(truth, scores)
    np.testing.assert_allclose(lwlrap.per_class_lwlrap(), per_class)
    assert lwlrap.overall_lwlrap() == pytest.approx(overall)


def test_the_higher_index_of_equal_scores_ranks_first():
    assert lwlrap_of([[1, 0, 0, 0]], [[5, 5, 5, 5]]).overall_lwlrap() == 1 / 4
    assert lwlrap_of([[0, 0, 0, 1]], [[5, 5, 5, 5]]).overall_lwlrap() == 1
    assert lwlrap_of([[0, 1, 0, 0]], [[9, 5, 5, 1]]).overall_lwlrap() == 1 / 3


def test_clips_without_labels_do_not_count():
    with_empty = lwlrap_of([[0, 1], [0, 0]], [[2, 1], [1, 2]])
    assert with_empty.overall_lwlrap() == 1 / 2
    assert with_empty.total_num_samples == 2
    np.testing.assert_array_equal(with_empty.per_class_weight(), [0, 1])


def test_without_clips_the_result_is_zero():
    lwlrap = Lwlrap(["a", "b"])
    assert lwlrap.overall_lwlrap() == 0
    np.testing.assert_array_equal(lwlrap.per_class_weight(), [0, 0])


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    num_clips=st.integers(1, 40),
    num_classes=st.integers(2, 80),
)
def test_equals_scikit_learn_with_label_weights(seed, num_clips, num_classes):
    rng = np.random.default_rng(seed)
    truth = rng.random((num_clips, num_classes)) < 0.1
    truth[0, 0] = True
    scores = rng.permuted(np.arange(truth.size)).reshape(truth.shape) / truth.size
    labelled = truth.any(axis=1)
    expected = label_ranking_average_precision_score(
        truth[labelled], scores[labelled], sample_weight=truth[labelled].sum(axis=1)
    )
    assert lwlrap_of(truth, scores).overall_lwlrap() == pytest.approx(expected)


def test_batches_add_up():
    rng = np.random.default_rng(0)
    truth, scores = rng.random((30, 5)) < 0.3, rng.random((30, 5))
    whole, parts = lwlrap_of(truth, scores), Lwlrap(list("abcde"))
    for start in range(0, 30, 7):
        parts.accumulate(truth[start : start + 7], scores[start : start + 7])
    np.testing.assert_allclose(parts.per_class_lwlrap(), whole.per_class_lwlrap())
    np.testing.assert_allclose(parts.per_class_weight(), whole.per_class_weight())


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_scores_that_are_not_finite_are_an_error(value):
    with pytest.raises(UserError, match="finite, but those of sample 1 are not"):
        lwlrap_of([[1, 0], [1, 0]], [[1, 2], [1, value]])


@pytest.mark.parametrize("shape", [(2,), (1, 3), (2, 2)])
def test_shapes_must_agree(shape):
    with pytest.raises(UserError, match=r"shape \[N, 2\]"):
        Lwlrap(["a", "b"]).accumulate(np.ones((1, 2)), np.ones(shape))


def test_text_lists_the_best_first():
    lwlrap = Lwlrap({0: "Bark", 1: "Meow", 2: "Purr"})
    lwlrap.accumulate(np.array([[1, 0, 1]]), np.array([[3.0, 2.0, 1.0]]))
    assert str(lwlrap).splitlines() == [
        "Lwlrap(Bark) = 1.000000",
        "Lwlrap(Purr) = 0.666667",
        "Lwlrap(Meow) = 0.000000",
        "Overall lwlrap = 0.833333",
    ]
