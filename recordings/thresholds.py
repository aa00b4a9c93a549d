"""The lowest score of a detection of each class: reads and writes CSVs of thresholds.

Letter for shapes: C classes.
"""

import pathlib
import sys
from collections.abc import Mapping, Sequence

import numpy as np

from tagger.data.csv_files import composed, read_records, write_csv
from tagger.errors import UserError
from tagger.terminal.progress import counted

THRESHOLDS_FILE = "thresholds.csv"  # in the folder of an evaluation
PRECISION_FILE = "thresholds_precision.csv"  # beside it, for a wanted precision
THRESHOLDS_HEADER = ("class", "threshold")
CHECKPOINT_COLUMN = "checkpoint"  # whose scores the thresholds are for; may be missing
DEFAULT_THRESHOLD = 0.5  # also of a class without clips


def write_thresholds(
    folder: str,
    thresholds: Mapping[str, float],
    checkpoint: str = "",
    name: str = THRESHOLDS_FILE,
) -> None:
    """Writes a CSV of thresholds, with the digits that restore the values, atomically.

    Args:
      folder: the folder.
      thresholds: the thresholds, by class.
      checkpoint: what they are for, see `checkpoint_files.describe`; empty: not known.
      name: the name of the CSV.

    Raises:
      UserError: it cannot be written; the message names the file.
    """
    rows = [THRESHOLDS_HEADER, *thresholds.items()]
    if checkpoint:
        last_column = [CHECKPOINT_COLUMN, *[checkpoint] * len(thresholds)]
        rows = [(*row, last) for row, last in zip(rows, last_column, strict=True)]
    write_csv(pathlib.Path(folder) / name, rows)


def read_thresholds(path: str, flag: str) -> dict[str, float]:
    """Reads a CSV of thresholds in [0, 1], by class.

    Args:
      path: path of the CSV, with the header class,threshold or
        class,threshold,checkpoint.
      flag: name of the flag with the path, for messages.

    Raises:
      UserError: the file cannot be read, or is not such a CSV; lists all bad lines.
    """
    (_, header), *records = read_records(path, flag) or [(1, [])]
    names = [name.strip() for name in header]
    if tuple(names) not in (THRESHOLDS_HEADER, (*THRESHOLDS_HEADER, CHECKPOINT_COLUMN)):
        expected, got = ",".join(THRESHOLDS_HEADER), ",".join(header)
        raise UserError(f"{path}:1: expected a header {expected} but got {got}")
    thresholds, problems = {}, []
    for line, fields in records:
        name = composed(fields[0].strip())
        if len(fields) != len(names) or not is_score(fields[1]):
            got = ",".join(fields)
            problems.append(
                f"{path}:{line}: expected a class and a number from 0 to 1, but got "
                f"{got}"
            )
        elif name in thresholds:
            problems.append(f"{path}:{line}: class {name} appears twice")
        else:
            thresholds[name] = float(fields[1])
    if problems:
        raise UserError(*problems)
    return thresholds


def report_other_checkpoint(path: str, own: str, flag: str) -> None:
    """Warns if the thresholds of a CSV are for another checkpoint, as far as it says.

    Args:
      path: path of the CSV, as in `read_thresholds`.
      own: the checkpoint in use, see `checkpoint_files.describe`.
      flag: name of the flag with the path.
    """
    (_, header), *records = read_records(path, flag)
    if len(header) > len(THRESHOLDS_HEADER):
        for checkpoint in sorted({fields[-1] for _, fields in records}):
            # Their names may differ, because checkpoints are copied and renamed.
            if checkpoint.split()[-1:] != own.split()[-1:]:
                print(
                    f"warning: {flag}: {path} is for {checkpoint}, not for {own}",
                    file=sys.stderr,
                )


def is_score(text: str) -> bool:
    """Whether the text is a number from 0 to 1."""
    try:
        return 0 <= float(text) <= 1
    except ValueError:
        return False


def order_thresholds(
    thresholds: Mapping[str, float], class_names: Sequence[str], flag: str
) -> np.ndarray:
    """The thresholds of C classes in the order of the class map, float64 [C].

    Raises:
      UserError: a class has no threshold, or there are other classes; the message
        names the flag and the classes.
    """
    missing = [name for name in class_names if name not in thresholds]
    if missing:
        number = counted(len(missing), "class")
        raise UserError(f"{flag}: no threshold for {number}, such as {missing[0]}")
    known = set(class_names)
    unknown = [name for name in thresholds if name not in known]
    if unknown:
        number = counted(len(unknown), "class")
        raise UserError(
            f"{flag}: {number} that the checkpoint does not have, such as {unknown[0]}"
        )
    return np.array([thresholds[name] for name in class_names])
