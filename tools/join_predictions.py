"""Joins the parts that runner.py --inference_shard has written into one table.

    python -m tools.join_predictions submission.csv

reads submission-0-of-3.csv, submission-1-of-3.csv and submission-2-of-3.csv beside it,
and writes submission.csv with the rows of all clips in sorted order, or says what is
missing and writes nothing.
"""

import argparse
import csv
import io
import os
import pathlib
import re
import sys
from collections.abc import Sequence

from inference import list_wavs, part_path
from tagger.files import write_whole

MAX_LISTED = 10  # names of clips in a message


def find_parts(path: str) -> list[str]:
    """The paths of all parts of a table, in order.

    Raises:
      FileNotFoundError: some are missing, or all; names them.
      ValueError: there are parts of several runs.
    """
    folder = pathlib.Path(path).parent
    stem, suffix = map(re.escape, os.path.splitext(os.path.basename(path)))
    pattern = re.compile(rf"{stem}-\d+-of-(\d+){suffix}")
    names = os.listdir(folder) if folder.is_dir() else []
    found = {int(match[1]) for name in names if (match := pattern.fullmatch(name))}
    if not found:
        raise FileNotFoundError(
            f"there are no parts of {path}, such as {part_path(path, 0, 2)}"
        )
    if len(found) > 1:
        raise ValueError(
            f"there are parts of {' and of '.join(map(str, sorted(found)))} of {path}; "
            f"delete those that are not meant"
        )
    (num_shards,) = found
    parts = [part_path(path, shard, num_shards) for shard in range(num_shards)]
    missing = [part for part in parts if not os.path.isfile(part)]
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} of {num_shards} parts are missing: {', '.join(missing)}"
        )
    return parts


def read_part(path: str) -> tuple[list[str], list[list[str]]]:
    """The header and the rows of a part.

    Raises:
      ValueError: it is cut off, or not a table of predictions; names the line.
    """
    with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
        text = file.read()
    rows = list(csv.reader(io.StringIO(text)))
    if not rows or rows[0][:1] != ["fname"]:
        raise ValueError(f"{path}:1: expected a header that starts with fname")
    header, *rows = rows
    for line, row in enumerate(rows, start=2):
        if len(row) != len(header):
            raise ValueError(
                f"{path}:{line}: expected {len(header)} columns, but got {len(row)}"
            )
    if not text.endswith("\n"):
        raise ValueError(f"{path}: is cut off in its last line")
    return header, rows


def join(parts: Sequence[str]) -> list[list[str]]:
    """The header and the rows of all parts, in the order of the clips.

    Part i of n has every n-th clip of the sorted names, from the i-th on.

    Raises:
      ValueError: the parts are not of the same classes and clips; names one.
    """
    tables = [read_part(path) for path in parts]
    header = tables[0][0]
    for path, (own_header, _) in zip(parts, tables):
        if own_header != header:
            raise ValueError(f"{path} has other classes than {parts[0]}")
    num_rows = [len(rows) for _, rows in tables]
    num_clips = max(  # so many at least
        (count - 1) * len(parts) + shard + 1 for shard, count in enumerate(num_rows)
    )
    joined: list[list[str]] = [[] for _ in range(num_clips)]
    for shard, (path, (_, rows)) in enumerate(zip(parts, tables)):
        expected = len(range(shard, num_clips, len(parts)))
        if len(rows) < expected:
            raise ValueError(
                f"{path} has {len(rows)} rows, but by the other parts there are "
                f"{num_clips} clips or more, and {expected} rows in this one"
            )
        joined[shard :: len(parts)] = rows
    for before, row in zip(joined, joined[1:]):
        if not before[0] < row[0]:
            raise ValueError(
                f"the parts are not of the same clips: {row[0]} comes after {before[0]}"
            )
    return [header, *joined]


def _check_complete(table: Sequence[Sequence[str]], clip_dir: str) -> None:
    names = [row[0] for row in table[1:]]
    for problem, found in (
        ("have no row", sorted(set(list_wavs(clip_dir)).difference(names))),
        ("have a row but no file", sorted(set(names).difference(list_wavs(clip_dir)))),
    ):
        if found:
            more = ", ..." if len(found) > MAX_LISTED else ""
            raise ValueError(
                f"{len(found)} clips of {clip_dir} {problem}: "
                f"{', '.join(found[:MAX_LISTED])}{more}"
            )


def _parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("csv", help="the CSV to write; its parts are beside it")
    parser.add_argument(
        "--inference_clip_dir",
        default="",
        help="also check that each clip of this folder has a row",
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> int:
    """Runs the program with its command-line arguments; returns the exit status."""
    parsed = _parse_arguments(arguments)
    try:
        parts = find_parts(parsed.csv)
        table = join(parts)
        if parsed.inference_clip_dir:
            _check_complete(table, parsed.inference_clip_dir)
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(table)
        write_whole(pathlib.Path(parsed.csv), text.getvalue())
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{len(table) - 1} clips of {len(parts)} parts joined in {parsed.csv}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
