"""Programs as users start them: start-up time, signals, recipes, a benchmark."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import soundfile
from helpers import ROOT, SMALL_HPARAMS, run_program
from processes import HANG_SECONDS, SMALL_RUNNER

import runner
from tagger import signals


@pytest.mark.parametrize("arguments", ["--help", "--mode=train"])
def test_help_and_wrong_flags_are_fast_without_tensorflow(arguments):
    code = f"""
import sys, runner
from tagger import program
try:
    program.run(runner.main, ["runner.py", {arguments!r}])
finally:
    assert not {{"tensorflow", "keras", "inputs"}} & set(sys.modules)
"""
    seconds = []
    for _ in range(3):  # The fastest counts, because others may use the machine.
        started = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True
        )
        seconds.append(time.monotonic() - started)
        assert done.returncode == 1
        assert "AssertionError" not in done.stderr
    assert min(seconds) < 2


def test_help_lists_every_flag():
    done = run_program("runner.py", "--help", capture_output=True, text=True)
    listed = re.findall(r"^  --(?:\[no\])?(\w+):", done.stdout, re.MULTILINE)
    flags = runner.FLAGS.get_key_flags_for_module("runner")
    assert sorted(listed) == sorted(flag.name for flag in flags)


@pytest.mark.parametrize("number", signals.STOP_SIGNALS)
def test_a_program_exits_at_once_with_the_status_of_shells(tmp_path, number):
    program = tmp_path / "program.py"
    program.write_text(
        "import signal\nfrom tagger import signals\n"
        f"with signals.handler(signals.exit_now): signal.raise_signal({int(number)})\n"
    )
    done = run_program(program, capture_output=True, text=True)
    assert done.returncode == 128 + number
    assert done.stderr == f"stopped by {number.name}\n"


def test_the_recipe_ends_only_after_the_checkpoint_is_saved(tmp_path):
    """As with `timeout`, which sends SIGTERM to all processes of the recipe.

    This recipe calls that of the published baseline.
    """
    recipe = ROOT / "recipes" / "modern.sh"
    with subprocess.Popen(
        ["timeout", "1h", recipe, "--smoke", tmp_path, "--checkpoint_steps=999"],
        env=os.environ | {"PYTHON": sys.executable},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        for line in process.stdout:
            if line.startswith("step 1:"):
                process.terminate()
                break
        status = process.wait(HANG_SECONDS)
        saved = {path.name for path in (tmp_path / "noisy").glob("*.index")}
        output = process.stdout.read()
    assert status == signals.exit_status(signal.SIGTERM)
    (step,) = re.findall(r"stopped by SIGTERM at step (\d)", output)
    assert saved == {"model.ckpt-0.index", f"model.ckpt-{step}.index"}
    assert not (tmp_path / "curated").exists()


def test_the_recipe_for_own_sounds_runs(tmp_path):
    """All recordings are symbolic links, or in a folder that is one."""
    rng = np.random.default_rng(0)
    for label in ("Noise", "Hum"):
        (tmp_path / "store" / label).mkdir(parents=True)
        for number in range(6):
            samples = rng.uniform(-0.5, 0.5, 48000)
            if label == "Hum":
                samples = np.sin(np.arange(48000) * rng.uniform(0.01, 0.02))
            path = tmp_path / "store" / label / f"{number}.flac"
            soundfile.write(path, samples, 48000)
    (tmp_path / "sounds" / "Hum").mkdir(parents=True)
    (tmp_path / "sounds" / "Hum" / "0 notes.txt").write_text("text")
    (tmp_path / "sounds" / "Hum" / "loop").symlink_to(tmp_path / "sounds")
    for path in (tmp_path / "store" / "Hum").iterdir():
        (tmp_path / "sounds" / "Hum" / path.name).symlink_to(path)
    (tmp_path / "sounds" / "Noise").symlink_to(tmp_path / "store" / "Noise")
    done = subprocess.run(
        [ROOT / "recipes" / "own_sounds.sh", tmp_path / "sounds", tmp_path / "out"],
        env=os.environ | {"PYTHON": sys.executable, "STEPS": "2"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    best = rf"^best of {tmp_path}/out/run/eval: step [02], overall lwlrap [01]\.\d+$"
    assert re.search(best, done.stderr, re.M)
    assert (tmp_path / "out" / "run" / "eval" / "report.html").exists()
    assert "sounds/Hum/0.flac (1.0 s)" in done.stdout


def test_training_continues_if_its_output_is_not_read(dataset, tmp_path):
    """As with `| head`."""
    flags = dataset.train_flags(
        tmp_path / "run", hparams=SMALL_HPARAMS, max_steps=3, seed=1
    )
    reader, writer = os.pipe()
    os.close(reader)
    done = run_program(SMALL_RUNNER, *flags, stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "model.ckpt-3.index").exists()


def test_the_tables_of_learning_are_those_of_the_benchmark(tmp_path):
    docs = ROOT / "docs"
    shutil.copy(docs / "learning.csv", tmp_path)
    command = ["benchmarks/learning.py", tmp_path, "--data=none", "--options="]
    done = run_program(*command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = (docs / "learning.md").read_text().splitlines()
    rows = [line for line in lines if line.startswith(("| clean", "| noisy"))]
    assert len(rows) > 10
    assert not set(rows) - set(done.stdout.splitlines())
