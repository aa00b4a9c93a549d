"""Importing YAMNet: names, shapes and counts, the network, and frozen layers."""

import csv
import os
import pathlib
from typing import Any

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import SMALL_HPARAMS, run_main

import model
from tagger.data.clips import read_class_map
from tagger.errors import UserError
from tagger.hparams import model_hparams
from tagger.runs import run_record
from tagger.runs.run import Run
from tagger.training.trainer import freeze
from tools import import_yamnet
from tools.tag import scoring

pytestmark = pytest.mark.usefixtures("whole_network")
NUM_CLASSES = 5
BNEPS = 1e-4
YAMNET_VARIABLE = "TAGGER_YAMNET_DIR"
ESC10_VARIABLE = "TAGGER_ESC10_DIR"
# AudioSet's classes for the classes of ESC-10, in its order.
AUDIOSET = (
    *("Baby cry, infant cry", "Bark", "Chainsaw", "Crackle", "Helicopter", "Rain"),
    *("Chicken, rooster", "Sneeze", "Tick-tock", "Waves, surf"),
)


def random_arrays() -> dict[str, np.ndarray]:
    """Arrays with YAMNet's names and shapes."""
    rng = np.random.default_rng(0)
    depths = [32, *(depth for _, depth, _ in model.MOBILENET_V1[1:])]
    arrays = {}

    def add(name, kernel, shape, depth):
        fan_in = np.prod(shape[:3]) if kernel == "kernel" else 9
        arrays[f"{name}/{kernel}:0"] = rng.normal(0, np.sqrt(2 / fan_in), shape)
        arrays[f"{name}/bn/beta:0"] = rng.normal(0, 0.1, depth)
        arrays[f"{name}/bn/moving_mean:0"] = rng.normal(0, 0.1, depth)
        arrays[f"{name}/bn/moving_variance:0"] = rng.uniform(0.5, 2, depth)

    add("layer1/conv", "kernel", (3, 3, 1, 32), 32)
    for number in range(2, 15):
        before, depth = depths[number - 2 : number]
        add(
            f"layer{number}/depthwise_conv",
            "depthwise_kernel",
            (3, 3, before, 1),
            before,
        )
        add(f"layer{number}/pointwise_conv", "kernel", (1, 1, before, depth), depth)
    arrays["dense/kernel:0"] = rng.normal(0, 0.05, (1024, NUM_CLASSES))
    arrays["dense/bias:0"] = rng.normal(0, 0.1, NUM_CLASSES)
    return {name: array.astype(np.float32) for name, array in arrays.items()}


def write_h5(
    path: pathlib.Path, arrays: dict[str, np.ndarray], dtype: Any = np.bytes_
) -> None:
    """Writes arrays as Keras 2 wrote weights: with names that are fixed-length bytes.

    `h5py.string_dtype()` is that of names which h5py reads as strings.
    """
    layers: dict[str, list[str]] = {}
    for name in arrays:
        layers.setdefault(name.rpartition("/")[0], []).append(name)
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = np.array([*layers], dtype)
        for layer, names in layers.items():
            group = file.require_group(layer)
            group.attrs["weight_names"] = np.array(names, dtype)
            for name in names:
                group[name] = arrays[name]


def as_module(arrays: dict[str, np.ndarray]) -> tf.Module:
    """YAMNet's layers with arrays, under their names in a SavedModel."""
    network = tf.Module()
    for name, array in arrays.items():
        layer, _, weight = name.removesuffix(":0").rpartition("/")
        child = f"layer_with_weights-{import_yamnet.LAYERS.index(layer)}"
        if not hasattr(network, child):
            setattr(network, child, tf.Module())
        setattr(getattr(network, child), weight, tf.Variable(array))
    return network


@pytest.fixture(scope="module")
def arrays():
    return random_arrays()


