"""Makes a data set for the tagger from recordings of any format.

    python -m tools.make_dataset SOUNDS OUT
    python -m tools.make_dataset SOUNDS OUT --csv labels.csv --clip_seconds 10

SOUNDS has one sub-folder for each class, with its recordings. A folder with commas in
its name gives several labels. With --csv, a CSV with the columns fname and labels names
the recordings in SOUNDS and their labels instead.

This writes OUT/audio/*.wav (16 bit, 44.1 kHz, mono), OUT/clips.csv with the columns
fname, labels and recording, and OUT/class_map.csv. All recordings are checked first. If
some cannot be used, all of these are reported, and nothing is written.

The next run follows recordings that were added, relabelled, changed or removed: OUT
becomes equal to a new data set. Unchanged recordings are not decoded again.
"""

import contextlib
import hashlib
import itertools
import json
import os
import pathlib
import posixpath
import re
import sys
import wave
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from absl import flags

from recordings import decoding
from tagger.data.clips import (
    Row,
    parse_labels,
    read_records,
    read_rows,
    write_csv,
)
from tagger.errors import UserError
from tagger.hparams import SAMPLE_RATE
from tagger.terminal import program
from tagger.terminal.files import atomic, locked, make_folder, write_whole
from tagger.terminal.progress import counted, in_parallel, print_result, printable

FLAGS = flags.FLAGS
HEADER = ("fname", "labels", "recording")
MANIFEST = ".recordings.jsonl"  # describes the recordings and their clips
LOCK_FILE = ".lock"
FULL_SCALE = 2**15  # as in inputs.py: 16-bit samples are multiples of 1 / FULL_SCALE
MAX_INT16 = FULL_SCALE - 1
MAX_CLIP_SECONDS = 12 * 3600  # A WAV file has at most 4 GB.
# File systems allow 255. The number of a clip and a temporary suffix are added.
MAX_STEM_BYTES = 220
TIME_COLUMN = re.compile(  # such as "onset", "end_time" and "Begin Time (s)"
    r"((event|segment|clip|file|time|t)[\s_-]*)?(start|begin|onset|end|stop|offset)"
    r"[\s_-]*(time)?[\s_-]*\(?(s|secs?|seconds?|ms)?\)?",
    re.IGNORECASE,
)


class Recording(NamedTuple):
    """A recording and its clips; a line of MANIFEST.

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
      clips: size of each clip in bytes, by its name. 0: the clip is silent and left
        out. None: it is not written yet.
    """

    path: str
    name: str
    labels: Sequence[str]
    stamp: Sequence[int] = ()
    checksum: str = ""
    num_samples: int = 0
    peak: float = 0
    clips: dict[str, int | None] = {}


