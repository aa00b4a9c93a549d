"""The network, compared with published values; loss, optimizer and scores."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import (
    GOLDEN,
    parse_hparams,
    seeded_weights,
    store_contents,
    table_of_page,
)

import model
from tagger.errors import UserError
from tagger.hparams import Hparams, model_hparams
from tagger.network import layers
from tagger.runs import checkpoints, run_record
from tagger.runs.eval_folder import EvalFolder
from tagger.runs.run import Run

pytestmark = pytest.mark.usefixtures("whole_network")
# Layer, activation shape, weights and multiplies, as published for the baseline.
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


def network_of(text: str = "", num_classes: int = 80, **kwargs) -> keras.Model:
    return model.define_model(
        "mobilenet-v1", num_classes=num_classes, hparams=parse_hparams(text), **kwargs
    )


@pytest.fixture(scope="module")
def network() -> keras.Model:
    return network_of()


def rounded(value: int) -> str:
    for unit, factor in (("M", 10**6), ("K", 1000)):
        if value >= factor:
            return f"{value / factor:.1f}".removesuffix(".0") + unit
    return str(value)


def test_the_layers_equal_the_published_table(network):
    rows, totals, pending = [], [0, 0], [0, 0]
    for layer in network.layers:
        if not isinstance(layer, layers.Convolution):
            continue
        shape = layer.output.shape[1:]
        weights = math.prod(layer.kernel.shape)
        pending[0] += weights
        # Each weight is used once for each position of the activation.
        pending[1] += weights * shape[0] * shape[1]
        if layer.depthwise:
            stride = layer.stride
            continue
        separable = layer.kernel_size == 1
        stride = stride if separable else layer.stride
        kind = "SC" if separable else "C"
        name = f"{kind}(3x3, {shape[-1]}, {stride})"
        rows.append((name, tuple(shape), *map(rounded, pending)))
        totals = [total + part for total, part in zip(totals, pending, strict=True)]
        pending = [0, 0]
    logistic = math.prod(network.get_layer("fully_connected").kernel.shape)
    rows.append(("Logistic(80)", (80,), rounded(logistic), rounded(logistic)))
    totals = [total + logistic for total in totals]
    rows.append(("Total", (), *map(rounded, totals)))
    assert rows == PUBLISHED


def test_the_activations_have_the_shapes_that_the_layers_declare(network):
    outputs = [layer.output for layer in network.layers]
    actual = keras.Model(network.input, outputs)(np.zeros([2, 100, 96], np.float32))
    for output, value in zip(outputs, actual, strict=True):
        assert (2, *output.shape[1:]) == value.shape


def test_the_number_and_names_of_variables(network):
    assert isinstance(network, keras.Model)
    names = list(checkpoints.network_variables(network))
    assert len(names) + 1 == 138  # with global_step
    assert len(network.trainable_weights) == 83
    assert network.count_params() == 3_308_848
    norm = ("gamma", "beta", "moving_mean", "moving_variance")
    expected = {"fully_connected/weights", "fully_connected/biases"}
    for scope, kernel, number in (
        ("Conv", "weights", 14),
        ("SeparableConv2d", "depthwise_weights", 13),
    ):
        for index in range(number):
            layer = f"{scope}_{index}" if index else scope
            expected.add(f"{layer}/{kernel}")
            expected.update(f"{layer}/BatchNorm/{name}" for name in norm)
    assert set(names) == expected
    assert "SeparableConv2d_12/biases" in checkpoints.network_variables(
        network_of("bn=0")
    )


@pytest.mark.parametrize(
    ("name", "text", "first", "second", "embedding"),
    [
        ("mobilenet-v1", "width=0.25", 4, 16, 256),
        ("yamnet", "width=0.25", 8, 16, 256),
        ("mobilenet-v1", "width=0.7", 11, 45, 717),
        ("mobilenet-v1", "width=2", 32, 128, 2048),
    ],
)
def test_width_scales_all_numbers_of_filters(name, text, first, second, embedding):
    hparams = parse_hparams(text)
    network = model.define_model(name, num_classes=3, hparams=hparams)
    shapes = {v.path: v.shape for v in network.weights}
    assert shapes["Conv/weights"] == (3, 3, 1, first)
    assert shapes["SeparableConv2d/depthwise_weights"] == (3, 3, first, 1)
    assert shapes["Conv_1/weights"] == (1, 1, first, second)
    assert shapes["Conv_13/BatchNorm/gamma"] == (embedding,)
    assert shapes["fully_connected/weights"] == (embedding, 3)
    # Networks of other widths share the features.
    assert hparams.features() == Hparams().features()


def test_the_documentation_lists_the_parameters_of_widths():
    rows = table_of_page("docs/learning.md", "Width")
    for name, width, parameters, *_ in rows:
        hparams = parse_hparams(f"width={width}")
        network = model.define_model(name, num_classes=10, hparams=hparams)
        assert f"{network.count_params():,}" == parameters
    assert len(rows) > 4


def test_a_saved_keras_file_is_loaded(tmp_path):
    network = network_of("dropout=0.5,global_pool=max", num_classes=3)
    network.get_layer("Conv_2").trainable = False
    features = np.random.default_rng(0).normal(size=(2, 100, 96)).astype("f4")
    network.save(tmp_path / "network.keras")
    loaded = keras.saving.load_model(tmp_path / "network.keras")
    np.testing.assert_array_equal(loaded(features), network(features))
    paths = [[v.path for v in n.trainable_weights] for n in (network, loaded)]
    assert paths[0] == paths[1]
    assert not any(path.startswith("Conv_2/") for path in paths[0])
    mixed = network_of(num_classes=3, mixed_precision=True)
    mixed.save(tmp_path / "network.keras")
    loaded = keras.saving.load_model(tmp_path / "network.keras")
    np.testing.assert_array_equal(loaded(features), mixed(features))


@pytest.mark.parametrize("part", ["layer", "batch_norm"])
def test_frozen_batch_norm_uses_its_moving_averages_and_keeps_them(part):
    layer = layers.Convolution(depth=4, decay=0.5, epsilon=0.001)
    features = np.random.default_rng(0).normal(size=(2, 8, 8, 1)).astype("f4")
    expected = layer(features)
    (layer if part == "layer" else layer.batch_norm).trainable = False
    np.testing.assert_array_equal(layer(features, training=True), expected)
    assert not layer.batch_norm.moving_mean.numpy().any()
    assert len(layer.trainable_weights) == (0 if part == "layer" else 1)


def test_the_network_can_be_cut_at_the_embedding(network):
    embedder = keras.Model(network.input, network.get_layer("embedding").output)
    features = np.random.default_rng(0).normal(size=(3, 100, 96)).astype("f4")
    embeddings = embedder(features)
    assert embeddings.shape == (3, 1024)
    last = network.get_layer("fully_connected")
    np.testing.assert_allclose(last(embeddings), network(features), atol=1e-5)


@pytest.mark.parametrize(
    ("key", "text"), [("mean_bn", ""), ("max_nobn", "global_pool=max,bn=0")]
)
def test_scores_agree_with_the_originals(key, text):
    network = network_of(text)
    variables = checkpoints.network_variables(network)
    shapes = {name: tuple(v.shape) for name, v in variables.items()}
    for name, value in seeded_weights(shapes).items():
        variables[name].assign(value)
    golden = np.load(GOLDEN / "seeded_network.npz")
    features = np.load(GOLDEN / "features.npz")
    score = model.score_function(network)
    for name in ("harmonics_0p3s", "hop_boundary_151_frames", "noise_burst_1p7s"):
        expected = golden[f"{key}/{name}"]
        eager = network(features[f"features/{name}"])
        np.testing.assert_allclose(tf.sigmoid(eager), expected, rtol=0, atol=1e-5)
        scores = score(features[f"features/{name}"])
        np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("stride", [1, 2])
def test_gradients_of_a_depthwise_convolution_in_bfloat16(stride):
    # Values of few bits, so that bfloat16 is exact.
    rng = np.random.default_rng(stride)
    net = tf.constant(rng.integers(-2, 3, [2, 7, 6, 4]), tf.float32)
    kernel = tf.constant(rng.integers(-2, 3, [3, 3, 4, 1]), tf.float32)
    size = [2, -(-7 // stride), -(-6 // stride), 4]
    upstream = tf.constant(rng.integers(-2, 3, size), tf.float32)
    found = []
    for dtype in ("float32", "mixed_bfloat16"):
        layer = layers.Convolution(
            depthwise=True, stride=stride, decay=0.9, epsilon=0.001, dtype=dtype
        )
        inputs = tf.cast(net, layer.compute_dtype)
        with tf.GradientTape() as tape:
            tape.watch([inputs, kernel])
            outputs = layer._convolve(inputs, kernel)
            loss = tf.reduce_sum(outputs * tf.cast(upstream, outputs.dtype))
        found.append([outputs, *tape.gradient(loss, [inputs, kernel])])
    assert found[1][1].dtype == tf.bfloat16
    assert found[1][2].dtype == tf.float32
    for precise, mixed in zip(*found, strict=True):
        np.testing.assert_array_equal(tf.cast(mixed, tf.float32), precise)


def test_mixed_precision_keeps_float32_variables_and_agrees():
    keras.utils.set_random_seed(0)
    precise = network_of(num_classes=5)
    mixed = network_of(num_classes=5, mixed_precision=True)
    mixed.set_weights(precise.get_weights())
    assert {v.dtype for v in mixed.weights} == {"float32"}
    for name in ("Conv", "SeparableConv2d_6", "Conv_13"):
        assert mixed.get_layer(name).output.dtype == "bfloat16"
    assert mixed.output.dtype == "float32"
    scale, shift = mixed.get_layer("Conv").batch_norm.scale_and_shift()
    assert scale.dtype == shift.dtype == tf.float32
    features = tf.random.stateless_normal([4, 100, 96], [0, 9])
    both = [tf.sigmoid(network(features)) for network in (mixed, precise)]
    np.testing.assert_allclose(*both, rtol=0, atol=0.01)
    gradients = []
    for network in (precise, mixed):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(network(features, training=True) ** 2)
        variables = checkpoints.network_variables(network)
        names = ("Conv/weights", "fully_connected/weights")
        found = tape.gradient(loss, [variables[name] for name in names])
        gradients.append([gradient.numpy() for gradient in found])
    assert {gradient.dtype for gradient in gradients[1]} == {np.dtype("float32")}
    assert np.isfinite(gradients[1][0]).all()
    error = np.linalg.norm(gradients[1][1] - gradients[0][1])
    assert error < 0.1 * np.linalg.norm(gradients[0][1])


def test_scores_near_one_do_not_tie():
    network = network_of(num_classes=2)
    last = network.get_layer("fully_connected")
    last.kernel.assign(tf.zeros([1024, 2]))
    last.biases.assign([20.0, 25.0])
    scores = model.score_function(network)(tf.zeros([1, 100, 96])).numpy()[0]
    assert scores[0] < scores[1] < 1


def test_initial_weights():
    def initial(seed: int, text: str = "") -> dict[str, np.ndarray]:
        keras.utils.set_random_seed(seed)
        return {
            k: v.numpy()
            for k, v in checkpoints.network_variables(network_of(text)).items()
        }

    xavier = initial(1)
    limit = math.sqrt(6 / (9 * 128 + 9))
    depthwise = xavier["SeparableConv2d_3/depthwise_weights"]
    assert 0.95 * limit < np.abs(depthwise).max() <= limit
    pointwise = xavier["Conv_5/weights"]
    limit = math.sqrt(6 / (256 + 256))
    assert 0.99 * limit < np.abs(pointwise).max() <= limit
    assert abs(pointwise.mean()) < 0.01 * limit
    assert not xavier["fully_connected/biases"].any()
    values = initial(1, "weights_init_stddev=0.5")["Conv_5/weights"]
    assert np.abs(values).max() <= 1  # truncated at two deviations
    assert values.std() == pytest.approx(0.5 * 0.88, rel=0.01)
    np.testing.assert_array_equal(initial(1)["Conv_5/weights"], pointwise)
    assert not np.array_equal(initial(2)["Conv_5/weights"], pointwise)
    # Layers of the same shape have different initial weights.
    assert not np.array_equal(xavier["Conv_7/weights"], xavier["Conv_8/weights"])


def test_batch_norm_moves_its_averages_by_the_unbiased_variance():
    layer = layers.Convolution(depth=4, decay=0.75, epsilon=0.001)
    features = tf.random.stateless_normal([2, 12, 8, 1], [0, 1])
    layer(features, training=True)
    net = tf.nn.conv2d(features, layer.kernel.value, 1, "SAME").numpy()
    mean = net.mean(axis=(0, 1, 2))
    variance = net.var(axis=(0, 1, 2), ddof=1)
    norm = layer.batch_norm
    np.testing.assert_allclose(norm.moving_mean, 0.25 * mean, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(norm.moving_variance, 0.75 + 0.25 * variance, rtol=1e-4)


def test_the_averages_of_batch_norm_can_ramp_up():
    step = tf.Variable(0)
    network = model.define_model(
        "mobilenet-v1",
        num_classes=2,
        hparams=parse_hparams("bndecay=0.75"),
        num_updates=lambda: step,
    )
    norm = network.get_layer("Conv").batch_norm
    for number, decay in ((0, 1 / 10), (2, 3 / 12), (100, 0.75)):
        step.assign(number)
        norm.moving_mean.assign(tf.ones(16))
        norm(tf.zeros([2, 3, 4, 16]))
        np.testing.assert_allclose(norm.moving_mean.numpy(), decay, rtol=1e-6)


def test_dropout_is_a_keep_probability():
    network = network_of("dropout=0.6", num_classes=2)
    dropped = network.get_layer("dropout")(np.ones([9, 1024], "f4"), training=True)
    kept = dropped.numpy() > 0
    assert kept.mean() == pytest.approx(0.6, abs=0.03)
    np.testing.assert_allclose(dropped.numpy()[kept], 1 / 0.6, rtol=1e-6)
    for none in ("dropout=0", "dropout=1"):
        names = [layer.name for layer in network_of(none, num_classes=2).layers]
        assert "dropout" not in names


@pytest.mark.parametrize("lsmooth", [0, 0.1])
def test_loss_is_cross_entropy_on_smoothed_labels(lsmooth):
    labels = np.array([[1, 0, 0], [1, 1, 0]], np.float32)
    logits = np.array([[2, -1, 0.5], [0, 1, -3]], np.float32)
    smooth = labels * (1 - lsmooth) + 0.5 * lsmooth
    probability = 1 / (1 + np.exp(-logits))
    expected = -np.mean(
        smooth * np.log(probability) + (1 - smooth) * np.log(1 - probability)
    )
    loss = model.define_loss(Hparams(lsmooth=lsmooth))(labels, logits)
    assert float(loss) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("step", "text", "expected"),
    [
        (0, "lr=1,cosine=1", 1),
        (25, "lr=1,cosine=1", 0.5 * (1 + np.cos(np.pi / 4))),
        (100, "lr=1,cosine=1", 0),
        (5, "lr=1,cosine=1,warmup_steps=20", 0.25),
        (20, "lr=1,cosine=1,warmup_steps=20", 1),
        (60, "lr=1,cosine=1,warmup_steps=20", 0.5),
    ],
)
def test_cosine_schedule(step, text, expected):
    optimizer = model.define_optimizer(
        parse_hparams(text), epoch_num_batches=1, max_steps=100
    )
    optimizer.build([])
    optimizer.iterations.assign(step)
    assert float(optimizer.learning_rate) == pytest.approx(expected, abs=1e-6)


def test_warmup_ends_before_the_last_step():
    hparams = parse_hparams("cosine=1,warmup_steps=100")
    with pytest.raises(UserError, match="warmup_steps"):
        model.define_optimizer(hparams, epoch_num_batches=1, max_steps=100)


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
        (3, "lr=1,lrdecay=0.5,decay_epochs=0.01", 1, 0.125),
        (10000, "lr=1,lrdecay=0", 1, 1),
    ],
)
def test_learning_rate(step, text, epoch_num_batches, expected):
    optimizer = model.define_optimizer(
        parse_hparams(text), epoch_num_batches=epoch_num_batches
    )
    optimizer.build([])
    optimizer.iterations.assign(step)
    assert float(optimizer.learning_rate) == pytest.approx(expected)


def test_ten_steps_of_adam_equal_tensorflow_1():
    hparams = parse_hparams("lr=0.01,adam_eps=0.1")
    rng = np.random.default_rng(0)
    start = rng.normal(size=5).astype(np.float32)
    gradients = rng.normal(size=(10, 5)).astype(np.float32)
    ours = keras.Variable(start)
    adam = model.define_optimizer(hparams, epoch_num_batches=1)
    for gradient in gradients:
        adam.apply([tf.constant(gradient)], [ours])
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        theirs = tf.compat.v1.get_variable("x", initializer=start, use_resource=False)
        gradient = tf.compat.v1.placeholder(tf.float32, [5])
        step = tf.compat.v1.train.AdamOptimizer(
            hparams.lr, epsilon=hparams.adam_eps
        ).apply_gradients([(gradient, theirs)])
        session.run(tf.compat.v1.global_variables_initializer())
        for value in gradients:
            session.run(step, {gradient: value})
        expected = session.run(theirs)
    assert np.abs(expected - start).max() > 0.01
    np.testing.assert_allclose(ours.numpy(), expected, rtol=0, atol=1e-6)


def test_sgd_has_no_momentum():
    variable = keras.Variable([1.0, -2.0])
    sgd = model.define_optimizer(parse_hparams("opt=sgd,lr=0.5"), epoch_num_batches=1)
    sgd.apply([tf.constant([1.0, 2.0])], [variable])
    np.testing.assert_array_equal(variable.numpy(), [0.5, -3.0])


def score(features):
    return tf.cast(features, tf.float64)


def test_clip_scores_are_means_across_batches_and_networks():

    batches = [
        (tf.constant([[1.0], [3.0], [5.0]]), tf.constant([0, 0, 2])),
        (tf.constant([[7.0], [2.0]]), tf.constant([2, 3])),
    ]
    paths = ["a", "b", "c", "d"]
    scored = [(i, [*s]) for i, s in model.score_clips([("x", score)], batches, paths)]
    assert scored == [(0, [2.0]), (2, [6.0]), (3, [2.0])]
    functions = [("x", score), ("y", lambda features: score(features) * 3)]
    scored = [(i, [*s]) for i, s in model.score_clips(functions, batches, paths)]
    assert scored == [(0, [4.0]), (2, [12.0]), (3, [4.0])]
    assert list(model.score_clips([("x", score)], [], paths)) == []


def test_scores_that_are_not_finite_are_named():
    batches = [(tf.constant([[1.0], [np.nan]]), tf.constant([0, 1]))]
    with pytest.raises(UserError, match="^x: the scores of b.wav are not finite"):
        list(model.score_clips([("x", score)], batches, ["a.wav", "b.wav"]))


@pytest.fixture
def yamnet_run(tmp_path, monkeypatch):
    """A run of a small yamnet. The folder above it has the record of another run."""
    rows = model.MOBILENET_V1[:2]  # Others would only take more time.
    monkeypatch.setattr(model, "MOBILENET_V1", rows)
    run, eval_dir = tmp_path / "run", tmp_path / "run" / "eval"
    eval_dir.mkdir(parents=True)
    values = {"class_names": ["a", "b"], "hparams": Hparams()}
    run_record.write_record(str(tmp_path), model_name="mobilenet-v1", **values)
    values["hparams"] = model_hparams("yamnet", {"global_pool": "max"})
    run_record.write_record(str(run), model_name="yamnet", **values)
    network = model.define_model("yamnet", num_classes=2, hparams=values["hparams"])
    for step in (3, 7):
        for variable in network.weights:
            variable.assign(tf.fill(variable.shape, float(step)))
        Run(run).save(checkpoints.network_variables(network), step)
    store_contents(eval_dir, run)
    EvalFolder(str(eval_dir)).marker(7).write_text("Overall lwlrap = 0.900000\n")
    return run


def test_a_network_is_loaded_from_all_that_names_a_checkpoint(yamnet_run, capsys):
    prefix = yamnet_run / "model.ckpt-7"
    forms = [prefix, f"{prefix}.index", yamnet_run, f"{yamnet_run}/"]
    for form in [*forms, f"best:{yamnet_run}/eval"]:
        network, hparams = model.load_network(form, ["a", "b"])
        assert network.name == "yamnet"
        assert hparams == model_hparams("yamnet", {"global_pool": "max"})
        for array in network.get_weights():
            np.testing.assert_array_equal(array, 7)
        errors = capsys.readouterr().err
        line = f"{prefix}: yamnet, hyperparameters: mel_bands=64, mel_min_hz=125.0, "
        assert errors.count(line) == 1
        assert errors.count("best of") == str(form).startswith("best:")


@pytest.mark.parametrize(
    ("checkpoint", "changes", "message"),
    [
        ("none", {}, "^checkpoint: .* run/none"),
        ("eval", {}, "^checkpoint: .* run/eval"),
        ("", {"class_names": ["a", "c"]}, "class_names .*class 1 is c, not b"),
        ("", {"model_name": "mobilenet-v1"}, "model_name .*yamnet .*mobilenet-v1"),
    ],
)
def test_the_argument_of_load_network_is_named(
    yamnet_run, monkeypatch, checkpoint, changes, message
):
    monkeypatch.chdir(yamnet_run.parent)
    arguments = {"checkpoint": f"run/{checkpoint}", "class_names": ["a", "b"]}
    with pytest.raises(UserError, match=message):
        model.load_network(**arguments | changes)


def test_another_model_is_an_error(yamnet_run):
    message = "^model_name must be one of mobilenet-v1, yamnet, but got 'resnet'"
    with pytest.raises(UserError, match=message):
        model.define_model("resnet", num_classes=2, hparams=Hparams())
    (yamnet_run / run_record.HPARAMS_FILE).unlink()
    with pytest.raises(UserError, match=message):
        model.load_network(str(yamnet_run), ["a", "b"], model_name="resnet")
