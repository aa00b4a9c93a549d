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
from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

from recordings.decoding import Sound, read_duration, walk
from tagger.data.clips import BACKGROUND, composed, parse_labels, read_records
from tagger.errors import UserError

EXTENSIONS = (".txt", ".csv")
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


class _Row(NamedTuple):
    """A line of a file, what it calls the recording (empty: nothing), and its event."""

    where: str
    file: str
    event: Event


def read_annotations(
    source: str, sounds: Sequence[Sound], flag: str = "--annotations"
) -> dict[str, list[Event]]:
    """Reads the annotations of recordings.

    Args:
      source: a file with annotations, or a folder of such files. Label tracks, and
        tables of one recording, are named after it: NAME.txt, NAME.flac.txt,
        NAME.Table.1.selections.txt. A name fits a recording if the path of one is the
        end of the other's, with or without the extension.
      sounds: the recordings that may be annotated.
      flag: name of the flag with the source, for messages.

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
            rows, wrong, stems = _read_rows(path, name)
        except UserError as error:
            problems += error.problems
            continue
        own = next(filter(None, map(find, stems)), [])
        if stems and not own and not rows:
            print(f"note: {path} is ignored: it has no annotations", file=sys.stderr)
            continue
        problems += wrong
        groups = {"": []} if stems and not rows else {}
        for row in rows:
            groups.setdefault(row.file, []).append(row)
        for file, group in groups.items():
            found = find(file) if file else own
            if len(found) == 1:
                problems += _range_problems(group, read_seconds(found[0]), found[0])
                events.setdefault(found[0], set()).update(row.event for row in group)
                continue
            where, text = (group[0].where, file) if file else (path, stems[-1])
            fits = f"fits {' and '.join(found)}" if found else "fits no recording"
            problems.append(f"{where}: the name {text} {fits}; it must fit one")
    if problems:
        raise UserError(*problems)
    if not events:
        raise UserError(f"{flag}: there are no annotations in {source}")
    return {
        path: sorted(event for event in events[path] if event.label != BACKGROUND)
        for path in sorted(events)
    }


def _find_files(source: str, flag: str) -> list[Sound]:
    """The files that may have annotations, and their paths below the folder."""
    if os.path.isfile(source):
        return [Sound(source, os.path.basename(source))]
    if not os.path.isdir(source):
        raise UserError(f"{flag}: there is no file or folder {source}")
    return [file for file in walk(source) if file.name.lower().endswith(EXTENSIONS)]


def _finder(sounds: Sequence[Sound]) -> Callable[[str], list[str]]:
    """A function that returns the paths of the recordings that a name fits best."""
    by_last = collections.defaultdict(list)
    for path, name in sounds:
        # `tools.tag` names results after the path, with "__" between folders.
        for text in (name, name.replace("/", "__")):
            for full in (text, os.path.splitext(text)[0]):
                parts = composed(full).split("/")[::-1]
                by_last[parts[0]].append((parts, path))

    @functools.cache
    def find(name: str) -> list[str]:
        """The longest common end counts first, then the shortest path."""
        wanted = os.path.normpath(composed(name)).split("/")[::-1]
        fits = collections.defaultdict(dict)
        for parts, path in by_last.get(wanted[0], []):
            size = min(len(parts), len(wanted))
            if parts[:size] == wanted[:size]:
                fits[size, -len(parts)][path] = None
        return list(fits[max(fits)]) if fits else []

    return find


def _seconds(path: str) -> float:
    """The duration of a recording; infinite if it cannot be read."""
    try:
        return read_duration(path)
    except UserError:
        return math.inf


def _read_rows(path: str, name: str) -> tuple[list[_Row], list[str], list[str]]:
    """Reads a file with annotations.

    Returns:
      The rows, the problems of the other lines, and what the name of the file may call
      the recording: nothing for a CSV.

    Raises:
      UserError: the file cannot be read, or lacks a column.
    """
    if name.lower().endswith(".csv"):
        return *_read_table(read_records(path), path, {*COLUMNS}), []
    records = read_records(path, delimiter="\t", quoting=csv.QUOTE_NONE)
    stems = [pathlib.PurePosixPath(name).with_suffix("")]
    if records and COLUMNS["start"][-1] in _normalised(records[0][1]):
        while stems[-1].suffix:
            stems.append(stems[-1].with_suffix(""))
    else:
        lines = [
            (line, [*fields[:-1], SCORE.sub("", fields[-1].strip())])
            for line, fields in records
            if not fields[0].startswith("\\")  # A line with frequencies
        ]
        records = [(0, TRACK_HEADER), *lines]
    return *_read_table(records, path, {*TRACK_HEADER}), list(map(str, stems))


def _normalised(header: Sequence[str]) -> list[str]:
    return [name.strip().lower() for name in header]


def _read_table(
    records: Sequence[tuple[int, list[str]]], path: str, needed: Collection[str]
) -> tuple[list[_Row], list[str]]:
    """Reads the rows of a table with a header; returns also the lines' problems.

    Raises:
      UserError: it lacks one of the needed COLUMNS.
    """
    (_, names), *lines = records or [(1, [])]
    header = _normalised(names)
    missing = [
        " or ".join(allowed)
        for name, allowed in COLUMNS.items()
        if name in needed and not {*allowed} & {*header}
    ]
    if missing:
        expected, got = " and ".join(missing), ",".join(names)
        raise UserError(f"{path}:1: expected a column {expected}, but got {got}")
    rows, problems = [], []
    for line, fields in lines:
        where, values = f"{path}:{line}", dict(zip(header, map(str.strip, fields)))
        if len(fields) != len(header):
            problems.append(
                f"{where}: expected {len(header)} fields ({', '.join(names)}), but got "
                f"{len(fields)}: {', '.join(fields)}"
            )
            continue
        start, end, text, file = (
            next((values[name] for name in allowed if name in values), "")
            for allowed in COLUMNS.values()
        )
        try:
            times = _parse_times(start, end, values.get(OFFSET_COLUMN))
            rows += [_Row(where, file, Event(*times, name)) for name in _labels(text)]
        except UserError as error:
            problems.append(f"{where}: {error}")
    return rows, problems


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


def _labels(text: str) -> tuple[str, ...]:
    """The labels of an annotation."""
    labels = parse_labels(text)
    if not labels:
        raise UserError("expected a label, but it is empty")
    if BACKGROUND in labels and len(labels) > 1:
        raise UserError(f"expected {BACKGROUND} as the only label, but got {text}")
    return labels


def _range_problems(rows: Sequence[_Row], seconds: float, recording: str) -> list[str]:
    """A problem for each event that is not within its recording."""
    return [
        f"{row.where}: label {row.event.label} is at {row.event.start:g} to "
        f"{row.event.end:g} s, but {recording} has {seconds:.3f} s"
        for row in rows
        if row.event.start >= seconds or row.event.end > seconds + ROUNDING_SECONDS
    ]
