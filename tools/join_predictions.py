"""Joins the parts that runner.py --inference_shard writes into one CSV.

    python -m tools.join_predictions submission.csv

This reads submission-0-of-3.csv, submission-1-of-3.csv and submission-2-of-3.csv from
the same folder, and writes the rows of all clips to submission.csv, sorted by name. If
parts are missing or do not belong together, it writes nothing.
"""

import csv
import pathlib
import re
from collections.abc import Sequence

from recordings.thresholds import is_score
from tagger.data.csv_files import FINGERPRINT_COLUMN, write_csv
from tagger.errors import UserError
from tagger.terminal import program
from tagger.terminal.progress import print_result


def find_parts(path: pathlib.Path) -> list[pathlib.Path]:
    """The paths of all parts of a CSV, in order.

    Raises:
      UserError: parts are missing, or there are parts of several runs.
    """
    if not path.parent.is_dir():
        raise UserError(f"{path}: there is no folder {path.parent}")
    pattern = re.compile(rf"{re.escape(path.stem)}-\d+-of-\d+{re.escape(path.suffix)}")
    found = {
        file.name for file in path.parent.iterdir() if pattern.fullmatch(file.name)
    }
    parts = [
        path.with_name(f"{path.stem}-{shard}-of-{len(found)}{path.suffix}")
        for shard in range(len(found))
    ]
    if not parts or found != {part.name for part in parts}:
        raise UserError(
            f"{path}: expected all parts 0-of-n to n-1-of-n of one run, but found "
            f"{', '.join(sorted(found)) or 'none'}"
        )
    return parts


def read_part(part: pathlib.Path) -> list[list[str]]:
    """The rows of a part, without empty lines. Names of clips may not be UTF-8.

    Raises:
      UserError: it cannot be read.
    """
    try:
        with part.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
            return [row for row in csv.reader(file) if row]
    except (OSError, csv.Error) as error:
        raise UserError(f"{part} cannot be read: {error}") from None


def difference(fingerprint: str, other: str) -> str:
    """The first difference between the fingerprints of two parts.

    The others may follow from it. If the files differ, so do their samples.
    """
    ours, others = (
        dict(word.rpartition(":")[::2] for word in text.rpartition("-")[0].split())
        for text in (fingerprint, other)
    )
    names = (name for name in ours if ours[name] != others.get(name))
    return next(names, "") or FINGERPRINT_COLUMN


def join(parts: Sequence[pathlib.Path]) -> list[list[str]]:
    """The header, then the rows of all parts, sorted by the name of the clip.

    Raises:
      UserError: a part cannot be read; the parts have different classes or
        fingerprints; a row is missing, or a score is not a number from 0 to 1.
    """
    joined, first = [], None
    for part in parts:
        header, *rows = read_part(part) or [[]]
        if header[-1:] != [FINGERPRINT_COLUMN]:
            raise UserError(f"{part} is not a part: it has no {FINGERPRINT_COLUMN}")
        for row in rows:
            if len(row) != len(header):
                raise UserError(f"{part}: {row[0]} has other columns than the header")
            name, *scores, fingerprint = row
            first = first or (header, fingerprint)
            if header != first[0]:
                raise UserError(f"{part} has other classes than {parts[0]}")
            if fingerprint != first[1]:
                what = difference(fingerprint, first[1])
                raise UserError(f"{part} has other {what} than {parts[0]}")
            if not all(map(is_score, scores)):
                raise UserError(f"{part}: a score of {name} is not from 0 to 1")
            joined.append([name, *scores])
    if first is None:
        raise UserError("the parts have no rows")
    expected = first[1].rpartition("-")[2]
    if str(len(joined)) != expected:
        raise UserError(
            f"the parts have {len(joined)} rows in all, but {expected} are expected; "
            f"are rows missing?"
        )
    return [header[:-1], *sorted(joined, key=lambda row: row[0])]


def main(argv: Sequence[str]) -> int:
    """Runs the program; returns the exit status."""
    if len(argv) != 2:
        raise UserError("expected one argument, the CSV to write; see --help")
    path = pathlib.Path(argv[1])
    parts = find_parts(path)
    table = join(parts)
    write_csv(path, table)
    print_result(f"{len(table) - 1} clips of {len(parts)} parts joined into {path}")
    return 0


if __name__ == "__main__":
    program.run(main)
