"""What the scores of an evaluation say about its classes and clips.

Letters for shapes: N clips, C classes.
"""

import pathlib
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from sklearn.calibration import calibration_curve
from sklearn.metrics import average_precision_score, precision_recall_curve

from tagger.data.csv_files import is_below
from tagger.errors import UserError
from tagger.metrics.lwlrap import positive_class_precisions
from tagger.runs.checkpoint_files import checkpoint_prefix, describe
from tagger.runs.eval_folder import SCORES_FILE

# What np.load raises for files that are cut off, damaged or of another format.
UNREADABLE = (
    *(OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error),
    RuntimeError,  # other versions of ZIP
    *(SyntaxError, tokenize.TokenError, MemoryError, OverflowError),  # bad shapes
)
# The kinds (`np.dtype.kind`) and the number of dimensions of the arrays.
SCORE_ARRAYS = {
    "step": ("iu", 0),
    "class_names": ("U", 1),
    "clips": ("U", 1),
    "labels": ("f", 2),
    "scores": ("f", 2),
    "fingerprint": ("iu", 0),
}
OPTIONAL_ARRAYS = ("fingerprint",)
ALL_CLASSES = "all classes"
FEW_CLIPS = 10  # Values from fewer clips are marked, or not shown.
CONFUSED_PAIRS = 30  # of the page
CURVE_POINTS = 100  # of a curve that is some hundred pixels wide
HISTOGRAM_BINS = 20
CALIBRATION_BINS = 5
# The standard error of an end of the interval is then 1.5 % of its length, if the
# differences are normally distributed.
BOOTSTRAP_SAMPLES = 2000
INTERVAL_PERCENT = (2.5, 97.5)


class Evaluation(NamedTuple):
    """The scores of the best step of an evaluation.

    Attributes:
      step: the step.
      class_names: C names.
      clips: N names of clips, relative to the folder of the clips.
      labels: float32 [N, C], 1 for each label.
      scores: float64 [N, C] in [0, 1].
      precisions: float64 [N, C], the precision at each label (see lwlrap.py), else 0.
      fingerprint: of the checkpoint, see `checkpoint_files.fingerprint`; None: the
        scores are of an earlier version, or of `tools.score`.
    """

    step: int
    class_names: list[str]
    clips: list[str]
    labels: np.ndarray
    scores: np.ndarray
    precisions: np.ndarray
    fingerprint: int | None = None

    @property
    def checkpoint(self) -> str:
        """The checkpoint, see `checkpoint_files.describe`; "" if it is not known."""
        if self.fingerprint is None:
            return ""
        return describe(checkpoint_prefix("", self.step), self.fingerprint)

    @property
    def background(self) -> np.ndarray:
        """The positions of the clips without labels, int [clips]."""
        return np.flatnonzero(~self.labels.any(axis=1))


class ClassResult(NamedTuple):
    """The results of a class.

    All values are from 0 to 1. They are NaN if there are no clips of the class.
    `false_alarms` is the share of the background clips, which have no labels, that
    reach the threshold; NaN if there are none.
    """

    name: str
    num_clips: int
    lwlrap: float
    average_precision: float
    threshold: float
    precision: float
    recall: float
    f1: float
    false_alarms: float


class Difference(NamedTuple):
    """The lwlrap of two evaluations of the same clips.

    Attributes:
      name: the class, or ALL_CLASSES.
      num_clips: number of its clips.
      first, second: lwlrap of both evaluations.
      difference: first minus second.
      low, high: the ends of a 95 % interval of the difference.
    """

    name: str
    num_clips: int
    first: float
    second: float
    difference: float
    low: float
    high: float


