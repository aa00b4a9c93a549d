"""Processes that are killed at random moments: their files, and resuming.

TAGGER_KILLS sets how often each mode is killed.
"""

import io
import itertools
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess

import numpy as np
import pytest
import tensorflow as tf
from helpers import PROGRAM_ENVIRONMENT, SMALL_HPARAMS, run_main
from processes import Process, forking_python

from tagger.runs import checkpoint_files, checkpoints, eval_folder
from tagger.runs.eval_folder import EvalFolder
from tagger.runs.run import Run

KILLS = int(os.environ.get("TAGGER_KILLS", 1))
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
STEPS = 30
CHECKPOINTS = 8


def kills(mode: str, seconds: float):
    """Yields numbers, random delays in seconds, and signals to send."""
    rng = random.Random(mode)
    signals = itertools.cycle(rng.sample(SIGNALS, len(SIGNALS)))
    for number in range(KILLS):
        yield number, rng.uniform(0, seconds), next(signals)


def run(folder: pathlib.Path, name: str, flags: list[str]) -> Process:
    return Process(folder, name, "runner.py", *flags)


def kill(process: Process, sign: str, seconds: float, number: signal.Signals) -> bool:
    """Sends a signal some seconds after the process has printed a sign of its work.

    Args:
      sign: a regular expression that matches the sign.

    Returns:
      Whether the process was still running.
    """
    if not process.wait_for(sign) or process.ends_within(seconds):
        return False
    process.send(number)
    assert process.status() in (0, -number, 128 + number), process.err
    assert "Traceback" not in process.err
    return True


def newest_step(train_dir: pathlib.Path) -> int:
    """Checks that the checkpoints are complete; returns the newest step, or -1."""
    prefixes = Run(train_dir).checkpoints()
    for prefix in prefixes[-2:]:
        reader = tf.train.load_checkpoint(prefix)
        values = {name: reader.get_tensor(name) for name in checkpoints.shapes(prefix)}
        assert len(values) == 138
        assert values["global_step"] == checkpoint_files.checkpoint_step(prefix)
    state = tf.train.get_checkpoint_state(train_dir)
    if state is not None:
        for path in state.all_model_checkpoint_paths:
            assert path in prefixes
    return checkpoint_files.checkpoint_step(prefixes[-1]) if prefixes else -1


