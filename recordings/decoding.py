"""Reads sound files of any format, rate and number of channels.

libsndfile decodes the files, and soxr resamples them. The tools use this module. The
three modes read only WAV files; see `wav.py`. Letter for shapes: S samples.
"""

import contextlib
import glob
import io
import math
import os
import pathlib
import re
import struct
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import soundfile
import soxr

from tagger.data.wav import (
    SOUND_EXTENSIONS,
    UNKNOWN_SIZES,
    UNREADABLE_EXTENSIONS,
    find_samples,
)
from tagger.errors import UserError
from tagger.hparams import SAMPLE_RATE
from tagger.terminal.progress import counted

BLOCK_SAMPLES = 2**17  # about 3 s
RATES = range(1000, 768001)  # Hz; a header with another rate is probably damaged
# The header of a compressed file may only estimate the length.
MIN_COMPLETE = 0.99
MAX_FRAMES = 2**62  # libsndfile reports more if the header has no length.
# libsndfile corrects sizes beyond the end of a WAV or AIFF file, and logs this.
CORRECTED_SIZE = re.compile(r"(?:data|SSND)\s*: (\d+) \(should be (\d+)\)")

# Is called with each block of a file, float32 [S], at the rate of the file, in Hz.
Observer = Callable[[np.ndarray, int], Any]


class Sound(NamedTuple):
    """A file: its path, and its path below the folder of a search."""

    path: str
    name: str


class _ForwardFile(soundfile.SoundFile):
    """A file that is read from start to end.

    soundfile would seek after each read, to where it already is. The samples that
    follow in an MP3 file would differ, because they depend on earlier frames.
    """

    def seekable(self) -> bool:
        return False


class _SizedWav(io.FileIO):
    """A WAV file whose header seems to have the right size of its samples."""

    def __init__(self, path: str, offset: int, size: int):
        super().__init__(path)
        self._field_start = offset - 4
        self._field = struct.pack("<I", min(size, 2**32 - 1))

    def readinto(self, buffer) -> int:
        """Reads bytes, with those of the size field replaced."""
        start = self.tell() - self._field_start
        num_bytes = super().readinto(buffer)
        for index, value in enumerate(self._field):
            if 0 <= index - start < num_bytes:
                memoryview(buffer).cast("B")[index - start] = value
        return num_bytes


@contextlib.contextmanager
def _found_samples(path: str) -> Iterator[soundfile.SoundFile]:
    """Opens a file. libsndfile finds no samples in a WAV file of a killed recorder."""
    with _ForwardFile(os.fsencode(path)) as file:
        offset, size = 0, 0
        if not file.frames and file.format in ("WAV", "WAVEX"):
            # libsndfile accepts files that find_samples does not. They are empty.
            with contextlib.suppress(UserError), open(path, "rb") as contents:
                offset, size = find_samples(
                    contents, path, check_format=lambda chunk, path: None
                )
        if not size:
            yield file
            return
    with _SizedWav(path, offset, size) as contents, _ForwardFile(contents) as file:
        yield file


def walk(folder: str) -> Iterator[Sound]:
    """Yields the files in a folder and its sub-folders, in order.

    Hidden files and folders are ignored. Links are followed, unless they lead to a
    folder that contains them.

    Raises:
      UserError: a folder cannot be read; the message names it.
    """
    above = {folder: []}
    for parent, folders, names in os.walk(
        folder, followlinks=True, onerror=_raise_named
    ):
        real, containing = os.path.realpath(parent), above[parent]
        if real in containing:  # a loop of links
            folders.clear()
            continue
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in folders:
            above[os.path.join(parent, name)] = [*containing, real]
        for name in sorted(name for name in names if not name.startswith(".")):
            path = os.path.join(parent, name)
            below = pathlib.PurePath(os.path.relpath(path, folder))
            yield Sound(path, below.as_posix())


