"""The parts of a spectrogram against TensorFlow's formulas."""

import numpy as np
import pytest
import tensorflow as tf

from tagger.hparams import Hparams
from tagger.spectrogram import windowed_frames


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
