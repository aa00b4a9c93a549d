"""Training on several devices and in several processes."""

import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import ROOT, SMALL_HPARAMS, free_ports, run_main

import train
from tagger import checkpoints, distribution
from tagger.hparams import parse_hparams

BATCH = 16
HANG_SECONDS = 120  # No process here takes so long.
TWO_HOSTS = ["a:1", "b:2"]
FOR_WORKERS = SMALL_HPARAMS.replace("batch_size=4", "batch_size=6")  # 2 or 3 of them


def new_trainer(strategy: tf.distribute.Strategy | None, more: str) -> train.Trainer:
    keras.utils.set_random_seed(5)
    return train.Trainer(
        model_name="mobilenet-v1",
        num_classes=2,
        hparams=parse_hparams(SMALL_HPARAMS.replace("batch_size=4", more)),
        epoch_num_batches=1,
        strategy=strategy,
    )


@pytest.fixture(scope="module")
def two_devices() -> distribution.Distribution:
    """Two parts of the CPU."""
    return distribution.Distribution(["CPU:0", "CPU:1"])


def batches(number: int):
    """Batches that can be learnt: one class is louder than the other."""
    rng = np.random.default_rng(0)
    for _ in range(number):
        labels = np.eye(2)[rng.integers(0, 2, BATCH)]
        features = rng.normal(size=(BATCH, 20, 16)) * (
            1 + 2 * labels[:, :1, np.newaxis]
        )
        yield tf.constant(features, tf.float32), tf.constant(labels, tf.float32)


def losses(trainer: train.Trainer, split: distribution.Distribution | None, steps: int):
    """The losses of steps, with each batch split over the replicas if asked."""
    found = []
    for features, labels in batches(steps):
        batch = features, labels
        if split:
            half = BATCH // 2
            parts = [(features[:half], labels[:half]), (features[half:], labels[half:])]
            batch = next(split.batches(iter(parts)))
        found.append(float(trainer.train_step(*batch)[0]))
    return found


def test_two_replicas_of_8_equal_one_of_16_without_batch_norm(two_devices):
    more = "bn=0,batch_size=16,lrdecay=0.5,decay_epochs=3"
    one, two = new_trainer(None, more), new_trainer(two_devices.strategy, more)
    np.testing.assert_allclose(losses(one, None, 6), losses(two, two_devices, 6), 1e-5)
    assert two.steps_done == 6
    for name, variable in one.variables.items():
        both = two_devices.strategy.experimental_local_results(
            two.variables[name].value
        )
        assert len(both) == 2
        for copy in both:
            np.testing.assert_allclose(
                copy.numpy(), variable.numpy(), rtol=1e-5, atol=1e-5, err_msg=name
            )


def test_one_seed_draws_the_same_batches_for_one_device_and_two(
    dataset, tmp_path, capsys
):
    hparams = SMALL_HPARAMS.replace("batch_size=4", "batch_size=16,bn=0")
    found = []
    for devices in ("CPU:0", "CPU:0,CPU:1"):
        flags = dataset.train_flags(
            tmp_path / devices, hparams=hparams, max_steps=6, seed=3, devices=devices
        )
        assert run_main(flags) == 0
        lines = re.findall(
            r"^step \d+: loss (\S+?)(?:,|$)", capsys.readouterr().out, re.M
        )
        found.append([float(line) for line in lines])
    assert len(found[0]) == 6
    np.testing.assert_allclose(*found, atol=1e-5)


def test_with_batch_norm_curves_lie_together_and_moving_averages_are_averaged(
    two_devices,
):
    more = "batch_size=16"
    one, two = new_trainer(None, more), new_trainer(two_devices.strategy, more)
    expected, actual = losses(one, None, 20), losses(two, two_devices, 20)
    assert np.median(np.abs(np.subtract(actual, expected))) < 0.1 * expected[0]
    for curve in (actual, expected):
        assert np.median(curve[-10:]) < 0.2 * curve[0]
    local = two_devices.strategy.experimental_local_results
    moving = two.variables["Conv/BatchNorm/moving_variance"].value
    before = [copy.numpy() for copy in local(moving)]
    assert not np.array_equal(*before)
    two.average_moving()
    after = [copy.numpy() for copy in local(moving)]
    np.testing.assert_array_equal(*after)
    np.testing.assert_allclose(after[0], np.mean(before, axis=0), rtol=1e-6)


