"""An exported folder, used as in its README, without this project."""

import csv
import json
import os
import pathlib
import re
import signal
import subprocess
import sys

import numpy as np
import pytest
from helpers import SMALL_HPARAMS, run_main, write_wav
from processes import forking_python, run_forked
from test_export_model import varied_network

from recordings.thresholds import Rule, read_thresholds
from tagger.runs import checkpoints
from tagger.runs.run import Run
from tagger.runs.run_record import write_record

# Code that follows an example of the README and a function `score` of float32 [S].
SCORE_FOLDER = """
import pathlib, sys, wave
import numpy as np

assert not {"inputs", "model", "runner", "tagger"} & set(sys.modules)
clips = []
for path in sorted(pathlib.Path("clips").glob("*.wav")):
    with wave.open(str(path)) as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), np.int16)
    clip, examples = score(samples / np.float32(32768))
    np.testing.assert_allclose(examples.mean(axis=0), clip, atol=1e-6)
    clips.append(clip)
np.savez("scores.npz", example=scores, clips=clips)
"""
SCORE_WITH_TENSORFLOW = """
def score(waveform):
    signature = tagger.signatures["serving_default"]
    scores = signature(waveform=tf.constant(waveform))
    assert scores["embeddings"].shape == (len(scores["example_scores"]), 1024)
    return scores["clip_scores"].numpy(), scores["example_scores"].numpy()
"""
SCORE_WITH_LITERT = """
def score(waveform):
    scores = tagger(waveform=waveform)
    assert scores["embeddings"].shape == (len(scores["example_scores"]), 1024)
    return scores["clip_scores"], scores["example_scores"]
"""
# Runs an example for clips that it must not accept. Other scores would be wrong.
REJECT_CLIPS = """
import wave

for channels, rate in ((2, 44100), (1, 48000), (2, 48000)):
    with wave.open("clip.wav", "wb") as file:
        file.setparams((channels, 2, rate, 0, "NONE", ""))
        file.writeframes(bytes(channels * 20000))
    try:
        exec(example)
    except ValueError as error:
        assert "44100 Hz" in str(error), error
    else:
        raise SystemExit(f"{channels} channels at {rate} Hz were accepted")
"""
NO_TENSORFLOW = "import sys\nsys.modules['tensorflow'] = None\n"


class Exported:
    """A folder with clips, a run, its export, and the scores of inference."""

    def __init__(self, root: pathlib.Path, dataset):
        self.root = root
        self.export_dir = root / "shared" / "first"
        (root / "clips").mkdir()
        for path in dataset.clip_dir.iterdir():
            (root / "clips" / path.name).symlink_to(path)
        rng = np.random.default_rng(2)
        for size in (1, 500, 1102, 1103):
            samples = 3000 * rng.normal(size=size)
            write_wav(root / "clips" / f"short{size:04d}.wav", samples)
        (root / "clip.wav").symlink_to(dataset.clip_dir / "00.wav")
        run = root / "run"
        run.mkdir()
        network, hparams = varied_network(SMALL_HPARAMS)
        write_record(
            str(run),
            model_name="mobilenet-v1",
            hparams=hparams,
            class_names=["Noise", "Tone"],
        )
        variables = checkpoints.network_variables(network)
        Run(str(run)).save(variables | {"global_step": np.int64(7)}, 7)
        thresholds = root / "thresholds.csv"
        thresholds.write_text("class,threshold\nTone,0.25\nNoise,1\n")
        done = run_forked(
            "tools.export_model",
            f"--checkpoint={run}",
            f"--thresholds={thresholds}",
            f"--export_dir={self.export_dir}",
            capture_output=True,
        )
        assert done.returncode == 0, done.stderr
        out = root / "submission.csv"
        flags = dataset.inference_flags(run, out, clip_dir=root / "clips")
        assert run_main(flags) == 0
        with out.open(newline="") as file:
            self.scores = np.array([row[1:] for row in csv.reader(file)][1:], float)

    def run_example(
        self, language: str, score: str, before: str = ""
    ) -> np.lib.npyio.NpzFile:
        """Runs an example of the README, then scores all clips with its tagger."""
        code = before + self.example_of(language) + score + SCORE_FOLDER
        assert run_code(code, self.root) in ("Noise\n", "Tone\n")
        return np.load(self.root / "scores.npz")

    def example_of(self, language: str) -> str:
        """The example of the README that imports a package, for the folder above."""
        readme = (self.export_dir / "README.md").read_text()
        examples = re.findall("```python\n(.*?)```", readme, re.DOTALL)
        (example,) = [text for text in examples if language in text]
        names = r'"(model\.json|saved_model|model\.tflite)"'
        return re.sub(names, r'"shared/first/\1"', example)


