"""CSVs with a row for each class, such as thresholds, and the checkpoint they are for.

Letter for shapes: C classes.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tagger.data.csv_files import composed, read_records, shown
from tagger.errors import UserError
from tagger.terminal.progress import counted

CLASS_COLUMN = "class"
CHECKPOINT_COLUMN = "checkpoint"  # whose scores the rows are for; may be missing


class ByClass(dict[str, Any]):
    """What a CSV has for each class.

    Args:
      path: path of the CSV.
      flag: name of the flag with the path, for messages.

    Attributes:
      checkpoints: what it is for, see `checkpoint_files.describe`; empty: not known.
    """

    def __init__(self, path: str, flag: str):
        super().__init__()
        self._source = f"{flag}: {path}"
        self.checkpoints: set[str] = set()

    def report_other_checkpoint(self, own: str) -> None:
        """Warns if the CSV is for another checkpoint, as far as it says.

        Args:
          own: the checkpoint in use, see `checkpoint_files.describe`; empty: not known.
        """
        # Their names may differ, because checkpoints are copied and renamed.
        for checkpoint in sorted(self.checkpoints) if own else []:
            if checkpoint.split()[-1] != own.split()[-1]:
                print(
                    f"warning: {self._source} is for {checkpoint}, not for {own}",
                    file=sys.stderr,
                )


def read_by_class(
    path: str,
    flag: str,
    columns: Sequence[str],
    optional: Sequence[str],
    parse: Callable[[Mapping[str, str]], Any],
) -> ByClass:
    """Reads a CSV with a row for each class.

    Args:
      path: path of the CSV.
      flag: name of the flag with the path, for messages.
      columns: the columns that it must have, CLASS_COLUMN and others.
      optional: columns that it may have, besides CHECKPOINT_COLUMN.
      parse: returns the value of a class for the texts of a row, by column, or raises
        UserError.

    Raises:
      UserError: the file cannot be read, or is not such a CSV; lists all bad lines.
    """
    (_, header), *records = read_records(path, flag) or [(1, [])]
    names = [name.strip() for name in header]
    allowed = {*columns, *optional, CHECKPOINT_COLUMN}
    if sorted({*columns, *names} & allowed) != sorted(names):
        expected, got = ",".join(columns), shown(header)
        raise UserError(f"{path}:1: expected a header {expected} but got {got}")
    found, problems = ByClass(path, flag), []
    for line, fields in records:
        row = dict(zip(names, map(str.strip, fields)))
        try:
            if len(fields) != len(names):
                raise UserError(f"expected {len(names)} fields, but got {len(fields)}")
            name = composed(row[CLASS_COLUMN])
            if name in found:
                raise UserError(f"class {name} appears twice")
            found[name] = parse(row)
        except UserError as error:
            problems.append(f"{path}:{line}: {error}")
            continue
        if checkpoint := row.get(CHECKPOINT_COLUMN):
            found.checkpoints.add(checkpoint)
    if problems:
        raise UserError(*problems)
    return found


def ordered(
    by_class: Mapping[str, Any], class_names: Sequence[str], flag: str, what: str
) -> list[Any]:
    """The values of C classes in the order of the class map.

    Args:
      by_class: the values.
      class_names: the C names.
      flag, what: the flag with the values, and what each is, for messages.

    Raises:
      UserError: a class has no value, or there are other classes; the message names
        the flag and a class.
    """
    if missing := [name for name in class_names if name not in by_class]:
        number = counted(len(missing), "class")
        raise UserError(f"{flag}: no {what} for {number}, such as {missing[0]}")
    known = set(class_names)
    if unknown := [name for name in by_class if name not in known]:
        number = counted(len(unknown), "class")
        raise UserError(
            f"{flag}: {number} that the checkpoint does not have, such as {unknown[0]}"
        )
    return [by_class[name] for name in class_names]