def test_replicas_drop_different_activations(two_devices):
    trainer = new_trainer(two_devices.strategy, "batch_size=16,dropout=0.5")
    losses(trainer, two_devices, 2)
    state = trainer.network.get_layer("dropout").seed_generator.state
    states = two_devices.strategy.experimental_local_results(state.value)
    (first, draws), (second, also_draws) = (s.numpy() for s in states)
    assert first != second
    assert draws == also_draws == 2


def test_checkpoints_pass_between_one_device_and_two(
    dataset, trained, tmp_path, capsys
):
    run = tmp_path / "run"
    shutil.copytree(trained, run)

    def train_to(step: int, devices: str) -> str:
        flags = dataset.train_flags(
            run, hparams=SMALL_HPARAMS, max_steps=step, seed=3, devices=devices
        )
        status, error = run_main(flags), capsys.readouterr().err
        assert status == 0, error
        return error

    assert f"resuming from {run}/model.ckpt-5" in train_to(6, "CPU:0,CPU:1")
    assert f"resuming from {run}/model.ckpt-6" in train_to(7, "CPU:0")
    shapes = [checkpoints.shapes(str(run / f"model.ckpt-{n}")) for n in (5, 6, 7)]
    assert len(shapes[0]) == 306
    assert shapes[0] == shapes[1] == shapes[2]
    power = tf.train.load_checkpoint(str(run / "model.ckpt-7")).get_tensor(
        "beta1_power"
    )
    assert power == pytest.approx(0.9**8)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            {"devices": "CPU:0,CPU:1", "hparams": "batch_size=3"},
            "batch_size must be a multiple of the 2 devices that train together, such "
            "as 4, but got 3",
        ),
        (
            {"devices": "CPU:1"},
            "--devices: the CPU as a whole is CPU:0, but got 'CPU:1",
        ),
        ({"devices": "GPU:77"}, "--devices: there is no GPU:77; TensorFlow finds"),
        (
            {"data_service": "grpc://127.0.0.1:9"},
            "--data_service: cannot reach 127.0.0",
        ),
    ],
)
def test_what_cannot_be_distributed_is_one_line(
    dataset, tmp_path, capsys, flags, message
):
    assert run_main(dataset.train_flags(tmp_path / "run", **flags)) == 1
    assert message in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (None, (0, 1)),
        (
            {"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 0}},
            (0, 1),
        ),
        (
            {"cluster": {"worker": TWO_HOSTS}, "task": {"type": "worker", "index": 1}},
            (1, 2),
        ),
        (
            {
                "cluster": {"chief": ["c:1"], "worker": TWO_HOSTS},
                "task": {"type": "worker", "index": "1"},
            },
            (2, 3),
        ),
    ],
)
def test_the_place_in_a_cluster(monkeypatch, config, expected):
    monkeypatch.setenv("TF_CONFIG", json.dumps(config) if config else "")
    assert distribution.read_cluster() == distribution.Cluster(*expected)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "TF_CONFIG must be JSON such as"),
        ("[1]", "TF_CONFIG must be JSON such as"),
        ('{"cluster": {"worker": ["a:1"]}}', "TF_CONFIG lacks 'task'"),
        (
            '{"cluster": {"worker": ["a:1", "a:1"]}, '
            '"task": {"type": "worker", "index": 0}}',
            "each worker must have a host:port of its own, but got a:1, a:1",
        ),
        (
            '{"cluster": {"worker": ["a", "b:1"]}, '
            '"task": {"type": "worker", "index": 0}}',
            "each worker must have a host:port of its own, but got a, b:1",
        ),
        (
            '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 1}}',
            "task worker 1 is not among the 1 of job worker",
        ),
        (
            '{"cluster": {"ps": ["a:1"]}, "task": {"type": "ps", "index": 0}}',
            "jobs are chief and worker, but got 'ps'",
        ),
        (
            '{"cluster": {"worker": ["a:1"]}, '
            '"task": {"type": "evaluator", "index": 0}}',
            "but got 'evaluator'; evaluation is --mode eval",
        ),
        (
            '{"cluster": {"chief": ["a:1", "b:1"]}, '
            '"task": {"type": "chief", "index": 0}}',
            "one chief at most",
        ),
    ],
)
def test_a_wrong_cluster_is_one_line(
    dataset, tmp_path, capsys, monkeypatch, text, message
):
    monkeypatch.setenv("TF_CONFIG", text)
    assert run_main(dataset.train_flags(tmp_path / "run")) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


