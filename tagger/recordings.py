"""Reads sound files of any format, rate and number of channels.

libsndfile decodes the files, and soxr resamples them. The tools use this module. The
three modes read only WAV files; see `wav.py`. Letter for shapes: S samples.
"""

import os
import pathlib
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import soundfile
import soxr

from tagger.hparams import SAMPLE_RATE
from tagger.wav import UNKNOWN_SIZES

BLOCK_SAMPLES = 2**17  # about 3 s
RATES = range(1000, 768001)  # Hz; a header with another rate is probably damaged
# Of a compressed file without an index, the length in the header is an estimate.
MIN_COMPLETE = 0.99
MAX_FRAMES = 2**62  # libsndfile reports more if the header has no length.
# libsndfile corrects sizes beyond the end of a WAV or AIFF file, and logs this.
CORRECTED_SIZE = re.compile(r"(?:data|SSND)\s*: (\d+) \(should be (\d+)\)")
# Files with other extensions are not taken from folders. libsndfile cannot read those
# of the last line. They are reported rather than ignored.
EXTENSIONS = (
    *(".wav", ".flac", ".mp3", ".ogg", ".oga", ".opus", ".aif", ".aiff", ".aifc"),
    *(".au", ".snd", ".caf", ".w64", ".rf64"),
    *(".m4a", ".aac", ".mp4", ".wma", ".amr", ".webm"),
)


class Sound(NamedTuple):
    """A sound file: its path, and a name that no other file of a list has."""

    path: str
    name: str


def find_sounds(folder: str) -> tuple[list[Sound], int]:
    """Finds the sound files in a folder and its sub-folders, by their extensions.

    Returns:
      The files, sorted, with their paths below the folder as names, and the number of
      other files. Hidden files and folders do not count.
    """
    sounds, num_others, seen = [], 0, set()
    for parent, folders, names in os.walk(folder, followlinks=True):
        if os.path.realpath(parent) in seen:  # Links may form a loop.
            folders.clear()
            continue
        seen.add(os.path.realpath(parent))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(name for name in names if not name.startswith(".")):
            path = os.path.join(parent, name)
            if os.path.splitext(name)[1].lower() in EXTENSIONS:
                below = pathlib.PurePath(os.path.relpath(path, folder))
                sounds.append(Sound(path, below.as_posix()))
            else:
                num_others += 1
    return sounds, num_others


def read_blocks(path: str) -> Iterator[np.ndarray]:
    """Decodes a file block by block, so that its length does not matter for memory.

    Channels are averaged. Other rates are resampled.

    Yields:
      float32 [S], consecutive samples at 44.1 kHz. 1.0 is full scale; compressed and
      resampled sounds may exceed it.

    Raises:
      ValueError: the file cannot be read, is cut off, or has samples that are not
        finite; the message names it.
    """
    if not os.path.isfile(path):
        raise ValueError(f"{path}: there is no such file")
    try:
        with soundfile.SoundFile(os.fsencode(path)) as file:
            if file.samplerate not in RATES:
                raise ValueError(f"{path}: has a rate of {file.samplerate} Hz")
            blocks = _mono_blocks(file, path)
            if file.samplerate != SAMPLE_RATE:
                blocks = _resampled(blocks, file.samplerate)
            yield from blocks
    except soundfile.SoundFileError as error:
        reason = getattr(error, "error_string", str(error))
        raise ValueError(f"{path}: libsndfile cannot decode it: {reason}") from None


def _mono_blocks(file: soundfile.SoundFile, path: str) -> Iterator[np.ndarray]:
    """The blocks of an open file at its own rate, checked."""
    total = 0
    # SoundFile.blocks() would return memory that was not written if a file is short.
    while (block := file.read(BLOCK_SAMPLES, np.float32, always_2d=True)).size:
        if not np.isfinite(block).all():
            raise ValueError(f"{path}: has samples that are not finite")
        total += len(block)
        yield block.mean(axis=1)
    corrected = CORRECTED_SIZE.search(file.extra_info)
    if corrected and int(corrected[1]) not in UNKNOWN_SIZES:
        claimed, found = int(corrected[1]), int(corrected[2])
    else:
        claimed, found = file.frames, total
    if found < MIN_COMPLETE * claimed and claimed < MAX_FRAMES:
        raise ValueError(f"{path}: is cut off; only {found / claimed:.0%} is there")


def _resampled(blocks: Iterable[np.ndarray], rate: int) -> Iterator[np.ndarray]:
    """Resamples blocks as if they were one."""
    stream = soxr.ResampleStream(rate, SAMPLE_RATE, 1, dtype="float32")
    for block in blocks:
        yield stream.resample_chunk(block)
    yield stream.resample_chunk(np.zeros(0, np.float32), last=True)


def read_chunks(path: str, sizes: Iterable[int]) -> Iterator[np.ndarray]:
    """Decodes a file into consecutive chunks of the given numbers of samples.

    The chunks end with the file: the last one may be shorter, or empty.

    Raises:
      ValueError: see `read_blocks`.
    """
    blocks = read_blocks(path)
    pending, num_pending = [], 0
    for size in sizes:
        while num_pending < size and (block := next(blocks, None)) is not None:
            pending.append(block)
            num_pending += block.size
        samples = np.concatenate([*pending, np.zeros(0, np.float32)])
        yield samples[:size]
        pending, num_pending = [samples[size:]], max(0, num_pending - size)