def find_sounds(folder: str, others: Collection[str] = ()) -> list[Sound]:
    """Finds the sound files in a folder and its sub-folders, by their extensions.

    Args:
      folder: see `walk`.
      others: see `select_sounds`.

    Returns:
      The files in the order of their folders, with their paths below the folder as
      names.

    Raises:
      UserError: see `walk`.
    """
    return select_sounds(folder, walk(folder), others)


def select_sounds(
    folder: str, files: Iterable[Sound], others: Collection[str] = ()
) -> list[Sound]:
    """The files of a folder that are sound files, by their extensions.

    Args:
      folder: the folder, for the message.
      files: its files.
      others: extensions of other files that are used. The number of the remaining files
        is printed.
    """
    sounds, num_others = [], 0
    for file in files:
        extension = os.path.splitext(file.name)[1].lower()
        if extension in SOUND_EXTENSIONS:
            sounds.append(file)
        else:
            num_others += extension not in others
    if num_others:
        print(f"{folder}: {counted(num_others, 'other file')} ignored", file=sys.stderr)
    return sounds


def _raise_named(error: OSError) -> None:
    raise UserError(f"cannot read {error.filename}: {error.strerror}")


def find_files(arguments: Sequence[str]) -> list[Sound]:
    """The files that the arguments name: files, folders and patterns.

    A file has its file name as name. An argument without a match is returned as a file,
    so that reading reports it.

    Raises:
      UserError: there are no files at all, or a folder cannot be read.
    """
    found = {}
    for argument in arguments:
        paths = [argument]
        if not os.path.lexists(argument):
            paths = sorted(glob.glob(argument, recursive=True)) or paths
        for path in paths:
            sounds = [Sound(path, os.path.basename(path))]
            if os.path.isdir(path):
                sounds = find_sounds(path)
                if not sounds:
                    print(f"note: {path}: has no sound files", file=sys.stderr)
            for sound in sounds:
                found.setdefault(os.path.abspath(sound.path), sound)
    if not any(map(os.path.exists, found)):
        raise UserError(f"there is no sound file in {', '.join(arguments)}")
    return list(found.values())


def read_blocks(
    path: str, observe: Observer = lambda block, rate: None
) -> Iterator[np.ndarray]:
    """Decodes a file block by block, so that its length does not matter for memory.

    Channels are averaged. Other rates are resampled. A WAV file without a size, as from
    a killed recorder, is read to its end, as by `wav.read_wav_header`.

    Args:
      path: the file.
      observe: see `Observer`.

    Yields:
      float32 [S], consecutive samples at 44.1 kHz. 1.0 is full scale; compressed and
      resampled sounds may exceed it.

    Raises:
      UserError: the file cannot be read, is cut off (which is not known of MP3, Ogg and
        Opus files), or has samples that are not finite; the message names it.
    """
    with opened(path) as file:
        blocks = mono_blocks(file, path, observe)
        if file.samplerate != SAMPLE_RATE:
            blocks = _resampled(blocks, file.samplerate)
        yield from blocks


def read_part(path: str, start: float, end: float) -> np.ndarray:
    """Decodes a part of a file, from one time to another in seconds.

    The position in an MP3 file may be inaccurate.

    Returns:
      float32 [S], samples at 44.1 kHz as of `read_blocks`. The part may end before.

    Raises:
      UserError: the file cannot be read, or ends before the start.
    """
    with opened(path) as file:
        rate = file.samplerate
        first = round(start * rate)
        if first >= file.frames:
            raise UserError(f"{path}: ends before {start:g} s")
        file.seek(first)
        size = round(min(end * rate, MAX_FRAMES)) - first
        frames = file.read(min(size, file.frames - first), np.float32, always_2d=True)
    samples = _mixed(frames)
    if not np.isfinite(samples).all():
        raise UserError(f"{path}: has samples that are not finite")
    return soxr.resample(samples, rate, SAMPLE_RATE)


def read_duration(path: str) -> float:
    """Reads the duration of a file from its header, in seconds.

    It is infinite if the header does not state it. That of a compressed file may only
    be an estimate.

    Raises:
      UserError: the file cannot be read; the message names it.
    """
    with opened(path) as file:
        return file.frames / file.samplerate if file.frames < MAX_FRAMES else math.inf


