"""From a recording to its clips, OUT/audio/*.wav (16 bit, 44.1 kHz, mono)."""

import hashlib
import itertools
import os
import pathlib
import wave
from collections.abc import Container, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from recordings import decoding, doubts
from tagger.errors import UserError
from tagger.hparams import SAMPLE_RATE
from tagger.terminal.files import atomic

FULL_SCALE = 2**15  # as in inputs.py: 16-bit samples are multiples of 1 / FULL_SCALE
MAX_INT16 = FULL_SCALE - 1
# File systems allow 255. The number of a clip and a temporary suffix are added.
MAX_STEM_BYTES = 220


class SilentClip(Exception):
    """A clip is silent, so its file must not appear."""


class Conversion(NamedTuple):
    """A recording as OUT has it: a line of MANIFEST.

    Attributes:
      name: its path below SOUNDS, by which it is recognised.
      checksum: SHA-256 of the file.
      num_samples: number of samples at 44.1 kHz.
      peak: relative to the range of 16 bits, which is up to MAX_INT16 for positive
        samples and up to FULL_SCALE for negative ones. Beyond 1, it exceeds the range.
      clips: the names of its clips.
      silent: those of them that are silent, and are left out.
    """

    name: str
    checksum: str
    num_samples: int
    peak: float
    clips: Sequence[str]
    silent: Sequence[str] = ()

    def has_clips_of(self, other: "Conversion | None") -> bool:
        """Whether the clips of both have equal names and contents."""
        return other is not None and (
            (self.checksum, self.clips) == (other.checksum, other.clips)
        )

    def is_complete(self, wanted: Iterable[str], existing: Container[str]) -> bool:
        """Whether some of its clips are among the existing files."""
        return all(name in existing or name in self.silent for name in wanted)

    def bounds(self) -> list[int]:
        """The starts of the N clips and the end of the last one, in samples."""
        ends = np.linspace(0, self.num_samples, len(self.clips) + 1)
        return ends.round().astype(int).tolist()

    def clip_times(self) -> list[float]:
        """The starts of the N clips and the end of the last one, in seconds."""
        return [bound / SAMPLE_RATE for bound in self.bounds()]


def examine(
    path: str, name: str, known: Mapping[str, Conversion], clip_seconds: float
) -> Conversion:
    """Checks a recording; decodes it if its contents are new.

    Args:
      path: the sound file.
      name: its path below SOUNDS.
      known: the recordings in OUT, by checksum.
      clip_seconds: length of the longest clip, in seconds.

    Raises:
      UserError: the file or its name cannot be used; the message names it.
    """
    stem = name.replace("/", "__").strip()
    size = len(os.fsencode(stem))
    if size > MAX_STEM_BYTES:
        raise UserError(
            f"{path}: its path below SOUNDS has {size} bytes; at most {MAX_STEM_BYTES} "
            f"are allowed"
        )
    decoding.check_file(path)
    with open(path, "rb") as file:
        checksum = hashlib.file_digest(file, "sha256").hexdigest()
    same = known.get(checksum)
    num_samples, peak = (same.num_samples, same.peak) if same else measure(path)
    num_clips = -(-num_samples // round(clip_seconds * SAMPLE_RATE))
    clips = [f"{stem}__{number:04d}.wav" for number in range(1, num_clips + 1)]
    if num_clips == 1:
        clips = [f"{stem}.wav"]
    return Conversion(name, checksum, num_samples, peak, clips)


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
    if peak <= doubts.SILENCE:
        raise UserError(f"{path}: is silent")
    return num_samples, peak


def write_clips(
    path: str, conversion: Conversion, wanted: Container[str], audio: pathlib.Path
) -> Conversion:
    """Writes some clips of a recording; returns it with the names of the silent ones.

    The whole recording is made quieter if it would exceed the range of 16 bits. Silent
    clips of a longer recording are left out.
    """
    names, silent = conversion.clips, []
    gain = FULL_SCALE / max(1, conversion.peak)
    block = decoding.BLOCK_SAMPLES
    sizes = [
        [min(block, length - start) for start in range(0, length, block)]
        for length in np.diff(conversion.bounds()).tolist()
    ]
    chunks = decoding.read_chunks(path, itertools.chain.from_iterable(sizes))
    for name, blocks in zip(names, sizes, strict=True):
        if name not in wanted:
            for _ in blocks:
                next(chunks)
            continue
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
    return conversion._replace(silent=silent)
