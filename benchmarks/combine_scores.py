"""Measures whether a weight per class combines two runs better than their average.

    python benchmarks/combine_scores.py 'OUT/noisy-{}/eval' 'OUT/curated-{}/eval'

The arguments are the folders of two evaluations of the same clips, with {} in place of
the fold. The combined score of a class is w * (score of the first run) + (1 - w) *
(score of the second run). The weights w are chosen on clips other than those that they
are applied to, in two ways:

- "in the fold": the clips of a fold are divided into PARTS parts. The weights for a
  part are chosen on the others. This is repeated with other divisions, and averaged.
- "other folds": the weights for a fold are chosen on the clips of all other folds.

Prints the lwlrap of each choice: means over folds with standard errors, and the paired
differences from the average of the scores.
"""

from collections.abc import Callable, Sequence

import learning_runs
import numpy as np
from absl import flags

from tagger.data import splits
from tagger.errors import UserError
from tagger.metrics.lwlrap import Lwlrap
from tagger.runs.eval_folder import SCORES_FILE
from tagger.terminal import program

FLAGS = flags.FLAGS
PARTS, REPEATS = 5, 5
WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0)
MAX_PASSES = 5  # over the classes, when their weights are chosen
# Labels, bool [N, C], and the scores of both runs, float [N, C].
Scored = tuple[np.ndarray, np.ndarray, np.ndarray]


def define_flags() -> None:
    """Defines the flags of this program."""
    flags.DEFINE_list("folds", ["1", "2", "3"], "Folds, at least two.")
    flags.register_validator(
        "folds", lambda folds: len(folds) > 1, message="must be at least two"
    )


def read_fold(folders: Sequence[str]) -> Scored:
    """Reads the scores of two evaluations of the same clips."""
    first, second = (np.load(f"{folder}/{SCORES_FILE}") for folder in folders)
    for name in ("clips", "labels", "class_names"):
        if not np.array_equal(first[name], second[name]):
            raise UserError(f"{' and '.join(folders)} differ in {name}")
    return first["labels"] != 0, first["scores"], second["scores"]


def per_class(labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """The lwlrap of each class, float64 [C]."""
    found = Lwlrap(range(labels.shape[1]))
    found.accumulate(labels, scores)
    return found.per_class_lwlrap()


def overall(scored: Scored, weights: np.ndarray | float) -> float:
    """The lwlrap of the combined scores."""
    labels, first, second = scored
    found = Lwlrap(range(labels.shape[1]))
    found.accumulate(labels, weights * first + (1 - weights) * second)
    return found.overall_lwlrap()


def better_run(scored: Scored) -> float:
    """1 for the first run, or 0 for the second one."""
    return float(overall(scored, 1.0) > overall(scored, 0.0))


def one_weight(scored: Scored) -> float:
    """The best weight for all classes, and of equal ones that nearest to 0.5."""
    return max(
        WEIGHTS, key=lambda weight: (overall(scored, weight), -abs(weight - 0.5))
    )


def better_run_per_class(scored: Scored) -> np.ndarray:
    """1 or 0 for the run with the higher lwlrap of a class, 0.5 if they are equal."""
    labels, first, second = scored
    return (1 + np.sign(per_class(labels, first) - per_class(labels, second))) / 2


def weight_per_class(scored: Scored) -> np.ndarray:
    """The weights that one class after another increases the lwlrap with.

    All start at 0.5. The ranks of a class depend on the weights of the others, so this
    is repeated until no weight changes.
    """
    weights = np.full(scored[0].shape[1], 0.5)
    best = overall(scored, weights)
    for _ in range(MAX_PASSES):
        before = weights.copy()
        for index in range(len(weights)):
            for weight in WEIGHTS:
                changed = weights.copy()
                changed[index] = weight
                if (value := overall(scored, changed)) > best:
                    best, weights = value, changed
        if np.array_equal(weights, before):
            break
    return weights


def half_way(scored: Scored) -> np.ndarray:
    """The means of 0.5 and `weight_per_class`."""
    return (0.5 + weight_per_class(scored)) / 2


CHOICES: dict[str, Callable[[Scored], np.ndarray | float]] = {
    "better run": better_run,
    "one weight": one_weight,
    "better run per class": better_run_per_class,
    "weight per class": weight_per_class,
    "weight per class, half way to the average": half_way,
}


def in_fold(scored: Scored, choose: Callable[[Scored], np.ndarray | float]) -> float:
    """The lwlrap with weights that are chosen on the other parts of the fold."""
    found = []
    for seed in range(REPEATS):
        weights = np.empty(scored[0].shape)
        for others, part in splits.split(
            scored[0].astype(int), fraction=0.0, num_folds=PARTS, seed=seed
        ):
            weights[part] = choose(tuple(array[others] for array in scored))
        found.append(overall(scored, weights))
    return float(np.mean(found))


def print_row(name: str, values: Sequence[float], average: Sequence[float]) -> None:
    """Prints a row of the table: the lwlrap of the folds, and its differences."""
    differences = np.subtract(values, average)
    cells = [learning_runs.mean_and_error(row) for row in (values, differences)]
    print(f"| {name} | {' | '.join(cells)} |", flush=True)


def main(argv: Sequence[str]) -> int:
    """Prints the table."""
    if len(argv) != 3:
        raise UserError("expected two folders with {} for the fold; see --help")
    folds = [
        read_fold([path.replace("{}", fold) for path in argv[1:]])
        for fold in FLAGS.folds
    ]
    print("| weights | lwlrap | - average |", "|---|---|---|", sep="\n")
    average = [overall(scored, 0.5) for scored in folds]
    for name, weight in (("average", 0.5), ("first run", 1.0), ("second run", 0.0)):
        print_row(name, [overall(scored, weight) for scored in folds], average)
    for name, choose in CHOICES.items():
        values = [in_fold(scored, choose) for scored in folds]
        print_row(f"{name}, in the fold", values, average)
        values = []
        for index, scored in enumerate(folds):
            others = zip(*(folds[:index] + folds[index + 1 :]), strict=True)
            values.append(overall(scored, choose(tuple(map(np.concatenate, others)))))
        print_row(f"{name}, other folds", values, average)
    values = [overall(scored, weight_per_class(scored)) for scored in folds]
    print_row("weight per class, chosen on the same clips", values, average)
    return 0


if __name__ == "__main__":
    define_flags()
    program.run(main)
