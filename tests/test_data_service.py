"""A tf.data service that cannot start, and a trainer whose data service dies."""

import os
import signal
import socket
import threading
import types

import pytest

import train
from tagger.errors import UserError
from tagger.hparams import Hparams
from tagger.terminal import signals
from tagger.training import data_service
from tools.data_service import start_server


def test_a_dispatcher_that_cannot_start_says_why(tmp_path):
    with socket.create_server(("localhost", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(UserError, match=f"--port {port}"):
            start_server("dispatcher", port=port)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file is not a directory"):
        start_server("dispatcher", port=0, work_dir=str(tmp_path / "file" / "x"))


@pytest.fixture
def blocked():
    """An event that ends the waiting of the threads of a test."""
    event = threading.Event()
    yield event
    event.set()


def test_the_end_and_the_error_of_a_data_service_are_errors():
    served = data_service.served_batches(iter([1]))
    assert next(served) == 1
    with pytest.raises(UserError, match="--data_service"):
        next(served)

    def failing():
        raise UserError("gone.wav")
        yield

    with pytest.raises(UserError, match="gone.wav"):
        next(data_service.served_batches(failing()))


@pytest.mark.parametrize("first", [[], [1]])
def test_a_data_service_may_recover_after_a_note(monkeypatch, blocked, first):
    monkeypatch.setattr(data_service, "NOTE_SECONDS", 0)
    notes = []

    def note(*words, **options):
        notes.append(words)
        blocked.set()

    def stream():
        yield from first
        blocked.wait()
        yield 2

    monkeypatch.setattr(data_service, "print", note, raising=False)
    served = data_service.served_batches(stream())
    assert [next(served) for _ in (*first, 2)] == [*first, 2]
    assert notes


def test_a_data_service_that_remains_dead_is_an_error(monkeypatch, blocked):
    monkeypatch.setattr(data_service, "GIVE_UP_SECONDS", 0)

    def stream():
        yield 1
        blocked.wait()

    served = data_service.served_batches(stream())
    assert next(served) == 1
    with pytest.raises(UserError, match="--data_service: no batch"):
        next(served)


@pytest.mark.parametrize("num_workers", [1, 2])
def test_only_a_single_worker_stops_alone(monkeypatch, num_workers):
    received = [signal.SIGTERM]
    seen = []
    monkeypatch.setattr(train.inputs, "train_input", lambda *args, **kwargs: [])
    monkeypatch.setattr(train, "served_batches", lambda stream, stop: seen.append(stop))
    workers = types.SimpleNamespace(
        num_workers=num_workers,
        num_replicas=num_workers,
        worker=0,
        chief_value=lambda value: value,
        batches=lambda stream: stream,
    )
    options = types.SimpleNamespace(data_service="grpc://host:1", seed=None)
    plan = types.SimpleNamespace(options=options, hparams=Hparams(), clips=None)
    trainer = types.SimpleNamespace(steps_done=0)
    train._batches(trainer, plan, workers, 0, received)
    assert seen == [received if num_workers == 1 else ()]


def test_a_signal_ends_the_wait_for_a_data_service(blocked):
    def stream():
        yield 1
        os.kill(os.getpid(), signal.SIGTERM)
        blocked.wait()

    received = []
    with signals.recorded(received):
        assert list(data_service.served_batches(stream(), received)) == [1]
    assert received == [signal.SIGTERM]