def run_code(code: str, folder: pathlib.Path) -> str:
    """Runs code in a folder, without this project; returns its output."""
    python = forking_python() if "import tensorflow" in code else sys.executable
    done = subprocess.run(
        [python, "-c", code],
        cwd=folder,
        env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def exported(dataset, tmp_path_factory) -> Exported:
    return Exported(tmp_path_factory.mktemp("exported"), dataset)


def test_the_folder_has_both_models_and_the_class_map(exported):
    names = sorted(path.name for path in exported.export_dir.iterdir())
    assert names == [
        *("README.md", "class_map.csv", "model.json", "model.tflite"),
        *("saved_model", "thresholds.csv"),
    ]
    facts = json.loads((exported.export_dir / "model.json").read_text())
    assert facts == {"sample_rate": 44100, "class_names": ["Noise", "Tone"]}
    text = (exported.export_dir / "class_map.csv").read_text()
    assert text == "0,Noise\n1,Tone\n"
    path = str(exported.export_dir / "thresholds.csv")
    assert read_thresholds(path, "") == {"Noise": Rule(1), "Tone": Rule(0.25)}
    readme = (exported.export_dir / "README.md").read_text()
    assert "2 classes" in readme
    assert "one row every 0.1 s" in readme
    assert "`model.ckpt-7` (mobilenet-v1, hyperparameters: mel_bands=16, " in readme
    assert list(exported.export_dir.parent.iterdir()) == [exported.export_dir]


def test_the_scores_to_compare_with_differ_from_clip_to_clip(exported):
    assert len(exported.scores) == 16
    assert (exported.scores.std(axis=0) > 1e-2).all()


def test_tensorflow_gives_the_scores_of_inference(exported):
    scores = exported.run_example("tensorflow", SCORE_WITH_TENSORFLOW)
    np.testing.assert_allclose(scores["clips"], exported.scores, rtol=0, atol=1e-5)
    np.testing.assert_allclose(scores["example"], exported.scores[0], rtol=0, atol=1e-5)


def test_litert_gives_the_scores_of_inference_without_tensorflow(exported):
    scores = exported.run_example("ai_edge_litert", SCORE_WITH_LITERT, NO_TENSORFLOW)
    np.testing.assert_array_equal(scores["example"], scores["clips"][0])
    np.testing.assert_allclose(scores["clips"], exported.scores, rtol=0, atol=1e-5)


@pytest.mark.parametrize("language", ["tensorflow", "ai_edge_litert"])
def test_the_examples_reject_other_rates_and_stereo(exported, tmp_path, language):
    (tmp_path / "shared").symlink_to(exported.export_dir.parent)
    code = f"example = {exported.example_of(language)!r}\n{REJECT_CLIPS}"
    assert run_code(code, tmp_path) == ""


# Stops itself after the first model, like a user who loses patience.
STOPPED_WHILE_EXPORTING = """
import os, sys
import tensorflow as tf
from tagger.terminal import program
from tools import export_model

number = int(sys.argv.pop(1))
tf.saved_model.save = lambda tagger, path, signatures: os.makedirs(path)
export_model.to_litert = lambda *arguments: b"" if number == 0 else (
    os.kill(os.getpid(), number) or b""
)
export_model.define_flags()
program.run(export_model.main)
"""


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGKILL, -9), (signal.SIGINT, 130)]
)
def test_a_stopped_export_can_be_repeated(exported, dataset, tmp_path, number, status):
    program = tmp_path / "export.py"
    program.write_text(STOPPED_WHILE_EXPORTING)
    target = tmp_path / "shared" / "first"
    flags = (
        f"--checkpoint={exported.root / 'run'}",
        f"--class_map_path={dataset.class_map_path}",
        f"--export_dir={target}",
    )
    done = run_forked(program, int(number), *flags, capture_output=True)
    assert done.returncode == status, done.stderr
    left = [path.name for path in target.parent.iterdir()]
    assert len(left) == (number == signal.SIGKILL)  # docs/export.md mentions it.
    assert all(name.startswith(".first.") for name in left)
    done = run_forked(program, 0, *flags, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert len(list(target.iterdir())) == 5
    assert {path.name for path in target.parent.iterdir()} == {"first", *left}
