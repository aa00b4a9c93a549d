"""Splits clips into parts in which all labels have about the same shares.

The split is multi-label stratified (Sechidis et al. 2011, "On the Stratification of
Multi-Label Data"), by the package iterative-stratification.
"""

from collections.abc import Sequence

import numpy as np

from tagger.data.csv_files import FILE_COLUMN, Row, shown
from tagger.errors import UserError

RECORDING = "recording"  # the column with the recording of a clip, of make_dataset


def groups_of(
    path: str, header: Sequence[str], rows: Sequence[Row], column: str = ""
) -> list[str]:
    """The groups of clips that belong together: their values in a column.

    Args:
      path: of the CSV, for messages.
      header, rows: its contents, see `csv_files.read_rows`.
      column: its name; empty: RECORDING, or without such a column, a group per clip.

    Raises:
      UserError: there is no such column.
    """
    if column and column not in header:
        raise UserError(
            f"--group_by: {path} has the columns {shown(header)}, but not {column}"
        )
    column = column or (RECORDING if RECORDING in header else FILE_COLUMN)
    return [row.fields[list(header).index(column)] for row in rows]


def split(
    labels: np.ndarray,
    groups: Sequence[str] | None = None,
    *,
    fraction: float,
    num_folds: int | None,
    seed: int,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Splits N clips into training and validation.

    Args:
      labels: int [N, C], 1 for the labels of each clip.
      groups: N names of groups, which are not divided; None: each clip is a group.
      fraction: share of the clips, or groups, for validation, between 0 and 1.
      num_folds: number of folds; each fold is the validation part once. None: a single
        split.
      seed: seed of the random choices and of the order of the positions.

    Returns:
      (training, validation) for each fold, or for the single split: int arrays of
      shuffled positions.

    Raises:
      UserError: there are too few clips, or an argument is out of range.
    """
    # Imported here, because it imports scikit-learn, which takes a second: --help and
    # the errors in arguments and CSVs come without it.
    from iterstrat.ml_stratifiers import (
        MultilabelStratifiedKFold,
        MultilabelStratifiedShuffleSplit,
    )

    random_state = np.random.RandomState(seed)
    if num_folds:
        splitter = MultilabelStratifiedKFold(
            n_splits=num_folds, shuffle=True, random_state=random_state
        )
    else:
        splitter = MultilabelStratifiedShuffleSplit(
            n_splits=1, test_size=fraction, random_state=random_state
        )
    names, group_of_clip = np.unique(
        range(len(labels)) if groups is None else groups, return_inverse=True
    )
    too_few = UserError(
        f"{len(labels)} clips in {len(names)} groups are too few: a part is empty"
    )
    if len(names) < (num_folds or 2):
        raise too_few
    # A group has the labels of all its clips. The stratifiers do not accept a single
    # column, so a column of zeros is added.
    group_labels = np.zeros([len(names), labels.shape[1] + 1], int)
    np.maximum.at(group_labels, group_of_clip, np.pad(labels, [(0, 0), (0, 1)]))
    parts = [
        [np.flatnonzero(np.isin(group_of_clip, part)) for part in pair]
        for pair in splitter.split(names, group_labels)
    ]
    if not all(part.size for pair in parts for part in pair):
        raise too_few
    return [tuple(map(random_state.permutation, pair)) for pair in parts]


def assign_folds(
    labels: np.ndarray, groups: Sequence[str] | None, num_folds: int
) -> np.ndarray:
    """The fold of each of N clips, int [N], from 0; see `split`."""
    folds = np.zeros(len(labels), int)
    parts = split(labels, groups, fraction=0, num_folds=num_folds, seed=0)
    for fold, (_, validation) in enumerate(parts):
        folds[validation] = fold
    return folds
