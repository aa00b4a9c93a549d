"""The tf.data service: the same clips a pass as at home, and data workers that die."""

import collections
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import ROOT, SMALL_HPARAMS

import checkpoints
import clips
import data_service
import inputs
import runner
from hparams import parse_hparams

HANG_SECONDS = 300  # No process here takes so long.


@pytest.fixture(scope="module")
def service():
    """The address of a dispatcher and a worker in this process."""
    dispatcher = data_service.start_dispatcher(port=0, work_dir="")
    address = dispatcher.target.removeprefix("grpc://")
    worker = data_service.start_worker(port=0, dispatcher=address, host="localhost")
    yield f"grpc://{address}"
    del worker, dispatcher


def test_each_clip_comes_once_in_every_pass_as_without_it(
    dataset, service, monkeypatch
):
    """Counted over many passes; only what is under way at the end may be missing."""
    monkeypatch.setattr(inputs, "EXAMPLE_SHUFFLE_BUFFER", 1)
    paths = [str(path) for path in sorted(dataset.clip_dir.iterdir())]
    table = clips.make_clips(
        paths, clips.read_wav_headers(paths), np.eye(len(paths), dtype=np.float32)
    )
    hparams = parse_hparams(SMALL_HPARAMS)
    per_clip = hparams.num_examples(table.num_samples)
    passes = 20
    num_batches = passes * int(per_clip.sum()) // hparams.batch_size
    for address in (None, service):
        stream = inputs.train_input(
            table,
            hparams,
            seed=1,
            data_service=address and inputs.DataService(address, "counted"),
        )
        counts = collections.Counter()
        for _, labels in stream.take(num_batches):
            counts.update(labels.numpy().argmax(axis=1).tolist())
        expected = passes * per_clip
        actual = np.array([counts[clip] for clip in range(len(paths))])
        assert (np.abs(actual - expected) <= 2 * per_clip + hparams.batch_size).all()


def test_training_on_it_and_going_on(dataset, service, tmp_path, capsys):
    for step in (2, 4):
        flags = dataset.train_flags(
            tmp_path, hparams=SMALL_HPARAMS, max_steps=step, data_service=service
        )
        assert runner.main(flags) == 0
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
    with pytest.raises(ValueError, match="gone.wav"):
        next(inputs.read_batches(stream))


class Process:
    """A program of this project, with its lines on stderr or stdout in a file."""

    def __init__(self, log, *command: object):
        self.log = log
        with log.open("w") as file:
            self.process = subprocess.Popen(
                [sys.executable, *map(str, command)], stdout=file, stderr=file
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


def test_the_trainer_goes_on_when_a_data_worker_dies(dataset, tmp_path):
    command = ROOT / "data_service.py"
    log = tmp_path.joinpath
    with Process(log("dispatcher"), command, "dispatcher", "--port", 0) as dispatcher:
        port = dispatcher.wait_for("dispatcher is ready at port ").strip()
        worker = ["worker", "--dispatcher", f"localhost:{port}", "--port", 0]
        worker += ["--host", "localhost"]
        flags = dataset.train_flags(
            tmp_path / "run",
            hparams=SMALL_HPARAMS,
            data_service=f"grpc://localhost:{port}",
        )
        with (
            Process(log("first"), command, *worker) as first,
            Process(log("second"), command, *worker) as second,
        ):
            for data_worker in (first, second):
                data_worker.wait_for("worker is ready")
            with Process(log("trainer"), ROOT / "runner.py", *flags) as trainer:
                trainer.wait_for("step 5:")
                first.process.kill()
                # Far more than can have been fetched ahead: ten passes.
                trainer.wait_for("step 150:")
                trainer.process.terminate()
                assert trainer.process.wait(HANG_SECONDS) == 128 + signal.SIGTERM
            second.process.terminate()
            assert second.process.wait(HANG_SECONDS) == 128 + signal.SIGTERM
        dispatcher.process.send_signal(signal.SIGINT)
        assert dispatcher.process.wait(HANG_SECONDS) == 128 + signal.SIGINT


def test_wrong_arguments(capsys):
    assert data_service.main(["worker", "--dispatcher", "x", "--port", "-1"]) == 1
    assert "--port must be from 0 to 65535, but got -1" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        data_service.main(["trainer"])
