"""The network against the published table and scores; the training rules."""

import math

import numpy as np
import pytest
import tensorflow as tf
from conftest import GOLDEN, seeded_weights

import model
from hparams import Hparams, parse_hparams

# Layer, activation shape, weights and multiplies as the baseline's document lists them.
PUBLISHED = [
    ("C(3x3, 16, 1)", (100, 96, 16), "144", "1.4M"),
    ("SC(3x3, 64, 1)", (100, 96, 64), "1.2K", "11.2M"),
    ("SC(3x3, 128, 2)", (50, 48, 128), "8.8K", "21M"),
    ("SC(3x3, 128, 1)", (50, 48, 128), "17.5K", "42.1M"),
    ("SC(3x3, 256, 2)", (25, 24, 256), "33.9K", "20.4M"),
    ("SC(3x3, 256, 1)", (25, 24, 256), "67.8K", "40.7M"),
    ("SC(3x3, 512, 2)", (13, 12, 512), "133.4K", "20.8M"),
    ("SC(3x3, 512, 1)", (13, 12, 512), "266.8K", "41.6M"),
    ("SC(3x3, 512, 1)", (13, 12, 512), "266.8K", "41.6M"),
    ("SC(3x3, 512, 1)", (13, 12, 512), "266.8K", "41.6M"),
    ("SC(3x3, 512, 1)", (13, 12, 512), "266.8K", "41.6M"),
    ("SC(3x3, 512, 1)", (13, 12, 512), "266.8K", "41.6M"),
    ("SC(3x3, 1024, 2)", (7, 6, 1024), "528.9K", "22.2M"),
    ("SC(3x3, 1024, 1)", (7, 6, 1024), "1.1M", "44.4M"),
    ("Logistic(80)", (80,), "81.9K", "81.9K"),
    ("Total", (), "3.3M", "432.4M"),
]


def network_of(text: str = "", num_classes: int = 80, seed: int = 0) -> model.MobileNet:
    return model.define_model(
        "mobilenet-v1",
        num_classes=num_classes,
        hparams=parse_hparams(text),
        seed=seed,
    )


@pytest.fixture(scope="module")
def network() -> model.MobileNet:
    return network_of()


def rounded(value: int) -> str:
    for unit, factor in (("M", 10**6), ("K", 1000)):
        if value >= factor:
            return f"{value / factor:.1f}".removesuffix(".0") + unit
    return str(value)


def test_every_row_of_the_published_table(network, monkeypatch):
    applied = []
    apply = model._apply_kernel

    def record(convolution, net, weights):
        result = apply(convolution, net, weights)
        applied.append((convolution, result.shape[1:]))
        return result

    monkeypatch.setattr(model, "_apply_kernel", record)
    network.logits(tf.zeros([1, 100, 96]))
    rows, totals, pending = [], [0, 0], [0, 0]
    for convolution, shape in applied:
        weights = math.prod(convolution.shape)
        pending[0] += weights
        # Each weight is used at each position of the activation, once.
        pending[1] += weights * shape[0] * shape[1]
        if convolution.depthwise:
            stride = convolution.stride
            continue
        separable = convolution.shape[0] == 1
        stride = stride if separable else convolution.stride
        kind = "SC" if separable else "C"
        name = f"{kind}(3x3, {convolution.shape[3]}, {stride})"
        rows.append((name, tuple(shape), *map(rounded, pending)))
        totals = [total + part for total, part in zip(totals, pending, strict=True)]
        pending = [0, 0]
    logistic = math.prod(network.variables["fully_connected/weights"].shape)
    rows.append(("Logistic(80)", (80,), rounded(logistic), rounded(logistic)))
    totals = [total + logistic for total in totals]
    rows.append(("Total", (), *map(rounded, totals)))
    assert rows == PUBLISHED


def test_the_number_and_names_of_variables(network):
    names = list(network.variables)
    assert len(names) + 1 == 138  # with global_step
    assert len(network.trainable_variables) == 83
    assert sum(math.prod(v.shape) for v in network.variables.values()) == 3_308_848
    for name in (
        "Conv/weights",
        "Conv/BatchNorm/moving_variance",
        "SeparableConv2d/depthwise_weights",
        "Conv_1/BatchNorm/gamma",
        "SeparableConv2d_12/BatchNorm/beta",
        "Conv_13/weights",
        "fully_connected/weights",
        "fully_connected/biases",
    ):
        assert name in names
    assert "SeparableConv2d_12/biases" in network_of("bn=0").variables


