"""Makes a data set for the tagger from recordings of any format.

    python -m tools.make_dataset SOUNDS OUT
    python -m tools.make_dataset SOUNDS OUT --csv labels.csv --clip_seconds 10

SOUNDS has one sub-folder for each class, with its recordings. A folder with commas in
its name gives several labels. With --csv, a CSV with the columns fname and labels names
the recordings in SOUNDS and their labels instead.

This writes OUT/audio/*.wav (16 bit, 44.1 kHz, mono), OUT/clips.csv with the columns
fname, labels and recording, and OUT/class_map.csv. All recordings are checked first. If
some cannot be used, all of these are reported, and nothing is written. Recordings that
are in OUT/clips.csv already, by their paths below SOUNDS, are skipped, so that further
ones can be added.
"""

import itertools
import os
import pathlib
import posixpath
import sys
import wave
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from absl import flags

from tagger import program, recordings
from tagger.clips import InputProblems, parse_labels, read_rows, write_csv
from tagger.files import atomic, locked, make_folder
from tagger.hparams import SAMPLE_RATE
from tagger.progress import counted, in_parallel, print_result, printable

FLAGS = flags.FLAGS
HEADER = ("fname", "labels", "recording")
LOCK_FILE = ".lock"
FULL_SCALE = 2**15  # as in inputs.py: 16-bit samples are multiples of 1 / FULL_SCALE
MAX_INT16 = FULL_SCALE - 1
MAX_CLIP_SECONDS = 12 * 3600  # A WAV file has at most 4 GB.
# File systems allow 255. The number of a clip and a temporary suffix are added.
MAX_STEM_BYTES = 220


class Recording(NamedTuple):
    """A recording to convert.

    Attributes:
      path: the sound file.
      name: its path below SOUNDS, by which it is recognised.
      labels: its labels; at least one.
    """

    path: str
    name: str
    labels: tuple[str, ...]


class Level(NamedTuple):
    """The number of samples of a recording at 44.1 kHz, and its peak.

    The peak is relative to the range of 16 bits, which is up to MAX_INT16 for positive
    samples and up to FULL_SCALE for negative ones. Beyond 1, it exceeds the range.
    """

    num_samples: int
    peak: float


