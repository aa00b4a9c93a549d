"""When each class is detected: reads and writes CSVs of thresholds.

Letter for shapes: C classes.
"""

import math
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from tagger.data.csv_files import composed, read_records, write_csv
from tagger.errors import UserError
from tagger.terminal.progress import counted

THRESHOLDS_FILE = "thresholds.csv"  # in the folder of an evaluation
PRECISION_FILE = "thresholds_precision.csv"  # beside it, for a wanted precision
COLUMNS = ("class", "threshold")
TIME_COLUMNS = ("gap_seconds", "min_seconds", "mean_seconds")  # may be missing
CHECKPOINT_COLUMN = "checkpoint"  # whose scores the thresholds are for; may be missing
DEFAULT_THRESHOLD = 0.5  # also of a class without clips


class Rule(NamedTuple):
    """When a class is detected; or, as arrays [C], each of C classes.

    Attributes:
      threshold: lowest score of an example, from 0 to 1.
      gap_seconds: detections with less than this between them are merged: the time
        between the start of an example below the threshold, and that of the next one
        that reaches it.
      min_seconds: shorter detections are left out.
      mean_seconds: a score is first replaced by the mean over the examples whose starts
        are within this time, half of it before and half of it after.
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


def read_thresholds(path: str, flag: str) -> dict[str, Rule]:
    """Reads a CSV of thresholds in [0, 1], by class.

    Args:
      path: path of the CSV, with one of HEADERS.
      flag: name of the flag with the path, for messages.

    Raises:
      UserError: the file cannot be read, or is not such a CSV; lists all bad lines.
    """
    (_, header), *records = read_records(path, flag) or [(1, [])]
    names = [name.strip() for name in header]
    allowed = [*COLUMNS, *TIME_COLUMNS, CHECKPOINT_COLUMN]
    if sorted({*COLUMNS, *names} & {*allowed}) != sorted(names):
        expected, got = ",".join(COLUMNS), ",".join(header)
        raise UserError(f"{path}:1: expected a header {expected} but got {got}")
    rules, problems = {}, []
    for line, fields in records:
        row = dict(zip(names, map(str.strip, fields)))
        name, score = composed(row[COLUMNS[0]]), row.get(COLUMNS[1], "")
        times = [row.get(column, "0") for column in TIME_COLUMNS]
        if len(fields) != len(names) or not is_score(score):
            problems.append(
                f"{path}:{line}: expected a class and a number from 0 to 1, but got "
                f"{','.join(fields)}"
            )
        elif not all(map(is_duration, times)):
            problems.append(
                f"{path}:{line}: expected {', '.join(TIME_COLUMNS)} of at least 0, "
                f"but got {', '.join(times)}"
            )
        elif name in rules:
            problems.append(f"{path}:{line}: class {name} appears twice")
        else:
            rules[name] = Rule(*map(float, (score, *times)))
    if problems:
        raise UserError(*problems)
    return rules


def report_other_checkpoint(path: str, own: str, flag: str) -> None:
    """Warns if the thresholds of a CSV are for another checkpoint, as far as it says.

    Args:
      path: path of the CSV, as in `read_thresholds`.
      own: the checkpoint in use, see `checkpoint_files.describe`.
      flag: name of the flag with the path.
    """
    (_, header), *records = read_records(path, flag)
    names = [name.strip() for name in header]
    if CHECKPOINT_COLUMN in names:
        index = names.index(CHECKPOINT_COLUMN)
        for checkpoint in sorted({fields[index].strip() for _, fields in records}):
            # Their names may differ, because checkpoints are copied and renamed.
            if checkpoint and checkpoint.split()[-1] != own.split()[-1]:
                print(
                    f"warning: {flag}: {path} is for {checkpoint}, not for {own}",
                    file=sys.stderr,
                )


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
      UserError: a class has no threshold, or there are other classes; the message
        names the flag and the classes.
    """
    missing = [name for name in class_names if name not in rules]
    if missing:
        number = counted(len(missing), "class")
        raise UserError(f"{flag}: no threshold for {number}, such as {missing[0]}")
    known = set(class_names)
    unknown = [name for name in rules if name not in known]
    if unknown:
        number = counted(len(unknown), "class")
        raise UserError(
            f"{flag}: {number} that the checkpoint does not have, such as {unknown[0]}"
        )
    return Rule(*np.array([rules[name] for name in class_names]).T)
