"""Reads and writes CSVs: those of clips and their labels, and others."""

import csv
import dataclasses
import io
import os
import pathlib
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

from tagger.errors import UserError
from tagger.terminal.files import write_whole
from tagger.terminal.progress import counted, printable

FILE_COLUMN = "fname"
LABEL_COLUMNS = ("labels", "label")
BACKGROUND = "_background_"  # the only label of a clip that has no class
FINGERPRINT_COLUMN = "fingerprint"  # of the parts that inference writes
MAX_SHOWN = 80  # letters of a record in a message


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of a CSV of clips: line number, clip name, labels, and all fields."""

    line: int
    fname: str
    labels: tuple[str, ...]
    fields: tuple[str, ...]


def read_rows(path: str, contents: bytes | None = None) -> tuple[list[str], list[Row]]:
    """Reads a CSV of clips and their labels.

    The header names the columns: `fname` and `labels` (comma-separated inside quotes),
    or the older `fname,aso_ids,label`. Additional columns are kept, but not used.

    Args:
      path: path of the CSV.
      contents: contents of the CSV; None: read from the path.

    Returns:
      The header, and the rows.

    Raises:
      UserError: the file does not exist, or is not such a CSV; the message lists all
        invalid lines.
    """
    contents = read_file(path) if contents is None else contents
    header, rows, problems = parse_rows(contents, path)
    if problems:
        raise UserError(*problems)
    return header, rows


def parse_rows(contents: bytes, path: str) -> tuple[list[str], list[Row], list[str]]:
    """Returns the header, the rows that name a clip, and all problems."""
    records = _records(contents, path)
    if not records:
        return [], [], [f"{path}:1: empty; expected a header fname,labels"]
    header = [name.strip() for name in records[0][1]]
    label_column = next((name for name in LABEL_COLUMNS if name in header), None)
    if FILE_COLUMN not in header or label_column is None:
        got = shown(header)
        return header, [], [f"{path}:1: expected a header fname,labels but got {got}"]
    for name in (FILE_COLUMN, label_column):
        if header.count(name) > 1:
            return header, [], [f"{path}:1: the column {name} appears twice"]
    rows, problems, first_lines = [], [], {}
    for line, fields in records[1:]:
        where = f"{path}:{line}"
        if len(fields) != len(header):
            problems.append(
                f"{where}: expected {len(header)} fields as in the header, but got "
                f"{len(fields)}; several labels of a clip need quotes"
            )
            continue
        values = dict(zip(header, fields, strict=True))
        fname = values[FILE_COLUMN].strip()
        labels = parse_labels(values[label_column])
        if not is_below(fname):
            problems.append(
                f"{where}: expected the name of a clip in the folder of clips, but got "
                f"{fname!r}"
            )
            continue
        first_line = first_lines.setdefault(os.path.normpath(fname), line)
        if first_line != line:
            problems.append(f"{where}: clip {fname} is also in line {first_line}")
        if problem := label_problem(labels):
            problems.append(f"{where}: clip {fname} {problem}")
        rows.append(Row(line, fname, labels, tuple(fields)))
    if len(records) == 1:
        problems.append(f"{path}:1: no clips after the header")
    return header, rows, problems


def shown(fields: Sequence[str], noun: str = "column") -> str:
    """The fields of a record, for messages; only the first ones if they are long."""
    text = ",".join(fields)
    if len(text) <= MAX_SHOWN:
        return text
    return f"{text[:MAX_SHOWN]}... ({counted(len(fields), noun)})"


def is_below(name: str) -> bool:
    """Whether the name of a clip is a relative path that does not leave its folder."""
    return name != "" and not os.path.isabs(name) and ".." not in name.split("/")


def parse_labels(text: str) -> tuple[str, ...]:
    """Splits a text with comma-separated labels."""
    return tuple(filter(None, map(str.strip, composed(text).split(","))))


def label_problem(labels: Sequence[str]) -> str:
    """Returns what is wrong with the labels of a clip; empty if nothing is."""
    if not labels:
        return "has no labels"
    if BACKGROUND in labels and len(set(labels)) > 1:
        return f"has other labels than {BACKGROUND}: {','.join(labels)}"
    if unprintable := [label for label in labels if label != printable(label)]:
        return f"has a label with control characters: {unprintable[0]!r}"
    return ""


def class_names_of(labels: Iterable[Iterable[str]]) -> list[str]:
    """Returns the sorted class names in the labels of clips, without BACKGROUND."""
    return sorted({name for names in labels for name in names} - {BACKGROUND})


def composed(name: str) -> str:
    """Returns a class name with composed accents (NFC); some systems decompose them."""
    return unicodedata.normalize("NFC", name)


def read_file(path: str, flag: str = "") -> bytes:
    """Reads the contents of a file; a UserError names the flag with the path."""
    prefix = f"{flag}: " if flag else ""
    try:
        return pathlib.Path(path).read_bytes()
    except FileNotFoundError:
        raise UserError(f"{prefix}there is no file {path}") from None
    except OSError as error:
        raise UserError(f"{prefix}cannot read {path}: {error.strerror}") from None


def read_records(
    path: str, flag: str = "", **dialect: Any
) -> list[tuple[int, list[str]]]:
    """Reads the non-blank records of a CSV, as (number of first line, fields).

    Args:
      path: path of the CSV.
      flag: name of the flag with the path, for messages; optional.
      dialect: arguments of `csv.reader`, for a file that is not comma-separated.

    Raises:
      UserError: the file cannot be read, or is not a CSV in UTF-8.
    """
    return _records(read_file(path, flag), path, **dialect)


def _records(contents: bytes, path: str, **dialect: Any) -> list[tuple[int, list[str]]]:
    """Parses the non-blank records of a CSV, as (number of first line, fields)."""
    try:
        text = contents.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = 1 + contents[: error.start].count(b"\n")
        raise UserError(*[f"{path}:{line}: not in UTF-8: {error.reason}"]) from None
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, **dialect)
    records, first_line = [], 1
    try:
        for fields in reader:
            if any(field.strip() for field in fields):
                records.append((first_line, fields))
            first_line = reader.line_num + 1
    except csv.Error as error:
        raise UserError(*[f"{path}:{first_line}: not a CSV: {error}"]) from None
    return records


def write_csv(path: str | pathlib.Path, rows: Iterable[Sequence[object]]) -> None:
    """Writes rows to a CSV, atomically.

    Raises:
      UserError: it cannot be written; the message names the file.
    """
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    write_whole(pathlib.Path(path), text.getvalue())
