"""The picture of examples: its size, and the positions of frequencies."""

import numpy as np
import pytest
import tensorflow as tf

from tagger import plots
from tagger.hparams import Hparams, parse_hparams


@pytest.mark.parametrize("hz", [200, 1000, 15000])
def test_a_frequency_is_drawn_at_its_band(hz):
    hparams = Hparams()
    bins = hparams.fft_length // 2 + 1
    matrix = tf.signal.linear_to_mel_weight_matrix(
        hparams.mel_bands, bins, 44100, hparams.mel_min_hz, hparams.mel_max_hz
    ).numpy()
    weights = matrix[round(hz / 44100 * hparams.fft_length)]
    # Band b is drawn from b to b + 1.
    expected = np.average(np.arange(hparams.mel_bands) + 0.5, weights=weights)
    assert plots._hz_to_band(hz, hparams) == pytest.approx(expected, abs=0.3)


@pytest.mark.parametrize(("num_examples", "height"), [(1, 290), (4, 290), (7, 550)])
def test_class_names_are_not_read_as_formulas(num_examples, height):
    hparams = parse_hparams("mel_bands=16,mel_min_hz=125,mel_max_hz=7500")
    rng = np.random.default_rng(0)
    png = plots.examples_picture(
        rng.normal(size=(num_examples, 20, 16)).astype(np.float32),
        rng.integers(0, 2, (num_examples, 3)),
        class_names=["Bark", "$x_{", "Marimba_and_xylophone" * 3],
        hparams=hparams,
    )
    assert tf.io.decode_png(png).shape == (height, 1280, 4)
