"""Reads annotations: which sounds are heard in recordings, with their times.

The formats are label tracks of Audacity, selection tables of Raven, and CSVs:
https://manual.audacityteam.org/man/importing_and_exporting_labels.html
https://www.ravensoundsoftware.com/knowledge-base/selection-tables
"""

import collections
import csv
import functools
import math
import os
import pathlib
import re
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

from recordings.decoding import Sound, read_duration, walk
from tagger.data.csv_files import (
    BACKGROUND,
    composed,
    label_problem,
    parse_labels,
    read_records,
    shown,
)
from tagger.errors import UserError

EXTENSIONS = (".txt", ".csv")
MAX_NAMES = 3  # of unknown recordings that are listed for a table
MIN_HEARD_SECONDS = 0.25  # of an event, or half of it
ROUNDING_SECONDS = 0.1  # Programs round times, so a label may end later by this.
# Names of columns in lower case: of CSVs, of `tools.tag --segments`, then of Raven.
COLUMNS = {
    "start": ("start", "begin time (s)"),
    "end": ("end", "end time (s)"),
    "label": ("label", "class", "annotation", "species", "common name"),
    "file": ("file", "fname", "begin file"),
}
# Raven's other times may count from the start of the first of several files.
OFFSET_COLUMN = "file offset (s)"
TRACK_HEADER = ["start", "end", "label"]  # Label tracks have no header.
SCORE = re.compile(r" [01]\.\d\d$")  # after a class in label tracks of `tools.tag`


class Event(NamedTuple):
    """A sound in a recording: start and end in seconds, and its label."""

    start: float
    end: float
    label: str


def is_heard(event: Event, start: float, end: float) -> bool:
    """Whether MIN_HEARD_SECONDS or half of an event is between two times."""
    shared = min(event.end, end) - max(event.start, start)
    return shared >= min(MIN_HEARD_SECONDS, (event.end - event.start) / 2)


# For what names may call a recording, the lines (file:line) and their events.
_Groups = dict[tuple[str, ...], list[tuple[str, Event]]]


def read_annotations(
    source: str,
    sounds: Sequence[Sound],
    flag: str = "--annotations",
    *,
    may_be_empty: bool = False,
    keep_background: bool = False,
) -> dict[str, list[Event]]:
    """Reads the annotations of recordings.

    Args:
      source: a file with annotations, or a folder of such files. Label tracks, and
        tables of one recording, are named after it: NAME.txt, NAME.flac.txt,
        NAME.Table.1.selections.txt. A name fits a recording if the path of one is the
        end of the other's, with or without the extension.
      sounds: the recordings that may be annotated.
      flag: name of the flag with the source, for messages.
      may_be_empty: whether there may be no annotations at all.
      keep_background: whether the label BACKGROUND is an event, too.

    Returns:
      The events of each annotated recording, sorted, by its path. An empty label track
      states that there are none, and so does the label BACKGROUND.

    Raises:
      UserError: lists all lines that are not valid, labels that are not within their
        recording, and annotations that fit no recording, or several.
    """
    find, read_seconds = _finder(sounds), functools.cache(_seconds)
    events, problems = {}, []
    for path, name in _find_files(source, flag):
        try:
            groups, wrong = _read_file(path, name)
        except UserError as error:
            problems += error.problems
            continue
        if groups and not any(groups.values()) and not any(map(find, groups)):
            print(f"note: {path} is ignored: no annotations", file=sys.stderr)
            continue
        problems += wrong + _name_problems(path, groups, find)
        for names, placed in groups.items():
            for recording in find(names)[:1]:
                seconds = read_seconds(recording)
                problems += _range_problems(placed, seconds, recording)
                events.setdefault(recording, set()).update(e for _, e in placed)
    if problems:
        raise UserError(*problems)
    if not events and not may_be_empty:
        raise UserError(f"{flag}: there are no annotations in {source}")
    return {
        path: sorted(
            event
            for event in events[path]
            if keep_background or event.label != BACKGROUND
        )
        for path in sorted(events)
    }


def _find_files(source: str, flag: str) -> list[Sound]:
    """The files that may have annotations, and their paths below the folder."""
    if os.path.isfile(source):
        return [Sound(source, os.path.basename(source))]
    if not os.path.isdir(source):
        raise UserError(f"{flag}: there is no file or folder {source}")
    return [file for file in walk(source) if file.name.lower().endswith(EXTENSIONS)]


def _finder(sounds: Sequence[Sound]) -> Callable[[Sequence[str]], list[str]]:
    """A function that returns the paths of the recordings that names fit best.

    The first of the names that fits any counts.
    """
    by_last = collections.defaultdict(list)
    for path, name in sounds:
        # `tools.tag` names results after the path, with "__" between folders.
        for text in (name, name.replace("/", "__")):
            for full in (text, os.path.splitext(text)[0]):
                parts = composed(full).split("/")[::-1]
                by_last[parts[0]].append((parts, path))

    def find_one(name: str) -> list[str]:
        """The longest common end counts first, then the shortest path."""
        wanted = os.path.normpath(composed(name)).split("/")[::-1]
        fits = collections.defaultdict(dict)
        for parts, path in by_last.get(wanted[0], []):
            size = min(len(parts), len(wanted))
            if parts[:size] == wanted[:size]:
                fits[size, -len(parts)][path] = None
        return list(fits[max(fits)]) if fits else []

    @functools.cache
    def find(names: Sequence[str]) -> list[str]:
        return next(filter(None, map(find_one, names)), [])

    return find