def read_evaluation(eval_dir: str) -> Evaluation:
    """Reads the scores of the best step.

    Raises:
      UserError: there are none, or they cannot be read; the message names the file.
    """
    path = pathlib.Path(eval_dir) / SCORES_FILE
    try:
        with open(path, "rb") as file, np.lib.npyio.NpzFile(file) as stored:
            names = [n for n in SCORE_ARRAYS if n in stored or n not in OPTIONAL_ARRAYS]
            arrays = {name: stored[name] for name in names}
    except FileNotFoundError:
        raise UserError(
            f"there is no {path}; runner.py --mode eval and tools.score --out write it"
        ) from None
    except UNREADABLE as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    for problem in _array_problems(arrays):
        raise UserError(f"{path} cannot be used: {problem}")
    labels, scores = arrays["labels"], arrays["scores"]
    classes, values = positive_class_precisions(scores, labels)
    rows = np.repeat(np.arange(len(labels)), np.count_nonzero(labels, axis=1))
    precisions = np.zeros(labels.shape)
    precisions[rows, classes] = values
    return Evaluation(
        int(arrays["step"]),
        arrays["class_names"].tolist(),
        arrays["clips"].tolist(),
        labels,
        scores,
        precisions,
        int(arrays["fingerprint"]) if "fingerprint" in arrays else None,
    )


def _array_problems(arrays: Mapping[str, Any]) -> Iterator[str]:
    """Yields what is wrong with the SCORE_ARRAYS of a file; only the first is sure."""
    for name, array in arrays.items():
        kinds, num_dimensions = SCORE_ARRAYS[name]
        if not isinstance(array, np.ndarray):
            yield f"{name} is not an array"
        elif array.dtype.kind not in kinds or array.ndim != num_dimensions:
            yield f"{name} has type {array.dtype} and shape {list(array.shape)}"
    clips, class_names = arrays["clips"], arrays["class_names"]
    for name in ("labels", "scores"):
        values = arrays[name]
        if values.shape != (len(clips), len(class_names)) or not values.size:
            yield (
                f"{name} has shape {list(values.shape)}, but there are {len(clips)} "
                f"clips and {len(class_names)} classes"
            )
        if not ((values >= 0) & (values <= 1)).all():
            yield f"{name} has values that are not from 0 to 1"
    if not np.isin(arrays["labels"], (0, 1)).all():
        yield "labels has values other than 0 and 1"
    for name in clips.tolist():
        if not is_below(name):
            yield f"{name!r} is not the name of a clip in the folder of clips"


def class_results(evaluation: Evaluation) -> list[ClassResult]:
    """The results of each class, in the order of the class map."""
    found, background = [], evaluation.background
    for index, name in enumerate(evaluation.class_names):
        labels, scores = evaluation.labels[:, index], evaluation.scores[:, index]
        count = int(labels.sum())
        if not count:
            found.append(ClassResult(name, 0, *[np.nan] * 7))
            continue
        precision, recall, thresholds, f1 = threshold_curve(labels, scores)
        best = f1.argmax()
        found.append(
            ClassResult(
                name,
                count,
                evaluation.precisions[:, index].sum() / count,
                average_precision_score(labels, scores),
                thresholds[best],
                precision[best],
                recall[best],
                f1[best],
                np.mean(scores[background] >= thresholds[best])
                if background.size
                else np.nan,
            )
        )
    return found


def macro_means(found: Sequence[ClassResult]) -> dict[str, float]:
    """The mean of each metric over the classes with clips, by name."""
    return {
        name: float(np.mean([getattr(row, name) for row in found if row.num_clips]))
        for name in ClassResult._fields[2:]
        if name != "threshold"
    }


def threshold_curve(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, ...]:
    """Precision, recall, threshold and F1 of a class with clips, by rising threshold.

    Of thresholds with the same recall, only the lowest and the highest are included,
    which have the lowest and the highest precision.

    Args:
      labels: float32 [N], 1 for clips of the class.
      scores: float64 [N].
    """
    precision, recall, thresholds = precision_recall_curve(
        labels, scores, drop_intermediate=True
    )
    # The last point of scikit-learn is recall 0, which has no threshold.
    precision, recall = precision[:-1], recall[:-1]
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    return precision, recall, thresholds, f1


def confused_pairs(evaluation: Evaluation) -> list[tuple[str, str, int, float]]:
    """The pairs of classes that are confused: clips of A with a higher score for B.

    Clips that have both labels do not count.

    Returns:
      The names of A and B, the number of such clips, and their share of the clips of A;
      the most frequent pairs first.
    """
    pairs = []
    for index, name in enumerate(evaluation.class_names):
        rows = evaluation.labels[:, index] > 0
        scores = evaluation.scores[rows]
        wrong = (scores > scores[:, [index]]) & (evaluation.labels[rows] == 0)
        for other, count in enumerate(wrong.sum(axis=0)):
            if count:
                share = count / rows.sum()
                pairs.append((name, evaluation.class_names[other], int(count), share))
    return sorted(pairs, key=lambda pair: (-pair[2], -pair[3]))[:CONFUSED_PAIRS]


