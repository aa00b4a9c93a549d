"""Exporting: scores of the module and of LiteRT, and complete folders."""

import dataclasses
import errno
import os
import pathlib
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from helpers import ALT_HPARAMS, parse_hparams

import inputs
import model
from tagger.errors import UserError
from tagger.hparams import Hparams, parse_overrides
from tools import export_model


def varied_network(hparams: str) -> tuple[keras.Model, Hparams]:
    """A network of 2 classes whose scores differ from clip to clip.

    It has initial weights, and the moving averages of some examples, as after a long
    training.
    """
    hparams = dataclasses.replace(parse_hparams(hparams), bndecay=0.0)
    keras.utils.set_random_seed(0)
    network = model.define_model("mobilenet-v1", num_classes=2, hparams=hparams)
    noise = np.random.default_rng(5).normal(size=100000) * np.linspace(0, 0.3, 100000)
    tone = np.sin(np.arange(100000) * 0.1) * np.linspace(0.3, 0, 100000)
    waveform = np.concatenate([noise, tone, noise + tone]).astype(np.float32)
    network(inputs.waveform_to_examples(waveform, hparams), training=True)
    return network, hparams


def expected_scores(network, hparams, waveform) -> np.ndarray:
    """The scores of inference, [E, C]."""
    examples = inputs.waveform_to_examples(waveform, hparams, fft_type=inputs.EXACT_FFT)
    return model.score_function(network)(examples).numpy()


def litert_of(network, hparams):
    """The LiteRT model as a function."""
    content = export_model.to_litert(network, hparams)
    return Interpreter(model_content=content).get_signature_runner()


@pytest.mark.parametrize("more", ["global_pool=max", "frontend=pcen", "width=0.5"])
def test_litert_with_other_hyperparameters(more):
    """An STFT window of odd length, and max pooling, PCEN, or fewer filters."""
    network, hparams = varied_network(f"{ALT_HPARAMS},{more}")
    litert = litert_of(network, hparams)
    rng = np.random.default_rng(4)
    for size in (900, 30000, 70001):
        waveform = rng.uniform(-0.1, 0.1, size).astype(np.float32)
        values = litert(waveform=waveform)
        expected = expected_scores(network, hparams, waveform)
        np.testing.assert_allclose(
            values["example_scores"], expected, rtol=0, atol=1e-5
        )
        # The last layer maps the embeddings to the scores.
        layer = network.get_layer("fully_connected")
        scores = tf.sigmoid(layer(tf.constant(values["embeddings"])))
        np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-5)


def export(checkpoint, export_dir, *, hparams: str = "", **changes) -> None:
    arguments = {
        "checkpoint": str(checkpoint),
        "export_dir": str(export_dir),
        "hparam_overrides": parse_overrides(hparams),
    }
    export_model.export(**(arguments | changes))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"checkpoint": "none"}, "--checkpoint: .* none"),
        ({"checkpoint": "full"}, "--checkpoint: .* full"),
        ({"class_map_path": "none"}, "--class_map_path: .* none"),
        ({"class_map_path": "three.csv"}, "3 classes, not 2"),
        ({"checkpoint": "original"}, "--class_map_path is required"),
        ({"thresholds_path": "none"}, "--thresholds: .* none"),
        ({"thresholds_path": "one.csv"}, "--thresholds: .* Tone"),
        ({"hparams": "bn=0"}, "is missing 3 of 8 variables"),
        ({"export_dir": "full"}, "--export_dir: full"),
        ({"export_dir": "three.csv"}, "--export_dir: three.csv"),
        ({"export_dir": "three.csv/x"}, "--export_dir.*three.csv"),
    ],
)
def test_what_cannot_be_used_is_named(trained, tmp_path, monkeypatch, change, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").touch()
    shutil.copytree(trained, "original", ignore=lambda *_: ["hparams.json"])
    (tmp_path / "one.csv").write_text("class,threshold\nNoise,0.5\n")
    (tmp_path / "three.csv").write_text("0,Noise\n1,Tone\n2,More\n")
    with pytest.raises(UserError, match=message):
        export(**({"checkpoint": trained, "export_dir": "out"} | change))
    assert sorted(os.listdir()) == ["full", "one.csv", "original", "three.csv"]
    assert os.listdir("full") == ["mine.txt"]


def test_a_folder_appears_complete_or_not_at_all(
    trained, tmp_path, capsys, monkeypatch
):
    """A full disk while the second model is written; later there is space."""

    def save(tagger, path, signatures):
        pathlib.Path(path).mkdir()
        (pathlib.Path(path) / "saved_model.pb").touch()

    def fail(network, hparams):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    out = tmp_path / "out"
    monkeypatch.setattr(tf.saved_model, "save", save)  # The real one takes long.
    monkeypatch.setattr(export_model, "to_litert", fail)
    with pytest.raises(UserError, match="No space left"):
        export(trained, out)
    assert not any(tmp_path.iterdir())
    monkeypatch.setattr(export_model, "to_litert", lambda network, hparams: b"litert")
    export(trained, out)
    printed = capsys.readouterr()
    assert f"{trained}/model.ckpt-5" in printed.out and "warning" not in printed.err
    assert (out / "model.tflite").read_bytes() == b"litert"
    assert (out / "saved_model" / "saved_model.pb").is_file()
    assert os.listdir(tmp_path) == ["out"]


def test_without_a_converter_there_is_only_a_saved_model(
    trained, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(tf, "lite", None)
    monkeypatch.setattr(tf.saved_model, "save", lambda *args, **kwargs: None)
    export(trained, tmp_path / "out")
    assert "model.tflite is not exported" in capsys.readouterr().err
    assert not (tmp_path / "out" / "model.tflite").exists()