@pytest.fixture
def files(arrays, tmp_path) -> list[pathlib.Path]:
    """A weights file, a class map and a folder to write to."""
    write_h5(tmp_path / "yamnet.h5", arrays)
    lines = ["index,mid,display_name"]
    lines += [f'{n},/m/{n},"Sound {n}, loud"' for n in range(NUM_CLASSES)]
    (tmp_path / "names.csv").write_text("\n".join(lines) + "\n")
    return [tmp_path / name for name in ("yamnet.h5", "names.csv", "out")]


def run_import(files) -> None:
    import_yamnet.import_yamnet(*map(str, files))


def arithmetic(arrays: dict[str, np.ndarray], examples: np.ndarray) -> np.ndarray:
    """The embeddings, computed from the arrays alone."""
    net = examples[..., np.newaxis]
    strides = [2, *(stride for _, _, stride in model.MOBILENET_V1[1:])]
    for name in import_yamnet.CONVOLUTIONS:
        number = int(name.split("/")[0].removeprefix("layer"))
        stride = 1 if "pointwise" in name else strides[number - 1]
        steps = [1, stride, stride, 1]
        if "depthwise" in name:
            kernel = arrays[f"{name}/depthwise_kernel:0"]
            net = tf.nn.depthwise_conv2d(net, kernel, steps, "SAME")
        else:
            net = tf.nn.conv2d(net, arrays[f"{name}/kernel:0"], steps, "SAME")
        mean, variance, beta = (
            arrays[f"{name}/bn/{part}:0"]
            for part in ("moving_mean", "moving_variance", "beta")
        )
        net = tf.nn.relu((net - mean) / np.sqrt(variance + BNEPS) + beta)
    return tf.reduce_mean(net, axis=[1, 2]).numpy()


def test_the_network_computes_what_the_file_says(files, arrays):
    run_import(files)
    class_names = read_class_map(str(files[2] / "class_map.csv"))
    assert class_names[1] == "Sound 1, loud"
    record = run_record.read_record(str(files[2]))
    assert (record.model, record.class_names) == ("yamnet", class_names)
    network, hparams = model.load_network(str(files[2] / "model.ckpt-0"), class_names)
    assert (hparams.mel_bands, hparams.mel_gain, hparams.bneps) == (64, 0.25, BNEPS)
    examples = np.random.default_rng(1).normal(-3, 2, (3, 96, 64)).astype(np.float32)
    logits, embeddings = model.add_embeddings(network)(examples)
    expected = arithmetic(arrays, examples)
    np.testing.assert_allclose(embeddings, expected, atol=1e-5)
    expected = expected @ arrays["dense/kernel:0"] + arrays["dense/bias:0"]
    np.testing.assert_allclose(logits, expected, atol=1e-4)


def test_names_may_be_strings(files, arrays):
    expected = import_yamnet.read_h5(str(files[0]))
    write_h5(files[0], arrays, h5py.string_dtype())
    read = import_yamnet.read_h5(str(files[0]))
    assert read.keys() == expected.keys()
    assert all(np.array_equal(read[name], expected[name]) for name in read)


@pytest.mark.parametrize("prefix", ["_yamnet", ""])
def test_weights_may_be_a_saved_model(files, arrays, tmp_path, prefix):
    module = as_module(arrays)
    if prefix:
        root = tf.Module()
        setattr(root, prefix, module)
        module = root
    module.save_counter = tf.Variable(1)
    tf.saved_model.save(module, str(tmp_path / "saved"))
    run_import(files)
    run_import([tmp_path / "saved", files[1], tmp_path / "other"])
    expected, read = (
        tf.train.load_checkpoint(str(out / "model.ckpt-0"))
        for out in (files[2], tmp_path / "other")
    )
    names = expected.get_variable_to_shape_map()
    assert names == read.get_variable_to_shape_map()
    for name in names:
        assert np.array_equal(read.get_tensor(name), expected.get_tensor(name)), name