def class_curves(evaluation: Evaluation) -> list[dict[str, Any]]:
    """Points of the precision-recall curve and histograms of each class with clips.

    Returns:
      For each class its `name` and `clips`, their number; `precision`, `recall` and
      `thresholds`, at most CURVE_POINTS + 1 values; `best`, the position of the highest
      F1 in these; `positives` and `negatives`, the shares of the clips with and without
      the class whose scores are in each of HISTOGRAM_BINS equal parts of [0, 1];
      `calibration`, the mean score and the share of clips of the class, for each of
      CALIBRATION_BINS equal parts with clips, empty with fewer than FEW_CLIPS.
    """
    curves = []
    for index, name in enumerate(evaluation.class_names):
        labels, scores = evaluation.labels[:, index], evaluation.scores[:, index]
        if not labels.any():
            continue
        precision, recall, thresholds, f1 = threshold_curve(labels, scores)
        calibration = []
        if labels.sum() >= FEW_CLIPS:
            shares, means = calibration_curve(labels, scores, n_bins=CALIBRATION_BINS)
            calibration = np.stack([means, shares], axis=1).round(4).tolist()
        points = np.linspace(0, len(recall) - 1, CURVE_POINTS).round().astype(int)
        points = np.union1d(points, f1.argmax())
        histograms = {}
        for kind, selected in (("positives", labels > 0), ("negatives", labels == 0)):
            counts, _ = np.histogram(scores[selected], HISTOGRAM_BINS, (0, 1))
            histograms[kind] = (counts / max(1, counts.sum())).round(4).tolist()
        curves.append(
            {
                "name": name,
                "clips": int(labels.sum()),
                "precision": precision[points].round(4).tolist(),
                "recall": recall[points].round(4).tolist(),
                "thresholds": [float(f"{value:.3g}") for value in thresholds[points]],
                "calibration": calibration,
                "best": int(np.searchsorted(points, f1.argmax())),
                **histograms,
            }
        )
    return curves


def compare(first: Evaluation, second: Evaluation) -> list[Difference]:
    """Compares the lwlrap of two evaluations, overall and of each class with clips.

    The intervals are from a bootstrap over clips (Efron 1979). In a sample without
    clips of a class, its difference counts as 0. So the interval of a class with up to
    three clips, which a sample often lacks, contains 0.

    Raises:
      UserError: the evaluations have different clips, labels or classes.
    """
    order = {name: row for row, name in enumerate(second.clips)}
    if first.class_names != second.class_names or order.keys() != set(first.clips):
        raise UserError(
            f"the evaluations have different clips or classes: "
            f"{len(first.clips)} clips of {len(first.class_names)} classes and "
            f"{len(second.clips)} clips of {len(second.class_names)} classes"
        )
    rows = [order[name] for name in first.clips]
    if not np.array_equal(first.labels, second.labels[rows]):
        raise UserError("the labels of the clips differ between the evaluations")
    num_clips = len(first.clips)
    draws = np.random.default_rng(0).multinomial(
        num_clips, np.full(num_clips, 1 / num_clips), BOOTSTRAP_SAMPLES
    )
    weights = np.vstack([np.ones(num_clips), draws])  # The first row is no draw.
    counts = weights @ first.labels
    sums = [weights @ first.precisions, weights @ second.precisions[rows]]
    selections = [(ALL_CLASSES, slice(None))]
    for index in np.flatnonzero(first.labels.any(axis=0)):
        selections.append((first.class_names[index], slice(index, index + 1)))
    found = []
    for name, selected in selections:
        total = np.maximum(counts[:, selected].sum(axis=1), 1)
        ours, theirs = (values[:, selected].sum(axis=1) / total for values in sums)
        difference = ours - theirs
        low, high = np.percentile(difference[1:], INTERVAL_PERCENT)
        count = int(first.labels[:, selected].any(axis=1).sum())
        found.append(
            Difference(name, count, ours[0], theirs[0], difference[0], low, high)
        )
    return found
