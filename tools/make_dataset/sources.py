"""The recordings of a data set and their labels."""

import bisect
import os
import posixpath
import re
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from recordings.annotations import EXTENSIONS, Event, is_heard, read_annotations
from recordings.decoding import Sound, find_sounds
from tagger.data.csv_files import (
    BACKGROUND,
    label_problem,
    parse_labels,
    read_records,
    read_rows,
)
from tagger.errors import UserError
from tagger.terminal.progress import printable

NO_FOLDER = "is not in a sub-folder of SOUNDS that is named after its label"
NO_ANNOTATIONS = (
    f"has no annotations; if none of the classes is heard in it, add an empty label "
    f"track, or move it to the folder {BACKGROUND} or --background"
)
TIME_COLUMN = re.compile(  # such as "onset", "tmin", "label_start" and "End Time [s]"
    r"((.*[\s_-]|event|segment|clip|file|time|t)?(start|begin|onset|end|stop|offset)"
    r"|t_?(min|max)|from|to)[\s_-]*(time)?"
    r"[\s_-]*[(\[]?(s|secs?|seconds?|ms|millis|milliseconds|frames?|samples?)?[)\]]?",
    re.IGNORECASE,
)


class Recording(NamedTuple):
    """A recording of a data set.

    Attributes:
      path: the sound file.
      name: its path below SOUNDS, by which it is recognised.
      labels: the labels of all its clips, if it has no events.
      events: its annotations, or None.
      only_annotated: whether clips without events have no labels. Otherwise, they are
        BACKGROUND.
    """

    path: str
    name: str
    labels: Sequence[str] = ()
    events: Sequence[Event] | None = None
    only_annotated: bool = False

    def problems(self, *, annotated: bool) -> list[str]:
        """What is wrong with its labels and names.

        Args:
          annotated: whether recordings should have annotations.
        """
        found = []
        if self.events is None and not self.labels:
            found.append(f"{self.path}: {NO_ANNOTATIONS if annotated else NO_FOLDER}")
        elif self.events is None and (problem := label_problem(self.labels)):
            found.append(f"{self.path}: {problem}")
        if self.name != printable(self.name):
            found.append(f"{self.path!r}: has unprintable characters in its name")
        return found

    def label_clips(
        self, times: Sequence[float]
    ) -> list[tuple[Sequence[str], Sequence[Event]]]:
        """Labels the N clips of the recording.

        Args:
          times: the starts of the clips and the end of the last one, in seconds.

        Returns:
          For each clip, its labels, and the events that they are from, with times
          within the clip.
        """
        if self.events is None:
            return [(self.labels, ())] * (len(times) - 1)
        heard = [[] for _ in times[1:]]
        for event in self.events:
            first = bisect.bisect(times, event.start) - 1
            for index in range(first, len(heard)):
                start, end = times[index : index + 2]
                if event.end <= start:
                    break
                if is_heard(event, start, end):
                    low, high = max(event.start, start), min(event.end, end)
                    part = Event(low - start, high - start, event.label)
                    heard[index].append(part)
        labelled = []
        for events in heard:
            classes = [event for event in events if event.label != BACKGROUND]
            labels = sorted({event.label for event in classes})
            if not labels and (events or not self.only_annotated):
                labels = [BACKGROUND]
            labelled.append((labels, classes))
        return labelled


def is_annotated(recordings: Iterable[Recording]) -> bool:
    """Whether the labels of some of the recordings have times."""
    return any(recording.events is not None for recording in recordings)


def find_recordings(
    sounds: str,
    *,
    csv_path: str = "",
    annotations: str = "",
    background: str = "",
    only_annotated: bool = False,
) -> list[Recording]:
    """The recordings in a folder with their labels.

    Args:
      sounds: the folder. Its sub-folders are named after the labels, if there is
        neither a CSV nor annotations.
      csv_path: CSV with the labels of whole recordings.
      annotations: see `read_annotations`.
      background: folder with recordings of none of the classes; it may be in the other.
      only_annotated: whether recordings without annotations are left out, and so are
        clips without events; the label BACKGROUND is then an event, too.

    Raises:
      UserError: a folder, the CSV or the annotations cannot be used.
    """
    quiet = _find(background, "--background") if background else []
    quiet_paths = {os.path.realpath(path) for path, _ in quiet}
    found = []
    if csv_path:
        found += _named_by_csv(sounds, csv_path)
    else:
        others = [
            sound
            for sound in _find(sounds, "SOUNDS", EXTENSIONS if annotations else ())
            if os.path.realpath(sound.path) not in quiet_paths
        ]
        events = {}
        if annotations:
            events = read_annotations(
                annotations, others, keep_background=only_annotated
            )
        for path, name in others:
            # A recording that is in no sub-folder has no labels.
            folder = name.split("/")[0] if "/" in name else ""
            if annotations and folder != BACKGROUND:
                folder = ""
            recording = Recording(
                path, name, parse_labels(folder), events.get(path), only_annotated
            )
            if recording.labels or path in events or not only_annotated:
                found.append(recording)
    return found + [
        Recording(path, f"{BACKGROUND}/{name}", [BACKGROUND]) for path, name in quiet
    ]


def _find(folder: str, flag: str, others: Collection[str] = ()) -> list[Sound]:
    """The recordings in a folder, of which there must be one; see `find_sounds`."""
    if not os.path.isdir(folder):
        raise UserError(f"{flag}: there is no folder {folder}")
    if found := find_sounds(folder, others):
        return found
    raise UserError(f"{flag}: there are no recordings in {folder}")


def _named_by_csv(sounds: str, csv_path: str) -> list[Recording]:
    """The recordings that a CSV names, with their labels."""
    if not os.path.isdir(sounds):
        raise UserError(f"SOUNDS: there is no folder {sounds}")
    header = [name for _, names in read_records(csv_path)[:1] for name in names]
    if times := list(filter(TIME_COLUMN.fullmatch, map(str.strip, header))):
        raise UserError(
            f"{csv_path}: has columns with times: {', '.join(times)}; --csv is for "
            f"labels of whole recordings, in the columns fname and labels, and "
            f"--annotations for labels with times"
        )
    rows = read_rows(csv_path)[1]
    named = [(posixpath.normpath(row.fname), row.labels) for row in rows]
    return [Recording(os.path.join(sounds, n), n, labels) for n, labels in named]
