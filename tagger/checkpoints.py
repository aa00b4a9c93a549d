"""Checkpoints: their names, files, saving, restoring and warm starts.

One format, that of TensorFlow 1's Saver, as the baseline wrote it: `model.ckpt-N` holds
each variable under its own name, so files pass between the original and this program
without conversion. Nothing else in the project knows how checkpoints are named or
stored.

A checkpoint is whole once its index file is there: both files are written into a folder
of their own, brought to disk, and renamed, the index last.
"""

import contextlib
import dataclasses
import fcntl
import os
import pathlib
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tagger.files import lock, write_whole
from tagger.run_record import HPARAMS_FILE

NAME = "model.ckpt"
DATA_SUFFIX = ".data-00000-of-00001"
INDEX_SUFFIX = ".index"
SAVING_PREFIX = ".saving-"  # of folders with checkpoints that are being written
STATE_FILE = "checkpoint"  # the name that TensorFlow looks for
LOCK_FILE = ".lock"
GLOBAL_STEP = "global_step"
# Adam's state as the original names it: a variable X has moments X/Adam and X/Adam_1.
ADAM_MOMENTS = {"Adam": "momentum", "Adam_1": "velocity"}  # to Keras's names
ADAM_POWERS = {"beta1_power": "beta_1", "beta2_power": "beta_2"}

# As in the original: so many checkpoints are kept, and of older ones one every 15
# minutes.
MAX_TO_KEEP = 10000
KEEP_EVERY_SECONDS = 15 * 60


class CheckpointError(ValueError):
    """A checkpoint that is not there, cannot be read, or does not fit the network."""


class UnreadableError(CheckpointError):
    """A checkpoint that has vanished or is damaged."""


def checkpoint_step(prefix: str) -> int:
    """The N of a path that ends in `model.ckpt-N`: batches of examples seen."""
    match = re.fullmatch(re.escape(NAME) + r"-(\d+)", os.path.basename(prefix))
    if not match:
        raise CheckpointError(f"a checkpoint is named {NAME}-N, but got {prefix}")
    return int(match.group(1))


def list_checkpoints(directory: str) -> list[str]:
    """The whole checkpoints of a folder, oldest first; none if it does not exist."""
    try:
        names = set(os.listdir(directory))
    except FileNotFoundError:
        return []
    prefixes = []
    for name in names:
        prefix = name.removesuffix(INDEX_SUFFIX)
        if prefix != name and prefix + DATA_SUFFIX in names:
            with contextlib.suppress(CheckpointError):
                prefixes.append((checkpoint_step(prefix), prefix))
    return [os.path.join(directory, prefix) for _, prefix in sorted(prefixes)]


def time_written(prefix: str) -> float:
    """When a checkpoint was written, in seconds; 0 if it has vanished."""
    try:
        return os.path.getmtime(prefix + INDEX_SUFFIX)
    except FileNotFoundError:
        return 0.0


def find_checkpoint(path: str, flag: str) -> str:
    """The checkpoint a user means: a `model.ckpt-N`, or the newest of a folder.

    Raises:
      CheckpointError: there is none; the message names the flag.
    """
    if os.path.isdir(path):
        prefixes = list_checkpoints(path)
        if not prefixes:
            raise CheckpointError(f"{flag}: there is no whole checkpoint in {path}")
        return prefixes[-1]
    prefix = path.removesuffix(INDEX_SUFFIX)
    if not os.path.isfile(prefix + INDEX_SUFFIX):
        raise CheckpointError(
            f"{flag}: there is no checkpoint {prefix} (no file {prefix}{INDEX_SUFFIX})"
        )
    return prefix


@contextlib.contextmanager
def locked(directory: str) -> Iterator[None]:
    """Holds a train_dir for one process; it goes with the process, however that ends.

    Raises:
      CheckpointError: another process holds it.
    """
    with open(os.path.join(directory, LOCK_FILE), "w") as file:
        try:
            lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CheckpointError(
                f"another process is training in {directory}; stop it, or choose "
                f"another --train_dir"
            ) from None
        yield


def network_variables(network: keras.Model) -> dict[str, keras.Variable]:
    """The variables of a network by their names in a checkpoint."""
    return {variable.path: variable for variable in network.weights}


