"""The regression of the last layer: against scikit-learn, folds, unusual classes."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from tagger.errors import UserError
from tagger.training import last_layer

NUM_GROUPS, PER_GROUP = 40, 5


@pytest.fixture(scope="module")
def examples() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Embeddings like those after ReLU, targets of four classes, and groups.

    Some rows have several labels, some none. A dimension is constant.
    """
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(NUM_GROUPS), PER_GROUP)
    targets = (rng.random([NUM_GROUPS, 4]) < 0.3).astype(np.float32)[groups]
    centers = rng.normal(size=[4, 30]) * rng.uniform(0.1, 3, 30)
    embeddings = targets @ centers + rng.normal(size=[len(groups), 30])
    embeddings = np.maximum(embeddings, 0).astype(np.float32)
    embeddings[:, 3] = 0.5
    assert not targets.any(axis=1).all()
    return embeddings, targets, groups


@pytest.mark.parametrize("c", [0.01, 1.0])
@pytest.mark.parametrize("every", [1, 10])  # 10: fewer examples than dimensions
def test_the_solution_is_that_of_scikit_learn(examples, c, every):
    embeddings, targets = (array[::every] for array in examples[:2])
    solved = last_layer.fit(embeddings, targets, c=c, num_folds=0)
    assert (solved.c, solved.scores, solved.converged) == (c, None, True)
    assert solved.weights.dtype == solved.biases.dtype == np.float32
    logits = embeddings @ solved.weights + solved.biases
    scale = embeddings.std(axis=0)
    scale = np.maximum(scale, last_layer.MIN_SCALE * scale.max())
    standardised = (embeddings - embeddings.mean(axis=0)) / scale
    for index, target in enumerate(targets.T):
        expected = LogisticRegression(C=c, tol=1e-8, max_iter=1000)
        expected = expected.fit(standardised, target).decision_function(standardised)
        np.testing.assert_allclose(logits[:, index], expected, rtol=0.01, atol=2e-3)


def test_further_examples_are_only_for_solving(examples):
    """They change the solution, but have no scores, and C does not depend on theirs."""
    embeddings, targets, groups = examples
    folds = groups % 5
    without = last_layer.fit(embeddings, targets, groups, folds=folds)
    both = last_layer.fit(
        np.concatenate([embeddings, 5 + embeddings]),
        np.concatenate([targets, 1 - targets]),
        groups,
        folds=np.concatenate([folds, folds]),
    )
    assert both.scores.shape == without.scores.shape == targets.shape
    assert not np.allclose(both.scores, without.scores, atol=0.01)


def test_two_runs_give_equal_results(examples):
    first, second = (last_layer.fit(*examples) for _ in range(2))
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)


def test_scores_of_cross_validation_come_from_other_groups(examples):
    """With random targets that are equal within groups, nothing can be learned."""
    embeddings, _, groups = examples
    rng = np.random.default_rng(1)
    embeddings = embeddings + 10 * rng.normal(size=[NUM_GROUPS, 30])[groups]
    targets = rng.integers(0, 2, [NUM_GROUPS, 1])[groups]

    def accuracy(groups: np.ndarray | None) -> float:
        solved = last_layer.fit(embeddings.astype("f4"), targets, groups, c=1.0)
        return float(np.mean((solved.scores > 0.5) == targets))

    assert accuracy(groups) < 0.7
    assert accuracy(None) > 0.9


def test_the_regularisation_is_selected_by_cross_validation(examples):
    embeddings, targets, groups = examples
    noise = np.random.default_rng(2).normal(size=[len(groups), 30]).astype("f4")
    weak = last_layer.fit(noise, targets, groups).c
    clear = last_layer.fit(targets @ noise[:4] * 9 + noise / 9, targets, groups).c
    assert weak == last_layer.CANDIDATES[0]
    assert clear == last_layer.CANDIDATES[-1]


@pytest.mark.parametrize("value", [0, 1])
def test_a_class_with_one_target_has_only_a_bias(examples, value):
    embeddings, targets, groups = examples
    targets = targets.copy()
    targets[:, 2] = value
    solved = last_layer.fit(embeddings, targets, groups)
    assert solved.converged
    assert not solved.weights[:, 2].any()
    assert np.isfinite(solved.scores).all()
    assert (solved.biases[2] > 5) if value else (solved.biases[2] < -5)


def test_embeddings_may_be_constant(examples):
    _, targets, groups = examples
    solved = last_layer.fit(np.ones([len(groups), 5], np.float32), targets, groups)
    assert not solved.weights.any()
    shares = targets.mean(axis=0)
    np.testing.assert_allclose(solved.biases, np.log(shares / (1 - shares)), atol=0.02)


def test_an_almost_constant_dimension_has_no_large_weights(examples):
    embeddings, targets, _ = examples
    embeddings = embeddings.copy()
    embeddings[7, 3] += 1e-6
    solved = last_layer.fit(embeddings, targets, c=0.1, num_folds=0)
    assert np.abs(solved.weights[3]).max() < np.abs(solved.weights).max()


def test_a_solver_that_does_not_converge_says_so(examples, monkeypatch):
    monkeypatch.setattr(last_layer, "MAX_ITERATIONS", 2)
    assert not last_layer.fit(*examples[:2], c=1.0, num_folds=0).converged


def test_too_few_groups_are_an_error(examples):
    embeddings, targets, groups = examples
    with pytest.raises(UserError, match="too few"):
        last_layer.fit(embeddings, targets, groups // 10, num_folds=5)


def test_doubtful_clips_have_another_class_with_a_higher_score():
    """The scores of the second class are ten times lower in general."""
    labels = np.eye(3, dtype=np.float32)[[0, 0, 1, 1, 0, 1, 2, 2]]
    labels[-1] = 0  # background
    scores = np.full([8, 3], 0.01) + 0.9 * labels
    scores[:, 1] /= 10
    assert not last_layer.doubtful(scores, labels).any()
    scores[4] = 0.1, 0.09, 0.01
    assert np.flatnonzero(last_layer.doubtful(scores, labels)).tolist() == [4]