class Usable(NamedTuple):
    """A recording that can be used, its level, and the names of its clips."""

    recording: Recording
    level: Level
    clip_names: list[str]


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
      ValueError, OSError: the folder or the CSV cannot be used.
    """
    if not os.path.isdir(sounds):
        raise FileNotFoundError(f"SOUNDS: there is no folder {sounds}")
    if csv_path:
        rows = read_rows(csv_path)[1]
        named = [(posixpath.normpath(row.fname), row.labels) for row in rows]
        return [Recording(os.path.join(sounds, n), n, labels) for n, labels in named]
    found, num_others = recordings.find_sounds(sounds)
    if num_others:
        print(f"{counted(num_others, 'other file')} ignored", file=sys.stderr)
    if not found:
        raise ValueError(f"SOUNDS: there are no recordings in {sounds}")
    return [
        # A recording that is in no sub-folder has no labels.
        Recording(path, name, parse_labels(name.split("/")[0] if "/" in name else ""))
        for path, name in found
    ]


def name_problems(recording: Recording) -> list[str]:
    """The problems of a recording without labels, or with unusable names."""
    path, name, labels = recording
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


def clip_names(recording: Recording, level: Level, clip_seconds: float) -> list[str]:
    """The names of the clips of a recording."""
    stem = clip_stem(recording.name)
    num_clips = -(-level.num_samples // round(clip_seconds * SAMPLE_RATE))
    if num_clips == 1:
        return [f"{stem}.wav"]
    return [f"{stem}__{number:04d}.wav" for number in range(1, num_clips + 1)]


def measure(recording: Recording) -> Level:
    """Decodes a recording to check it.

    Raises:
      ValueError: it cannot be read, is empty or silent; the message names it.
    """
    num_samples, peak = 0, 0.0
    for block in recordings.read_blocks(recording.path):
        num_samples += block.size
        highest, lowest = float(block.max(initial=0)), float(block.min(initial=0))
        peak = max(peak, highest * FULL_SCALE / MAX_INT16, -lowest)
    if not num_samples:
        raise ValueError(f"{recording.path}: has no samples")
    if peak <= recordings.SILENCE:
        raise ValueError(f"{recording.path}: is silent")
    return Level(num_samples, peak)


def check_recordings(
    found: Sequence[Recording], owners: dict[str, str], *, clip_seconds: float
) -> tuple[list[Usable], list[str]]:
    """Checks recordings that are not in the data set yet.

    Args:
      found: the recordings.
      owners: the recording of each clip that is in the data set.
      clip_seconds: length of the longest clip, in seconds.

    Returns:
      The recordings that can be used, and the problems of the others.
    """
    usable, problems, owners = [], [], dict(owners)
    levels = in_parallel(measure, found, what="checking recordings", unit="recording")
    for recording, level in zip(found, levels, strict=True):
        wrong = name_problems(recording)
        if isinstance(level, ValueError):
            wrong.append(str(level))
        if not wrong:
            names = clip_names(recording, level, clip_seconds)
            others = sorted({owners[name] for name in names if name in owners})
            if others:
                wrong.append(
                    f"{recording.path}: its clips would have the names of the clips of "
                    f"{others[0]}"
                )
            else:
                owners.update(dict.fromkeys(names, recording.name))
                usable.append(Usable(recording, level, names))
        problems += wrong
    return usable, problems


def write_clips(usable: Usable, audio: pathlib.Path) -> list[tuple[str, str, str]]:
    """Writes the clips of a recording; returns their rows in clips.csv.

    The whole recording is made quieter if it would exceed the range of 16 bits. Silent
    clips of a longer recording are left out.
    """
    recording, level, names = usable
    bounds = np.linspace(0, level.num_samples, len(names) + 1).round().astype(int)
    gain = FULL_SCALE / max(1, level.peak)
    sizes = [_block_sizes(length) for length in np.diff(bounds).tolist()]
    chunks = recordings.read_chunks(
        recording.path, itertools.chain.from_iterable(sizes)
    )
    rows = []
    for name, blocks in zip(names, sizes, strict=True):
        path = audio / name
        audible = False
        with atomic(path) as file, wave.open(file, "wb") as wav:
            wav.setparams((1, 2, SAMPLE_RATE, sum(blocks), "NONE", ""))
            for _ in blocks:
                samples = np.rint(next(chunks) * gain).astype(np.int16)
                audible = audible or samples.any()
                wav.writeframesraw(samples.tobytes())
        if audible:
            rows.append((name, ",".join(recording.labels), recording.name))
        else:
            path.unlink()
    return rows


def _block_sizes(num_samples: int) -> list[int]:
    """The sizes of the blocks of a clip."""
    whole, rest = divmod(num_samples, recordings.BLOCK_SAMPLES)
    return [recordings.BLOCK_SAMPLES] * whole + [rest] * bool(rest)


def make_dataset(
    found: Sequence[Recording], out: pathlib.Path, *, clip_seconds: float, skip: bool
) -> list[str]:
    """Converts recordings, and adds them to the data set in a folder.

    Args:
      found: the recordings.
      out: the folder of the data set.
      clip_seconds: length of the longest clip, in seconds.
      skip: whether to convert the other recordings if some cannot be used.

    Returns:
      The problems of the recordings that were skipped.

    Raises:
      InputProblems: a recording cannot be used, and skip is not set, or none can be
        used; lists all.
      ValueError, OSError: the data set cannot be read or written.
    """
    rows = read_dataset(out)
    known = {row[2]: row[1] for row in rows}
    new = [recording for recording in found if recording.name not in known]
    owners = {row[0]: row[2] for row in rows}
    usable, problems = check_recordings(new, owners, clip_seconds=clip_seconds)
    problems += known_problems(found, known, out)
    if problems and not (skip and (usable or rows)):
        raise InputProblems(problems)
    make_folder(str(out / "audio"), "OUT")
    error = ValueError(f"OUT: another process writes to {out}; run this again later")
    with locked(str(out / LOCK_FILE), error):
        if read_dataset(out) != rows:
            raise error
        problems += add_recordings(usable, out, rows, len(found) - len(new))
    return problems


def known_problems(
    found: Sequence[Recording], known: dict[str, str], out: pathlib.Path
) -> list[str]:
    """The recordings whose labels differ from those in the data set.

    Recordings of the data set that were not found are reported on stderr.

    Args:
      found: the recordings.
      known: the labels of the recordings in the data set, by name.
      out: the folder of the data set.
    """
    if missing := sorted(known.keys() - {recording.name for recording in found}):
        print(
            f"note: {counted(len(missing), 'recording')} of {out} not found, such as "
            f"{missing[0]}; their clips remain",
            file=sys.stderr,
        )
    return [
        f"{path}: its labels are {','.join(labels)}, but {known[name]} in {out}; make "
        f"a new data set"
        for path, name, labels in found
        if name in known and set(parse_labels(known[name])) != set(labels)
    ]


def add_recordings(
    usable: Sequence[Usable],
    out: pathlib.Path,
    rows: list[tuple[str, ...]],
    num_known: int,
) -> list[str]:
    """Writes the clips of recordings, and all rows; returns the problems."""
    audio = out / "audio"
    for path in audio.glob(".*.tmp"):  # of a run that was killed
        path.unlink(missing_ok=True)
    written = {}

    def write(item: Usable) -> None:
        written[item.recording.name] = write_clips(item, audio)

    try:
        results = in_parallel(write, usable, what="writing clips", unit="recording")
        return [str(error) for error in results if error]
    finally:  # Clips of finished recordings are kept if this is interrupted.
        for recording, *_ in usable:
            rows += written.get(recording.name, [])
        num_classes = write_tables(out, rows) if rows else 0
        num_clips = sum(len(names) for item, _, names in usable if item.name in written)
        if silent := num_clips - sum(map(len, written.values())):
            print(f"{counted(silent, 'silent clip')} left out", file=sys.stderr)
        print_result(
            f"{counted(len(written), 'recording')} added; {num_known} "
            f"{'was' if num_known == 1 else 'were'} already there; {out} has "
            f"{counted(len(rows), 'clip')} of {counted(num_classes, 'class')}"
        )


def read_dataset(out: pathlib.Path) -> list[tuple[str, ...]]:
    """The rows of clips.csv, if it exists.

    Raises:
      ValueError, OSError: it cannot be read, or has other columns, or there are other
        files instead.
    """
    csv_path = out / "clips.csv"
    if not csv_path.exists():
        others = {path.name for path in out.iterdir()} if out.is_dir() else set()
        if others - {"audio", "class_map.csv", LOCK_FILE}:
            raise ValueError(
                f"OUT must be new or a data set, but {out} has other files"
            )
        return []
    header, rows = read_rows(str(csv_path))
    if tuple(header) != HEADER:
        raise ValueError(f"{csv_path} must have the columns {', '.join(HEADER)}")
    return [row.fields for row in rows]


def write_tables(out: pathlib.Path, rows: Sequence[tuple[str, ...]]) -> int:
    """Writes clips.csv and class_map.csv; returns the number of classes."""
    names = sorted({label for row in rows for label in parse_labels(row[1])})
    write_csv(out / "class_map.csv", enumerate(names))
    write_csv(out / "clips.csv", [HEADER, *rows])
    return len(names)


def main(argv: Sequence[str]) -> int:
    """Runs the program; returns the exit status."""
    if len(argv) != 3:
        raise ValueError("expected two arguments, SOUNDS and OUT; see --help")
    _, sounds, out = argv
    source, target = (pathlib.Path(path).resolve() for path in (sounds, out))
    if target.is_relative_to(source):
        raise ValueError(f"OUT must be outside of SOUNDS, but got {out}")
    if source.is_relative_to(target / "audio"):
        raise ValueError(f"SOUNDS must be outside of OUT/audio, but got {sounds}")
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