def test_all_that_does_not_fit_is_reported(files, arrays):
    changed = arrays | {"layer3/extra:0": np.zeros(3)}
    del changed["layer2/depthwise_conv/bn/beta:0"]
    changed["layer14/pointwise_conv/kernel:0"] = np.zeros((1, 1, 512, 1024))
    write_h5(files[0], changed)
    with pytest.raises(UserError) as error:
        run_import(files)
    for problem, text in zip(
        sorted(error.value.problems),
        (
            "layer14/pointwise_conv/kernel has shape [1, 1, 512, 1024]",
            "the array layer3/extra is not known",
            "there is no array layer2/depthwise_conv/bn/beta",
        ),
        strict=True,
    ):
        assert text in problem
    assert not files[2].exists()


def test_a_class_map_may_have_a_byte_order_mark_and_blank_lines(tmp_path):
    path = tmp_path / "names.csv"
    path.write_text("\ufeffindex,mid,display_name\n0,/m/0,Bark\n\n1,/m/1,Meow\n\n")
    assert import_yamnet.read_class_names(str(path)) == ["Bark", "Meow"]


@pytest.mark.parametrize(
    ("index", "contents", "message"),
    [
        (0, b"hello", "not a weights file"),
        (1, b"\x89HDF\r\n", "not in UTF-8"),
        (1, b"", "expected the header"),
        (1, b"0,Bark\n", "expected the header"),
        (1, b"index,mid,display_name\n1,/m/0,Bark\n", "indices"),
        (1, b"index,mid,display_name\n0,/m/0,Bark\n1,/m/1,Bark\n", "twice"),
        (1, b"index,mid,display_name\n0,/m/0,Bark\n", r"\[1024, 5\]"),
    ],
)
def test_other_files_are_refused(files, index, contents, message):
    files[index].write_bytes(contents)
    with pytest.raises(UserError, match=message):
        run_import(files)
    assert not files[2].exists()


@pytest.mark.parametrize(
    ("group", "attribute", "value"),
    [
        ("/", "layer_names", np.arange(3)),
        ("/", "layer_names", 5),
        ("/", "layer_names", h5py.Empty("S1")),
        ("/", "layer_names", np.array([b"\xff"])),
        ("/", "layer_names", np.array([b"layer1/conv/layer1/conv/kernel:0"])),
        ("layer1/conv", "weight_names", np.arange(3)),
        ("layer1/conv", "weight_names", np.array([b"bn"])),
        ("layer1/conv", "weight_names", np.array([b"none"])),
    ],
)
def test_names_that_lead_nowhere_are_one_line(files, group, attribute, value):
    with h5py.File(files[0], "r+") as file:
        file[group].attrs[attribute] = value
        # A dataset in place of a group may have names, too.
        file["layer1/conv/layer1/conv/kernel:0"].attrs["weight_names"] = [b"x"]
    with pytest.raises(UserError, match="yamnet.h5: is not a weights file") as error:
        run_import(files)
    assert len(str(error.value).splitlines()) == 1
    assert not files[2].exists()


def test_arrays_must_be_numbers(files):
    with h5py.File(files[0], "r+") as file:
        del file["dense/dense/bias:0"]
        file["dense/dense/bias:0"] = ["a"] * NUM_CLASSES
    with pytest.raises(UserError, match="yamnet.h5: is not a weights file"):
        run_import(files)


def test_other_folders_are_one_line(files, arrays, tmp_path):
    def check(folder: pathlib.Path, message: str) -> None:
        with pytest.raises(UserError, match=message) as error:
            run_import([folder, *files[1:]])
        assert str(folder) in str(error.value)
        assert len(str(error.value).splitlines()) == 1
        assert not files[2].exists()

    check(tmp_path, "variables.index")
    half = as_module(dict([*arrays.items()][:48]))
    tf.saved_model.save(half, str(tmp_path / "half"))
    check(tmp_path / "half", "layer_with_weights-54, but got 24")
    two = tf.Module()
    two.first, two.second = as_module(arrays), half
    tf.saved_model.save(two, str(tmp_path / "two"))
    check(tmp_path / "two", "several networks")
    (tmp_path / "half/variables/variables.index").write_bytes(b"hello" * 100)
    check(tmp_path / "half", "cannot be read")


