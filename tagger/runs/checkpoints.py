"""Checkpoints: names of variables, writing and restoring.

The format is that of TensorFlow 1's Saver, as in the baseline: `model.ckpt-N` stores
each variable under its own name. The original and this program can therefore use each
other's checkpoints. Only this module contains the format of checkpoints.

A checkpoint is complete if its index file exists. Both files are written to a temporary
folder and flushed to disk. Then they are renamed, the index last.
"""

import contextlib
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from tagger.errors import UserError
from tagger.runs.checkpoint_files import (
    DATA_SUFFIX,
    INDEX_SUFFIX,
    NAME,
    CheckpointError,
    UnreadableError,
)
from tagger.terminal import program

SAVING_PREFIX = ".saving-"  # of temporary folders
GLOBAL_STEP = "global_step"
# Not a variable: the id of the run. The original restores only the names that it knows.
RUN_ID = "run_id"
# Names of Adam's state in the original (a variable X has X/Adam and X/Adam_1) and in
# Keras.
ADAM_MOMENTS = {"Adam": "momentum", "Adam_1": "velocity"}
ADAM_POWERS = {"beta1_power": "beta_1", "beta2_power": "beta_2"}


def network_variables(network: keras.Model) -> dict[str, keras.Variable]:
    """The variables of a network by their names in a checkpoint."""
    return {variable.path: variable for variable in network.weights}


def is_moving_average(name: str) -> bool:
    """Whether a variable is a moving average of batch norm."""
    return name.endswith(("/moving_mean", "/moving_variance"))


def optimizer_variables(
    network: keras.Model, optimizer: keras.optimizers.Optimizer
) -> dict[str, keras.Variable]:
    """The state of a built optimizer by its names in a checkpoint.

    The powers of Adam's betas are not included: Keras computes them from the step.
    """
    if not isinstance(optimizer, keras.optimizers.Adam):
        return {}
    state = {variable.path: variable for variable in optimizer.variables}
    return {
        f"{variable.path}/{name}": state[
            f"{optimizer.name}/{variable.path.replace('/', '_')}_{keras_name}"
        ]
        for variable in network.trainable_weights
        for name, keras_name in ADAM_MOMENTS.items()
    }


def training_values(
    network: keras.Model, optimizer: keras.optimizers.Optimizer
) -> dict[str, Any]:
    """All variables of a training by their names in a checkpoint, with the step."""
    step = int(optimizer.iterations.numpy())
    values = network_variables(network) | optimizer_variables(network, optimizer)
    values[GLOBAL_STEP] = np.int64(step)
    if isinstance(optimizer, keras.optimizers.Adam):
        # In TensorFlow 1, the power before the first step is beta, not 1.
        for name, beta in ADAM_POWERS.items():
            values[name] = np.float32(getattr(optimizer, beta) ** (step + 1))
    return values


def restore_training(
    prefix: str, network: keras.Model, optimizer: keras.optimizers.Optimizer
) -> list[str]:
    """Restores the weights, the optimizer's state and the step.

    Returns:
      The names of the optimizer's variables that are not in the checkpoint. These
      variables are unchanged.

    Raises:
      CheckpointError: see `restore`.
    """
    stored = shapes(prefix)
    state = optimizer_variables(network, optimizer)
    found = {name: variable for name, variable in state.items() if name in stored}
    step = {GLOBAL_STEP: optimizer.iterations}
    restore(prefix, network_variables(network) | found | step)
    return [name for name in state if name not in found]


def write(directory: str, values: Mapping[str, Any], step: int) -> str:
    """Writes the two files of `model.ckpt-N`; returns its prefix.

    Args:
      directory: an existing folder.
      values: all variables or arrays of the checkpoint, by name.
      step: N.

    Raises:
      UserError: the checkpoint cannot be written, for example because the disk is full.
    """
    name = f"{NAME}-{step}"
    temporary = os.path.join(directory, f"{SAVING_PREFIX}{step}-{os.getpid()}")
    try:
        os.makedirs(temporary, exist_ok=True)
        tf.raw_ops.SaveV2(
            prefix=os.path.join(temporary, name),
            tensor_names=list(values),
            shape_and_slices=[""] * len(values),
            tensors=[tf.convert_to_tensor(value) for value in values.values()],
        )
        for suffix in (DATA_SUFFIX, INDEX_SUFFIX):
            path = os.path.join(temporary, name + suffix)
            with open(path, "rb") as file:
                os.fsync(file.fileno())
            os.replace(path, os.path.join(directory, name + suffix))
    except (tf.errors.OpError, OSError) as error:
        reason = program.tensorflow_reason(error)
        raise UserError(
            f"cannot write checkpoint {name} in {directory}: {reason}"
        ) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return os.path.join(directory, name)


