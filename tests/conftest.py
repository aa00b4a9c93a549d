"""Fixtures: small clips, a small trained run, large references."""

import os
import pathlib
import signal
import sys

import pytest
from helpers import SMALL_HPARAMS, Dataset, run_main

from tagger.terminal import program

# Shells ignore SIGINT for background jobs, and child processes would inherit this.
signal.signal(signal.SIGINT, signal.default_int_handler)
assert "tensorflow" not in sys.modules  # It reads variables when it is imported.
program.start_tensorflow()

import tensorflow as tf  # noqa: E402

# Two devices for distributed training, before TensorFlow starts. Others use the first.
(CPU,) = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(
    CPU, [tf.config.LogicalDeviceConfiguration()] * 2
)

import model  # noqa: E402

REFERENCE_VARIABLE = "TAGGER_REFERENCE_DIR"
WHOLE_NETWORK = model.MOBILENET_V1
# Building only the first rows of the network takes a tenth of the time.
FIRST_ROWS = WHOLE_NETWORK[:2]


@pytest.fixture(scope="session", autouse=True)
def small_network():
    """Networks in the tests have only the first rows of the table."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "MOBILENET_V1", FIRST_ROWS)
        yield


@pytest.fixture
def three_rows(monkeypatch):
    """Networks in a test have the first three rows, which learn faster than two."""
    monkeypatch.setattr(model, "MOBILENET_V1", WHOLE_NETWORK[:3])


@pytest.fixture(scope="module")
def whole_network():
    """Networks in a module's tests have all rows of the table."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "MOBILENET_V1", WHOLE_NETWORK)
        yield


@pytest.fixture(scope="session")
def reference() -> pathlib.Path:
    """The folder of large references; without it, tests that need it are skipped."""
    folder = os.environ.get(REFERENCE_VARIABLE)
    if not folder:
        pytest.skip(f"set {REFERENCE_VARIABLE} to a folder of the original's results")
    return pathlib.Path(folder)


@pytest.fixture(scope="session")
def dataset(tmp_path_factory) -> Dataset:
    """Small labelled clips on disk."""
    return Dataset(tmp_path_factory.mktemp("dataset"))


@pytest.fixture(scope="session")
def trained(dataset, tmp_path_factory) -> pathlib.Path:
    """A train_dir with checkpoints 0, 2, 4 and 5 of a seeded run; do not change it."""
    train_dir = tmp_path_factory.mktemp("trained") / "run"
    flags = dataset.train_flags(
        train_dir,
        hparams=SMALL_HPARAMS,
        max_steps=5,
        checkpoint_steps=2,
        summary_steps=1,
        seed=3,
    )
    assert run_main(flags) == 0
    return train_dir