def test_training(dataset, tmp_path, capsys):
    train_dir = tmp_path / "run"
    flags = dataset.train_flags(
        train_dir,
        hparams=SMALL_HPARAMS + ",opt=sgd",
        max_steps=STEPS,
        checkpoint_steps=2,
    )
    newest, at_work = -1, 0
    for number, seconds, sent in kills("train", 1):
        process = run(tmp_path, f"train{number}", flags)
        sign = ("^step", "^hyperparameters")[number % 2]  # at work, or starting
        killed = kill(process, sign, seconds, sent)
        at_work += killed
        before, newest = newest, newest_step(train_dir)
        steps = list(process.losses())
        if steps and before >= 0:
            assert steps[0] == before + 1
            assert f"resuming from {train_dir}/model.ckpt-{before}" in process.err
        # At most the steps after the last complete checkpoint are lost.
        last = steps[-1] if steps else before
        assert newest >= max(before, (last - 1) // 2 * 2 if steps else -1)
        if killed and steps and sent != signal.SIGKILL:
            assert newest == last
    assert at_work
    assert run_main(flags) == 0
    assert newest_step(train_dir) == STEPS
    losses = re.findall(r"^step (\d+): loss", capsys.readouterr().out, re.MULTILINE)
    assert list(map(int, losses)) == list(range(max(newest, 0) + 1, STEPS + 1))
    assert not list(train_dir.glob(checkpoints.SAVING_PREFIX + "*"))


def evaluated_steps(text: str) -> set[int]:
    """The steps of the results in the output of an evaluation."""
    return {int(step) for step in re.findall(r"^step (\d+), all", text, re.M)}


def markers(eval_dir: pathlib.Path) -> set[int]:
    """Checks that all results are complete; returns the steps that have a marker."""
    steps = set()
    for path in eval_dir.glob("eval-*.txt"):
        assert re.fullmatch(
            r"(Lwlrap\(\w+\) = [01]\.\d{6}\n){2}Overall lwlrap = [01]\.\d{6}\n",
            path.read_text(),
        )
        steps.add(int(path.stem.removeprefix("eval-")))
    return steps


@pytest.fixture(scope="module")
def many_checkpoints(trained, tmp_path_factory) -> pathlib.Path:
    """A train_dir with equal checkpoints for the steps 1 to CHECKPOINTS."""
    folder = tmp_path_factory.mktemp("many") / "run"
    folder.mkdir()
    shutil.copy(trained / "hparams.json", folder)
    for step in range(1, CHECKPOINTS + 1):
        for suffix in (checkpoint_files.DATA_SUFFIX, checkpoint_files.INDEX_SUFFIX):
            source = trained / f"model.ckpt-2{suffix}"
            (folder / f"model.ckpt-{step}{suffix}").hardlink_to(source)
    return folder


def test_two_evaluators_resume(dataset, many_checkpoints, tmp_path, capsys):
    eval_dir = tmp_path / "eval"
    flags = dataset.eval_flags(many_checkpoints, eval_dir)
    done = set()
    for number, seconds, sent in kills("eval", 1):
        process = run(tmp_path, f"eval{number}", flags)
        kill(process, "^step", seconds, sent)
        assert not evaluated_steps(process.out) & done
        done = markers(eval_dir)
        assert done == set(range(1, len(done) + 1))
    capsys.readouterr()
    with run(tmp_path, "part0", [*flags, "--eval_shard=0/2"]) as other:
        other.wait_for("^step")
        assert run_main([*flags, "--eval_shard=1/2"]) == 0
        assert other.status() == 0, other.err
    evaluated = evaluated_steps(other.out) | evaluated_steps(capsys.readouterr().out)
    assert evaluated == set(range(1, CHECKPOINTS + 1)) - done
    assert markers(eval_dir) == set(range(1, CHECKPOINTS + 1))


KILLED_WHILE_SAVING = """
import os, signal, sys
import numpy
import runner
from tagger.terminal import program

def save(file, **arrays):
    file.write(b"half of the scores")
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)

numpy.savez_compressed = save
program.run(runner.main, sys.argv)
"""


def test_a_kill_while_the_best_scores_are_replaced(dataset, trained, tmp_path, capsys):
    eval_dir = tmp_path / "eval"
    flags = dataset.eval_flags(trained, eval_dir)
    assert run_main(flags) == 0
    path = eval_dir / eval_folder.SCORES_FILE
    before = path.read_bytes()
    best, _ = EvalFolder(eval_dir).best()
    marker = EvalFolder(eval_dir).marker(best)
    marker.unlink()
    command = [forking_python(), "-c", KILLED_WHILE_SAVING, *flags]
    killed = subprocess.run(command, env=PROGRAM_ENVIRONMENT, capture_output=True)
    assert killed.returncode == -signal.SIGKILL
    assert f"step {best}, all" in killed.stdout.decode()
    assert path.read_bytes() == before
    assert not marker.exists()
    capsys.readouterr()
    assert run_main(flags) == 0
    assert evaluated_steps(capsys.readouterr().out) == {best}
    assert marker.exists()
    with np.load(path) as old, np.load(io.BytesIO(before)) as new:
        assert old["step"] == new["step"] == best


def test_inference(dataset, trained, tmp_path):
    path = tmp_path / "submission.csv"
    flags = dataset.inference_flags(trained, path)
    for number, seconds, sent in kills("inference", 0.5):
        process = run(tmp_path, f"inference{number}", flags)
        kill(process, "^scoring", seconds, sent)
        if path.exists():
            assert len(path.read_text().splitlines()) == 13
            path.unlink()
    assert run_main(flags) == 0
    assert len(path.read_text().splitlines()) == 13
