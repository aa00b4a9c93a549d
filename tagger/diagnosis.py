"""What the scores of an evaluation say about its classes and clips.

Letters for shapes: N clips, C classes.
"""

import pathlib
from typing import NamedTuple

import numpy as np
from sklearn.metrics import average_precision_score, precision_recall_curve

from tagger import results
from tagger.lwlrap import positive_class_precisions

CONFUSED_PAIRS = 30
CURVE_POINTS = 100
HISTOGRAM_BINS = 20
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
    """

    step: int
    class_names: list[str]
    clips: list[str]
    labels: np.ndarray
    scores: np.ndarray
    precisions: np.ndarray


class ClassResult(NamedTuple):
    """The results of a class; NaN if it has no clips."""

    name: str
    num_clips: int
    lwlrap: float
    average_precision: float
    threshold: float
    precision: float
    recall: float
    f1: float


def read_evaluation(eval_dir: str) -> Evaluation:
    """Reads the scores of the best step.

    Raises:
      ValueError: there are none, or they cannot be read; the message names the file.
    """
    path = pathlib.Path(eval_dir) / results.SCORES_FILE
    try:
        with np.load(path) as arrays:
            labels, scores = arrays["labels"], arrays["scores"]
            step, names = int(arrays["step"]), arrays["class_names"].tolist()
            clips = arrays["clips"].tolist()
    except FileNotFoundError:
        raise ValueError(
            f"there is no {path}; runner.py --mode eval writes it"
        ) from None
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from None
    precisions = np.zeros(labels.shape)
    for row, (score, label) in enumerate(zip(scores, labels, strict=True)):
        classes, values = positive_class_precisions(score[None], label[None])
        precisions[row, classes] = values
    return Evaluation(step, names, clips, labels, scores, precisions)


def class_results(evaluation: Evaluation) -> list[ClassResult]:
    """The results of each class, in the order of the class map."""
    found = []
    for index, name in enumerate(evaluation.class_names):
        labels, scores = evaluation.labels[:, index], evaluation.scores[:, index]
        count = int(labels.sum())
        if not count:
            found.append(ClassResult(name, 0, *[np.nan] * 6))
            continue
        precision, recall, thresholds = precision_recall_curve(labels, scores)
        f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
        best = int(f1[:-1].argmax())  # The last point has no threshold.
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
            )
        )
    return found


def confused_pairs(evaluation: Evaluation) -> list[tuple[str, str, int, float]]:
    """The pairs of a class and a class that its clips wrongly rank higher.

    Returns:
      Both names, the number of such clips, and their share of the clips of the first
      class; the most frequent pairs first.
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


def class_curves(evaluation: Evaluation) -> dict[str, dict[str, list[float]]]:
    """Points of the precision-recall curve and histograms of each class with clips."""
    curves = {}
    for index, name in enumerate(evaluation.class_names):
        labels, scores = evaluation.labels[:, index], evaluation.scores[:, index]
        if not labels.any():
            continue
        precision, recall, _ = precision_recall_curve(labels, scores)
        points = np.linspace(0, len(recall) - 1, CURVE_POINTS).round().astype(int)
        points = np.unique(points)
        histograms = {}
        for kind, selected in (("positives", labels > 0), ("negatives", labels == 0)):
            counts, _ = np.histogram(scores[selected], HISTOGRAM_BINS, (0, 1))
            histograms[kind] = (counts / max(1, counts.sum())).round(4).tolist()
        curves[name] = {
            "precision": precision[points].round(4).tolist(),
            "recall": recall[points].round(4).tolist(),
            **histograms,
        }
    return curves


def compare(
    first: Evaluation, second: Evaluation
) -> list[tuple[str, float, float, float]]:
    """The difference of the lwlrap of two evaluations, for each class and overall.

    Returns:
      Name, first minus second, and the ends of a 95 % interval, from a bootstrap over
      clips (Efron 1979).

    Raises:
      ValueError: the evaluations have other clips, labels or classes.
    """
    order = {name: row for row, name in enumerate(second.clips)}
    if first.class_names != second.class_names or order.keys() != set(first.clips):
        raise ValueError("--against: the evaluations have other clips or classes")
    rows = [order[name] for name in first.clips]
    if not np.array_equal(first.labels, second.labels[rows]):
        raise ValueError("--against: the evaluations have other labels")
    gains = first.precisions - second.precisions[rows]
    num_clips = len(first.clips)
    draws = np.random.default_rng(0).multinomial(
        num_clips, np.full(num_clips, 1 / num_clips), BOOTSTRAP_SAMPLES
    )
    weights = np.vstack([np.ones(num_clips), draws])  # The first row is no draw.
    sums, counts = weights @ gains, weights @ first.labels
    columns = {
        "all classes": sums.sum(axis=1) / counts.sum(axis=1),
        **{
            name: sums[:, index] / np.maximum(counts[:, index], 1)
            for index, name in enumerate(first.class_names)
            if first.labels[:, index].any()
        },
    }
    return [
        (name, values[0], *np.percentile(values[1:], INTERVAL_PERCENT))
        for name, values in columns.items()
    ]
