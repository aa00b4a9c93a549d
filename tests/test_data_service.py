"""Training on a tf.data service: which clips come in an epoch, resuming, and errors."""

import collections
import dataclasses
import itertools
import socket

import numpy as np
import pytest
from conftest import SMALL_HPARAMS, run_main

import inputs
from tagger import checkpoints, clips, wav
from tagger.hparams import parse_hparams
from tools import data_service


@pytest.fixture(scope="module")
def service():
    """The address of a dispatcher with two workers, all in this process."""
    dispatcher = data_service.start_server("dispatcher", port=0)
    address = dispatcher.target.removeprefix("grpc://")
    workers = [
        data_service.start_server(
            "worker", port=0, dispatcher=address, host="localhost"
        )
        for _ in range(2)
    ]
    yield dispatcher.target
    del workers


@pytest.mark.parametrize("num_trainers", [1, 2])
def test_each_clip_comes_once_per_epoch(dataset, service, monkeypatch, num_trainers):
    """Of streams that end after one epoch, two and three."""
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
                data_service=inputs.DataService(service, job),
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
    assert checkpoints.list_checkpoints(tmp_path)[-1].endswith("model.ckpt-4")


def test_a_clip_that_breaks_is_named(service, tmp_path):
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


def test_a_folder_that_cannot_be_written_is_an_error():
    with pytest.raises(OSError, match="dispatcher .*/dev/null"):
        data_service.start_server("dispatcher", port=0, work_dir="/dev/null/x")


def test_a_port_in_use_is_an_error():
    with socket.create_server(("localhost", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(OSError, match=f"port {port}"):
            data_service.start_server("dispatcher", port=port)
