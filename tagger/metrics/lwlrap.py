"""Label-weighted label-ranking average precision (lwlrap), the metric of the challenge.

Each label of each clip has a precision: the share of labels among the classes that rank
as high or higher. lwlrap is the mean precision over all labels of all clips. It is also
the mean of the per-class values, weighted by the number of labels of each class.

Source: the DCASE 2019 Task 2 description and the baseline's evaluation.py. Numerically
equivalent to sklearn.metrics.label_ranking_average_precision_score with the number of
labels as the sample weight, if there are no ties and every clip has a label.

Ties: the sort of the original is unstable, so its result depends on the processor.
Here, a stable ascending sort is reversed: among equal scores, the class with the higher
index ranks first. Clips without labels are ignored.
"""

import sys
from collections.abc import Mapping, Sequence

import numpy as np

from tagger.errors import UserError


def positive_class_precisions(
    scores: np.ndarray, truth: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the precision at each label of each clip.

    Args:
      scores: float [N, C], any finite values; higher ranks first.
      truth: bool or number [N, C], nonzero for the labels of each clip.

    Returns:
      The class of each label, int [labels], and its precision, float64 [labels] in
      (0, 1]: the share of labels among the classes that rank as high or higher.
    """
    ranking = np.argsort(scores, axis=1, kind="stable")[:, ::-1]
    hits = np.take_along_axis(np.asarray(truth) != 0, ranking, axis=1)
    precisions = np.cumsum(hits, axis=1) / np.arange(1, scores.shape[1] + 1)
    return ranking[hits], precisions[hits]


class Lwlrap:
    """Accumulates clips and computes lwlrap, per class and overall.

    Args:
      class_map: the C class names, by index.
    """

    def __init__(self, class_map: Sequence[str] | Mapping[int, str]):
        self.num_classes = len(class_map)
        self.total_num_samples = 0
        self._class_map = class_map
        self._cumulative_precision = np.zeros(self.num_classes)
        self._cumulative_count = np.zeros(self.num_classes, np.int64)

    def accumulate(self, batch_truth: np.ndarray, batch_scores: np.ndarray) -> None:
        """Adds N clips.

        Args:
          batch_truth: bool or number [N, C], nonzero for the labels of each clip.
          batch_scores: float [N, C], scores of the same clips.

        Raises:
          UserError: the shapes differ, or a score is not finite.
        """
        truth, scores = np.asarray(batch_truth), np.asarray(batch_scores)
        expected = (len(scores), self.num_classes) if scores.ndim == 2 else ()
        if truth.shape != scores.shape or scores.shape != expected:
            raise UserError(
                f"truth and scores must both have shape [N, {self.num_classes}], but "
                f"have {list(truth.shape)} and {list(scores.shape)}"
            )
        if not np.isfinite(scores).all():
            sample = int(np.flatnonzero(~np.isfinite(scores).all(axis=1))[0])
            raise UserError(
                f"scores must be finite, but those of sample "
                f"{self.total_num_samples + sample} are not"
            )
        classes, precisions = positive_class_precisions(scores, truth)
        np.add.at(self._cumulative_precision, classes, precisions)
        np.add.at(self._cumulative_count, classes, 1)
        self.total_num_samples += len(scores)

    def per_class_lwlrap(self) -> np.ndarray:
        """Returns float64 [C] in [0, 1], the lwlrap of each class; 0 without labels."""
        return self._cumulative_precision / np.maximum(1, self._cumulative_count)

    def per_class_weight(self) -> np.ndarray:
        """Returns float64 [C] in [0, 1], the share of labels of each class."""
        return self._cumulative_count / max(1, self._cumulative_count.sum())

    def overall_lwlrap(self) -> float:
        """Returns the overall lwlrap in [0, 1]; 0 without labels."""
        return float(np.sum(self.per_class_lwlrap() * self.per_class_weight()))

    def __str__(self) -> str:
        """Returns a line per class, best first, and a line for the overall value."""
        named = zip(
            self.per_class_lwlrap(),
            [self._class_map[index] for index in range(self.num_classes)],
            strict=True,
        )
        lines = [
            f"Lwlrap({name}) = {value:.6f}"
            for value, name in sorted(named, reverse=True)
        ]
        return "\n".join([*lines, f"Overall lwlrap = {self.overall_lwlrap():.6f}"])


def report_empty_classes(labels: np.ndarray, class_names: Sequence[str]) -> None:
    """Prints a note to stderr that names the classes without labels, if any.

    Args:
      labels: bool or number [N, C], nonzero for the labels of each clip.
      class_names: C names.
    """
    empty = [class_names[index] for index in np.flatnonzero(~labels.any(axis=0))]
    if empty:
        print(
            f"note: no clip has the label {', '.join(empty)}; the lwlrap of such a "
            f"class is shown as 0 and does not affect the overall value",
            file=sys.stderr,
        )
