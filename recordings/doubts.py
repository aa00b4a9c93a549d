"""Reasons why the scores of a recording mean little."""

import numpy as np

from recordings.decoding import BLOCK_SAMPLES, mono_blocks, opened
from tagger.terminal.progress import counted

LOUDEST = 2.0  # A peak beyond this is not from compression or resampling.
SILENCE = 0.5 / 2**15  # A peak up to this is rounded to zeros of 16 bits.
RANGE_SECONDS, RANGE_SAMPLES = 60, 1024  # of EnergyRange, and of its FFT
MIN_SHARE_ABOVE = 0.5


def describe_doubt(num_samples: int, peak: float, window_samples: int) -> str:
    """Why the scores of a recording mean little; empty if there is no reason.

    Args:
      num_samples: samples of the recording at 44.1 kHz.
      peak: highest magnitude of its samples; 1.0 is full scale.
      window_samples: samples of an STFT window.
    """
    if peak <= SILENCE:
        return "is silent, so its scores mean nothing"
    if peak > LOUDEST:
        return f"has samples up to {peak:.3g} times full scale; its scores can be wrong"
    if num_samples < window_samples:
        number = counted(num_samples, "sample")
        return f"has {number} at 44.1 kHz, but an STFT window has {window_samples}"
    return ""


class EnergyRange:
    """Tells if most of a recording's energy is above a frequency, such as of bats.

    Only the first RANGE_SECONDS count.

    Args:
      max_hz: the highest frequency of the features.
    """

    def __init__(self, max_hz: float):
        self._max_hz = max_hz
        self._power = np.zeros(RANGE_SAMPLES // 2 + 1)
        self._rate, self._blocks_left = 0, 1

    def add(self, block: np.ndarray, rate: int) -> None:
        """Adds the next block of the recording; see `decoding.Observer`."""
        if not self._rate:
            self._rate = rate
            self._blocks_left = -(-RANGE_SECONDS * rate // BLOCK_SAMPLES)
        if rate > 2 * self._max_hz and self._blocks_left:
            self._blocks_left -= 1
            frames = np.resize(block, [len(block) // RANGE_SAMPLES, RANGE_SAMPLES])
            self._power += np.square(np.abs(np.fft.rfft(frames))).sum(axis=0)

    @property
    def is_known(self) -> bool:
        """Whether further blocks would change nothing."""
        return 0 < self._rate <= 2 * self._max_hz or not self._blocks_left

    def describe(self) -> str:
        """What is above the frequency; empty if it is less than half of the energy."""
        if self._rate <= 2 * self._max_hz:
            return ""
        frequencies = np.fft.rfftfreq(RANGE_SAMPLES, 1 / self._rate)
        above = self._power[frequencies > self._max_hz].sum()
        share = above / max(self._power.sum(), np.finfo(float).tiny)
        if share < MIN_SHARE_ABOVE:
            return ""
        return (
            f"{share:.0%} of its energy is above {self._max_hz:g} Hz, and is not used"
        )


def describe_range(path: str, max_hz: float) -> str:
    """Decodes the first RANGE_SECONDS of a sound file; see `EnergyRange`.

    Raises:
      UserError: see `read_blocks`.
    """
    energy = EnergyRange(max_hz)
    with opened(path) as file:
        for block in mono_blocks(file, path):
            energy.add(block, file.samplerate)
            if energy.is_known:
                break
    return energy.describe()
