"""Augmentation against its definitions."""

import math

import numpy as np
import pytest
import tensorflow as tf

from tagger import augmentation
from tagger.hparams import Hparams

EXAMPLES, FRAMES, BANDS, CLASSES = 64, 10, 8, 3
OFFSET = Hparams().mel_log_offset
SEED = tf.constant([1, 2])


@pytest.fixture(scope="module")
def batch() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    mel = random.gamma(1.0, size=[EXAMPLES, FRAMES, BANDS])
    features = np.log(mel + OFFSET).astype(np.float32)
    features[:, -2:] = 0.0  # padding
    labels = np.eye(CLASSES, dtype=np.float32)[random.integers(CLASSES, size=EXAMPLES)]
    return features, labels


@pytest.mark.parametrize("frontend", ["log", "pcen"])
def test_mixup(batch, frontend):
    features, labels = batch
    hparams = Hparams(mixup=0.4, frontend=frontend)
    mixed, mixed_labels = augmentation.mix_up(features, labels, hparams, SEED)
    domain, inverse = (
        (np.exp, np.log) if frontend == "log" else (np.asarray, np.asarray)
    )
    for index in range(EXAMPLES):
        other = index - 1
        # Two labels that differ show the share.
        differing = np.flatnonzero(labels[index] > labels[other])
        if not differing.size:
            np.testing.assert_array_equal(mixed_labels[index], labels[index])
            continue
        share = mixed_labels[index, differing[0]].numpy()
        np.testing.assert_allclose(
            mixed_labels[index],
            share * labels[index] + (1 - share) * labels[other],
            atol=1e-6,
        )
        np.testing.assert_allclose(
            mixed[index],
            inverse(
                share * domain(features[index]) + (1 - share) * domain(features[other])
            ),
            atol=1e-4,
        )


def test_the_shares_of_mixup_have_a_beta_distribution():
    number, alpha = 20000, 0.4
    labels = np.arange(number, dtype=np.float32)[:, np.newaxis] % 2  # alternates
    _, mixed = augmentation.mix_up(
        np.zeros([number, 1, 1], np.float32), labels, Hparams(mixup=alpha), SEED
    )
    shares = np.where(labels == 1, mixed, 1 - mixed)
    # The moments of Beta(a, a): mean 1/2, variance 1 / (4 (2a + 1)).
    assert shares.mean() == pytest.approx(0.5, abs=0.01)
    assert shares.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.03)


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


def test_gain_scales_the_mel_spectrogram(batch):
    features, _ = batch
    changed = augmentation.change_gain(features, Hparams(gain_db=6.0), SEED).numpy()
    np.testing.assert_array_equal(changed[:, -2:], 0.0)  # padding
    mel = np.exp(features[:, :-2]) - OFFSET
    ratios = (np.exp(changed[:, :-2]) - OFFSET) / mel
    decibels = 20 * np.log10(np.median(ratios, axis=(1, 2)))
    assert np.abs(decibels).max() <= 6.001
    assert decibels.min() < -3 and decibels.max() > 3
    gains = 10 ** (decibels / 20)[:, np.newaxis, np.newaxis]
    np.testing.assert_allclose(np.exp(changed[:, :-2]) - OFFSET, gains * mel, rtol=0.01)


def test_the_seed_decides(batch):
    hparams = Hparams(mixup=1.0, gain_db=3.0, freq_masks=1, freq_mask_bands=2)
    one = augmentation.augment(*batch, hparams, SEED)
    again = augmentation.augment(*batch, hparams, SEED)
    other = augmentation.augment(*batch, hparams, SEED + 1)
    np.testing.assert_array_equal(one[0], again[0])
    assert (one[0] != other[0]).numpy().any(axis=(1, 2)).all()


@pytest.mark.parametrize(
    ("frontend", "value"), [("log", math.log(OFFSET)), ("pcen", 0.0)]
)
def test_masks_are_filled_with_silence(frontend, value):
    assert augmentation.silence(Hparams(frontend=frontend)) == value
