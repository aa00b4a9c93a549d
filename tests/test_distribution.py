"""Training on several devices and in several processes."""

import json
import re
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import SMALL_HPARAMS, parse_hparams, run_main

import train
from tagger.data.clips import read_clips
from tagger.errors import UserError
from tagger.hparams import Hparams
from tagger.options import FIELDS, TrainOptions
from tagger.runs import checkpoints
from tagger.training import distribution
from tagger.training.trainer import LostWorkerError, Trainer

BATCH = 16
NO_PATHS = {
    name: "" for name, field in FIELDS["train"].items() if field.metadata["required"]
}

TWO_HOSTS = ["a:1", "b:2"]
FOR_WORKERS = SMALL_HPARAMS.replace("batch_size=4", "batch_size=6")  # 2 or 3 of them


def new_trainer(strategy: tf.distribute.Strategy | None, more: str) -> Trainer:
    keras.utils.set_random_seed(5)
    return train.define_trainer(
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


def losses(trainer: Trainer, split: distribution.Distribution | None, steps: int):
    """The losses of steps. If split is given, batches are split over its replicas."""
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


def test_one_seed_gives_the_same_batches_on_one_and_two_devices(
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


def test_with_batch_norm_losses_are_close_and_averages_are_synced(
    two_devices, three_rows
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
    two.sync_averages()
    after = [copy.numpy() for copy in local(moving)]
    np.testing.assert_array_equal(*after)
    np.testing.assert_allclose(after[0], np.mean(before, axis=0), rtol=1e-6)


def test_a_worker_that_fails_while_saving_is_reported(two_devices):
    two = new_trainer(two_devices.strategy, "batch_size=16")

    def fail():
        raise tf.errors.UnavailableError(None, None, "Connection reset by peer")

    two.sync_averages = fail
    with pytest.raises(LostWorkerError, match="another worker has failed: Connection"):
        two.checkpoint_values()


def test_dropout_differs_in_each_step_on_both_devices(two_devices):
    trainer = new_trainer(two_devices.strategy, "batch_size=16,dropout=0.5")
    trainer.optimizer.learning_rate = 0.0
    batch = next(batches(1))
    parts = [tuple(part[:8] for part in batch)] * 2
    found = [
        float(trainer.train_step(*next(two_devices.batches(iter(parts)))).loss)
        for _ in range(3)
    ]
    assert len(set(found)) == 3


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
    assert "Conv/weights/Adam_1" in shapes[0]
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
            "batch_size must be a multiple of the 2 devices that train together, but "
            "got 3",
        ),
        ({"devices": "GPU:77"}, "--devices: there is no GPU:77; TensorFlow finds"),
        (
            {"data_service": "grpc://127.0.0.1:9"},
            "--data_service: cannot reach 127.0.0",
        ),
        (
            {"data_service": "grpc://127.0.0.1:70000"},
            "--data_service: cannot reach 127.0.0.1:70000 (",
        ),
    ],
)
def test_impossible_distributions_are_reported_in_one_line(
    dataset, tmp_path, capsys, flags, message
):
    assert run_main(dataset.train_flags(tmp_path / "run", **flags)) == 1
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_the_index_of_a_process_in_its_cluster(monkeypatch):
    def place(cluster: dict, job: str, index: object):
        task = {"type": job, "index": index}
        config = json.dumps({"cluster": cluster, "task": task})
        monkeypatch.setenv("TF_CONFIG", config)
        return distribution.read_cluster()

    assert distribution.read_cluster() == (0, 1)
    assert place({"worker": ["a:1"]}, "worker", 0) == (0, 1)
    assert place({"worker": ["a:1", "[::1]:2"]}, "worker", 1) == (1, 2)
    with_chief = {"chief": ["c:1"], "worker": ["a:1", "b:2"]}
    assert place(with_chief, "chief", 0) == (0, 3)
    assert place(with_chief, "worker", "1") == (2, 3)


@pytest.mark.parametrize(
    "text",
    [
        "{",
        '{"cluster": {"worker": ["a:1", "b:1"]}}',
        '{"cluster": {"worker": ["a", "a"]}, "task": {"type": "worker", "index": 0}}',
        '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 1}}',
        '{"cluster": {"worker": ["a", "b"]}, "task": {"type": "worker", "index": 0}}',
        '{"cluster": {"worker": ["a:70000"]}, "task": {"type": "worker", "index": 0}}',
        '{"cluster": {"worker": ["a:-1"]}, "task": {"type": "worker", "index": 0}}',
        '{"cluster": {"worker": ["a:1"]}, "task": {"type": "evaluator", "index": 0}}',
        '{"cluster": {"ps": ["a:1"]}, "task": {"type": "ps", "index": 0}}',
    ],
)
def test_an_invalid_cluster_is_reported_in_one_line(
    dataset, tmp_path, capsys, monkeypatch, text
):
    monkeypatch.setenv("TF_CONFIG", text)
    assert run_main(dataset.train_flags(tmp_path / "run")) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: TF_CONFIG must be")
    assert error.count("\n") == 1


def two_workers() -> distribution.Distribution:
    """A chief whose other worker is not running."""
    workers = distribution.Distribution()
    workers.num_workers = 2
    return workers


def test_each_worker_needs_a_clip(dataset, monkeypatch):
    _, clips = read_clips(
        csv_path=dataset.csv_path,
        clip_dir=dataset.clip_dir,
        class_map_path=dataset.class_map_path,
        flag_prefix="train",
        check_class_map=lambda names: None,
    )
    workers, options = two_workers(), TrainOptions(**NO_PATHS)
    monkeypatch.setattr(workers, "_mean_float", lambda value: value)
    workers.check_inputs(options, Hparams(), [], clips.take(np.arange(2)))
    with pytest.raises(UserError, match="each of the 2 workers, but got 1"):
        workers.check_inputs(options, Hparams(), [], clips.take(np.arange(1)))


def test_different_initial_weights_are_an_error(monkeypatch):
    workers, trainer = two_workers(), new_trainer(None, "")
    monkeypatch.setattr(workers, "_mean_float", lambda value: value)
    workers.check_start(trainer.checksums)
    monkeypatch.setattr(workers, "_mean_float", lambda value: value + 0.5)
    with pytest.raises(UserError, match="different weights"):
        workers.check_start(trainer.checksums)
