"""When each class is detected: reads and writes CSVs of thresholds.

Letter for shapes: C classes.
"""

import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from recordings.class_tables import (
    CHECKPOINT_COLUMN,
    CLASS_COLUMN,
    ByClass,
    ordered,
    read_by_class,
)
from tagger.data.csv_files import write_csv
from tagger.errors import UserError

THRESHOLDS_FILE = "thresholds.csv"  # in the folder of an evaluation
PRECISION_FILE = "thresholds_precision.csv"  # beside it, for a wanted precision
COLUMNS = (CLASS_COLUMN, "threshold")
TIME_COLUMNS = ("gap_seconds", "min_seconds", "mean_seconds")  # may be missing
DEFAULT_THRESHOLD = 0.5  # also of a class without clips


class Rule(NamedTuple):
    """When a class is detected; or, as arrays [C], each of C classes.

    Attributes:
      threshold: lowest score of an example, from 0 to 1.
      gap_seconds: detections with less than this between them are merged: the time
        between the start of an example below the threshold, and that of the next one
        that reaches it.
      min_seconds: shorter detections are left out.
      mean_seconds: a score is first replaced by its mean over the examples that start
        at most half of this time earlier or later.
    """

    threshold: float | np.ndarray = DEFAULT_THRESHOLD
    gap_seconds: float | np.ndarray = 0.0
    min_seconds: float | np.ndarray = 0.0
    mean_seconds: float | np.ndarray = 0.0


def write_thresholds(
    folder: str,
    rules: Mapping[str, Rule],
    checkpoint: str = "",
    name: str = THRESHOLDS_FILE,
) -> None:
    """Writes a CSV of thresholds, with the digits that restore the values, atomically.

    It has TIME_COLUMNS only if one of their values is not 0.

    Args:
      folder: the folder.
      rules: when each class is detected.
      checkpoint: what they are for, see `checkpoint_files.describe`; empty: not known.
      name: the name of the CSV.

    Raises:
      UserError: it cannot be written; the message names the file.
    """
    has_times = any(rule[1:] != Rule()[1:] for rule in rules.values())
    size = len(Rule._fields) if has_times else 1
    end = [checkpoint] if checkpoint else []
    header = [*COLUMNS, *TIME_COLUMNS[: size - 1], *[CHECKPOINT_COLUMN] * len(end)]
    rows = [[name, *rule[:size], *end] for name, rule in rules.items()]
    write_csv(pathlib.Path(folder) / name, [header, *rows])


def read_thresholds(path: str, flag: str) -> ByClass:
    """Reads a CSV of thresholds in [0, 1], a `Rule` for each class.

    Args:
      path: path of the CSV, with COLUMNS and any of TIME_COLUMNS.
      flag: name of the flag with the path, for messages.

    Raises:
      UserError: the file cannot be read, or is not such a CSV; lists all bad lines.
    """
    return read_by_class(path, flag, COLUMNS, TIME_COLUMNS, _parse_rule)


def _parse_rule(row: Mapping[str, str]) -> Rule:
    score, times = row[COLUMNS[1]], [row.get(column, "0") for column in TIME_COLUMNS]
    if not is_score(score):
        raise UserError(f"expected a threshold from 0 to 1, but got {score}")
    if not all(map(is_duration, times)):
        raise UserError(
            f"expected {', '.join(TIME_COLUMNS)} of at least 0, but got "
            f"{', '.join(times)}"
        )
    return Rule(*map(float, (score, *times)))


def is_score(text: str) -> bool:
    """Whether the text is a number from 0 to 1."""
    return is_duration(text) and float(text) <= 1


def is_duration(text: str) -> bool:
    """Whether the text is a number of seconds."""
    try:
        return 0 <= float(text) < math.inf
    except ValueError:
        return False


def order_thresholds(
    rules: Mapping[str, Rule], class_names: Sequence[str], flag: str
) -> Rule:
    """The rules of C classes in the order of the class map, as arrays [C].

    Raises:
      UserError: see `ordered`.
    """
    return Rule(*np.array(ordered(rules, class_names, flag, "threshold")).T)
