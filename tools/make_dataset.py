"""Makes a data set for the tagger from recordings of any format.

    python -m tools.make_dataset SOUNDS OUT
    python -m tools.make_dataset SOUNDS OUT --csv labels.csv --clip_seconds 10

SOUNDS has one sub-folder for each class, with its recordings. A folder with commas in
its name gives several labels. With --csv, a CSV with the columns fname and labels names
the recordings in SOUNDS and their labels instead.

This writes OUT/audio/*.wav (16 bit, 44.1 kHz, mono), OUT/clips.csv with the columns
fname, labels and recording, and OUT/class_map.csv. All recordings are checked first. If
some cannot be used, all of these are reported, and nothing is written. Recordings that
are in OUT/clips.csv already are skipped, so that further ones can be added.
"""

import concurrent.futures
import functools
import os
import pathlib
import sys
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import soundfile
from absl import flags

from tagger import program, recordings
from tagger.clips import InputProblems, read_rows, write_csv
from tagger.files import atomic, make_folder
from tagger.hparams import SAMPLE_RATE
from tagger.progress import counted, progress_bar

FLAGS = flags.FLAGS
HEADER = ("fname", "labels", "recording")
FULL_SCALE = 2**15  # as in inputs.py: 16-bit samples are multiples of 1 / FULL_SCALE
MAX_INT16 = FULL_SCALE - 1
SILENCE = 0.5 / FULL_SCALE  # A peak up to this is rounded to zeros.
MAX_CLIP_SECONDS = 12 * 3600  # A WAV file has at most 4 GB.


class Recording(NamedTuple):
    """A recording to convert.

    Attributes:
      path: the sound file.
      name: its path below SOUNDS.
      labels: its labels; at least one.
    """

    path: str
    name: str
    labels: tuple[str, ...]


class Level(NamedTuple):
    """The number of samples of a recording at 44.1 kHz, and the largest magnitude."""

    num_samples: int
    peak: float


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


def find_recordings(sounds: str, csv_path: str = "") -> list[Recording]:
    """The recordings in a folder, with labels from the sub-folders or from a CSV.

    Raises:
      ValueError, OSError: the folder or the CSV cannot be used.
    """
    if not os.path.isdir(sounds):
        raise FileNotFoundError(f"SOUNDS: there is no folder {sounds}")
    if csv_path:
        _, rows = read_rows(csv_path)
        return [
            Recording(
                os.path.join(sounds, row.fname), row.fname, parse_labels(row.labels)
            )
            for row in rows
        ]
    found, num_others = recordings.find_sounds(sounds)
    if num_others:
        print(f"{counted(num_others, 'other file')} ignored", file=sys.stderr)
    if not found:
        raise ValueError(f"SOUNDS: there are no recordings in {sounds}")
    return [
        Recording(path, name, parse_labels(name.split("/")[:-1][:1]))
        for path, name in found
    ]


def parse_labels(names: Iterable[str]) -> tuple[str, ...]:
    """The labels in names, which may have several labels separated by commas.

    macOS writes an accent in a name as a character of its own. The labels have composed
    characters, as keyboards and other systems write them.
    """
    text = unicodedata.normalize("NFC", ",".join(names))
    return tuple(filter(None, map(str.strip, text.split(","))))


def check_names(found: Sequence[Recording]) -> list[str]:
    """One problem for each recording without labels or with an unusable name."""
    problems, first = [], {}
    for path, name, labels in found:
        if not labels:
            problems.append(
                f"{path}: is not in a sub-folder of SOUNDS that has its label as name"
            )
        if not name.isprintable():
            problems.append(f"{path!r}: has unprintable characters in its name")
        other = first.setdefault(clip_stem(name), path)
        if other != path:
            problems.append(
                f"{path}: its clips would have the names of those of {other}"
            )
    return problems


def clip_stem(name: str) -> str:
    """The start of the names of a recording's clips."""
    return name.replace("/", "__").strip()


def measure(recording: Recording) -> Level:
    """Decodes a recording to check it.

    Raises:
      ValueError: it cannot be read, is empty or silent; the message names it.
    """
    num_samples, peak = 0, 0.0
    for block in recordings.read_blocks(recording.path):
        num_samples += block.size
        peak = max(peak, float(np.abs(block).max(initial=0)))
    if not num_samples:
        raise ValueError(f"{recording.path}: has no samples")
    if peak <= SILENCE:
        raise ValueError(f"{recording.path}: is silent")
    return Level(num_samples, peak)