def test_fine_tuning_trains_only_the_selected_layers(dataset, files, tmp_path, capsys):
    run_import(files)
    run = tmp_path / "run"
    arguments = dataset.train_flags(
        run,
        model="yamnet",
        hparams=SMALL_HPARAMS.replace("mel_bands=16", "mel_bands=64,warmstart=1"),
        warmstart_checkpoint=files[2],
        warmstart_exclude_scopes="fully_connected",
        warmstart_moving_averages=True,
        train_scopes="Conv_13/,fully_connected",
        max_steps=3,
        seed=1,
    )
    assert run_main(arguments) == 0
    assert "yamnet, hyperparameters: mel_bands=64" in capsys.readouterr().err
    start, end = (
        tf.train.load_checkpoint(prefix)
        for prefix in (files[2] / "model.ckpt-0", run / "model.ckpt-3")
    )
    for name in start.get_variable_to_shape_map():
        trained = name.startswith(("Conv_13/", "fully_connected/", "global_step"))
        if not name.startswith("fully_connected/"):
            equal = np.array_equal(start.get_tensor(name), end.get_tensor(name))
            assert equal != trained, name
    slots = {name for name in end.get_variable_to_shape_map() if "/Adam" in name}
    assert {name.split("/")[0] for name in slots} == {"Conv_13", "fully_connected"}
    # The same command resumes, and evaluation needs no --model.
    assert run_main([*arguments, "--max_steps=4"]) == 0
    assert run_main(dataset.eval_flags(run, tmp_path / "eval")) == 0


def test_a_warm_start_from_another_model_names_it(dataset, files, tmp_path, capsys):
    run_import(files)
    flags = {"hparams": "warmstart=1", "warmstart_checkpoint": files[2], "max_steps": 1}
    assert run_main(dataset.train_flags(tmp_path / "run", **flags)) == 1
    assert "use --model=yamnet" in capsys.readouterr().err


def test_scopes_to_train_are_checked(capsys):
    network = model.define_model(
        "yamnet", num_classes=2, hparams=model_hparams("yamnet", {})
    )
    freeze(network, ())
    assert len(network.trainable_weights) == 83
    with pytest.raises(UserError, match="--train_scopes: 'Conv_99'"):
        freeze(network, ["fully_connected", "Conv_99"])
    freeze(network, ["Conv_1/weights"])
    assert {v.path.split("/")[0] for v in network.trainable_weights} == {"Conv_1"}
    assert isinstance(network, keras.Model)


def test_audioset_scores_of_esc10(tmp_path):
    folders = [os.environ.get(name) for name in (YAMNET_VARIABLE, ESC10_VARIABLE)]
    if not all(folders):
        pytest.skip(f"set {YAMNET_VARIABLE} and {ESC10_VARIABLE} to folders of data")
    yamnet, esc10 = map(pathlib.Path, folders)
    out = tmp_path / "out"
    run_import([yamnet / "yamnet.h5", yamnet / "yamnet_class_map.csv", out])
    tagger = scoring.load(str(out))
    columns = [tagger.class_names.index(name) for name in AUDIOSET]
    from tagger.metrics.lwlrap import Lwlrap

    names = read_class_map(str(esc10 / "class_map.csv"))
    lwlrap = Lwlrap(names)
    for part in ("train1.csv", "val1.csv"):
        for row in csv.DictReader((esc10 / part).open()):
            tags = scoring.tag(str(esc10 / "audio" / row["fname"]), tagger)
            truth = [[float(name == row["labels"]) for name in names]]
            lwlrap.accumulate(np.array(truth), tags.scores.mean(axis=0)[None, columns])
    print(lwlrap)
    assert lwlrap.overall_lwlrap() >= 0.95
    assert Run(str(out)).checkpoints()
