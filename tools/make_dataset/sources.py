"""The recordings of a data set: their labels, and whether they can be used."""

import hashlib
import os
import posixpath
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from recordings import decoding
from tagger.data.clips import parse_labels, read_records, read_rows
from tagger.errors import UserError
from tagger.hparams import SAMPLE_RATE
from tagger.terminal.progress import printable

FULL_SCALE = 2**15  # as in inputs.py: 16-bit samples are multiples of 1 / FULL_SCALE
MAX_INT16 = FULL_SCALE - 1
# File systems allow 255. The number of a clip and a temporary suffix are added.
MAX_STEM_BYTES = 220
TIME_COLUMN = re.compile(  # such as "onset", "tmin", "label_start" and "End Time [s]"
    r"((.*[\s_-]|event|segment|clip|file|time|t)?(start|begin|onset|end|stop|offset)"
    r"|t_?(min|max)|from|to)[\s_-]*(time)?"
    r"[\s_-]*[(\[]?(s|secs?|seconds?|ms|millis|milliseconds|frames?|samples?)?[)\]]?",
    re.IGNORECASE,
)


class Recording(NamedTuple):
    """A recording and its clips.

    Attributes:
      path: the sound file.
      name: its path below SOUNDS, by which it is recognised.
      labels: its labels; at least one.
      stamp: size of the file in bytes, and the times in ns when its contents and its
        inode changed. Exchanging two files of an archive may change only the last.
      checksum: SHA-256 of the file.
      num_samples: number of samples at 44.1 kHz.
      peak: relative to the range of 16 bits, which is up to MAX_INT16 for positive
        samples and up to FULL_SCALE for negative ones. Beyond 1, it exceeds the range.
      clips: the names of its clips.
      silent: those of them that are silent, and are left out.
    """

    path: str
    name: str
    labels: Sequence[str]
    stamp: Sequence[int] = ()
    checksum: str = ""
    num_samples: int = 0
    peak: float = 0
    clips: Sequence[str] = ()
    silent: Sequence[str] = ()

    def has_clips_of(self, other: "Recording | None") -> bool:
        """Whether the clips of both have equal names and contents."""
        return other is not None and (
            (self.checksum, self.clips) == (other.checksum, other.clips)
        )


def find_recordings(sounds: str, csv_path: str = "") -> list[Recording]:
    """The recordings in a folder, with labels from the sub-folders or from a CSV.

    Raises:
      UserError: the folder or the CSV cannot be used.
    """
    if not os.path.isdir(sounds):
        raise UserError(f"SOUNDS: there is no folder {sounds}")
    if csv_path:
        header = [name for _, names in read_records(csv_path)[:1] for name in names]
        if times := list(filter(TIME_COLUMN.fullmatch, map(str.strip, header))):
            raise UserError(
                f"{csv_path}: has columns with times: {', '.join(times)}; only labels "
                f"of whole recordings are allowed, in the columns fname and labels"
            )
        rows = read_rows(csv_path)[1]
        named = [(posixpath.normpath(row.fname), row.labels) for row in rows]
        return [Recording(os.path.join(sounds, n), n, labels) for n, labels in named]
    found = decoding.find_sounds(sounds)
    if not found:
        raise UserError(f"SOUNDS: there are no recordings in {sounds}")
    return [
        # A recording that is in no sub-folder has no labels.
        Recording(path, name, parse_labels(name.split("/")[0] if "/" in name else ""))
        for path, name in found
    ]


def name_problems(recording: Recording) -> list[str]:
    """The problems of a recording without labels, or with unusable names."""
    path, name, labels, *_ = recording
    problems = []
    if not labels:
        problems.append(
            f"{path}: is not in a sub-folder of SOUNDS that is named after its label"
        )
    if any(text != printable(text) for text in (name, *labels)):
        problems.append(
            f"{path!r}: has unprintable characters in its name or labels {labels}"
        )
    size = len(os.fsencode(clip_stem(name)))
    if size > MAX_STEM_BYTES:
        problems.append(
            f"{path}: its path below SOUNDS has {size} bytes; at most {MAX_STEM_BYTES} "
            f"are allowed"
        )
    return problems


def clip_stem(name: str) -> str:
    """The start of the names of a recording's clips."""
    return name.replace("/", "__").strip()


def clip_names(name: str, num_samples: int, clip_seconds: float) -> list[str]:
    """The names of the clips of a recording."""
    stem = clip_stem(name)
    num_clips = -(-num_samples // round(clip_seconds * SAMPLE_RATE))
    if num_clips == 1:
        return [f"{stem}.wav"]
    return [f"{stem}__{number:04d}.wav" for number in range(1, num_clips + 1)]


def measure(path: str) -> tuple[int, float]:
    """Decodes a recording to check it; returns its number of samples and its peak.

    Raises:
      UserError: it cannot be read, is empty or silent; the message names it.
    """
    num_samples, peak = 0, 0.0
    for block in decoding.read_blocks(path):
        num_samples += block.size
        highest, lowest = float(block.max(initial=0)), float(block.min(initial=0))
        peak = max(peak, highest * FULL_SCALE / MAX_INT16, -lowest)
    if not num_samples:
        raise UserError(f"{path}: has no samples")
    if peak <= decoding.SILENCE:
        raise UserError(f"{path}: is silent")
    return num_samples, peak


def examine(
    recording: Recording,
    by_name: Mapping[str, Recording],
    by_checksum: Mapping[str, Recording],
    clip_seconds: float,
) -> Recording:
    """Completes the attributes of a recording; decodes it if its contents are new.

    Args:
      recording: its path, name and labels.
      by_name, by_checksum: the recordings of the data set.
      clip_seconds: length of the longest clip, in seconds.

    Raises:
      UserError: see `measure`.
    """
    path = recording.path
    decoding.check_file(path)
    status = os.stat(path)
    stamp = [status.st_size, status.st_mtime_ns, status.st_ctime_ns]
    old = by_name.get(recording.name, recording)
    checksum = old.checksum
    if stamp != old.stamp:
        with open(path, "rb") as file:
            checksum = hashlib.file_digest(file, "sha256").hexdigest()
    known = by_checksum.get(checksum)
    num_samples, peak = (known.num_samples, known.peak) if known else measure(path)
    clips = clip_names(recording.name, num_samples, clip_seconds)
    new = Recording(*recording[:3], stamp, checksum, num_samples, peak, clips)
    return new._replace(silent=old.silent) if new.has_clips_of(old) else new


def check_recordings(
    found: Sequence[Recording], results: Sequence[Recording | UserError]
) -> tuple[list[Recording], list[str]]:
    """The recordings that can be used, and the problems of the others.

    Args:
      found: the recordings.
      results: the results of `examine`.
    """
    usable, problems, owners = [], [], {}
    for recording, result in zip(found, results, strict=True):
        wrong = name_problems(recording)
        if isinstance(result, UserError):
            wrong.append(str(result))
        elif others := [owners[name] for name in result.clips if name in owners]:
            wrong.append(
                f"{recording.path}: its clips would have the names of the clips of "
                f"{min(others)}"
            )
        if not wrong:
            owners.update(dict.fromkeys(result.clips, recording.name))
            usable.append(result)
        problems += wrong
    return usable, problems
