"""Measures the expected calibration error of scores, and of calibrated probabilities.

    python benchmarks/calibration.py fold1.csv fold1/eval fold2.csv fold2/eval ...

Each CSV is one of tools.report --calibration. Each folder is an --eval_dir with other
clips.
In each of 10 equal parts of [0, 1], the error is the difference between the mean score
and the share of right ones. The expected error is its mean, weighted by their number
(Guo et al. 2017, "On calibration of modern neural networks"): for the highest score of
each clip, and for the scores of all classes. Classes without calibration are left out.
Prints means over the pairs of arguments, and their standard errors.
"""

import pathlib
import sys
from collections.abc import Sequence

import numpy as np

sys.path.append(str(pathlib.Path(__file__).resolve().parent.parent))

from recordings.calibration import probabilities, read_calibrations
from recordings.class_tables import ordered
from tagger.errors import UserError
from tagger.terminal import program
from tagger.terminal.progress import print_result
from tools.report.diagnosis import read_evaluation

BINS = 10


def expected_error(labels: np.ndarray, scores: np.ndarray) -> float:
    """The expected calibration error of scores [...] with labels [...], 0 or 1."""
    parts = np.minimum(BINS * scores, BINS - 1).astype(int).ravel()
    differences = np.bincount(parts, (scores - labels).ravel(), BINS)
    return np.abs(differences).sum() / scores.size


def errors_of(calibration_path: str, eval_dir: str) -> list[float]:
    """The errors of the highest and of all scores, each before and after."""
    evaluation = read_evaluation(eval_dir)
    by_class = read_calibrations(calibration_path, "CSV")
    by_class.report_other_checkpoint(evaluation.checkpoint)
    found = np.array(ordered(by_class, evaluation.class_names, "CSV", "row"))
    known = np.isfinite(found[:, 0])
    errors = []
    for scores in (evaluation.scores, probabilities(found, evaluation.scores)):
        labels, scores = evaluation.labels[:, known], scores[:, known]
        best = scores.argmax(axis=1)[:, np.newaxis]
        highest = (np.take_along_axis(values, best, 1) for values in (labels, scores))
        errors += [expected_error(*highest), expected_error(labels, scores)]
    return [errors[0], errors[2], errors[1], errors[3]]


def main(argv: Sequence[str]) -> int:
    """Runs the program; returns the exit status."""
    if len(argv) < 3 or len(argv) % 2 == 0:
        raise UserError("expected pairs of a CSV and an --eval_dir; see --help")
    values = np.array([errors_of(*pair) for pair in zip(argv[1::2], argv[2::2])])
    names = ("highest score", "calibrated", "all scores", "calibrated")
    for name, column in zip(names, values.T):
        text = f"{name:15}{column.mean():.4f}"
        if len(column) > 1:
            text += f" ± {column.std(ddof=1) / np.sqrt(len(column)):.4f}"
        print_result(text)
    return 0


if __name__ == "__main__":
    program.run(main)
