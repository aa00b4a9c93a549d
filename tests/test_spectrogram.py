"""The parts of a spectrogram against TensorFlow's and librosa's formulas."""

import numpy as np
import pytest
import scipy.signal
import tensorflow as tf

from tagger.hparams import Hparams
from tagger.network.spectrogram import BLOCK_FRAMES, pcen, windowed_frames


@pytest.mark.parametrize(
    ("window", "hop", "size"),
    [(1102, 441, 9999), (1411, 706, 5000), (100, 300, 1001), (8, 8, 64), (5, 2, 5)],
)
def test_frames_equal_those_of_tf_signal(window, hop, size):
    waveform = tf.random.stateless_normal([size], [1, 2])
    frames = tf.signal.frame(waveform, window, hop) * tf.signal.hann_window(window)
    hparams = Hparams(
        stft_window_seconds=window / 44100,
        stft_hop_seconds=hop / 44100,
        example_hop_seconds=1,
    )
    padding = hparams.fft_length - window
    expected = np.pad(frames, [(0, 0), (0, padding)])
    actual = windowed_frames(waveform, hparams)
    np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize(("size", "fewer"), [(1542, 0), (1543, 1), (9999, 0)])
def test_the_window_of_python_2_changes_only_the_number_of_frames(size, fewer):
    waveform = tf.random.stateless_normal([size], [1, 2])
    frames, others = (
        windowed_frames(waveform, Hparams(stft_window_seconds=seconds))
        for seconds in (0.025, 0.02502)
    )
    assert len(frames) - len(others) == fewer
    np.testing.assert_array_equal(frames[: len(others)], others)


@pytest.mark.parametrize(
    "frames", [1, 2, BLOCK_FRAMES, BLOCK_FRAMES + 1, 3 * BLOCK_FRAMES + 17]
)
@pytest.mark.parametrize("seconds", [0.4, 3.0])
def test_pcen(frames, seconds):
    hparams = Hparams(pcen_seconds=seconds, pcen_alpha=0.9, pcen_delta=1.5, pcen_r=0.4)
    mel = np.random.default_rng(0).gamma(0.3, size=[frames, 5]).astype(np.float32)
    length = seconds / hparams.stft_hop_seconds
    rate = (np.sqrt(1 + 4 * length**2) - 1) / (2 * length**2)
    state = (1 - rate) * mel[:1].astype(float)  # M[0] = E[0]
    smoothed, _ = scipy.signal.lfilter([rate], [1, rate - 1], mel, axis=0, zi=state)
    expected = (mel / (1e-6 + smoothed) ** 0.9 + 1.5) ** 0.4 - 1.5**0.4
    values, states = pcen(mel, hparams)
    np.testing.assert_allclose(values, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(states, smoothed, rtol=1e-4, atol=1e-6)


def test_silence_is_zero():
    values, _ = pcen(np.zeros([300, 4], np.float32), Hparams())
    np.testing.assert_array_equal(values, 0.0)