@contextlib.contextmanager
def opened(path: str) -> Iterator[soundfile.SoundFile]:
    """Opens a file, checked; libsndfile's errors in the block become UserErrors."""
    check_file(path)
    try:
        with _found_samples(path) as file:
            if file.samplerate not in RATES:
                raise UserError(f"{path}: has a sample rate of {file.samplerate} Hz")
            yield file
    except soundfile.SoundFileError as error:
        reason = getattr(error, "error_string", str(error))
        if "does not exist" in reason:  # said of MP3 files without a valid frame
            reason = "Format not recognised."
        if os.path.splitext(path)[1].lower() in UNREADABLE_EXTENSIONS:
            reason += " Convert it first, as with: ffmpeg -i in.m4a out.flac"
        raise UserError(f"{path}: libsndfile cannot decode it: {reason}") from None


def check_file(path: str) -> None:
    """Raises a UserError if a file does not exist, cannot be read, or is empty."""
    if not os.path.isfile(path):
        raise UserError(f"{path}: there is no such file")
    if not os.access(path, os.R_OK):
        raise UserError(f"{path}: there is no permission to read it")
    if not os.path.getsize(path):
        raise UserError(f"{path}: is empty")


def _mixed(frames: np.ndarray) -> np.ndarray:
    """The mean of the channels, float32 [S], of float32 [S, channels]."""
    samples = frames[:, 0].copy()
    with np.errstate(all="ignore"):  # The sum of large samples may overflow.
        for channel in frames.T[1:]:
            samples += channel
        samples /= np.float32(frames.shape[1])
    return samples


def mono_blocks(
    file: soundfile.SoundFile,
    path: str,
    observe: Observer = lambda block, rate: None,
) -> Iterator[np.ndarray]:
    """The blocks of an open file at its own rate, checked."""
    total = 0
    # SoundFile.blocks() would return memory that was not written if a file is short.
    while (frames := file.read(BLOCK_SAMPLES, np.float32, always_2d=True)).size:
        block = _mixed(frames)
        if not np.isfinite(block).all():
            raise UserError(f"{path}: has samples that are not finite")
        observe(block, file.samplerate)
        total += len(block)
        yield block
    corrected = CORRECTED_SIZE.search(file.extra_info)
    if corrected and int(corrected[1]) not in UNKNOWN_SIZES:
        claimed, found = int(corrected[1]), int(corrected[2])
    else:
        claimed, found = file.frames, total
    # libsndfile can only estimate the length of some MP3 files.
    known = file.format != "MP3" and claimed < MAX_FRAMES
    if known and found < MIN_COMPLETE * claimed:
        raise UserError(f"{path}: is cut off; only {found / claimed:.0%} is there")


def _resampled(blocks: Iterable[np.ndarray], rate: int) -> Iterator[np.ndarray]:
    """Resamples blocks as if they were one."""
    stream = soxr.ResampleStream(rate, SAMPLE_RATE, 1, dtype="float32")
    for block in blocks:
        yield stream.resample_chunk(block)
    yield stream.resample_chunk(np.zeros(0, np.float32), last=True)


def read_chunks(
    path: str,
    sizes: Iterable[int],
    observe: Observer = lambda block, rate: None,
) -> Iterator[np.ndarray]:
    """Decodes a file into consecutive chunks of the given numbers of samples.

    The chunks end with the file: the last one may be shorter, or empty.

    Args:
      path: the file.
      sizes: the numbers of samples.
      observe: see `Observer`.

    Raises:
      UserError: see `read_blocks`.
    """
    blocks = read_blocks(path, observe)
    pending, num_pending = [], 0
    for size in sizes:
        while num_pending < size and (block := next(blocks, None)) is not None:
            pending.append(block)
            num_pending += block.size
        samples = np.concatenate([*pending, np.zeros(0, np.float32)])
        yield samples[:size]
        pending = [samples[size:]]
        num_pending = pending[0].size