def optimizer_variables(
    network: keras.Model, optimizer: keras.optimizers.Optimizer
) -> dict[str, keras.Variable]:
    """The state of an optimizer that is built, by its names in a checkpoint.

    Without the powers of Adam's betas, which Keras computes from the number of steps.
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


def save_training(
    directory: str, network: keras.Model, optimizer: keras.optimizers.Optimizer
) -> str:
    """Saves a checkpoint from which training resumes; see `save`."""
    step = int(optimizer.iterations.numpy())
    values = {
        **network_variables(network),
        **optimizer_variables(network, optimizer),
        GLOBAL_STEP: np.int64(step),
    }
    if isinstance(optimizer, keras.optimizers.Adam):
        # TensorFlow 1 starts with beta, and multiplies by it after each step.
        for name, beta in ADAM_POWERS.items():
            values[name] = np.float32(getattr(optimizer, beta) ** (step + 1))
    return save(directory, values, step)


def restore_training(
    prefix: str, network: keras.Model, optimizer: keras.optimizers.Optimizer
) -> list[str]:
    """Restores the weights, the optimizer's state and the step.

    Returns:
      The names of the optimizer's variables that the checkpoint does not have, which
      are unchanged.

    Raises:
      CheckpointError: as `restore`.
    """
    state = optimizer_variables(network, optimizer)
    return restore(
        prefix,
        {
            **network_variables(network),
            **state,
            GLOBAL_STEP: optimizer.iterations,
        },
        optional_names=list(state),
    )


def save(directory: str, values: Mapping[str, Any], step: int) -> str:
    """Writes `model.ckpt-N` and the `checkpoint` state file, and deletes what is too
    old.

    Args:
      directory: an existing folder.
      values: variables or arrays by name, all that the checkpoint has.
      step: N.

    Returns:
      The prefix of the checkpoint.

    Raises:
      OSError: it could not be written, a full disk say; earlier checkpoints are
        untouched.
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
        _delete_old(directory)
        _write_state(directory)
    except (tf.errors.OpError, OSError) as error:
        reason = getattr(error, "strerror", None) or getattr(error, "message", error)
        raise OSError(
            f"cannot write checkpoint {name} in {directory}: {reason}"
        ) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return os.path.join(directory, name)


def first_not_finite(variables: Mapping[str, keras.Variable]) -> str:
    """The name of a variable that has a value that is not finite; else nothing."""
    for name, variable in variables.items():
        if not np.isfinite(variable.numpy()).all():
            return name
    return ""


def _write_state(directory: str) -> None:
    """Lists the checkpoints for TensorFlow; relative, so that the folder can move."""
    names = [os.path.basename(prefix) for prefix in list_checkpoints(directory)]
    lines = [f'model_checkpoint_path: "{names[-1]}"']
    lines += [f'all_model_checkpoint_paths: "{name}"' for name in names]
    write_whole(pathlib.Path(directory) / STATE_FILE, "\n".join(lines) + "\n")


def _delete_old(directory: str) -> None:
    last_kept = -np.inf
    for prefix in list_checkpoints(directory)[:-MAX_TO_KEEP]:
        written = time_written(prefix)
        if written - last_kept >= KEEP_EVERY_SECONDS:
            last_kept = written
            continue
        # Without its index it is no longer a checkpoint.
        for suffix in (INDEX_SUFFIX, DATA_SUFFIX):
            pathlib.Path(prefix + suffix).unlink(missing_ok=True)


def delete_unfinished(directory: str) -> None:
    """Removes what killed processes left half-written; only with the lock held."""
    for path in pathlib.Path(directory).glob(SAVING_PREFIX + "*"):
        shutil.rmtree(path, ignore_errors=True)
    for name in (STATE_FILE, HPARAMS_FILE):
        for path in pathlib.Path(directory).glob(f".{name}.*.tmp"):
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def _open(prefix: str) -> Iterator[Any]:
    """A reader; what goes wrong while it is used is an UnreadableError."""
    try:
        yield tf.train.load_checkpoint(prefix)
    except CheckpointError:
        raise
    except (tf.errors.OpError, OSError, LookupError, RuntimeError, ValueError) as error:
        # TensorFlow's reader turns some of its errors into Python's own.
        reason = str(getattr(error, "message", error)).splitlines()[0]
        raise UnreadableError(f"checkpoint {prefix} cannot be read: {reason}") from None


def shapes(prefix: str) -> dict[str, tuple[int, ...]]:
    """The shapes of the variables in a checkpoint, by name."""
    with _open(prefix) as reader:
        found = reader.get_variable_to_shape_map()
        return {name: tuple(shape) for name, shape in found.items()}


def restore(
    prefix: str,
    variables: Mapping[str, keras.Variable],
    *,
    optional_names: Sequence[str] = (),
) -> list[str]:
    """Gives variables their values from a checkpoint, all of them or none.

    Args:
      prefix: the checkpoint.
      variables: what to restore, by name.
      optional_names: variables that the checkpoint need not have; without it they
        keep their values.

    Returns:
      The names that the checkpoint does not have.

    Raises:
      CheckpointError: it cannot be read, lacks another variable, or one has another
        shape.
    """
    stored = shapes(prefix)
    lacking = [name for name in variables if name not in stored]
    required = [name for name in lacking if name not in set(optional_names)]
    if required:
        raise CheckpointError(
            f"checkpoint {prefix} lacks {len(required)} of {len(variables)} variables, "
            f"{required[0]} among them; was it trained with the same hyperparameters?"
        )
    with _open(prefix) as reader:
        values = {}
        for name, variable in variables.items():
            if name in stored:
                _check_shape(prefix, name, stored[name], tuple(variable.shape))
                values[name] = reader.get_tensor(name)
    for name, value in values.items():
        variables[name].assign(value)
    return lacking