@pytest.mark.parametrize(
    ("key", "text"), [("mean_bn", ""), ("max_nobn", "global_pool=max,bn=0")]
)
def test_scores_agree_with_the_originals(key, text):
    network = network_of(text)
    shapes = {name: tuple(v.shape) for name, v in network.variables.items()}
    for name, value in seeded_weights(shapes).items():
        network.variables[name].assign(value)
    golden = np.load(GOLDEN / "seeded_network.npz")
    features = np.load(GOLDEN / "features.npz")
    for name in ("harmonics_0p3s", "hop_boundary_151_frames", "noise_burst_1p7s"):
        expected = golden[f"{key}/{name}"]
        eager = network.logits(features[f"features/{name}"])
        np.testing.assert_allclose(tf.sigmoid(eager), expected, rtol=0, atol=1e-5)
        scores = network.scores(features[f"features/{name}"])
        np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-5)


def test_mixed_precision_keeps_float32_variables_and_agrees():
    precise = network_of(num_classes=5)
    mixed = model.MobileNet(
        num_classes=5, hparams=Hparams(), seed=0, mixed_precision=True
    )
    assert {v.dtype for v in mixed.variables.values()} == {tf.float32}
    features = tf.random.stateless_normal([4, 100, 96], [0, 9])
    np.testing.assert_allclose(
        mixed.scores(features), precise.scores(features), rtol=0, atol=0.01
    )
    gradients = []
    for network in (precise, mixed):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(network.logits(features, training=True) ** 2)
        names = ("Conv/weights", "fully_connected/weights")
        variables = [network.variables[name] for name in names]
        gradients.append([g.numpy() for g in tape.gradient(loss, variables)])
    assert {gradient.dtype for gradient in gradients[1]} == {np.dtype("float32")}
    assert np.isfinite(gradients[1][0]).all()
    error = np.linalg.norm(gradients[1][1] - gradients[0][1])
    assert error < 0.1 * np.linalg.norm(gradients[0][1])


def test_scores_near_one_do_not_tie():
    network = network_of(num_classes=2)
    network.variables["fully_connected/weights"].assign(tf.zeros([1024, 2]))
    network.variables["fully_connected/biases"].assign([20.0, 25.0])
    scores = network.scores(tf.zeros([1, 100, 96])).numpy()[0]
    assert scores[0] < scores[1] < 1


def test_initial_weights():
    xavier = network_of(seed=1)
    depthwise = xavier.variables["SeparableConv2d_3/depthwise_weights"].numpy()
    limit = math.sqrt(6 / (9 * 128 + 9))
    assert 0.95 * limit < np.abs(depthwise).max() <= limit
    pointwise = xavier.variables["Conv_5/weights"].numpy()
    limit = math.sqrt(6 / (256 + 256))
    assert 0.99 * limit < np.abs(pointwise).max() <= limit
    assert abs(pointwise.mean()) < 0.01 * limit
    assert not xavier.variables["fully_connected/biases"].numpy().any()
    normal = network_of("weights_init_stddev=0.5", seed=1)
    values = normal.variables["Conv_5/weights"].numpy()
    assert np.abs(values).max() <= 1  # truncated at two deviations
    assert values.std() == pytest.approx(0.5 * 0.88, rel=0.01)
    again, other = network_of(seed=1), network_of(seed=2)
    np.testing.assert_array_equal(again.variables["Conv_5/weights"], pointwise)
    assert not np.array_equal(other.variables["Conv_5/weights"], pointwise)


def test_batch_norm_moves_its_averages_by_the_unbiased_variance():
    network = network_of("bndecay=0.75")
    features = tf.random.stateless_normal([2, 12, 8], [0, 1])
    network.logits(features, training=True)
    weights = network.variables["Conv/weights"]
    net = tf.nn.conv2d(features[..., tf.newaxis], weights, 1, "SAME").numpy()
    mean = net.mean(axis=(0, 1, 2))
    variance = net.var(axis=(0, 1, 2), ddof=1)
    scope = "Conv/BatchNorm"
    np.testing.assert_allclose(
        network.variables[f"{scope}/moving_mean"], 0.25 * mean, rtol=1e-4, atol=1e-6
    )
    np.testing.assert_allclose(
        network.variables[f"{scope}/moving_variance"], 0.75 + 0.25 * variance, rtol=1e-4
    )


def test_training_and_inference_agree_on_the_same_statistics():
    """With no decay the moving averages are the batch's: both ways are alike."""
    network = network_of("bndecay=0", num_classes=10)
    features = tf.random.stateless_normal([16, 100, 96], [0, 2])
    training = network.logits(features, training=True)
    inference = network.logits(features)
    # They differ by the biased and unbiased variance: 1/672 in the last layers.
    np.testing.assert_allclose(training, inference, rtol=0.05, atol=0.01)


