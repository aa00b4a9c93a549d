"""The files of a data set: OUT/audio/*.wav, clips.csv, class_map.csv and MANIFEST.

MANIFEST has a line for each recording. At any time, each clip of it that exists is as
its line says. So a run can be killed, and the next one completes the data set.
"""

import collections
import itertools
import json
import os
import pathlib
import sys
import wave
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from recordings import decoding
from tagger.data.clips import write_csv
from tagger.errors import UserError
from tagger.hparams import SAMPLE_RATE
from tagger.terminal.files import atomic, locked, make_folder, write_whole
from tagger.terminal.progress import counted, in_parallel, print_result
from tools.make_dataset.sources import (
    FULL_SCALE,
    Recording,
    check_recordings,
    examine,
)

MANIFEST = ".recordings.jsonl"


class SilentClip(Exception):
    """A clip is silent, so its file must not appear."""


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
      UserError: the data set cannot be read or written, or a recording can no longer be
        read when its clips are written.
    """
    names = os.listdir(out) if out.is_dir() else []
    if MANIFEST not in names and not all(name.startswith(".") for name in names):
        raise UserError(
            f"OUT must be new or a data set of this program, but {out} has other files"
        )
    make_folder(str(out), "OUT")
    error = UserError(f"OUT: another process writes to {out}; run this again later")
    with locked(out / ".lock", error):
        by_name = {recording.name: recording for recording in read_manifest(out)}
        by_checksum = {recording.checksum: recording for recording in by_name.values()}

        def check(recording: Recording) -> Recording:
            return examine(recording, by_name, by_checksum, clip_seconds)

        results = in_parallel(
            check, found, what="checking recordings", unit="recording"
        )
        usable, problems = check_recordings(found, results)
        if problems and not (skip and usable):
            raise UserError(*problems)
        update(usable, by_name, out)
    return problems


def update(
    usable: Sequence[Recording], known: Mapping[str, Recording], out: pathlib.Path
) -> None:
    """Deletes clips that are not as they should be, then writes those that are missing.

    There is no clips.csv meanwhile.

    Args:
      usable: the recordings.
      known: the recordings in MANIFEST, by name.
      out: the folder of the data set.

    Raises:
      UserError: recordings can no longer be read, or files not be written; lists all.
    """
    audio = out / "audio"
    (out / "clips.csv").unlink(missing_ok=True)
    same = {item.name for item in usable if item.has_clips_of(known.get(item.name))}
    for recording in itertools.chain(known.values(), usable):
        if recording.name not in same:
            for name in recording.clips:
                (audio / name).unlink(missing_ok=True)
    for path in itertools.chain(out.glob(".*.tmp"), audio.glob(".*.tmp")):
        path.unlink(missing_ok=True)  # of a run that was killed
    write_manifest(out, usable)
    make_folder(str(audio), "OUT")
    existing = set(os.listdir(audio))
    complete = {
        item.name for item in usable if existing | {*item.silent} >= {*item.clips}
    }

    def write(item: Recording) -> Recording:
        return item if item.name in complete else write_clips(item, audio)

    results = in_parallel(write, usable, what="writing clips", unit="recording")
    if problems := [str(error) for error in results if isinstance(error, UserError)]:
        raise UserError(*problems)
    write_manifest(out, results)
    classes = sorted({label for recording in results for label in recording.labels})
    rows = [
        (name, ",".join(recording.labels), recording.name)
        for recording in results
        for name in recording.clips
        if name not in recording.silent
    ]
    write_csv(out / "class_map.csv", enumerate(classes))
    write_csv(out / "clips.csv", [("fname", "labels", "recording"), *rows])
    if silent := sum(len(recording.silent) for recording in results):
        print(f"{counted(silent, 'silent clip')} left out", file=sys.stderr)
    print_result(
        f"recordings: {describe_changes(usable, known, complete)}; {out} has "
        f"{counted(len(rows), 'clip')} of {counted(len(classes), 'class')}"
    )


def write_clips(recording: Recording, audio: pathlib.Path) -> Recording:
    """Writes the clips of a recording; returns it with the names of the silent ones.

    The whole recording is made quieter if it would exceed the range of 16 bits. Silent
    clips of a longer recording are left out.
    """
    names, silent = recording.clips, []
    bounds = np.linspace(0, recording.num_samples, len(names) + 1).round().astype(int)
    gain = FULL_SCALE / max(1, recording.peak)
    block = decoding.BLOCK_SAMPLES
    sizes = [
        [min(block, length - start) for start in range(0, length, block)]
        for length in np.diff(bounds).tolist()
    ]
    chunks = decoding.read_chunks(recording.path, itertools.chain.from_iterable(sizes))
    for name, blocks in zip(names, sizes, strict=True):
        audible = False
        try:
            with atomic(audio / name) as file, wave.open(file, "wb") as wav:
                wav.setparams((1, 2, SAMPLE_RATE, sum(blocks), "NONE", ""))
                for _ in blocks:
                    samples = np.rint(next(chunks) * gain).astype(np.int16)
                    audible = audible or samples.any()
                    wav.writeframesraw(samples.tobytes())
                if not audible:
                    raise SilentClip
        except SilentClip:
            silent.append(name)
    return recording._replace(silent=silent)


def describe_changes(
    usable: Sequence[Recording], known: Mapping[str, Recording], complete: set[str]
) -> str:
    """How many recordings differ from the known ones, by name, as text.

    `complete` has the names of those whose clips were not written again.
    """
    gone = known.keys() - {recording.name for recording in usable}
    lost = collections.Counter(known[name].checksum for name in gone)
    new = collections.Counter(
        item.checksum for item in usable if item.name not in known
    )
    num_moved = (lost & new).total()
    kept = [item for item in usable if item.name in known]
    same = [item for item in kept if {*item.labels} == {*known[item.name].labels}]
    num_changed = sum(item.name not in complete for item in same)
    return (
        f"{new.total() - num_moved} added, {num_moved} moved, "
        f"{len(kept) - len(same)} relabelled, {num_changed} changed, "
        f"{len(gone) - num_moved} removed, {len(same) - num_changed} unchanged"
    )


def read_manifest(out: pathlib.Path) -> list[Recording]:
    """The recordings in MANIFEST; none if it does not exist.

    Raises:
      UserError: it is damaged.
    """
    path = out / MANIFEST
    try:
        lines = path.read_bytes().splitlines() if path.exists() else []
        return [Recording(**json.loads(line)) for line in lines]
    except (ValueError, TypeError):
        raise UserError(f"{path} is damaged; delete {out} to make it anew") from None


def write_manifest(out: pathlib.Path, recordings: Iterable[Recording]) -> None:
    """Writes MANIFEST, atomically."""
    lines = [f"{json.dumps(recording._asdict())}\n" for recording in recordings]
    write_whole(out / MANIFEST, "".join(lines))