def define_flags() -> None:
    """Defines the flags of this program."""
    flags.DEFINE_string("csv", "", "CSV with the columns fname and labels.")
    flags.DEFINE_float(
        "clip_seconds",
        None,
        "Cut longer recordings into equal clips of at most this length.",
        lower_bound=0.1,
        upper_bound=MAX_CLIP_SECONDS,
    )
    flags.DEFINE_bool(
        "skip_unusable", False, "Report recordings that cannot be used, and skip them."
    )
    flags.register_validator(
        "clip_seconds", lambda seconds: seconds == seconds, message="must be a number"
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
    found, num_others = decoding.find_sounds(sounds)
    if num_others:
        print(f"{counted(num_others, 'other file')} ignored", file=sys.stderr)
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
    if name != printable(name):
        problems.append(f"{path!r}: has unprintable characters in its name")
    if labels != tuple(map(printable, labels)) and not problems:
        problems.append(f"{path}: has unprintable characters in its labels, {labels}")
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


def clip_names(recording: Recording, clip_seconds: float) -> list[str]:
    """The names of the clips of a recording."""
    stem = clip_stem(recording.name)
    num_clips = -(-recording.num_samples // round(clip_seconds * SAMPLE_RATE))
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
    known: dict[str, Recording],
    audio: pathlib.Path,
    clip_seconds: float,
) -> Recording:
    """Completes the attributes of a recording; decodes it if it is new or changed.

    Args:
      recording: its path, name and labels.
      known: recordings of earlier runs, by name.
      audio: folder of the clips.
      clip_seconds: length of the longest clip, in seconds.

    Raises:
      UserError: see `measure`.
    """
    path = recording.path
    decoding.check_file(path)
    status = os.stat(path)
    old = known.get(recording.name, recording)
    stamp = [status.st_size, status.st_mtime_ns, status.st_ctime_ns]
    new = old._replace(path=path, labels=recording.labels, stamp=stamp)
    if stamp != old.stamp:
        with open(path, "rb") as file:
            checksum = hashlib.file_digest(file, "sha256").hexdigest()
        if checksum != old.checksum:
            new = Recording(*new[:4], checksum, *measure(path))
    clips = {name: file_size(audio / name) for name in clip_names(new, clip_seconds)}
    return new if clips == new.clips else new._replace(clips=dict.fromkeys(clips))


def file_size(path: pathlib.Path) -> int:
    """The size of a file in bytes; 0 if it does not exist."""
    return path.stat().st_size if path.exists() else 0


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


def write_clips(recording: Recording, audio: pathlib.Path) -> Recording:
    """Writes the clips of a recording; returns it with their sizes.

    The whole recording is made quieter if it would exceed the range of 16 bits. Silent
    clips of a longer recording are left out.
    """
    names = list(recording.clips)
    bounds = np.linspace(0, recording.num_samples, len(names) + 1).round().astype(int)
    gain = FULL_SCALE / max(1, recording.peak)
    sizes = [_block_sizes(length) for length in np.diff(bounds).tolist()]
    chunks = decoding.read_chunks(recording.path, itertools.chain.from_iterable(sizes))
    for name, blocks in zip(names, sizes, strict=True):
        path = audio / name
        audible = False
        with atomic(path) as file, wave.open(file, "wb") as wav:
            wav.setparams((1, 2, SAMPLE_RATE, sum(blocks), "NONE", ""))
            for _ in blocks:
                samples = np.rint(next(chunks) * gain).astype(np.int16)
                audible = audible or samples.any()
                wav.writeframesraw(samples.tobytes())
        if not audible:
            path.unlink()
    return recording._replace(clips={name: file_size(audio / name) for name in names})


def _block_sizes(num_samples: int) -> list[int]:
    """The sizes of the blocks of a clip."""
    whole, rest = divmod(num_samples, decoding.BLOCK_SAMPLES)
    return [decoding.BLOCK_SAMPLES] * whole + [rest] * bool(rest)


def make_dataset(
    found: Sequence[Recording], out: pathlib.Path, *, clip_seconds: float, skip: bool
) -> list[str]:
    """Makes a data set of recordings, or updates the one in the folder.

    Args:
      found: the recordings.
      out: the folder of the data set.
      clip_seconds: length of the longest clip, in seconds.
      skip: whether to convert the other recordings if some cannot be used.

    Returns:
      The problems of the recordings that were skipped.

    Raises:
      UserError: a recording cannot be used, and skip is not set, or none can be
        used; lists all.
      UserError: the data set cannot be read or written.
    """
    rows, old = read_dataset(out)
    known = {recording.name: recording for recording in old}

    def check(recording: Recording) -> Recording:
        return examine(recording, known, out / "audio", clip_seconds)

    results = in_parallel(check, found, what="checking recordings", unit="recording")
    usable, problems = check_recordings(found, results)
    if problems and not (skip and usable):
        raise UserError(*problems)
    make_folder(str(out / "audio"), "OUT")
    error = UserError(f"OUT: another process writes to {out}; run this again later")
    with locked(str(out / LOCK_FILE), error):
        if read_dataset(out) != (rows, old):
            raise error
        num_clips, num_classes = update(usable, old, out)
    print_result(
        f"recordings: {describe_changes(usable, rows)}; {out} has "
        f"{counted(num_clips, 'clip')} of {counted(num_classes, 'class')}"
    )
    return problems


def update(
    usable: Sequence[Recording], old: Sequence[Recording], out: pathlib.Path
) -> tuple[int, int]:
    """Writes the clips that are not there, and the tables, and deletes other clips.

    If this is killed, MANIFEST has the names of all clips that may exist, and each
    recording that is finished.

    Args:
      usable: the recordings.
      old: the lines of MANIFEST.
      out: the folder of the data set.

    Returns:
      The numbers of clips and classes.

    Raises:
      UserError: recordings can no longer be read; lists all.
      UserError: a file cannot be written.
    """
    audio = out / "audio"
    for path in itertools.chain(out.glob(".*.tmp"), audio.glob(".*.tmp")):
        path.unlink(missing_ok=True)  # of a run that was killed
    nameless = [recording._replace(name="") for recording in old]
    write_whole(out / MANIFEST, manifest_lines([*nameless, *usable]))

    def write(recording: Recording) -> Recording:
        if None in recording.clips.values():
            recording = write_clips(recording, audio)
            with open(out / MANIFEST, "ab", buffering=0) as file:
                file.write(manifest_lines([recording]).encode())
        return recording

    results = in_parallel(write, usable, what="writing clips", unit="recording")
    if problems := [str(error) for error in results if isinstance(error, UserError)]:
        raise UserError(*problems)
    rows = [
        (name, ",".join(recording.labels), recording.name)
        for recording in results
        for name in recording.clips
        if recording.clips[name]
    ]
    classes = sorted({label for _, labels, _ in rows for label in labels.split(",")})
    write_csv(out / "class_map.csv", enumerate(classes))
    write_csv(out / "clips.csv", [HEADER, *rows])
    former = {name for recording in old for name in recording.clips}
    for name in (former - {row[0] for row in rows}).intersection(os.listdir(audio)):
        (audio / name).unlink()
    write_whole(out / MANIFEST, manifest_lines(results))
    if silent := sum(len(recording.clips) for recording in results) - len(rows):
        print(f"{counted(silent, 'silent clip')} left out", file=sys.stderr)
    return len(rows), len(classes)


def describe_changes(usable: Sequence[Recording], rows: Sequence[Row]) -> str:
    """How many recordings differ from those in the rows of clips.csv, as text."""
    known = {row.fields[2]: set(row.labels) for row in rows}
    same = [item for item in usable if known.get(item.name) == set(item.labels)]
    num_added = sum(item.name not in known for item in usable)
    num_changed = sum(None in item.clips.values() for item in same)
    return (
        f"{num_added} added, {len(usable) - num_added - len(same)} relabelled, "
        f"{num_changed} changed, {len(known) + num_added - len(usable)} removed, "
        f"{len(same) - num_changed} unchanged"
    )


def read_dataset(out: pathlib.Path) -> tuple[list[Row], list[Recording]]:
    """The rows of clips.csv and the lines of MANIFEST, if they exist.

    Raises:
      UserError: they cannot be read, or clips.csv has other columns, or there
        are other files instead.
    """
    csv_path, rows, lines = out / "clips.csv", [], []
    if csv_path.exists():
        header, rows = read_rows(str(csv_path))
        if tuple(header) != HEADER:
            raise UserError(f"{csv_path} must have the columns {', '.join(HEADER)}")
    elif out.is_dir():
        others = {path.name for path in out.iterdir() if path.name[0] != "."}
        if others - {"audio", "class_map.csv"}:
            raise UserError(f"OUT must be new or a data set, but {out} has other files")
    if not (out / MANIFEST).exists():  # The data set is of a former version.
        return rows, [Recording("", "", (), clips={row.fname: None}) for row in rows]
    for line in (out / MANIFEST).read_bytes().splitlines():
        with contextlib.suppress(ValueError):  # The last line may be incomplete.
            lines.append(Recording(**json.loads(line)))
    return rows, lines


def manifest_lines(lines: Iterable[Recording]) -> str:
    """The lines of recordings in MANIFEST."""
    return "".join(f"{json.dumps(recording._asdict())}\n" for recording in lines)


def main(argv: Sequence[str]) -> int:
    """Runs the program; returns the exit status."""
    if len(argv) != 3:
        raise UserError("expected two arguments, SOUNDS and OUT; see --help")
    _, sounds, out = argv
    source, target = (pathlib.Path(path).resolve() for path in (sounds, out))
    if target.is_relative_to(source):
        raise UserError(f"OUT must be outside of SOUNDS, but got {out}")
    if source.is_relative_to(target / "audio"):
        raise UserError(f"SOUNDS must be outside of OUT/audio, but got {sounds}")
    problems = make_dataset(
        find_recordings(sounds, FLAGS.csv),
        pathlib.Path(out),
        clip_seconds=FLAGS.clip_seconds or MAX_CLIP_SECONDS,
        skip=FLAGS.skip_unusable,
    )
    for problem in problems:
        print(f"skipped: {problem}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    define_flags()
    program.run(main)
