"""Which clips reach a threshold, and thresholds for a wanted precision.

Letters for shapes: N clips, C classes.
"""

from typing import NamedTuple

import numpy as np
import scipy.stats

from recordings.choosing import PRIOR, confident_precision
from tagger.terminal.progress import counted
from tools.report.diagnosis import (
    ALL_CLASSES,
    FEW_CLIPS,
    INTERVAL_PERCENT,
    Evaluation,
)

NEVER = 1.0  # the threshold of a class without a threshold of the wanted precision


class Detections(NamedTuple):
    """The clips whose scores reach the threshold of a class.

    Attributes:
      name: the class, or ALL_CLASSES.
      num_clips: number of clips of the class.
      threshold: NaN for ALL_CLASSES.
      count: number of clips that reach the threshold.
      mean_score: their mean score, which is the precision if the scores are calibrated.
      precision: share of these clips that are of the class.
      low, high: the ends of a 95 % interval of the precision.
      recall: share of the clips of the class that reach the threshold.
    """

    name: str
    num_clips: int
    threshold: float
    count: int
    mean_score: float
    precision: float
    low: float
    high: float
    recall: float

    def __str__(self) -> str:
        """The values other than the class, in one line."""
        text = counted(self.count, "detection")
        if self.count:
            text += (
                f", precision {self.precision:.3f} ({self.low:.3f} to {self.high:.3f})"
            )
        return text if np.isnan(self.recall) else f"{text}, recall {self.recall:.3f}"


def precision_thresholds(evaluation: Evaluation, wanted: float) -> np.ndarray:
    """The lowest threshold of each class that has a precision; see
    `confident_precision`.

    Returns:
      float64 [C]; NEVER for a class that does not reach the precision, or that has
      fewer than FEW_CLIPS clips.
    """
    thresholds = np.full(len(evaluation.class_names), NEVER)
    for index in np.flatnonzero(evaluation.labels.sum(axis=0) >= FEW_CLIPS):
        order = np.argsort(-evaluation.scores[:, index], kind="stable")
        scores = evaluation.scores[order, index]
        right = np.cumsum(evaluation.labels[order, index])
        count = np.arange(1, len(order) + 1)
        precision = confident_precision(right, count)
        is_last = np.append(scores[:-1] > scores[1:], True)  # of equal scores
        reached = np.flatnonzero((precision >= wanted) & is_last)
        if reached.size:
            thresholds[index] = scores[reached[-1]]
    return thresholds


def find_detections(evaluation: Evaluation, thresholds: np.ndarray) -> list[Detections]:
    """The detections of each class with thresholds, float64 [C], and of all classes.

    There are none with the threshold NEVER, although a score can be rounded to it.
    Without detections, all but the recall is NaN. Without clips, the recall is NaN.
    """
    labels, scores = evaluation.labels > 0, evaluation.scores
    detected = (scores >= thresholds) & (thresholds < NEVER)
    num_clips, count, right, score = (
        np.append(values.sum(axis=0), values.sum())
        for values in (labels, detected, labels & detected, scores * detected)
    )
    # The interval of Jeffreys, as in Brown, Cai & DasGupta 2001.
    low, high = (
        scipy.stats.beta.ppf(percent / 100, right + PRIOR, count - right + PRIOR)
        for percent in INTERVAL_PERCENT
    )
    low, high = np.where(right == 0, 0, low), np.where(right == count, 1, high)
    with np.errstate(invalid="ignore"):  # 0/0 is NaN.
        values = np.where(count > 0, (score / count, right / count, low, high), np.nan)
        recall = right / num_clips
    return [
        Detections(*row)
        for row in zip(
            [*evaluation.class_names, ALL_CLASSES],
            num_clips.tolist(),
            [*thresholds, np.nan],
            count.tolist(),
            *values,
            recall,
            strict=True,
        )
    ]