def test_dropout_keeps_its_share_and_its_seed():
    network = network_of("dropout=0.6,bn=0", num_classes=2)
    network.variables["fully_connected/weights"].assign(tf.ones([1024, 2]))
    features = tf.random.stateless_normal([1, 20, 16], [0, 3])

    def logits(seed):
        return network.logits(features, training=True, dropout_seed=seed).numpy()

    np.testing.assert_array_equal(logits([1, 2]), logits([1, 2]))
    assert not np.array_equal(logits([1, 2]), logits([1, 3]))
    mean = np.mean([logits([1, seed]) for seed in range(40)])
    assert mean == pytest.approx(network.logits(features).numpy().mean(), rel=0.1)


def test_loss_is_cross_entropy_on_smoothed_labels():
    labels = np.array([[1, 0, 0], [1, 1, 0]], np.float32)
    logits = np.array([[2, -1, 0.5], [0, 1, -3]], np.float32)
    smooth = labels * 0.9 + 0.05
    probability = 1 / (1 + np.exp(-logits))
    expected = -np.mean(
        smooth * np.log(probability) + (1 - smooth) * np.log(1 - probability)
    )
    loss = model.smoothed_cross_entropy(labels, logits, Hparams(lsmooth=0.1))
    assert float(loss) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("step", "text", "epoch_num_batches", "expected"),
    [
        (10**6, "lr=0.5", 10, 0.5),
        (0, "lr=1,lrdecay=0.5", 10, 1),
        (24, "lr=1,lrdecay=0.5", 10, 1),
        (25, "lr=1,lrdecay=0.5", 10, 0.5),
        (26, "lr=1,lrdecay=0.5", 10, 0.5),
        (49, "lr=1,lrdecay=0.5", 10, 0.5),
        (50, "lr=1,lrdecay=0.5", 10, 0.25),
        # int(11 * 2.5) = 27
        (26, "lr=1,lrdecay=0.5", 11, 1),
        (27, "lr=1,lrdecay=0.5", 11, 0.5),
        (2, "lr=1,lrdecay=0.5,decay_epochs=0.1", 3, 0.25),
        (3042, "lr=3e-3,lrdecay=0.94", 1217, 3e-3 * 0.94),
        (3041, "lr=3e-3,lrdecay=0.94", 1217, 3e-3),
    ],
)
def test_the_learning_rate_falls_in_stairs(step, text, epoch_num_batches, expected):
    rate = model.learning_rate(
        tf.constant(step, tf.int64),
        parse_hparams(text),
        epoch_num_batches=epoch_num_batches,
    )
    assert float(rate) == pytest.approx(expected, rel=1e-6)


def test_adam_is_tensorflow_1s():
    variable = tf.Variable([1.0, -2.0])
    adam = model.Adam({"x": variable}, epsilon=0.1)
    value, m, v = np.array([1.0, -2.0]), 0.0, 0.0
    for step, gradient in enumerate([[0.5, 1.0], [-0.5, 2.0], [0.1, 0.0]], 1):
        adam.apply({"x": tf.constant(gradient)}, tf.constant(0.01))
        gradient = np.array(gradient)
        m = 0.9 * m + 0.1 * gradient
        v = 0.999 * v + 0.001 * gradient**2
        rate = 0.01 * math.sqrt(1 - 0.999**step) / (1 - 0.9**step)
        value -= rate * m / (np.sqrt(v) + 0.1)
        np.testing.assert_allclose(variable, value, rtol=1e-5)
    assert list(adam.variables) == ["beta1_power", "beta2_power", "x/Adam", "x/Adam_1"]
    assert float(adam.variables["beta1_power"]) == pytest.approx(0.9**4)
    np.testing.assert_allclose(adam.variables["x/Adam_1"], v, rtol=1e-4)


def test_sgd_is_plain():
    variable = tf.Variable([1.0, -2.0])
    sgd = model.Sgd({"x": variable})
    sgd.apply({"x": tf.constant([1.0, 2.0])}, tf.constant(0.5))
    np.testing.assert_array_equal(variable, [0.5, -3.0])
    assert not sgd.variables


def test_clip_scores_are_means_across_batches():
    class Fake:
        def scores(self, features):
            return tf.cast(features, tf.float64)

    batches = [
        (tf.constant([[1.0], [3.0], [5.0]]), tf.constant([0, 0, 2])),
        (tf.constant([[7.0], [2.0]]), tf.constant([2, 3])),
    ]
    scored = [(i, list(s)) for i, s in model.clip_scores(Fake(), batches)]
    assert scored == [(0, [2.0]), (2, [6.0]), (3, [2.0])]
    assert list(model.clip_scores(Fake(), [])) == []


def test_another_model_is_an_error():
    with pytest.raises(ValueError, match="--model must be one of mobilenet-v1"):
        model.define_model("resnet", num_classes=2, hparams=Hparams(), seed=0)