@contextlib.contextmanager
def open_reader(prefix: str) -> Iterator[Any]:
    """Opens a reader of a checkpoint. Its errors become UnreadableError."""
    try:
        yield tf.train.load_checkpoint(prefix)
    except (tf.errors.OpError, OSError, LookupError, RuntimeError, ValueError) as error:
        # TensorFlow's reader turns some of its errors into Python's own.
        reason = program.tensorflow_reason(error)
        raise UnreadableError(f"checkpoint {prefix} cannot be read: {reason}") from None


def is_readable(prefix: str) -> bool:
    """Whether all values of a checkpoint can be read; their checksums are compared."""
    try:
        with open_reader(prefix) as reader:
            for name in reader.get_variable_to_shape_map():
                reader.get_tensor(name)
    except UnreadableError:
        return False
    return True


class Origin(NamedTuple):
    """The step and the id of the run in a checkpoint; None and "" if it has none."""

    step: int | None
    run: str


def origin(prefix: str) -> Origin:
    """Reads the step and the id of the run in a checkpoint.

    Raises:
      UnreadableError: it cannot be read, or they are not a whole number and a text.
    """
    with open_reader(prefix) as reader:
        stored = {
            name: reader.get_tensor(name)
            for name in (GLOBAL_STEP, RUN_ID)
            if reader.has_tensor(name)
        }
    step, run = np.asarray(stored.get(GLOBAL_STEP, 0)), stored.get(RUN_ID, b"")
    for name, is_valid in (
        (GLOBAL_STEP, step.ndim == 0 and np.issubdtype(step.dtype, np.integer)),
        (RUN_ID, isinstance(run, bytes)),
    ):
        if not is_valid:
            raise UnreadableError(
                f"checkpoint {prefix} is damaged: {name} must not be {stored[name]}"
            )
    return Origin(
        int(step) if GLOBAL_STEP in stored else None, run.decode(errors="replace")
    )


def misplacement(prefix: str, runs: Sequence[str]) -> str:
    """Why a checkpoint does not belong to a run, or has a wrong name; "" if it does.

    Args:
      prefix: the checkpoint. Names that are not like `model.ckpt-N` are not compared.
      runs: ids of the run, and of the runs that it was copied from; empty: not known.

    Raises:
      UnreadableError: it cannot be read.
    """
    step, run = origin(prefix)
    name = os.path.basename(prefix)
    is_named = step is None or name == f"{NAME}-{step}"
    if name.startswith(f"{NAME}-") and not is_named:
        return (
            f"checkpoint {prefix} is of step {step}; was it renamed? The number in its "
            f"name must be its global_step"
        )
    if run and any(runs) and run not in runs:
        return f"checkpoint {prefix} is of another run"
    return ""


def shapes(prefix: str) -> dict[str, tuple[int, ...]]:
    """The shapes of the variables in a checkpoint, by name."""
    with open_reader(prefix) as reader:
        found = reader.get_variable_to_shape_map()
        return {name: tuple(found[name]) for name in found if name != RUN_ID}


def restore(prefix: str, variables: Mapping[str, keras.Variable]) -> None:
    """Restores variables by name from a checkpoint: all of them, or none.

    Raises:
      CheckpointError: it cannot be read, or a variable is missing or has another shape.
    """
    stored = shapes(prefix)
    missing = [name for name in variables if name not in stored]
    if missing:
        raise CheckpointError(
            f"checkpoint {prefix} is missing {len(missing)} of {len(variables)} "
            f"variables, e.g. {missing[0]}; was it trained with the same "
            f"hyperparameters?"
        )
    for name, variable in variables.items():
        if stored[name] != tuple(variable.shape):
            raise CheckpointError(
                f"{name} has shape {list(stored[name])} in checkpoint {prefix}, but "
                f"{list(variable.shape)} in the network; was it trained with the same "
                f"classes and hyperparameters?"
            )
    with open_reader(prefix) as reader:
        values = {name: reader.get_tensor(name) for name in variables}
    for name, value in values.items():
        variables[name].assign(value)
