"""Reasons why the scores of a recording mean little."""

import itertools

import numpy as np

from recordings.decoding import BLOCK_SAMPLES, mono_blocks, opened
from tagger.terminal.progress import counted

LOUDEST = 2.0  # A peak beyond this is not from compression or resampling.
SILENCE = 0.5 / 2**15  # A peak up to this is rounded to zeros of 16 bits.
RANGE_SECONDS, RANGE_SAMPLES = 60, 1024  # of describe_range, and of its FFT
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


def describe_range(path: str, max_hz: float) -> str:
    """Says that most of a recording's energy is above a frequency, such as of bats.

    Args:
      path: the sound file; only its first RANGE_SECONDS count.
      max_hz: the highest frequency of the features.

    Returns:
      What is above the frequency; empty if it is less than half of the energy.

    Raises:
      UserError: see `read_blocks`.
    """
    with opened(path) as file:
        if file.samplerate <= 2 * max_hz:
            return ""
        power = np.zeros(RANGE_SAMPLES // 2 + 1)
        num_blocks = -(-RANGE_SECONDS * file.samplerate // BLOCK_SAMPLES)
        for block in itertools.islice(mono_blocks(file, path), num_blocks):
            frames = np.resize(block, [len(block) // RANGE_SAMPLES, RANGE_SAMPLES])
            power += np.square(np.abs(np.fft.rfft(frames))).sum(axis=0)
        is_above = np.fft.rfftfreq(RANGE_SAMPLES, 1 / file.samplerate) > max_hz
    share = power[is_above].sum() / max(power.sum(), np.finfo(float).tiny)
    if share < MIN_SHARE_ABOVE:
        return ""
    return f"{share:.0%} of its energy is above {max_hz:g} Hz, and is not used"
