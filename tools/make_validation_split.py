"""Splits CSVs of clips into training and validation parts, stratified by label.

    python -m tools.make_validation_split train_curated.csv --out_dir splits
    python -m tools.make_validation_split a.csv b.csv --out_dir splits --folds 5

For each X.csv this writes X_train.csv and X_validation.csv. With --folds K it writes
X_fold<k>_train.csv and X_fold<k>_validation.csv for each fold k from 1 to K. Rows are
shuffled. The header and further columns are unchanged. Each CSV is split separately.

The split is multi-label stratified (Sechidis et al. 2011, "On the Stratification of
Multi-Label Data"), by the package iterative-stratification.
"""

import csv
import io
import pathlib
import sys
from collections.abc import Sequence

import numpy as np
from absl import flags
from iterstrat.ml_stratifiers import (
    MultilabelStratifiedKFold,
    MultilabelStratifiedShuffleSplit,
)

from tagger import clips, program
from tagger.files import make_folder, write_whole

FLAGS = flags.FLAGS
# The method is greedy, and breaks ties at random: the best of several tries is taken.
TRIES = 20
TOLERANCE = 1  # clips by which a class may miss its share


def define_flags() -> None:
    """Defines the flags of this program."""
    flags.DEFINE_string("out_dir", None, "Folder to write to.")
    flags.DEFINE_float("fraction", 0.1, "Share of the clips for validation.")
    flags.DEFINE_integer(
        "folds", None, "Number of folds, instead of a single split.", lower_bound=2
    )
    flags.DEFINE_integer("seed", 0, "Seed of the random choices.", lower_bound=0)
    flags.mark_flag_as_required("out_dir")
    flags.register_validator(
        "fraction", lambda fraction: 0 < fraction < 1, "must be between 0 and 1"
    )


def multi_hot(rows: Sequence[clips.Row]) -> tuple[list[str], np.ndarray]:
    """The C class names of N rows in alphabetical order, and labels, int64 [N, C]."""
    names = sorted({label for row in rows for label in row.labels})
    index = {name: i for i, name in enumerate(names)}
    labels = np.zeros([len(rows), len(names)], np.int64)
    for i, row in enumerate(rows):
        labels[i, [index[label] for label in row.labels]] = 1
    return names, labels


def missed_shares(
    labels: np.ndarray, validation: np.ndarray, share: float
) -> np.ndarray:
    """The number of clips by which each class misses its share of a validation part.

    Args:
      labels: int [N, C], 1 for the labels of each clip.
      validation: int, the positions of the clips of the validation part.
      share: share of the clips of each class that belong there, from 0 to 1.

    Returns:
      float64 [C], 0 or more.
    """
    return np.abs(labels[validation].sum(axis=0) - share * labels.sum(axis=0))


def split(
    labels: np.ndarray, *, share: float, num_folds: int | None, seed: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Splits N clips into training and validation.

    Args:
      labels: int [N, C], 1 for the labels of each clip.
      share: share of the clips for validation, between 0 and 1.
      num_folds: number of folds, each of which is the validation part once; None: a
        single split.
      seed: seed of the random choices and of the order of the positions.

    Returns:
      (training, validation) for each fold, or for the single split: int arrays of
      positions, shuffled.

    Raises:
      ValueError: there are too few clips.
    """
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
                n_splits=1, test_size=share, random_state=state
            )
        parts = list(splitter.split(labels, indicators))
        num_missed = sum(
            (missed_shares(labels, validation, share) > TOLERANCE).sum()
            for _, validation in parts
        )
        if num_missed < fewest:
            best, fewest = parts, num_missed
        if not num_missed:
            break
    if not all(part.size for parts in best for part in parts):
        raise ValueError(f"a part of {len(labels)} clips would be empty")
    rng = np.random.default_rng(seed)
    return [tuple(map(rng.permutation, parts)) for parts in best]


def write_split(
    source: str, *, out_dir: str, share: float, num_folds: int | None, seed: int
) -> None:
    """Splits one CSV and writes its parts into out_dir.

    Classes whose share cannot be kept are reported on stderr.

    Raises:
      ValueError, OSError: the CSV cannot be used, or has too few clips.
    """
    header, rows = clips.read_rows(source)
    names, labels = multi_hot(rows)
    try:
        parts = split(labels, share=share, num_folds=num_folds, seed=seed)
    except ValueError as error:
        raise ValueError(f"{source}: too few clips to split: {error}") from None
    for fold, (training, validation) in enumerate(parts, start=1):
        stem = pathlib.Path(source).stem + (f"_fold{fold}" if num_folds else "")
        for part, positions in (("train", training), ("validation", validation)):
            path = pathlib.Path(out_dir) / f"{stem}_{part}.csv"
            text = io.StringIO()
            table = csv.writer(text, lineterminator="\n")
            table.writerow(header)
            table.writerows(rows[position].fields for position in positions)
            write_whole(path, text.getvalue())
            print(f"{path}: {len(positions)} clips")
        counts = labels[validation].sum(axis=0)
        missed = missed_shares(labels, validation, share)
        for index in np.flatnonzero((missed > TOLERANCE) | (counts == 0)):
            print(
                f"note: {stem}: {names[index]} has {counts[index]} validation clips; "
                f"its share is {share * labels[:, index].sum():.1f}",
                file=sys.stderr,
            )


def main(argv: Sequence[str]) -> int:
    """Runs the program; returns the exit status."""
    sources = argv[1:]
    stems = {pathlib.Path(source).stem for source in sources}
    if not sources:
        raise ValueError("expected at least one CSV of clips; see --help")
    if len(stems) < len(sources):
        raise ValueError("the names of the CSVs must differ, as their parts' names do")
    make_folder(FLAGS.out_dir, "--out_dir")
    for source in sources:
        write_split(
            source,
            out_dir=FLAGS.out_dir,
            share=1 / FLAGS.folds if FLAGS.folds else FLAGS.fraction,
            num_folds=FLAGS.folds,
            seed=FLAGS.seed,
        )
    return 0


if __name__ == "__main__":
    define_flags()
    program.run(main)