def _seconds(path: str) -> float:
    """The duration of a recording; infinite if it cannot be read."""
    try:
        return read_duration(path)
    except UserError:
        return math.inf


def _read_file(path: str, name: str) -> tuple[_Groups, list[str]]:
    """Reads a file with annotations; returns also the problems of its other lines.

    Raises:
      UserError: it cannot be read, or lacks a column.
    """
    if name.lower().endswith(".csv"):
        return _read_table(read_records(path), path, ())
    records = read_records(path, delimiter="\t", quoting=csv.QUOTE_NONE)
    stems = [pathlib.PurePosixPath(name).with_suffix("")]
    if records and COLUMNS["start"][-1] in _normalised(records[0][1]):
        while stems[-1].suffix:
            stems.append(stems[-1].with_suffix(""))
    else:
        lines = [
            (line, [*fields[:-1], SCORE.sub("", fields[-1].strip())])
            for line, fields in records
            if not fields[0].startswith("\\")  # a line with frequencies
        ]
        records = [(0, TRACK_HEADER), *lines]
    return _read_table(records, path, tuple(map(str, stems)))


def _normalised(header: Sequence[str]) -> list[str]:
    return [name.strip().lower() for name in header]


def _read_table(
    records: Sequence[tuple[int, list[str]]], path: str, stems: tuple[str, ...]
) -> tuple[_Groups, list[str]]:
    """Reads a table with a header; returns also the problems of its other lines.

    Args:
      records: its lines.
      path: its path, for messages.
      stems: what its name may call the recording; empty: a column names it.

    Raises:
      UserError: it lacks a column.
    """
    (_, names), *lines = records or [(1, [])]
    header = _normalised(names)
    columns = {
        key: next((name for name in allowed if name in header), None)
        for key, allowed in COLUMNS.items()
    }
    missing = [key for key, column in columns.items() if column is None]
    if missing and not (stems and missing == ["file"]):
        expected = " and ".join(" or ".join(COLUMNS[key]) for key in missing)
        got = shown(names)
        raise UserError(f"{path}:1: expected a column {expected}, but got {got}")
    groups = {} if columns["file"] else {stems: []}
    problems = []
    for line, fields in lines:
        where, values = f"{path}:{line}", dict(zip(header, map(str.strip, fields)))
        try:
            if len(fields) != len(header):
                raise UserError(
                    f"expected {len(header)} fields ({', '.join(names)}), but got "
                    f"{len(fields)}: {', '.join(fields)}"
                )
            start, end, text = (values[columns[key]] for key in TRACK_HEADER)
            first, last = _parse_times(start, end, values.get(OFFSET_COLUMN))
            labels = parse_labels(text)
            if problem := label_problem(labels):
                raise UserError(problem)
        except UserError as error:
            problems.append(f"{where}: {error}")
            continue
        named = (values[columns["file"]],) if columns["file"] else stems
        placed = groups.setdefault(named, [])
        placed += [(where, Event(first, last, label)) for label in labels]
    return groups, problems


def _parse_times(start: str, end: str, offset: str | None) -> tuple[float, float]:
    """Start and end in seconds; an offset is the start in its file, if there is one."""
    try:
        first, last = float(start), float(end)
        if offset is not None:
            first, last = float(offset), float(offset) + last - first
        if 0 <= first < last < math.inf:
            return first, last
    except ValueError:
        pass
    raise UserError(
        f"expected a start from 0 and a later end in seconds, but got {start} and {end}"
    )


def _name_problems(
    path: str, groups: _Groups, find: Callable[[Sequence[str]], list[str]]
) -> list[str]:
    """A problem for each name in a file that fits several recordings, and one of those
    that fit none.

    Args:
      path: the file.
      groups: from `_read_file`.
      find: from `_finder`.
    """
    problems, unknown = [], []
    for names, placed in groups.items():
        found = find(names)
        where = placed[0][0] if placed else path
        if not found:
            unknown.append((where, names[-1]))
        elif len(found) > 1:
            fits = " and ".join(found)
            problems.append(
                f"{where}: the name {names[-1]} fits {fits}; it must fit one"
            )
    if len(unknown) > 1:
        listed = ", ".join(name for _, name in unknown[:MAX_NAMES])
        problems.append(
            f"{path}: {len(unknown)} names fit no recording, such as {listed}"
        )
    else:
        problems += [
            f"{where}: the name {name} fits no recording; it must fit one"
            for where, name in unknown
        ]
    return problems


def _range_problems(
    placed: Sequence[tuple[str, Event]], seconds: float, recording: str
) -> list[str]:
    """A problem for each event that is not within its recording."""
    return [
        f"{where}: label {label} is at {start:g} to {end:g} s, but {recording} has "
        f"{seconds:.3f} s"
        for where, (start, end, label) in placed
        if start >= seconds or end > seconds + ROUNDING_SECONDS
    ]
