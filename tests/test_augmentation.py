"""Augmentation against its definitions."""

import math

import numpy as np
import pytest
import tensorflow as tf

from tagger.hparams import Hparams
from tagger.network import augmentation

EXAMPLES, FRAMES, BANDS = 64, 10, 8
OFFSET = Hparams().mel_log_offset
SEED = tf.constant([1, 2])


@pytest.fixture(scope="module")
def features() -> np.ndarray:
    random = np.random.default_rng(0)
    mel = random.gamma(1.0, size=[EXAMPLES, FRAMES, BANDS])
    features = np.log(mel + OFFSET).astype(np.float32)
    features[:, -2:] = 0.0  # padding
    return features


@pytest.mark.parametrize("axis", [1, 2])
def test_a_mask_is_one_stripe_of_each_example(axis):
    width, size = 3, {1: FRAMES, 2: BANDS}[axis]
    features = np.random.default_rng(0).normal(size=[2000, FRAMES, BANDS])
    features = features.astype(np.float32)
    masked = augmentation.mask_stripes(
        features, axis=axis, width=width, fill=-9.0, seed=SEED
    ).numpy()
    changed = masked != features
    assert (masked[changed] == -9.0).all()
    # Along the other axis, all or nothing is masked.
    stripes = changed.any(axis=3 - axis)
    np.testing.assert_array_equal(stripes, changed.all(axis=3 - axis))
    widths = stripes.sum(axis=1)
    assert set(widths) == set(range(width + 1))
    starts, stops = stripes.argmax(axis=1), size - stripes[:, ::-1].argmax(axis=1)
    wide = widths > 0
    np.testing.assert_array_equal((stops - starts)[wide], widths[wide])
    assert starts[wide].min() == 0
    assert stops[wide].max() == size


def test_gain_scales_the_mel_spectrogram(features):
    changed = augmentation.change_gain(features, Hparams(gain_db=6.0), SEED).numpy()
    np.testing.assert_array_equal(changed[:, -2:], 0.0)  # padding
    mel = np.exp(features[:, :-2]) - OFFSET
    ratios = (np.exp(changed[:, :-2]) - OFFSET) / mel
    decibels = 20 * np.log10(np.median(ratios, axis=(1, 2)))
    assert np.abs(decibels).max() <= 6.001
    assert decibels.min() < -3 and decibels.max() > 3
    gains = 10 ** (decibels / 20)[:, np.newaxis, np.newaxis]
    np.testing.assert_allclose(np.exp(changed[:, :-2]) - OFFSET, gains * mel, rtol=0.01)


def test_the_seed_decides(features):
    hparams = Hparams(gain_db=3.0, freq_masks=1, freq_mask_bands=2)
    one = augmentation.augment(features, hparams, SEED)
    again = augmentation.augment(features, hparams, SEED)
    other = augmentation.augment(features, hparams, SEED + 1)
    np.testing.assert_array_equal(one, again)
    assert (one != other).numpy().any(axis=(1, 2)).all()


@pytest.mark.parametrize(
    ("frontend", "value"), [("log", math.log(OFFSET)), ("pcen", 0.0)]
)
@pytest.mark.parametrize(
    ("axis", "number", "width"),
    [(1, "time_masks", "time_mask_frames"), (2, "freq_masks", "freq_mask_bands")],
)
def test_masks_are_filled_with_silence(features, frontend, value, axis, number, width):
    hparams = Hparams(**{"frontend": frontend, number: 2, width: 2})
    assert augmentation.silence(hparams) == value
    loud = features + 20
    masked = augmentation.augment(loud, hparams, SEED).numpy()
    changed = masked != loud
    assert (masked[changed] == np.float32(value)).all()
    stripes = changed.all(axis=3 - axis)
    np.testing.assert_array_equal(stripes, changed.any(axis=3 - axis))
    assert stripes.sum(axis=1).max() in (3, 4)  # two masks, each at most 2 wide
