"""Agreement with the original baseline, on large references."""

import csv
import itertools
import os
import pathlib
import shutil
import wave

import numpy as np
import pytest
import tensorflow as tf
from helpers import ALT_HPARAMS, parse_hparams, run_main, seeded_weights
from test_export_model import litert_of

import inputs
import model
from tagger.data import clips, wav
from tagger.hparams import Hparams
from tagger.runs import checkpoints

ESC10_VARIABLE = "TAGGER_ESC10_DIR"
BFLOAT16_TOLERANCE = 0.005  # of the overall lwlrap
LITERT_TOLERANCE = 1e-4
pytestmark = pytest.mark.usefixtures("whole_network")
NOISY = ("noise", "silence", "square", "one_", "hop_")  # No bands near the offset.


def features_of(path, hparams) -> np.ndarray:
    offset, size, _ = wav.read_wav_header(str(path))
    waveform = inputs.clip_to_waveform(str(path), np.int64(offset), np.int64(size))
    return inputs.waveform_to_examples(waveform, hparams).numpy()


@pytest.mark.parametrize("kind", ["features", "features_alt"])
def test_features(reference, kind):
    hparams = Hparams() if kind == "features" else parse_hparams(ALT_HPARAMS)
    paths = sorted((reference / kind).glob("*.npy"))
    assert len(paths) >= 12
    for path in paths:
        expected = np.load(path)
        actual = features_of(reference / "clips" / f"{path.stem}.wav", hparams)
        tight = any(part in path.stem for part in NOISY)
        np.testing.assert_allclose(
            actual, expected, rtol=0, atol=1e-4 if tight else 1e-2, err_msg=path.stem
        )


def test_features_are_nearer_to_float64_than_the_originals(reference):
    for path in (reference / "features").glob("*.npy"):
        expected = np.load(path)
        original = np.load(reference / "features_original" / path.name)
        actual = features_of(reference / "clips" / f"{path.stem}.wav", Hparams())
        assert np.abs(actual - expected).max() <= np.abs(original - expected).max()


def test_network_with_the_originals_checkpoint(reference):
    network, _ = model.load_network(
        str(reference / "tf1_checkpoint" / "model.ckpt-700"),
        clips.read_class_map(reference / "class_map.csv"),
    )
    score = model.score_function(network)
    for path in (reference / "network").glob("*.npy"):
        features = np.load(reference / "features" / path.name).astype(np.float32)
        scores = score(features)
        np.testing.assert_allclose(scores, np.load(path), rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    ("key", "text"), [("mean_bn", ""), ("max_nobn", "global_pool=max,bn=0")]
)
def test_network_with_seeded_weights(reference, key, text):
    network = model.define_model(
        "mobilenet-v1", num_classes=80, hparams=parse_hparams(text)
    )
    variables = checkpoints.network_variables(network)
    shapes = {name: tuple(v.shape) for name, v in variables.items()}
    for name, value in seeded_weights(shapes).items():
        variables[name].assign(value)
    score = model.score_function(network)
    expected = np.load(reference / "seeded_network.npz")
    for name in expected:
        if name.startswith(key):
            features = np.load(reference / "features" / f"{name.split('/')[1]}.npy")
            scores = score(features.astype(np.float32))
            np.testing.assert_allclose(scores, expected[name], rtol=0, atol=1e-5)


def test_inference_from_the_originals_checkpoint(reference, tmp_path):
    """Runs the command on the predicted clips that are available."""
    with (reference / "predictions_fold1_ckpt700.csv").open(newline="") as file:
        header, *rows = list(csv.reader(file))
    expected = {row[0]: np.array(row[1:], float) for row in rows}
    folder = tmp_path / "clips"
    folder.mkdir()
    sources = [reference / "clips"]
    if esc10 := os.environ.get(ESC10_VARIABLE):
        sources.append(pathlib.Path(esc10) / "audio")
    for path in itertools.chain(*(source.glob("*.wav") for source in sources)):
        if path.name in expected:
            shutil.copy(path, folder)
    out = tmp_path / "submission.csv"
    arguments = {
        "mode": "inference",
        "class_map_path": reference / "class_map.csv",
        "inference_clip_dir": folder,
        "inference_checkpoint": reference / "tf1_checkpoint" / "model.ckpt-700",
        "predictions_csv_path": out,
    }
    assert run_main([f"--{k}={v}" for k, v in arguments.items()]) == 0
    with out.open(newline="") as file:
        ours_header, *ours = list(csv.reader(file))
    assert ours_header == header
    assert len(ours) == (len(expected) if esc10 else 1)
    for name, *scores in ours:
        np.testing.assert_allclose(
            np.array(scores, float), expected[name], rtol=0, atol=1e-4
        )


