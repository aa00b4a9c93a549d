"""Splits CSVs of clips into training and validation parts, with each label's share
kept.

    python -m tools.make_validation_split train_curated.csv --out_dir splits
    python -m tools.make_validation_split train_curated.csv train_noisy.csv
    --out_dir splits --folds 5

For each X.csv this writes X_train.csv and X_validation.csv, or with --folds K, for each
fold k from 1 to K, X_fold<k>_train.csv and X_fold<k>_validation.csv. Rows are shuffled,
headers and further columns kept. Every CSV is split by itself.

The split is multi-label stratified (Sechidis et al. 2011, "On the Stratification of
Multi-Label Data"), by the package iterative-stratification.
"""

import argparse
import csv
import io
import pathlib
import sys
from collections.abc import Sequence

import numpy as np
from iterstrat.ml_stratifiers import (
    MultilabelStratifiedKFold,
    MultilabelStratifiedShuffleSplit,
)

from tagger import clips
from tagger.files import make_folder, write_whole

# The method is greedy and its ties are random: the best of so many tries is taken.
TRIES = 20
ALLOWED_CLIPS = 1  # by which a class may miss its share


def multi_hot(rows: Sequence[clips.Row]) -> tuple[list[str], np.ndarray]:
    """The classes of N rows in alphabetical order, and which row has which [N, C]."""
    names = sorted({label for row in rows for label in row.labels})
    index = {name: i for i, name in enumerate(names)}
    labels = np.zeros([len(rows), len(names)], np.int64)
    for i, row in enumerate(rows):
        labels[i, [index[label] for label in row.labels]] = 1
    return names, labels


def missed_shares(
    labels: np.ndarray, validation: np.ndarray, share: float
) -> np.ndarray:
    """By how many clips each class misses its share in a validation part.

    Args:
      labels: int [N, C], 1 for the labels of each clip.
      validation: int, the positions of the clips of the validation part.
      share: of the clips of each class that belong there, from 0 to 1.

    Returns:
      float64 [C], 0 or more; below 1 where only the rounding to clips is left.
    """
    return np.abs(labels[validation].sum(axis=0) - share * labels.sum(axis=0))


def split(
    labels: np.ndarray, *, fraction: float, num_folds: int, seed: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Splits N clips with labels [N, C] into (training, validation) positions.

    Args:
      labels: int [N, C], 1 for the labels of each clip.
      fraction: share of the clips for validation, where num_folds is 0.
      num_folds: number of folds, each of which is validation once; 0: a single split.
      seed: of the random choices and of the order of the positions.

    Returns:
      A pair of shuffled position arrays for each fold, or a single one.
    """
    share = 1 / num_folds if num_folds else fraction
    # The stratifiers take a single column for another kind of problem.
    indicators = np.pad(labels, [(0, 0), (0, 1)])
    best, fewest = [], np.inf
    for attempt in range(TRIES):
        state = np.random.RandomState([seed, attempt])
        if num_folds:
            splitter = MultilabelStratifiedKFold(
                n_splits=num_folds, shuffle=True, random_state=state
            )
        else:
            splitter = MultilabelStratifiedShuffleSplit(
                n_splits=1, test_size=fraction, random_state=state
            )
        parts = list(splitter.split(labels, indicators))
        missing = sum(
            (missed_shares(labels, part[1], share) > ALLOWED_CLIPS).sum()
            for part in parts
        )
        if missing < fewest:
            best, fewest = parts, missing
        if not missing:
            break
    order = np.random.default_rng(seed)
    return [(order.permutation(part[0]), order.permutation(part[1])) for part in best]


def write_split(
    source: str, *, out_dir: str, fraction: float, num_folds: int, seed: int
) -> None:
    """Splits one CSV, writes its parts into out_dir, and says what cannot be kept.

    Raises:
      ValueError, OSError: the CSV cannot be used, or is too small to split.
    """
    header, rows = clips.read_rows(source)
    names, labels = multi_hot(rows)
    needed = num_folds if num_folds else 2
    if len(rows) < needed:
        raise ValueError(f"{source}: {len(rows)} clips are too few to split")
    parts = split(labels, fraction=fraction, num_folds=num_folds, seed=seed)
    stem = pathlib.Path(source).stem
    share = 1 / num_folds if num_folds else fraction
    for number, (training, validation) in enumerate(parts, 1):
        if not len(training) or not len(validation):
            raise ValueError(
                f"{source}: --fraction {fraction:g} of {len(rows)} clips leaves a part "
                f"empty"
            )
        name = f"{stem}_fold{number}" if num_folds else stem
        for kind, positions in (("train", training), ("validation", validation)):
            path = pathlib.Path(out_dir) / f"{name}_{kind}.csv"
            text = io.StringIO()
            table = csv.writer(text, lineterminator="\n")
            table.writerow(header)
            table.writerows(rows[position].fields for position in positions)
            write_whole(path, text.getvalue())
            print(f"{path}: {len(positions)} clips")
        _report(name, names, labels, validation, share)


def _report(
    name: str,
    names: Sequence[str],
    labels: np.ndarray,
    validation: np.ndarray,
    share: float,
) -> None:
    counts, wanted = labels[validation].sum(axis=0), share * labels.sum(axis=0)
    missed = missed_shares(labels, validation, share)
    for index in np.flatnonzero(missed > ALLOWED_CLIPS):
        print(
            f"note: {name}: {names[index]} has {counts[index]} clips in validation, "
            f"its share would be {wanted[index]:.1f}",
            file=sys.stderr,
        )
    for index in np.flatnonzero(counts == 0):
        print(
            f"note: {name}: {names[index]} has no clip in validation", file=sys.stderr
        )


def _parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("csv", nargs="+", help="CSV of clips and labels")
    parser.add_argument("--out_dir", required=True, help="folder to write to")
    parser.add_argument(
        "--fraction",
        type=float,
        default=0.1,
        help="share of the clips for validation, between 0 and 1 (default: 0.1)",
    )
    parser.add_argument(
        "--folds", type=int, default=0, help="number of folds, 2 or more, instead"
    )
    parser.add_argument("--seed", type=int, default=0, help="0 or more (default: 0)")
    return parser.parse_args(arguments)


def _check_arguments(parsed: argparse.Namespace) -> None:
    if not 0 < parsed.fraction < 1:
        raise ValueError(
            f"--fraction must be between 0 and 1, but got {parsed.fraction:g}"
        )
    if parsed.folds < 0 or parsed.folds == 1:
        raise ValueError(f"--folds must be 2 or more, but got {parsed.folds}")
    if parsed.seed < 0:
        raise ValueError(f"--seed must be 0 or more, but got {parsed.seed}")
    stems = [pathlib.Path(path).stem for path in parsed.csv]
    if len(set(stems)) < len(stems):
        raise ValueError("the CSVs must have different names, as their parts will")
    make_folder(parsed.out_dir, "--out_dir")


def main(arguments: Sequence[str]) -> int:
    """Runs the program with its command-line arguments; returns the exit status."""
    parsed = _parse_arguments(arguments)
    try:
        _check_arguments(parsed)
        for source in parsed.csv:
            write_split(
                source,
                out_dir=parsed.out_dir,
                fraction=parsed.fraction,
                num_folds=parsed.folds,
                seed=parsed.seed,
            )
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
