"""The tf.data service: the same clips a pass as at home, and data workers that die."""

import collections
import contextlib
import dataclasses
import itertools
import pathlib
import signal
import socket
import subprocess
import time

import numpy as np
import pytest
from conftest import (
    PROGRAM_ENVIRONMENT,
    SMALL_HPARAMS,
    free_ports,
    program_command,
    run_main,
)

import inputs
from tagger import checkpoints, clips, wav
from tagger.hparams import parse_hparams
from tools import data_service

HANG_SECONDS = 120  # No process here takes so long.


class Process:
    """A program of this project, with its lines on stderr or stdout in a file."""

    def __init__(self, log: pathlib.Path, *command: object):
        self.log = log
        with log.open("w") as file:
            self.process = subprocess.Popen(
                program_command(*command),
                env=PROGRAM_ENVIRONMENT,
                stdout=file,
                stderr=file,
            )

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.process.kill()
        self.process.wait()

    def wait_for(self, text: str) -> str:
        """Until the text is in its log; the rest of the line."""
        deadline = time.monotonic() + HANG_SECONDS
        while text not in (log := self.log.read_text()):
            assert time.monotonic() < deadline, log
            assert self.process.poll() is None, log
            time.sleep(0.05)
        return log.split(text)[1].split("\n")[0]


COMMAND = "tools.data_service"


def start_service(
    folder: pathlib.Path, address: str, work_dir: object, *workers: str
) -> list[Process]:
    """A dispatcher at host:port and some workers, all of which are ready."""
    port = address.partition(":")[2]
    flags = ("dispatcher", "--port", port, "--work_dir", work_dir)
    processes = [Process(folder / f"dispatcher{len(workers)}", COMMAND, *flags)]
    flags = ("worker", "--dispatcher", address, "--port", 0, "--host", "localhost")
    processes += [Process(folder / name, COMMAND, *flags) for name in workers]
    processes[0].wait_for(f"dispatcher is ready at port {port}")
    for process in processes[1:]:
        process.wait_for("worker is ready")
    return processes


def free_address() -> str:
    return f"localhost:{free_ports(1)[0]}"


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    """The address of a dispatcher that has two workers."""
    address = free_address()
    with contextlib.ExitStack() as stack:
        folder = tmp_path_factory.mktemp("service")
        for process in start_service(folder, address, "", "first", "second"):
            stack.enter_context(process)
        yield f"grpc://{address}"


@pytest.mark.parametrize("num_trainers", [1, 2])
def test_each_clip_comes_once_per_epoch(dataset, service, monkeypatch, num_trainers):
    """Counted to the last example of some epochs that have an end."""
    num_epochs = 5
    paths = [str(path) for path in sorted(dataset.clip_dir.iterdir())]
    monkeypatch.setattr(inputs, "ENDLESS", num_epochs * len(paths))
    table = clips.make_clips(
        paths, wav.read_wav_headers(paths), np.eye(len(paths), dtype=np.float32)
    )
    hparams = dataclasses.replace(parse_hparams(SMALL_HPARAMS), batch_size=1)
    streams = [
        inputs.train_input(
            table,
            hparams,
            seed=1,
            shard=shard,
            num_shards=num_trainers,
            data_service=inputs.DataService(service, f"for-{num_trainers}"),
        )
        for shard in range(num_trainers)
    ]
    found = collections.Counter()
    for batches in itertools.zip_longest(*streams):  # as trainers draw: in turn
        for _, labels in filter(None, batches):
            found.update(labels.numpy().argmax(axis=1).tolist())
    per_clip = hparams.num_examples(table.num_samples)
    assert found == {clip: num_epochs * n for clip, n in enumerate(per_clip)}


def test_training_on_it_and_going_on(dataset, service, tmp_path, capsys):
    for step in (2, 4):
        flags = dataset.train_flags(
            tmp_path, hparams=SMALL_HPARAMS, max_steps=step, data_service=service
        )
        assert run_main(flags) == 0
    assert f"resuming from {tmp_path}/model.ckpt-2" in capsys.readouterr().err
    assert checkpoints.list_checkpoints(tmp_path)[-1].endswith("model.ckpt-4")


def test_a_clip_that_breaks_is_named(dataset, service, tmp_path, monkeypatch):
    paths = [str(tmp_path / "gone.wav")]
    table = clips.make_clips(paths, [(44, 30000)], np.ones([1, 1], np.float32))
    stream = inputs.train_input(
        table,
        parse_hparams(SMALL_HPARAMS),
        seed=1,
        data_service=inputs.DataService(service, "broken"),
    )
    with pytest.raises(OSError, match="gone.wav"):
        next(inputs.read_batches(stream))


def test_the_trainer_goes_on_when_a_data_worker_or_the_dispatcher_dies(
    dataset, tmp_path
):
    address, journal = free_address(), tmp_path / "journal"
    flags = dataset.train_flags(
        tmp_path / "run", hparams=SMALL_HPARAMS, data_service=f"grpc://{address}"
    )
    with contextlib.ExitStack() as stack:
        dispatcher, first, second = (
            stack.enter_context(process)
            for process in start_service(tmp_path, address, journal, "first", "second")
        )
        trainer = Process(tmp_path / "trainer", "runner.py", *flags)
        stack.enter_context(trainer)
        trainer.wait_for("step 5:")
        first.process.kill()
        # More than can have been fetched ahead: two passes and a half.
        trainer.wait_for("step 40:")
        dispatcher.process.kill()
        dispatcher.process.wait()
        again, third = (
            stack.enter_context(process)
            for process in start_service(tmp_path, address, journal, "third")
        )
        second.process.kill()  # Only one that the new dispatcher knows is left.
        trainer.wait_for("step 80:")
        for each, number in (
            (trainer, signal.SIGTERM),
            (third, signal.SIGTERM),
            (again, signal.SIGINT),
        ):
            each.process.send_signal(number)
            assert each.process.wait(HANG_SECONDS) == 128 + number


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("worker --dispatcher x:1 --port -1", "--port must be from 0 to 65535, but"),
        ("worker --dispatcher x --port 0", "--dispatcher must be host:port, but got"),
        ("dispatcher --port 0 --work_dir /dev/null/x", "cannot start the dispatcher ("),
    ],
)
def test_what_cannot_be_started_is_one_line(capsys, arguments, message):
    assert data_service.main(arguments.split()) == 1
    errors = capsys.readouterr().err
    assert errors.startswith(f"error: {message}")
    assert errors.count("\n") == 1


def test_a_port_in_use_is_one_line(capsys):
    with socket.create_server(("localhost", 0)) as server:
        port = server.getsockname()[1]
        assert data_service.main(["dispatcher", f"--port={port}"]) == 1
    assert "error: cannot start the dispatcher (" in capsys.readouterr().err


def test_wrong_usage_is_status_2():
    with pytest.raises(SystemExit) as stop:
        data_service.main(["trainer"])
    assert stop.value.code == 2
