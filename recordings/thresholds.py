"""The lowest score of a detection of each class: reads and writes CSVs of thresholds.

Letter for shapes: C classes.
"""

import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from tagger.data.clips import composed, read_records, write_csv
from tagger.errors import UserError
from tagger.terminal.progress import counted

THRESHOLDS_FILE = "thresholds.csv"  # in the folder of an evaluation
THRESHOLDS_HEADER = ("class", "threshold")
DEFAULT_THRESHOLD = 0.5  # also of a class without clips


def write_thresholds(eval_dir: str, thresholds: Mapping[str, float]) -> None:
    """Writes THRESHOLDS_FILE, with the digits that restore the values, atomically.

    Raises:
      UserError: it cannot be written; the message names the file.
    """
    path = pathlib.Path(eval_dir) / THRESHOLDS_FILE
    write_csv(path, [THRESHOLDS_HEADER, *thresholds.items()])


def read_thresholds(path: str, flag: str) -> dict[str, float]:
    """Reads a CSV of thresholds in [0, 1], by class.

    Args:
      path: path of the CSV, with the header class,threshold.
      flag: name of the flag with the path, for messages.

    Raises:
      UserError: the file cannot be read, or is not such a CSV; lists all bad lines.
    """
    (_, header), *records = read_records(path, flag) or [(1, [])]
    if tuple(name.strip() for name in header) != THRESHOLDS_HEADER:
        expected, got = ",".join(THRESHOLDS_HEADER), ",".join(header)
        raise UserError(f"{path}:1: expected a header {expected} but got {got}")
    thresholds, problems = {}, []
    for line, fields in records:
        name, text = composed(fields[0].strip()), fields[-1].strip()
        if len(fields) != 2 or not is_score(text):
            got = ",".join(fields)
            problems.append(
                f"{path}:{line}: expected a class and a number from 0 to 1, but got "
                f"{got}"
            )
        elif name in thresholds:
            problems.append(f"{path}:{line}: class {name} appears twice")
        else:
            thresholds[name] = float(text)
    if problems:
        raise UserError(*problems)
    return thresholds


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
