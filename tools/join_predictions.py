"""Joins the parts that runner.py --inference_shard writes into one CSV.

    python -m tools.join_predictions submission.csv

reads submission-0-of-3.csv, submission-1-of-3.csv and submission-2-of-3.csv from the
same folder, and writes the rows of all clips, in sorted order, to submission.csv. If a
part is missing or does not fit the others, it reports this and writes nothing.
"""

import csv
import io
import itertools
import pathlib
import re
from collections.abc import Sequence

from tagger import program
from tagger.files import write_whole


def find_parts(path: pathlib.Path) -> list[pathlib.Path]:
    """The paths of all parts of a CSV, in order.

    Raises:
      FileNotFoundError: parts are missing; the message names them.
      ValueError: there are parts of several runs.
    """
    pattern = re.compile(
        rf"{re.escape(path.stem)}-\d+-of-(\d+){re.escape(path.suffix)}"
    )
    matches = [pattern.fullmatch(file.name) for file in path.parent.iterdir()]
    counts = sorted({int(match[1]) for match in matches if match})
    if not counts:
        raise FileNotFoundError(
            f"there are no parts of {path}, such as {path.stem}-0-of-2{path.suffix}"
        )
    if len(counts) > 1:
        raise ValueError(
            f"there are parts of several runs of {path}, in {counts[0]} and in "
            f"{counts[1]} parts; delete those of the earlier run"
        )
    parts = [
        path.with_name(f"{path.stem}-{shard}-of-{counts[0]}{path.suffix}")
        for shard in range(counts[0])
    ]
    if missing := [str(part) for part in parts if not part.is_file()]:
        raise FileNotFoundError(f"parts are missing: {', '.join(missing)}")
    return parts


def read_part(path: pathlib.Path) -> tuple[list[str], list[list[str]]]:
    """The header and the rows of a part.

    Raises:
      ValueError: it is cut off, or is not a CSV of predictions; the message names the
        line.
    """
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        text = file.read()
    rows = list(csv.reader(io.StringIO(text)))
    if not rows or rows[0][:1] != ["fname"]:
        raise ValueError(f"{path}:1: expected a header that starts with fname")
    for line, row in enumerate(rows, start=1):
        if len(row) != len(rows[0]):
            raise ValueError(
                f"{path}:{line}: expected {len(rows[0])} columns, but got {len(row)}"
            )
    if not text.endswith("\n"):
        raise ValueError(f"{path}:{len(rows)}: the last line is cut off")
    return rows[0], rows[1:]


def join(parts: Sequence[pathlib.Path]) -> list[list[str]]:
    """The header, then the rows of all parts in the order of the clips.

    Part i of n has every n-th clip of the sorted names, starting from the i-th.

    Raises:
      ValueError: the parts differ in their classes, or do not have these clips.
    """
    headers, tables = zip(*map(read_part, parts))
    for part, header in zip(parts, headers):
        if header != headers[0]:
            raise ValueError(f"{part} has other classes than {parts[0]}")
    num_rows = [len(rows) for rows in tables]
    if sorted(num_rows, reverse=True) != num_rows or num_rows[0] > num_rows[-1] + 1:
        raise ValueError(
            f"the parts have {', '.join(map(str, num_rows))} rows, so they are not of "
            f"the same clips, or some are incomplete"
        )
    joined = [row for group in itertools.zip_longest(*tables) for row in group if row]
    for before, row in itertools.pairwise(joined):
        if row[0] <= before[0]:
            raise ValueError(
                f"the parts are of different clips: {row[0]} comes after {before[0]}"
            )
    return [headers[0], *joined]


def main(argv: Sequence[str]) -> int:
    """Runs the program; returns the exit status."""
    if len(argv) != 2:
        raise ValueError("expected one argument, the CSV to write; see --help")
    path = pathlib.Path(argv[1])
    parts = find_parts(path)
    table = join(parts)
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(table)
    write_whole(path, text.getvalue())
    print(f"{len(table) - 1} clips of {len(parts)} parts joined in {path}")
    return 0


if __name__ == "__main__":
    program.run(main)