def write_clips(
    recording: Recording, level: Level, *, audio: pathlib.Path, clip_seconds: float
) -> list[tuple[str, str, str]]:
    """Writes the clips of a recording; returns their rows in clips.csv.

    The whole recording is made quieter if it would exceed the range of 16 bits. Silent
    clips of a longer recording are left out.
    """
    max_samples = round(clip_seconds * SAMPLE_RATE)
    num_clips = -(-level.num_samples // max_samples)
    bounds = np.linspace(0, level.num_samples, num_clips + 1).round().astype(int)
    lengths = np.diff(bounds)
    gain = FULL_SCALE * min(1, MAX_INT16 / FULL_SCALE / level.peak)
    sizes = [_block_sizes(length) for length in lengths]
    chunks = recordings.read_chunks(recording.path, sum(sizes, []))
    rows = []
    for number, blocks in enumerate(sizes, start=1):
        suffix = f"__{number:04d}" if num_clips > 1 else ""
        path = audio / f"{clip_stem(recording.name)}{suffix}.wav"
        audible = False
        with (
            atomic(path) as file,
            soundfile.SoundFile(
                file, "w", SAMPLE_RATE, channels=1, subtype="PCM_16", format="WAV"
            ) as wav,
        ):
            for _ in blocks:
                samples = np.rint(next(chunks) * gain).astype(np.int16)
                audible = audible or samples.any()
                wav.write(samples)
        if audible:
            rows.append((path.name, ",".join(recording.labels), recording.name))
        else:
            path.unlink()
    return rows


def _block_sizes(num_samples: int) -> list[int]:
    """The sizes of the blocks of a clip."""
    whole, rest = divmod(num_samples, recordings.BLOCK_SAMPLES)
    return [recordings.BLOCK_SAMPLES] * whole + [rest] * bool(rest)


def in_parallel(function: Callable, *arguments: Iterable, what: str) -> list[Any]:
    """Calls a function for each recording, on all cores.

    Returns:
      What it returns, or the ValueError that it raises, in order.
    """

    def call(*values: Any) -> Any:
        try:
            return function(*values)
        except ValueError as error:
            return error

    results = []
    # Threads suffice, because decoding and resampling do not hold Python's lock.
    with (
        concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool,
        progress_bar(len(arguments[0]), what=what, unit="recording") as bar,
    ):
        for result in pool.map(call, *arguments):
            results.append(result)
            bar.update()
    return results


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
      InputProblems: a recording cannot be used, and skip is not set; lists all.
      ValueError, OSError: the data set cannot be read or written.
    """
    csv_path = out / "clips.csv"
    rows = [row.fields for row in read_rows(csv_path)[1]] if csv_path.exists() else []
    if any(len(row) != len(HEADER) for row in rows):
        raise ValueError(f"{csv_path} must have the columns {', '.join(HEADER)}")
    known = {row[2] for row in rows}
    problems = check_names(found)
    if problems:
        raise InputProblems(problems)
    new = [recording for recording in found if recording.name not in known]
    levels = in_parallel(measure, new, what="checking recordings")
    problems = [str(level) for level in levels if isinstance(level, ValueError)]
    if problems and not skip:
        raise InputProblems(problems)
    usable = [
        pair for pair in zip(new, levels, strict=True) if isinstance(pair[1], Level)
    ]
    audio = out / "audio"
    make_folder(str(audio), "OUT")
    write = functools.partial(write_clips, audio=audio, clip_seconds=clip_seconds)
    results = in_parallel(write, *zip(*usable), what="writing clips") if usable else []
    for result in results:
        if isinstance(result, ValueError):
            raise result
        rows += result
    write_csv(csv_path, [HEADER, *rows])
    names = sorted({label for row in rows for label in parse_labels([row[1]])})
    write_csv(out / "class_map.csv", enumerate(names))
    print(
        f"{counted(len(usable), 'recording')} added, {len(found) - len(new)} were "
        f"there; {out} has {counted(len(rows), 'clip')}, {len(names)} classes"
    )
    return problems


def main(argv: Sequence[str]) -> int:
    """Runs the program; returns the exit status."""
    if len(argv) != 3:
        raise ValueError("expected two arguments, SOUNDS and OUT; see --help")
    _, sounds, out = argv
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