class Workers:
    """Processes of runner.py that train together on this machine."""

    def __init__(self, folder: pathlib.Path, flags_of: list[list[str]]):
        number = len(flags_of)
        addresses = [f"127.0.0.1:{port}" for port in free_ports(number)]
        self.outputs = [folder / f"out{i}" for i in range(number)]
        self.errors = [folder / f"err{i}" for i in range(number)]
        self.processes = []
        for index, flags in enumerate(flags_of):
            config = {
                "cluster": {"worker": addresses},
                "task": {"type": "worker", "index": index},
            }
            with (
                self.outputs[index].open("w") as out,
                self.errors[index].open("w") as err,
            ):
                self.processes.append(
                    subprocess.Popen(
                        [sys.executable, str(ROOT / "runner.py"), *flags],
                        env=os.environ | {"TF_CONFIG": json.dumps(config)},
                        stdout=out,
                        stderr=err,
                    )
                )

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        for process in self.processes:
            process.kill()
            process.wait()

    def wait_for_step(self, step: int) -> None:
        """Until the chief has printed the step."""
        deadline = time.monotonic() + HANG_SECONDS
        while f"step {step}:" not in self.outputs[0].read_text():
            assert time.monotonic() < deadline, self.errors[0].read_text()
            assert self.processes[0].poll() is None, self.errors[0].read_text()
            time.sleep(0.05)

    def statuses(self) -> list[int]:
        """The exit statuses, when all have ended."""
        return [process.wait(HANG_SECONDS) for process in self.processes]

    def losses(self, index: int) -> list[str]:
        return re.findall(
            r"^step \d+: loss \S+?(?=,|$)", self.outputs[index].read_text(), re.M
        )


@pytest.fixture
def start(dataset, tmp_path):
    """A function that starts some workers in one train_dir, tmp_path / "run"."""

    def start(number: int) -> Workers:
        flags = dataset.train_flags(
            tmp_path / "run", hparams=FOR_WORKERS, checkpoint_steps=3
        )
        return Workers(tmp_path, [flags] * number)

    return start


def newest_step(tmp_path: pathlib.Path) -> int:
    newest = checkpoints.list_checkpoints(tmp_path / "run")[-1]
    return checkpoints.checkpoint_step(newest)


