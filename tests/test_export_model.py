"""Exported models: inference's scores without this program, whole or no folders."""

import csv
import dataclasses
import errno
import os
import pathlib
import re
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from conftest import (
    ALT_HPARAMS,
    ROOT,
    SMALL_HPARAMS,
    run_main,
    section_of,
    table_of_page,
    write_wav,
)

import inputs
import model
from tagger import checkpoints
from tagger.clips import read_class_map
from tagger.hparams import Hparams, parse_hparams
from tagger.run_record import write_hparams
from tools import export, export_model

TOLERANCE = 1e-4
# Appended to an example of docs/export.md, with a function `score` of float32 [S].
SCORE_FOLDER = """
import pathlib, sys, wave
import numpy as np

assert not {"export", "hparams", "inputs", "model", "runner"} & set(sys.modules)
rows = []
for path in sorted(pathlib.Path("clips").glob("*.wav")):
    with wave.open(str(path)) as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), np.int16)
    clip, examples = score(samples / np.float32(32768))
    np.testing.assert_allclose(examples.mean(axis=0), clip, atol=1e-6)
    rows.append(clip)
np.savez("scores.npz", example=scores, clips=rows)
"""


class Exported:
    """A folder with a class map, clips, a run, its export and inference's scores."""

    def __init__(self, root: pathlib.Path, dataset):
        self.root = root
        self.run = root / "run"
        self.export_dir = root / "shared" / "first"
        (root / "clips").mkdir()
        for path in dataset.clip_dir.iterdir():
            (root / "clips" / path.name).symlink_to(path)
        rng = np.random.default_rng(2)
        for size in (0, 1, 500, 1102, 1103):
            samples = 3000 * rng.normal(size=size)
            write_wav(root / "clips" / f"short{size:04d}.wav", samples)
        (root / "clip.wav").symlink_to(dataset.clip_dir / "00.wav")
        self.network, self.hparams = varied_network(SMALL_HPARAMS)
        self.run.mkdir()
        write_hparams(
            str(self.run),
            model_name="mobilenet-v1",
            hparams=self.hparams,
            class_names=["Noise", "Tone"],
        )
        variables = checkpoints.network_variables(self.network)
        checkpoints.save(str(self.run), variables | {"global_step": np.int64(7)}, 7)
        assert export_model.main(export_flags(dataset, self.run, self.export_dir)) == 0
        out = root / "submission.csv"
        flags = dataset.inference_flags(self.run, out, clip_dir=root / "clips")
        assert run_main(flags) == 0
        with out.open(newline="") as file:
            self.scores = np.array([row[1:] for row in csv.reader(file)][1:], float)

    def run_example(
        self, language: str, before: str, score: str
    ) -> np.lib.npyio.NpzFile:
        """Runs an example of docs/export.md, then scores all clips with its tagger."""
        examples = re.findall(
            "```python\n(.*?)```",
            section_of("docs/export.md", "Sharing a model"),
            re.DOTALL,
        )
        (example,) = [text for text in examples if language in text]
        done = subprocess.run(
            [sys.executable, "-c", before + example + score + SCORE_FOLDER],
            cwd=self.root,
            env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return np.load(self.root / "scores.npz")


def varied_network(hparams: str) -> tuple[keras.Model, Hparams]:
    """A network of 2 classes whose scores differ from clip to clip.

    Its weights are initial ones, its moving averages those of some examples, as if it
    had been trained for long.
    """
    hparams = dataclasses.replace(parse_hparams(hparams), bndecay=0.0)
    keras.utils.set_random_seed(0)
    network = model.define_model("mobilenet-v1", num_classes=2, hparams=hparams)
    noise = np.random.default_rng(5).normal(size=100000) * np.linspace(0, 0.3, 100000)
    tone = np.sin(np.arange(100000) * 0.1) * np.linspace(0.3, 0, 100000)
    waveform = np.concatenate([noise, tone, noise + tone]).astype(np.float32)
    network(inputs.waveform_to_examples(waveform, hparams), training=True)
    return network, hparams


def export_flags(dataset, checkpoint, export_dir) -> list[str]:
    return [
        f"--checkpoint={checkpoint}",
        f"--class_map_path={dataset.class_map_path}",
        f"--export_dir={export_dir}",
    ]


@pytest.fixture(scope="module")
def exported(dataset, tmp_path_factory) -> Exported:
    return Exported(tmp_path_factory.mktemp("exported"), dataset)


def test_the_folder_holds_both_models_and_the_classes(exported):
    names = sorted(path.name for path in exported.export_dir.iterdir())
    assert names == ["class_map.csv", "model.tflite", "saved_model"]
    text = (exported.export_dir / "class_map.csv").read_text()
    assert text == "0,Noise\n1,Tone\n"
    assert list(exported.export_dir.parent.iterdir()) == [exported.export_dir]


def test_the_scores_to_agree_with_differ_from_clip_to_clip(exported):
    assert len(exported.scores) == 17
    assert (exported.scores.std(axis=0) > 100 * TOLERANCE).all()


def test_tensorflow_gives_inferences_scores_without_this_program(exported):
    score = """
def score(waveform):
    signature = tagger.signatures["serving_default"]
    scores = signature(waveforms=tf.constant(waveform[np.newaxis]))
    return scores["clip_scores"][0].numpy(), scores["example_scores"][0].numpy()
"""
    scores = exported.run_example("tensorflow", "", score)
    np.testing.assert_allclose(scores["clips"], exported.scores, rtol=0, atol=1e-5)
    np.testing.assert_allclose(scores["example"], exported.scores[0], rtol=0, atol=1e-5)


def test_litert_gives_inferences_scores_without_tensorflow(exported):
    without_tensorflow = "import sys\nsys.modules['tensorflow'] = None\n"
    score = """
def score(waveform):
    scores = tagger(waveform=waveform)
    return scores["clip_scores"], scores["example_scores"]
"""
    scores = exported.run_example("ai_edge_litert", without_tensorflow, score)
    np.testing.assert_array_equal(scores["example"], scores["clips"][0])
    np.testing.assert_allclose(scores["clips"], exported.scores, rtol=0, atol=1e-5)


def test_a_batch_of_waveforms(exported):
    tagger = tf.saved_model.load(str(exported.export_dir / "saved_model"))
    rng = np.random.default_rng(3)
    waveforms = rng.uniform(-0.1, 0.1, [3, 20000]).astype(np.float32)
    scores = tagger(waveforms)
    num_examples = exported.hparams.num_examples(20000)
    assert scores["example_scores"].shape == [3, num_examples, 2]
    for waveform, clip_scores, example_scores in zip(
        waveforms, scores["clip_scores"], scores["example_scores"], strict=True
    ):
        examples = inputs.waveform_to_examples(
            waveform, exported.hparams, fft_type=inputs.EXACT_FFT
        )
        expected = model.score_function(exported.network)(examples)
        np.testing.assert_allclose(example_scores, expected, rtol=0, atol=1e-6)
        np.testing.assert_allclose(
            clip_scores, np.mean(expected, axis=0), rtol=0, atol=1e-6
        )


def test_litert_with_other_hyperparameters():
    """An STFT window of odd length, and max pooling."""
    network, hparams = varied_network(ALT_HPARAMS + ",global_pool=max")
    tagger = export.Tagger(network, hparams)
    litert = Interpreter(model_content=export.to_litert(tagger)).get_signature_runner()
    rng = np.random.default_rng(4)
    for size in (900, 30000, 70001):
        waveform = rng.uniform(-0.1, 0.1, size).astype(np.float32)
        expected = model.score_function(network)(
            inputs.waveform_to_examples(waveform, hparams, fft_type=inputs.EXACT_FFT)
        )
        scores = litert(waveform=waveform)["example_scores"]
        np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"checkpoint": ""}, "--checkpoint is missing; --help lists all flags"),
        ({"export_dir": ""}, "--export_dir is missing"),
        ({"checkpoint": "none"}, "--checkpoint: there is no checkpoint none"),
        ({"class_map_path": "none"}, "--class_map_path: there is no file none"),
        ({"class_map_path": "three.csv"}, "2 classes were trained, 3 are given"),
        ({"hparams": "bn=2"}, "bn must be 0 or 1, but got 2"),
        ({"hparams": "bn=0"}, "lacks 27 of 56 variables"),
        ({"model": "resnet"}, "--model must be one of mobilenet-v1"),
        ({"export_dir": "full"}, "--export_dir: full is not empty; name a new folder"),
        ({"export_dir": "three.csv"}, "--export_dir: three.csv is a file, not a"),
        ({"export_dir": "three.csv/x"}, "three.csv is a file, not a folder"),
    ],
)
def test_what_cannot_be_used_is_one_line(
    dataset, trained, tmp_path, capsys, monkeypatch, change, message
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").touch()
    (tmp_path / "three.csv").write_text("0,Noise\n1,Tone\n2,More\n")
    flags = export_flags(dataset, trained, "out")
    flags += [f"--{name}={value}" for name, value in change.items()]
    assert export_model.main(flags) == 1
    output = capsys.readouterr()
    last = output.err.splitlines()[-1]
    assert last.startswith("error: ")
    assert message in last
    assert output.out == ""
    assert sorted(os.listdir()) == ["full", "three.csv"]
    assert os.listdir("full") == ["mine.txt"]


def test_a_broken_checkpoint_is_not_exported(dataset, tmp_path, capsys):
    network, _ = varied_network(SMALL_HPARAMS)
    variables = checkpoints.network_variables(network)
    variables["Conv/weights"].assign(np.full([3, 3, 1, 16], np.nan))
    (tmp_path / "run").mkdir()
    checkpoints.save(str(tmp_path / "run"), variables, 1)
    flags = export_flags(dataset, tmp_path / "run", tmp_path / "out")
    assert export_model.main([*flags, f"--hparams={SMALL_HPARAMS}"]) == 1
    assert "Conv/weights is not finite" in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["run"]


def test_a_folder_is_written_whole_or_not_at_all(
    dataset, trained, tmp_path, capsys, monkeypatch
):
    """A full disk while the second of the models is written; then there is space.

    What is written here stands for the models, which take their time.
    """

    def save(tagger, path, signatures):
        pathlib.Path(path).mkdir()
        (pathlib.Path(path) / "saved_model.pb").touch()

    def fail(tagger):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    out = tmp_path / "out"
    out.mkdir()
    flags = export_flags(dataset, trained, out)
    monkeypatch.setattr(tf.saved_model, "save", save)
    monkeypatch.setattr(export, "to_litert", fail)
    assert export_model.main(flags) == 1
    errors = capsys.readouterr().err
    assert errors == (
        f"error: --export_dir: cannot write {out}: No space left on device\n"
    )
    assert [*tmp_path.rglob("*")] == [out]
    monkeypatch.setattr(export, "to_litert", lambda tagger: b"litert")
    assert export_model.main(flags) == 0
    assert capsys.readouterr().out == f"{trained}/model.ckpt-5 exported to {out}\n"
    assert (out / "model.tflite").read_bytes() == b"litert"
    assert (out / "saved_model" / "saved_model.pb").is_file()
    assert os.listdir(tmp_path) == ["out"]


def test_help_needs_no_tensorflow_and_lists_every_flag():
    program = """
import sys
from tools import export_model
status = export_model.main(["--help"])
sys.exit(9 if "tensorflow" in sys.modules else status)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    for flag in export_model.FLAGS["Flags"]:
        assert f"  --{flag.name}" in done.stdout


def test_the_documentation_lists_every_flag_with_its_default():
    expected = [
        [f"`--{flag.name}`", f"`{flag.default}`" if flag.default else "", flag.help]
        for flag in export_model.FLAGS["Flags"]
    ]
    assert table_of_page("docs/export.md", "Sharing a model") == expected


def test_the_originals_checkpoint_in_litert(reference):
    """On the clips whose scores in the original's network are at hand."""
    network, hparams = model.load_network(
        str(reference / "tf1_checkpoint" / "model.ckpt-700"),
        read_class_map(reference / "class_map.csv"),
    )
    content = export.to_litert(export.Tagger(network, hparams))
    litert = Interpreter(model_content=content).get_signature_runner()
    for path in (reference / "network").glob("[145]-*.npy"):
        contents = (reference / "clips" / f"{path.stem}.wav").read_bytes()
        waveform = tf.audio.decode_wav(contents).audio.numpy()[:, 0]
        scores = litert(waveform=waveform)["example_scores"]
        np.testing.assert_allclose(scores, np.load(path), rtol=0, atol=TOLERANCE)
