"""Pictures: whole PNG files of the right size, for few and many classes."""

import io

import matplotlib.image
import numpy as np
import pytest
import tensorflow as tf

from tagger import plots
from tagger.hparams import Hparams, parse_hparams


def open_png(contents: bytes) -> np.ndarray:
    """The picture, uint8 [height, width, 3]."""
    picture = matplotlib.image.imread(io.BytesIO(contents), format="png")
    return np.round(255 * picture[..., :3]).astype(np.uint8)


def share(picture: np.ndarray, color: str) -> float:
    """The share of the pixels that have a color, #rrggbb."""
    rgb = np.frombuffer(bytes.fromhex(color[1:]), np.uint8)
    return float((picture == rgb).all(axis=-1).mean())


@pytest.mark.parametrize("hz", [200, 1000, 15000])
def test_frequencies_stand_where_their_band_is(hz):
    hparams = Hparams()
    bins = hparams.fft_length // 2 + 1
    matrix = tf.signal.linear_to_mel_weight_matrix(
        hparams.mel_bands, bins, 44100, hparams.mel_min_hz, hparams.mel_max_hz
    ).numpy()
    weights = matrix[round(hz / 44100 * hparams.fft_length)]
    # Band b is drawn from b to b + 1.
    expected = np.average(np.arange(hparams.mel_bands) + 0.5, weights=weights)
    assert plots._band_of(hz, hparams) == pytest.approx(expected, abs=0.3)


@pytest.mark.parametrize("num_examples", [1, 4, 7])
def test_examples_have_titles_that_are_no_formulas(num_examples):
    hparams = parse_hparams("mel_bands=16,mel_min_hz=125,mel_max_hz=7500")
    rng = np.random.default_rng(0)
    contents = plots.examples_picture(
        rng.normal(size=(num_examples, 20, 16)).astype(np.float32),
        rng.integers(0, 2, (num_examples, 3)),
        class_names=["Bark", "$x_{", "Marimba_and_xylophone" * 3],
        hparams=hparams,
    )
    height = open_png(contents).shape[0]
    assert height == (290 if num_examples <= 4 else 550)


@pytest.mark.parametrize("num_classes", [2, 80])
def test_a_bar_for_each_class_with_clips(num_classes):
    values = np.linspace(0.2, 1, num_classes)
    num_clips = np.arange(num_classes)  # None of the first class.
    names = [f"$class_{index}" for index in range(num_classes)]
    picture = open_png(
        plots.per_class_picture(values, num_clips, class_names=names, title="step 3")
    )
    assert picture.shape[0] == pytest.approx(140 + 19 * (num_classes - 1), abs=1)
    blue = share(picture, plots.BLUE)
    assert blue > 0.1
    assert share(picture, plots.ORANGE) == 0
    fuller = np.maximum(num_clips, 1)
    other = open_png(
        plots.per_class_picture(
            values,
            fuller,
            class_names=names,
            title="step 3",
            other_values=np.where(values > 0.5, 0.5, np.nan),
            other_title="best of the others: step 2",
        )
    )
    assert other.shape[0] == pytest.approx(picture.shape[0] + 19, abs=1)
    assert share(other, plots.ORANGE) > 0


def test_the_curve_of_one_step_and_of_many():
    for steps in ([0], [100, 200], range(0, 20000, 100)):
        overall = {step: 0.5 + step / 1e5 for step in steps}
        picture = open_png(plots.lwlrap_picture(overall))
        assert picture.shape == (450, 800, 3)
        assert share(picture, plots.ORANGE) > 0
