"""Solves the last layer of a network: a logistic regression for each class.

The loss of a class is that of scikit-learn's LogisticRegression with an L2 penalty: C
times the sum of the cross-entropies, plus half the squared norm of the weights. The
embeddings are standardised first. The bias is not penalised. All classes are solved at
once by L-BFGS, in coordinates in which the loss has about the same curvature in all
directions, so that it takes few iterations.

Letters for shapes: E examples, D dimensions of an embedding, K directions, C classes.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy.optimize
import scipy.special

from tagger.data.splits import assign_folds

CANDIDATES = (0.001, 0.003, 0.01, 0.03, 0.1)  # values of C that are compared
NUM_FOLDS = 5
# Directions with less than this share of the largest variance are left out.
MIN_VARIANCE = 1e-7
MAX_ITERATIONS = 1000
DOUBT = 3  # Smaller values also find many clips whose labels are correct.
# Largest gradients at solutions. A step of 1 changes the loss by about 1/2. In
# cross-validation, a looser one changes scores by 0.0002 on average.
TOLERANCE, FOLD_TOLERANCE = 1e-3, 1e-2
# The smallest standard deviation that is scaled to 1, as a share of the largest one.
# Smaller ones stay smaller, because a dimension that is almost always 0 would otherwise
# dominate the few examples in which it is not.
MIN_SCALE = 0.1


class LastLayer(NamedTuple):
    """A solved last layer, and what cross-validation found.

    Attributes:
      weights: float32 [D, C].
      biases: float32 [C].
      c: the C of the regression.
      scores: float32 [G, C] in [0, 1]: of each example with a group, by a layer that
        was solved without the examples of its fold. None without cross-validation.
      converged: whether the solver reached its tolerance.
    """

    weights: np.ndarray
    biases: np.ndarray
    c: float
    scores: np.ndarray | None
    converged: bool


def fit(
    embeddings: np.ndarray,
    targets: np.ndarray,
    groups: np.ndarray | None = None,
    *,
    c: float | None = None,
    num_folds: int = NUM_FOLDS,
    folds: np.ndarray | None = None,
) -> LastLayer:
    """Solves the weights and biases that map embeddings to logits.

    Equal arguments give equal results on one machine. A class that has no positive
    example gets no weights, and a bias for its share of the examples.

    Args:
      embeddings: float32 [E, D], finite.
      targets: float or int [E, C] in {0, 1}. A row may have any number of ones.
      groups: [G], names or numbers of groups such as recordings, of the first G
        examples. Cross-validation does not divide them. None: each example is a group.
        Further examples are only for solving, and need folds.
      c: scikit-learn's C; None: selected from CANDIDATES, see `_select`.
      num_folds: number of folds of the cross-validation; 0: none, which needs c.
      folds: int [E], the fold of each example, from 0; None: see `assign_folds`.

    Raises:
      UserError: there are too few groups for the folds.
    """
    targets = np.asarray(targets, np.float32)
    groups = np.arange(len(targets)) if groups is None else groups
    mean = embeddings.mean(axis=0, dtype=np.float64).astype(np.float32)
    scale = embeddings.std(axis=0, dtype=np.float64).astype(np.float32)
    scale = np.maximum(scale, MIN_SCALE * scale.max()) if scale.any() else scale + 1
    standardised = (embeddings - mean) / scale
    directions, variances = _principal_directions(standardised)
    rotated = standardised @ directions
    del standardised
    candidates = CANDIDATES if c is None else (c,)
    scores, converged = None, True
    if num_folds:
        if folds is None:
            folds = assign_folds(targets.astype(int), groups, num_folds)
        logits, converged = _cross_validate(
            rotated, targets, variances, folds, candidates
        )
        logits = logits[:, : len(groups)]
        selected = _select(logits, targets[: len(groups)], groups)
        c, scores = candidates[selected], scipy.special.expit(logits[selected])
    solution, success = _solve(rotated, targets, variances, c, tolerance=TOLERANCE)
    weights = (directions @ solution[:-1]) / scale[:, np.newaxis]
    return LastLayer(
        weights, solution[-1] - mean @ weights, c, scores, converged and success
    )


def doubtful(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Whether the scores of clips contradict their labels, bool [N].

    They do if another class has more than DOUBT times the score of a label. Scores of a
    class are relative to their mean over the clips with its label, as in confident
    learning (Northcutt et al. 2021).

    Args:
      scores: float [N, C] in (0, 1), by layers that were solved without the clip.
      labels: float32 [N, C] in {0, 1}.
    """
    counts = labels.sum(axis=0)
    means = (scores * labels).sum(axis=0) / np.maximum(counts, 1)
    relative = np.divide(scores, means, out=np.zeros_like(scores), where=counts > 0)
    lowest = np.where(labels > 0, relative, np.inf).min(axis=1)
    return np.where(labels > 0, 0, relative).max(axis=1) > DOUBT * lowest