def _check_shape(
    prefix: str, name: str, stored: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    if stored != expected:
        raise CheckpointError(
            f"{name} has shape {list(stored)} in checkpoint {prefix}, but "
            f"{list(expected)} in the network; was it trained with the same classes "
            f"and hyperparameters?"
        )


@dataclasses.dataclass(frozen=True)
class WarmStart:
    """What a warm start takes from a checkpoint, and why it leaves the rest.

    Attributes:
      restored: names of variables to take.
      left: why each other trainable variable keeps its initial value, by name.
    """

    restored: list[str]
    left: dict[str, str]

    def report(self, prefix: str) -> str:
        """Says in a few lines what is restored and what is left, and why."""
        total = len(self.restored) + len(self.left)
        lines = [
            f"warm start from {prefix}: {len(self.restored)} of {total} trainable "
            f"variables restored",
            f"  restored: {self._listed(self.restored) if self.left else 'all'}",
        ]
        for reason in dict.fromkeys(self.left.values()):
            names = [name for name, why in self.left.items() if why == reason]
            lines.append(f"  left, {reason}: {self._listed(names)}")
        lines.append(
            "  not taken from any checkpoint: moving averages, optimizer state, step"
        )
        return "\n".join(lines)

    def _listed(self, names: Sequence[str]) -> str:
        """Names one by one, but a scope that is in there whole by its own name."""
        others = {*self.restored, *self.left}.difference(names)
        divided = set(_scopes(others))
        scopes = {name: name.split("/")[0] for name in names}
        shown = [name if scopes[name] in divided else scopes[name] for name in names]
        return ", ".join(dict.fromkeys(shown))


def _scopes(names: Iterable[str]) -> list[str]:
    """The first parts of variable names, each once."""
    return list(dict.fromkeys(name.split("/")[0] for name in names))


def plan_warm_start(
    trainable_shapes: Mapping[str, tuple[int, ...]],
    checkpoint_shapes: Mapping[str, tuple[int, ...]],
    *,
    include_scopes: Sequence[str],
    exclude_scopes: Sequence[str],
) -> WarmStart:
    """Chooses the variables that a warm start takes; it looks at names and shapes only.

    Args:
      trainable_shapes: shapes of the network's trainable variables by name.
      checkpoint_shapes: shapes of the variables in the checkpoint by name.
      include_scopes: regular expressions, matched from the start of a name; none: all.
      exclude_scopes: likewise, applied after the includes; none: nothing is excluded.

    Raises:
      ValueError: a scope matches no variable, a shape differs, or nothing is left to
        take; the message names the flag that mends it.
    """
    included = _matching(trainable_shapes, include_scopes, "--warmstart_include_scopes")
    if not include_scopes:
        included = set(trainable_shapes)
    excluded = _matching(trainable_shapes, exclude_scopes, "--warmstart_exclude_scopes")
    restored, left = [], {}
    for name, shape in trainable_shapes.items():
        if name not in included:
            left[name] = "not in --warmstart_include_scopes"
        elif name in excluded:
            left[name] = "in --warmstart_exclude_scopes"
        elif name not in checkpoint_shapes:
            left[name] = "not in the checkpoint"
        elif checkpoint_shapes[name] != shape:
            own_scope = name.split("/")[0] + "/"
            raise ValueError(
                f"warm start: {name} has shape {list(checkpoint_shapes[name])} in the "
                f"checkpoint, but {list(shape)} in the network; leave it out with "
                f"--warmstart_exclude_scopes={','.join([*exclude_scopes, own_scope])}"
            )
        else:
            restored.append(name)
    if not restored:
        raise ValueError(
            "warm start: nothing to restore, all variables are left; check "
            "--warmstart_include_scopes, --warmstart_exclude_scopes and that "
            "--warmstart_checkpoint is of this model"
        )
    return WarmStart(restored, left)


def _matching(
    names: Mapping[str, object], scopes: Sequence[str], flag: str
) -> set[str]:
    matching = set()
    for scope in scopes:
        try:
            found = {name for name in names if re.match(scope, name)}
        except (re.error, OverflowError, RecursionError) as error:
            raise ValueError(
                f"{flag}: '{scope}' is not a regular expression: {error}"
            ) from None
        if not found:
            raise ValueError(
                f"{flag}: '{scope}' matches no trainable variable of the network; its "
                f"scopes are {', '.join(_scopes(list(names)))}"
            )
        matching |= found
    return matching