def test_workers_die_or_are_stopped_and_all_leave_and_go_on(
    dataset, start, tmp_path, capsys
):
    """Of three the chief is killed, of two another one; then both are told to stop."""
    with start(3) as three:
        three.wait_for_step(4)
        three.processes[0].kill()
        assert three.statuses() == [-signal.SIGKILL, 1, 1]
        for index in (1, 2):
            text = three.errors[index].read_text()
            assert f"error: worker {index} of 3: another worker is gone" in text
            assert "Traceback" not in text
    step = newest_step(tmp_path)
    assert step == 3
    with start(2) as both:
        both.wait_for_step(step + 4)
        both.processes[1].kill()
        assert both.statuses() == [1, -signal.SIGKILL]
        line = both.errors[0].read_text().splitlines()[-1]
        assert line.startswith("error: worker 0 of 2: another worker is gone")
    step = newest_step(tmp_path)
    assert step % 3 == 0
    with start(2) as both:
        both.wait_for_step(step + 2)
        both.processes[0].send_signal(signal.SIGINT)
        both.processes[1].terminate()
        assert both.statuses() == [128 + signal.SIGINT, 128 + signal.SIGTERM]
        assert both.losses(0) == both.losses(1)
        for errors, name in zip(both.errors, ("SIGINT", "SIGTERM")):
            text = errors.read_text()
            assert f"resuming from {tmp_path}/run/model.ckpt-{step}" in text
            assert f"stopped by {name} at step" in text
            assert "Traceback" not in text
        step += len(both.losses(0))
    assert newest_step(tmp_path) == step
    # One chief wrote: one file of events a run.
    assert len(list((tmp_path / "run").glob("events.*"))) == 3
    assert len(checkpoints.shapes(str(tmp_path / "run" / f"model.ckpt-{step}"))) == 306
    flags = dataset.train_flags(
        tmp_path / "run", hparams=FOR_WORKERS, max_steps=step + 1
    )
    assert run_main(flags) == 0
    assert f"resuming from {tmp_path}/run/model.ckpt-{step}" in capsys.readouterr().err
    assert newest_step(tmp_path) == step + 1


def two_workers() -> distribution.Distribution:
    """What a chief sees, without its worker."""
    workers = distribution.Distribution()
    workers.cluster = distribution.Cluster(0, 2)
    return workers


def test_too_few_clips_for_the_workers():
    with pytest.raises(ValueError, match="a clip for each of the 2 workers, but got 1"):
        train._check_sizes(parse_hparams("batch_size=4"), 1, two_workers())


def test_workers_that_start_from_other_weights_say_so(monkeypatch):
    workers, trainer = two_workers(), new_trainer(None, "")
    monkeypatch.setattr(workers, "_mean_float", lambda value: value)
    train._check_same_weights(trainer, "run", workers)
    monkeypatch.setattr(workers, "_mean_float", lambda value: value + 0.5)
    with pytest.raises(ValueError, match="start from different weights; --train_dir"):
        train._check_same_weights(trainer, "run", workers)


def test_a_part_of_the_cpu_is_no_device_of_a_worker():
    with pytest.raises(ValueError, match="trains on its GPUs or on CPU:0, but got"):
        distribution.Distribution(["CPU:0", "CPU:1"], distribution.Cluster(0, 2))


def test_a_worker_whose_port_is_taken_says_so(tmp_path):
    """In a process of its own, as it gets no further."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        code = (
            "from tagger import distribution as d; d.Distribution((), d.read_cluster())"
        )
        config = {
            "cluster": {"worker": [address, f"127.0.0.1:{free_ports(1)[0]}"]},
            "task": {"type": "worker", "index": 0},
        }
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env=os.environ | {"TF_CONFIG": json.dumps(config)},
            capture_output=True,
            text=True,
            timeout=HANG_SECONDS,
        )
    last = done.stderr.splitlines()[-1]
    assert last.startswith("ConnectionError: TF_CONFIG: worker 0 of 2 cannot join the")


def test_a_worker_that_does_not_see_the_chiefs_checkpoint_says_so(
    trained, tmp_path, capsys
):
    train._warn_if_none_seen(str(trained))
    assert capsys.readouterr().err == ""
    train._warn_if_none_seen(str(tmp_path))
    assert "checkpoint is not seen in" in capsys.readouterr().err


def test_workers_that_are_given_different_flags_say_so(dataset, tmp_path):
    run = tmp_path / "run"
    flags_of = [
        dataset.train_flags(run, hparams=SMALL_HPARAMS + more, max_steps=2)
        for more in ("", ",bn=0")
    ]
    with Workers(tmp_path, flags_of) as both:
        assert both.statuses() == [1, 1]
        for errors in both.errors:
            assert "error: the workers were not given the same" in errors.read_text()
    assert not checkpoints.list_checkpoints(run)