def _principal_directions(
    standardised: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """The K directions in which examples [E, D] vary, [D, K], and the variances [K].

    An L2 penalty leaves the weights of all other directions at 0.
    """
    gram = standardised.T @ standardised / np.float32(len(standardised))
    variances, directions = np.linalg.eigh(gram.astype(np.float64))
    varies = variances > MIN_VARIANCE * variances[-1]
    return (
        directions[:, varies].astype(np.float32),
        variances[varies].astype(np.float32),
    )


def _cross_validate(
    examples: np.ndarray,
    targets: np.ndarray,
    variances: np.ndarray,
    folds: np.ndarray,
    candidates: Sequence[float],
) -> tuple[np.ndarray, bool]:
    """The logits of each example in the fold that has it, float32 [len(candidates), E,
    C], and whether all solutions converged.
    """
    logits = np.zeros([len(candidates), *targets.shape], np.float32)
    converged = True
    for fold in np.unique(folds):
        validation = folds == fold
        data, solution = (examples[~validation], targets[~validation], variances), None
        for index, c in enumerate(candidates):
            solution, success = _solve(
                *data, c, tolerance=FOLD_TOLERANCE, start=solution
            )
            logits[index, validation] = _logits(examples[validation], solution)
            converged &= success
    return logits, converged


def _select(
    logits: Sequence[np.ndarray], targets: np.ndarray, groups: np.ndarray
) -> int:
    """Selects the first candidate whose cross-entropy is within the error of the best.

    This is the one-standard-error rule (Breiman et al. 1984) for C in ascending order.
    Recordings in a data set are often more alike than those that it is used for, so the
    smallest cross-entropy would regularise too little.

    Args:
      logits: float [E, C] for each candidate.
      targets: [E, C].
      groups: [E], the groups over whose means the standard error is computed.
    """
    _, group_of_example, sizes = np.unique(
        groups, return_inverse=True, return_counts=True
    )
    losses = [
        np.bincount(
            group_of_example,
            weights=(np.logaddexp(0, values) - targets * values).sum(axis=1),
        )
        / sizes
        for values in logits
    ]
    means = np.mean(losses, axis=1)
    best = np.argmin(means)
    error = np.std(losses[best]) / np.sqrt(len(sizes))
    return int(np.argmax(means <= means[best] + error))


def _solve(
    examples: np.ndarray,
    targets: np.ndarray,
    variances: np.ndarray,
    c: float,
    *,
    tolerance: float,
    start: np.ndarray | None = None,
) -> tuple[np.ndarray, bool]:
    """Solves the regressions.

    Args:
      examples: float32 [E, K] with uncorrelated columns of mean 0.
      targets: float32 [E, C] in {0, 1}.
      variances: float32 [K], of the columns.
      c: C.
      tolerance: the largest gradient at the solution.
      start: a solution for another C; None: no weights.

    Returns:
      float32 [K + 1, C], the weights, and below them the biases; and whether the solver
      reached its tolerance.
    """
    share = (targets.sum(axis=0) + 0.5) / (len(targets) + 1)
    prior = np.zeros([examples.shape[1] + 1, targets.shape[1]], np.float32)
    prior[-1] = np.log(share / (1 - share))
    start = prior if start is None else start
    # The curvature of the loss at the prior.
    curvature = c * len(targets) * share * (1 - share)
    step = np.ones_like(prior)
    step[:-1] = 1 / np.sqrt(1 + curvature * variances[:, np.newaxis])
    step[-1] = 1 / np.sqrt(curvature)
    both = targets.min(axis=0) < targets.max(axis=0)
    step[:, ~both] = 0  # Without both targets, the best bias would be infinite.

    def loss_and_gradient(offset: np.ndarray) -> tuple[float, np.ndarray]:
        """Of the weights start + step * offset."""
        solution = start + step * offset.reshape(step.shape).astype(np.float32)
        weights, logits = solution[:-1], _logits(examples, solution)
        decay = np.exp(-np.abs(logits))
        losses = np.maximum(logits, 0) + np.log1p(decay) - targets * logits
        errors = np.where(logits >= 0, 1, decay) / (1 + decay) - targets
        loss = c * losses.sum(dtype=np.float64)
        loss += 0.5 * np.square(weights, dtype=np.float64).sum()
        gradient = np.concatenate(
            [
                np.float32(c) * (examples.T @ errors) + weights,
                np.float32(c) * errors.sum(axis=0, keepdims=True),
            ]
        )
        return loss, (step * gradient).ravel().astype(np.float64)

    found = scipy.optimize.minimize(
        loss_and_gradient,
        np.zeros(step.size),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": MAX_ITERATIONS, "ftol": 0, "gtol": tolerance},
    )
    solution = start + step * found.x.reshape(step.shape).astype(np.float32)
    return solution, bool(np.abs(found.jac).max() <= tolerance)


def _logits(examples: np.ndarray, solution: np.ndarray) -> np.ndarray:
    """The logits, float32 [E, C], of examples [E, K] for a solution [K + 1, C]."""
    return examples @ solution[:-1] + solution[-1]
