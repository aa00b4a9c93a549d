"""Processes that train together: stopping, killing, and resuming."""

import contextlib
import json
import pathlib
import re
import signal
import socket

import pytest
from helpers import SMALL_HPARAMS, free_ports, run_main
from processes import SMALL_RUNNER, Process

from tagger.runs import checkpoint_files, checkpoints
from tagger.runs.run import Run

HPARAMS = SMALL_HPARAMS.replace("batch_size=4", "batch_size=6")  # of 2 or 3 workers


@pytest.fixture(scope="module", autouse=True)
def whole():
    """The network of this process has the first rows, as that of the workers."""


@contextlib.contextmanager
def workers(folder: pathlib.Path, *flags_of_each: list[str]):
    """Processes that train a small network together. The chief is the first."""
    addresses = [f"127.0.0.1:{port}" for port in free_ports(len(flags_of_each))]
    with contextlib.ExitStack() as stack:
        processes = []
        for index, flags in enumerate(flags_of_each):
            config = {
                "cluster": {"worker": addresses},
                "task": {"type": "worker", "index": index},
            }
            process = Process(
                folder,
                f"worker{index}",
                SMALL_RUNNER,
                *flags,
                TF_CONFIG=json.dumps(config),
            )
            processes.append(stack.enter_context(process))
        yield processes


def newest_step(train_dir: pathlib.Path) -> int:
    return checkpoint_files.checkpoint_step(Run(train_dir).checkpoints()[-1])


def test_three_workers_stop_together_and_one_that_dies_ends_the_other(
    dataset, tmp_path, capsys
):
    """The run is resumed by two workers, and then by one process."""
    run = tmp_path / "run"
    flags = dataset.train_flags(run, hparams=HPARAMS, checkpoint_steps=3)
    with workers(tmp_path, flags, flags, flags) as three:
        assert three[0].wait_for("^step 4:")
        three[2].send(signal.SIGTERM)
        assert [worker.status() for worker in three] == [143, 143, 143]
        assert three[0].losses() == three[1].losses() == three[2].losses()
        assert "stopped by another worker at step" in three[0].err
        assert "stopped by SIGTERM at step" in three[2].err
    stopped = newest_step(run)
    assert stopped == max(three[0].losses())
    assert len(checkpoints.shapes(f"{run}/model.ckpt-{stopped}")) == 42
    with workers(tmp_path, flags, flags) as (chief, other):
        assert chief.wait_for(f"^step {stopped + 4}:")
        assert f"resuming from {run}/model.ckpt-{stopped}" in chief.err
        chief.send(signal.SIGKILL)
        assert other.status() == 1
        saved = newest_step(run)
        (error,) = re.findall("^error: .*", other.err, re.MULTILINE)
        assert "another worker has failed" in error
        assert f"resume from model.ckpt-{saved}" in error
    for worker in (*three, other):
        assert "Traceback" not in worker.err
    # Only the chief writes: there is one file of events per start.
    assert len(list(run.glob("events.*"))) == 2
    step = newest_step(run)
    assert step % 3 == 0
    alone = dataset.train_flags(run, hparams=HPARAMS, max_steps=step + 1)
    assert run_main(alone) == 0
    assert f"resuming from {run}/model.ckpt-{step}" in capsys.readouterr().err
    assert newest_step(run) == step + 1


def test_workers_with_different_flags_are_an_error(dataset, tmp_path):
    run = tmp_path / "run"
    flags_of_each = [
        dataset.train_flags(run, hparams=HPARAMS + more, max_steps=2)
        for more in ("", ",bn=0")
    ]
    with workers(tmp_path, *flags_of_each) as both:
        for worker in both:
            assert worker.status() == 1
            assert "the same flags" in worker.err.splitlines()[-1]
    assert not Run(run).checkpoints()


def test_a_port_in_use_is_an_error(dataset, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = f"127.0.0.1:{server.getsockname()[1]}"
        config = {
            "cluster": {"worker": [taken, f"127.0.0.1:{free_ports(1)[0]}"]},
            "task": {"type": "worker", "index": 0},
        }
        process = Process(
            tmp_path,
            "worker",
            "runner.py",
            *dataset.train_flags(tmp_path / "run"),
            TF_CONFIG=json.dumps(config),
        )
        with process:
            assert process.status() == 1
            assert taken[-5:] in process.err


def test_a_worker_that_waits_for_the_others_can_be_stopped(dataset, tmp_path):
    flags = dataset.train_flags(tmp_path / "run")
    config = {
        "cluster": {"worker": [f"127.0.0.1:{port}" for port in free_ports(2)]},
        "task": {"type": "worker", "index": 0},
    }
    process = Process(
        tmp_path, "worker", "runner.py", *flags, TF_CONFIG=json.dumps(config)
    )
    with process:
        assert process.wait_for("waiting for the others")
        process.send(signal.SIGINT)
        assert process.status() == -signal.SIGINT
