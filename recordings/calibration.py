"""Probabilities for the scores of whole clips, by logistic regression for each class.

The regression is that of Platt (1999, "Probabilistic outputs for support vector
machines"), on the logit of the score. Letters for shapes: N clips, C classes.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import scipy.special

from recordings.class_tables import (
    CHECKPOINT_COLUMN,
    CLASS_COLUMN,
    ByClass,
    check_classes,
    read_by_class,
)
from tagger.data.csv_files import write_csv
from tagger.errors import UserError

COLUMNS = (CLASS_COLUMN, "slope", "intercept")
COUNT_COLUMNS = ("clips", "positives")  # may be missing
MIN_SCORE = 1e-6  # Logits of scores nearer to 0 and 1 would dominate the regression.
# Of LogisticRegression. Without it, a class without errors has no solution.
REGULARISATION_C = 1.0


class Calibration(NamedTuple):
    """How scores of clips become probabilities: of a class, or as arrays [C].

    Attributes:
      slope, intercept: they map the logit of the score to that of the probability; NaN:
        not known.
      num_clips, num_positives: number of the clips used, and of those of the class.
    """

    slope: float | np.ndarray
    intercept: float | np.ndarray
    num_clips: int = 0
    num_positives: int = 0

    def probabilities(self, scores: np.ndarray) -> np.ndarray:
        """Maps scores in [0, 1] to probabilities, float64 [..., C]; NaN: not known."""
        return scipy.special.expit(self.slope * logits(scores) + self.intercept)


def logits(scores: np.ndarray) -> np.ndarray:
    """The logits of scores in [0, 1], of at least MIN_SCORE from both ends."""
    return scipy.special.logit(np.clip(scores, MIN_SCORE, 1 - MIN_SCORE))


def calibrate(labels: np.ndarray, scores: np.ndarray, min_clips: int) -> Calibration:
    """Calibrates the scores of a class.

    Args:
      labels: [N], 1 for clips of the class, else 0.
      scores: float64 [N] in [0, 1].
      min_clips: of the class, and of others; with fewer, the slope and the intercept
        are NaN.
    """
    from sklearn.linear_model import LogisticRegression

    num_positives = int(labels.sum())
    slope = intercept = np.nan
    if min(num_positives, len(labels) - num_positives) >= min_clips:
        solved = LogisticRegression(C=REGULARISATION_C)
        solved.fit(logits(scores)[:, np.newaxis], labels)
        slope, intercept = solved.coef_.item(), solved.intercept_.item()
    return Calibration(slope, intercept, len(labels), num_positives)


def write_calibration(
    path: str, by_class: Mapping[str, Calibration], checkpoint: str
) -> None:
    """Writes a CSV, atomically. Cells of values that are not known are empty.

    Args:
      path: its path.
      by_class: the calibration of each class.
      checkpoint: what it is for, see `checkpoint_files.describe`; empty: not known.

    Raises:
      UserError: it cannot be written; the message names the file.
    """
    end = [checkpoint] if checkpoint else []
    header = [*COLUMNS, *COUNT_COLUMNS, *[CHECKPOINT_COLUMN] * len(end)]
    rows = [
        [name, *("" if np.isnan(value) else value for value in values), *end]
        for name, values in by_class.items()
    ]
    write_csv(path, [header, *rows])


def read_calibration(path: str, flag: str) -> ByClass:
    """Reads a CSV of a `Calibration` for each class.

    Args:
      path: path of the CSV.
      flag: name of the flag with the path, for messages.

    Raises:
      UserError: the file cannot be read, or is not such a CSV; lists all bad lines.
    """
    return read_by_class(path, flag, COLUMNS, COUNT_COLUMNS, _parse_calibration)


def _parse_calibration(row: Mapping[str, str]) -> Calibration:
    texts = [row[column] for column in COLUMNS[1:]]
    try:
        if not any(texts):
            return Calibration(np.nan, np.nan)
        if np.isfinite(values := [float(text) for text in texts]).all():
            return Calibration(*values)
    except ValueError:
        pass
    raise UserError(
        f"expected a slope and an intercept, or none, but got {' and '.join(texts)}"
    )


def order_calibration(
    by_class: Mapping[str, Calibration], class_names: Sequence[str], flag: str
) -> Calibration:
    """The calibration of C classes in the order of the class map, as arrays [C].

    Raises:
      UserError: see `check_classes`.
    """
    check_classes(by_class, class_names, flag, "row")
    found = [by_class[name] for name in class_names]
    return Calibration(*np.array([values[:2] for values in found]).T)