@pytest.mark.parametrize("mixed_precision", [False, True])
def test_evaluation_of_the_originals_checkpoint(reference, tmp_path, mixed_precision):
    """All digits of all classes and of the overall value, on fold 1 of ESC-10.

    In mixed precision, only the overall value, within BFLOAT16_TOLERANCE.
    """
    esc10 = os.environ.get(ESC10_VARIABLE)
    if not esc10:
        pytest.skip(f"set {ESC10_VARIABLE} to a folder with audio/ and val1.csv")
    arguments = {
        "mode": "eval",
        "class_map_path": reference / "class_map.csv",
        "eval_clip_dir": pathlib.Path(esc10) / "audio",
        "eval_csv_path": pathlib.Path(esc10) / "val1.csv",
        "train_dir": reference / "tf1_checkpoint",
        "eval_dir": tmp_path,
        "eval_timeout_secs": 0,
        "mixed_precision": mixed_precision,
    }
    assert run_main([f"--{k}={v}" for k, v in arguments.items()]) == 0
    expected = (reference / "eval-700.txt").read_text()
    actual = (tmp_path / "eval-700.txt").read_text()
    if not mixed_precision:
        assert actual == expected
    overall = [float(text.split()[-1]) for text in (actual, expected)]
    assert overall[0] == pytest.approx(overall[1], abs=BFLOAT16_TOLERANCE)


def test_resuming_from_the_originals_checkpoint(reference, tmp_path, capsys):
    """Resumes from a train_dir of the original, without the optimizer's state."""
    run = tmp_path / "run"
    shutil.copytree(reference / "tf1_checkpoint", run)
    for path in run.iterdir():
        path.chmod(0o644)
    run.chmod(0o755)
    folder = reference / "clips"
    (tmp_path / "train.csv").write_text(
        "fname,labels\n1-110389-A.wav,Bark\n4-182395-A.wav,Chainsaw\n"
    )
    with wave.open(str(folder / "1-110389-A.wav")) as file:
        assert file.getframerate() == 44100
    arguments = {
        "mode": "train",
        "class_map_path": reference / "class_map.csv",
        "train_clip_dir": folder,
        "train_csv_path": tmp_path / "train.csv",
        "train_dir": run,
        "hparams": "batch_size=4",
        "max_steps": 701,
    }
    assert run_main([f"--{k}={v}" for k, v in arguments.items()]) == 0
    errors = capsys.readouterr().err
    assert "resuming from" in errors
    assert "is missing 166 variables of the optimizer" in errors
    step = tf.train.load_variable(str(run / "model.ckpt-701"), "global_step")
    assert step == 701


def test_the_originals_checkpoint_in_litert(reference):
    """On the clips for which the scores of the original's network are recorded."""
    litert = litert_of(
        *model.load_network(
            str(reference / "tf1_checkpoint" / "model.ckpt-700"),
            clips.read_class_map(str(reference / "class_map.csv")),
        )
    )
    for path in (reference / "network").glob("[145]-*.npy"):
        contents = (reference / "clips" / f"{path.stem}.wav").read_bytes()
        waveform = tf.audio.decode_wav(contents).audio.numpy()[:, 0]
        scores = litert(waveform=waveform)["example_scores"]
        np.testing.assert_allclose(scores, np.load(path), rtol=0, atol=LITERT_TOLERANCE)
