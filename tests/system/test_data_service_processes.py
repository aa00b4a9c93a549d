"""Training on a tf.data service: which clips come in an epoch, resuming, and errors."""

import collections
import contextlib
import dataclasses
import itertools
import pathlib
import signal

import numpy as np
import pytest
from helpers import SMALL_HPARAMS, free_ports, parse_hparams, run_main
from processes import SMALL_RUNNER, Process

import inputs
from tagger.data import clips, wav
from tagger.errors import UserError
from tagger.runs.run import Run

STEPS_FETCHED_AHEAD = 35  # at most: two epochs and a half


@pytest.fixture(scope="module", autouse=True)
def whole():
    """The network of this process has the first rows, as that of the others."""


def start_server(folder: pathlib.Path, name: str, *arguments: object) -> Process:
    return Process(folder, name, "tools.data_service", *arguments)


def start_worker(folder: pathlib.Path, name: str, address: str) -> Process:
    own = ("--port=0", "--host=localhost")
    return start_server(folder, name, "worker", f"--dispatcher={address}", *own)


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    """The address of a dispatcher with two workers."""
    folder = tmp_path_factory.mktemp("service")
    (port,) = free_ports(1)
    address = f"localhost:{port}"
    with (
        start_server(folder, "dispatcher", "dispatcher", f"--port={port}"),
        start_worker(folder, "worker1", address) as worker1,
        start_worker(folder, "worker2", address) as worker2,
    ):
        for worker in (worker1, worker2):
            assert worker.wait_for(f"^waiting for {address}"), worker.err
            assert worker.wait_for("^worker is ready"), worker.err
        yield f"grpc://{address}"


@pytest.mark.parametrize("num_trainers", [1, 2])
def test_each_clip_comes_once_per_epoch(dataset, service, monkeypatch, num_trainers):
    """Checks streams that end after one, two and three epochs."""
    paths = [str(path) for path in sorted(dataset.clip_dir.iterdir())]
    table = clips.make_clips(
        paths, wav.read_wav_headers(paths), np.eye(len(paths), dtype=np.float32)
    )
    hparams = dataclasses.replace(parse_hparams(SMALL_HPARAMS), batch_size=1)
    per_clip = hparams.num_examples(table.num_samples)
    for num_epochs in (1, 2, 3):
        monkeypatch.setattr(inputs, "ENDLESS", num_epochs * len(paths))
        job = f"{num_epochs}-for-{num_trainers}"
        streams = [
            inputs.train_input(
                table,
                hparams,
                seed=1,
                shard=shard,
                num_shards=num_trainers,
                data_service=service,
                job_name=job,
            )
            for shard in range(num_trainers)
        ]
        found = collections.Counter()
        for batches in itertools.zip_longest(*streams):  # Trainers draw in turn.
            for _, labels in filter(None, batches):
                found.update(labels.numpy().argmax(axis=1).tolist())
        assert found == {clip: num_epochs * n for clip, n in enumerate(per_clip)}


def test_training_and_resuming(dataset, service, tmp_path, capsys):
    for step in (2, 4):
        flags = dataset.train_flags(
            tmp_path, hparams=SMALL_HPARAMS, max_steps=step, data_service=service
        )
        assert run_main(flags) == 0
    assert f"resuming from {tmp_path}/model.ckpt-2" in capsys.readouterr().err
    assert Run(tmp_path).checkpoints()[-1].endswith("model.ckpt-4")


def test_an_unreadable_clip_is_named(service, tmp_path):
    paths = [str(tmp_path / "gone.wav")]
    table = clips.make_clips(paths, [(44, 30000, 0)], np.ones([1, 1], np.float32))
    stream = inputs.train_input(
        table,
        parse_hparams(SMALL_HPARAMS),
        seed=1,
        data_service=service,
        job_name="broken",
    )
    with pytest.raises(UserError, match="gone.wav"):
        next(inputs.read_batches(stream))


def test_training_continues_when_a_data_worker_or_the_dispatcher_dies(
    dataset, tmp_path
):
    (port,) = free_ports(1)
    address = f"localhost:{port}"
    journal = f"--work_dir={tmp_path / 'journal'}"
    dispatcher = ("dispatcher", f"--port={port}", journal)
    flags = dataset.train_flags(
        tmp_path / "run", hparams=SMALL_HPARAMS, data_service=f"grpc://{address}"
    )
    with contextlib.ExitStack() as stack:

        def started(process: Process) -> Process:
            assert stack.enter_context(process).wait_for("is ready"), process.err
            return process

        first_dispatcher = started(start_server(tmp_path, "dispatcher", *dispatcher))
        first_worker = started(start_worker(tmp_path, "first", address))
        second_worker = started(start_worker(tmp_path, "second", address))
        trainer = Process(tmp_path, "trainer", SMALL_RUNNER, *flags)
        stack.enter_context(trainer)
        assert trainer.wait_for("^step 5:"), trainer.err
        first_worker.send(signal.SIGKILL)
        later = max(trainer.losses()) + STEPS_FETCHED_AHEAD
        assert trainer.wait_for(f"^step {later}:"), trainer.err
        first_dispatcher.send(signal.SIGKILL)
        assert first_dispatcher.status() == -signal.SIGKILL
        second_dispatcher = started(start_server(tmp_path, "restarted", *dispatcher))
        third_worker = started(start_worker(tmp_path, "third", address))
        # Only the worker that was started with the new dispatcher remains.
        second_worker.send(signal.SIGKILL)
        later = max(trainer.losses()) + STEPS_FETCHED_AHEAD
        assert trainer.wait_for(f"^step {later}:"), trainer.err
        for process, number, status in (
            (trainer, signal.SIGTERM, 128 + signal.SIGTERM),
            (third_worker, signal.SIGTERM, -signal.SIGTERM),
            (second_dispatcher, signal.SIGINT, -signal.SIGINT),
        ):
            process.send(number)
            assert process.status() == status


def test_a_signal_ends_the_wait_for_the_first_batch(dataset, tmp_path):
    (port,) = free_ports(1)
    flags = dataset.train_flags(
        tmp_path / "run",
        hparams=SMALL_HPARAMS,
        data_service=f"grpc://localhost:{port}",
    )
    with (
        start_server(tmp_path, "dispatcher", "dispatcher", f"--port={port}") as server,
        contextlib.ExitStack() as stack,
    ):
        assert server.wait_for("is ready"), server.err
        trainer = Process(tmp_path, "trainer", "runner.py", *flags)
        stack.enter_context(trainer)
        assert trainer.wait_for("^filling the shuffle buffer"), trainer.err
        trainer.send(signal.SIGTERM)
        assert trainer.status() == -signal.SIGTERM
