"""The losses against their definitions."""

import numpy as np
import pytest
import tensorflow as tf

from tagger import losses
from tagger.hparams import Hparams

LABELS = np.float32([[1, 0, 0, 1], [0, 1, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0]])
LOGITS = np.float32([[2, -1, 3, 0], [9, -9, 0, 1], [1, 2, 3, 4], [0, 1, 2, 3]])
SCORES = 1 / (1 + np.exp(-LOGITS.astype(float)))


def test_lsep_is_the_double_sum():
    expected = [
        np.log1p(
            sum(
                np.exp(logits[n] - logits[p])
                for n in np.flatnonzero(labels == 0)
                for p in np.flatnonzero(labels == 1)
            )
        )
        for labels, logits in zip(LABELS, LOGITS)
    ]
    loss = losses.lsep(tf.constant(LABELS), tf.constant(LOGITS))
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_lsep_has_finite_gradients_without_pairs():
    logits = tf.Variable(LOGITS)
    with tf.GradientTape() as tape:
        loss = losses.lsep(tf.constant(LABELS), logits)
    gradient = tape.gradient(loss, logits).numpy()
    assert np.isfinite(gradient).all()
    np.testing.assert_array_equal(gradient[2:], 0.0)


@pytest.mark.parametrize("q", [0.3, 0.7, 1.0])
@pytest.mark.parametrize("lsmooth", [0.0, 0.2])
def test_lq(q, lsmooth):
    hparams = Hparams(loss="lq", lq_q=q, lsmooth=lsmooth)
    labels = LABELS * (1 - lsmooth) + 0.5 * lsmooth
    expected = labels * (1 - SCORES**q) / q + (1 - labels) * (1 - (1 - SCORES) ** q) / q
    loss = losses.define_example_loss(hparams)(tf.constant(LABELS), tf.constant(LOGITS))
    np.testing.assert_allclose(loss, expected.mean(axis=1), rtol=1e-5, atol=1e-6)


def test_lq_with_a_small_q_is_cross_entropy():
    labels, logits = tf.constant(LABELS), tf.constant(LOGITS)
    np.testing.assert_allclose(
        losses.lq(labels, logits, 1e-3),
        losses.define_example_loss(Hparams())(labels, logits),
        rtol=0.01,
    )


@pytest.mark.parametrize(("fraction", "kept"), [(0.0, 10), (0.07, 10), (0.35, 7)])
def test_the_highest_losses_are_left_out(fraction, kept):
    values = np.random.default_rng(0).permutation(np.arange(10, dtype=np.float32))
    mean = losses.mean_without_highest(tf.constant(values), fraction)
    assert mean == np.arange(kept).mean()
