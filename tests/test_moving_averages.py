"""The lag of moving averages behind the statistics of batches."""

import numpy as np
import pytest
import tensorflow as tf
from helpers import SMALL_HPARAMS, parse_hparams

import model
from tagger.network.moving_averages import largest_lag


def network_and_batches(more: str = "", dtype: bool = False):
    hparams = parse_hparams(f"{SMALL_HPARAMS}{more}")
    network = model.define_model(
        "mobilenet-v1", num_classes=2, hparams=hparams, mixed_precision=dtype
    )
    rng = np.random.default_rng(0)
    batches = [tf.constant(rng.normal(size=[8, 20, 16]), tf.float32) for _ in range(2)]
    return network, batches


@pytest.mark.parametrize("mixed_precision", [False, True])
def test_the_lag_is_the_mean_factor_of_the_variances(mixed_precision):
    network, batches = network_and_batches(dtype=mixed_precision)
    norms = [network.get_layer(n).batch_norm for n in ("Conv", "Conv_1")]
    for features in batches * 200:
        network(features, training=True)
    _, factor = largest_lag(network, batches)
    assert factor == pytest.approx(1, abs=0.05)
    variance = norms[1].moving_variance
    exponents = np.resize([1, -1], variance.shape).astype("f4")
    variance.assign(variance * 3**exponents)
    norms[0].moving_variance.assign(norms[0].moving_variance * 2)
    weights = network.get_weights()
    layer, factor = largest_lag(network, batches)
    assert layer == "Conv_1"
    assert factor == pytest.approx(3, rel=0.05)
    assert [norm.decay for norm in norms] == [0.9, 0.9]
    for before, after in zip(weights, network.get_weights()):
        np.testing.assert_array_equal(before, after)


def test_a_network_without_batch_norm_has_no_lag():
    assert largest_lag(*network_and_batches(",bn=0")) == ("", 1.0)
