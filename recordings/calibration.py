"""Probabilities for the scores of whole clips, by a logistic regression for each class.

The regression is that of Platt (1999, "Probabilistic outputs for support vector
machines"), on the logit of the score. Letters for shapes: N clips, C classes. A
calibration is float64 [2], the slope and the intercept of the logit of the probability;
NaN: not known.
"""

from collections.abc import Mapping

import numpy as np
import scipy.special

from recordings.class_tables import CLASS_COLUMN, ByClass, read_by_class
from tagger.errors import UserError

COLUMNS = (CLASS_COLUMN, "slope", "intercept")
COUNT_COLUMNS = ("clips", "positives")  # that it was fitted to; may be missing
MIN_SCORE = 1e-6  # Logits of scores nearer to 0 and 1 would dominate the regression.
# Of LogisticRegression. Without it, a class without errors has no solution.
REGULARISATION_C = 1.0


def _logits(scores: np.ndarray) -> np.ndarray:
    return scipy.special.logit(np.clip(scores, MIN_SCORE, 1 - MIN_SCORE))


def calibrate(labels: np.ndarray, scores: np.ndarray, min_clips: int) -> np.ndarray:
    """The calibration of a class.

    Args:
      labels: [N], 1 for clips of the class, else 0.
      scores: float64 [N] in [0, 1].
      min_clips: number of clips of the class, and of others, that it needs.
    """
    from sklearn.linear_model import LogisticRegression

    if min(labels.sum(), (1 - labels).sum()) < min_clips:
        return np.full(2, np.nan)
    solved = LogisticRegression(C=REGULARISATION_C)
    solved.fit(_logits(scores)[:, np.newaxis], labels)
    return np.append(solved.coef_, solved.intercept_)


def probabilities(calibrations: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Maps scores, float64 [..., C] in [0, 1], to probabilities; NaN: not known.

    Args:
      calibrations: float64 [C, 2].
      scores: the scores of clips.
    """
    slopes, intercepts = calibrations.T
    return scipy.special.expit(slopes * _logits(scores) + intercepts)


def read_calibrations(path: str, flag: str) -> ByClass:
    """Reads a CSV with the calibration of each class; see `read_by_class`."""
    return read_by_class(path, flag, COLUMNS, COUNT_COLUMNS, _parse_calibration)


def _parse_calibration(row: Mapping[str, str]) -> np.ndarray:
    texts = [row[column] for column in COLUMNS[1:]]
    if not any(texts):
        return np.full(2, np.nan)
    try:
        if np.isfinite(values := np.array(texts, float)).all():
            return values
    except ValueError:
        pass
    raise UserError(
        f"expected a slope and an intercept, or none, but got {' and '.join(texts)}"
    )
