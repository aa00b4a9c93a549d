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
from tagger.data.clips import FINGERPRINT_COLUMN, write_csv
from tagger.errors import UserError
from tagger.terminal import program
from tagger.terminal.progress import print_result


def find_parts(path: pathlib.Path) -> list[pathlib.Path]:
    """The paths of all parts of a CSV, in order.

    Raises:
      UserError: parts are missing, or there are parts of several runs.
    """
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


def join(parts: Sequence[pathlib.Path]) -> list[list[str]]:
    """The header, then the rows of all parts, sorted by the name of the clip.

    Raises:
      UserError: the parts have different fingerprints, so they have other classes,
        clips or checkpoints; or a row is missing, or a score is not a number from 0 to
        1.
    """
    joined, first = [], None
    for part in parts:
        with part.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
            header, *rows = [*filter(None, csv.reader(file))] or [[]]
        if header[-1:] != [FINGERPRINT_COLUMN]:
            raise UserError(f"{part} is not a part: it has no {FINGERPRINT_COLUMN}")
        for name, *scores, fingerprint in rows:
            first = first or (header, fingerprint)
            if (header, fingerprint) != first or len(scores) != len(header) - 2:
                raise UserError(
                    f"{part} has other checkpoints, classes or clips than {parts[0]}"
                )
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
