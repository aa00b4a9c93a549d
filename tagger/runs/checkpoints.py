"""Checkpoints: names, files, saving and restoring.

The format is that of TensorFlow 1's Saver, as in the baseline: `model.ckpt-N` stores
each variable under its own name. The original and this program can therefore use each
other's checkpoints. Only this module contains the names and the format of checkpoints.

A checkpoint is complete if its index file exists. Both files are written to a temporary
folder and flushed to disk. Then they are renamed, the index last.
"""

import contextlib
import itertools
import math
import os
import pathlib
import re
import shutil
import sys
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tagger.errors import UserError
from tagger.runs import results
from tagger.runs.run_record import HPARAMS_FILE
from tagger.terminal import files, program
from tagger.terminal.files import write_whole
from tagger.terminal.progress import counted

NAME = "model.ckpt"
DATA_SUFFIX = ".data-00000-of-00001"
INDEX_SUFFIX = ".index"
SAVING_PREFIX = ".saving-"  # of temporary folders
STATE_FILE = "checkpoint"  # the name that TensorFlow looks for
LOCK_FILE = ".lock"
BEST = "best:"  # before an eval_dir, instead of a checkpoint
GLOBAL_STEP = "global_step"
# Names of Adam's state in the original (a variable X has X/Adam and X/Adam_1) and in
# Keras.
ADAM_MOMENTS = {"Adam": "momentum", "Adam_1": "velocity"}
ADAM_POWERS = {"beta1_power": "beta_1", "beta2_power": "beta_2"}

# As in the original: the newest 10,000 are kept, and of the others one per 15 minutes.
MAX_TO_KEEP = 10000
KEEP_EVERY_SECONDS = 15 * 60
MIN_FREE = 10  # checkpoints that must fit on the disk when a run starts


class CheckpointError(UserError):
    """A checkpoint is missing, cannot be read, or does not fit the network."""


class UnreadableError(CheckpointError):
    """A checkpoint does not exist, or is damaged."""


def checkpoint_step(prefix: str) -> int:
    """The N of a path that ends in `model.ckpt-N`: the number of training steps."""
    match = re.fullmatch(re.escape(NAME) + r"-(\d+)", os.path.basename(prefix))
    if not match:
        raise CheckpointError(f"a checkpoint is named {NAME}-N, but got {prefix}")
    return int(match.group(1))


def list_checkpoints(directory: str) -> list[str]:
    """The prefixes of the complete checkpoints in a folder, in the order of steps.

    The list is empty if the folder does not exist.
    """
    try:
        names = set(os.listdir(directory))
    except (FileNotFoundError, NotADirectoryError):
        return []
    prefixes = []
    for name in names:
        prefix = name.removesuffix(INDEX_SUFFIX)
        if prefix != name and prefix + DATA_SUFFIX in names:
            with contextlib.suppress(CheckpointError):
                prefixes.append((checkpoint_step(prefix), prefix))
    return [os.path.join(directory, prefix) for _, prefix in sorted(prefixes)]


def find_checkpoint(path: str, flag: str) -> str:
    """The prefix of a checkpoint.

    Args:
      path: `model.ckpt-N`, a folder for its newest checkpoint, or `best:EVAL_DIR` for
        the checkpoint with the highest overall lwlrap of an evaluation.
      flag: name of the flag or argument with the path, for messages.

    Raises:
      CheckpointError: there is no checkpoint; the message names the flag.
    """
    path = os.fspath(path)
    if path.startswith(BEST):
        return _find_best(path.removeprefix(BEST), flag)
    if os.path.isdir(path):
        prefixes = list_checkpoints(path)
        if not prefixes:
            raise CheckpointError(f"{flag}: there is no complete checkpoint in {path}")
        return prefixes[-1]
    prefix = path.removesuffix(INDEX_SUFFIX)
    if not os.path.isfile(prefix + INDEX_SUFFIX):
        raise UnreadableError(
            f"{flag}: there is no checkpoint {prefix} (no file {prefix}{INDEX_SUFFIX})"
        )
    return prefix


def _find_best(eval_dir: str, flag: str) -> str:
    """The prefix of the best checkpoint of an evaluation; prints its lwlrap."""
    found = results.read_results(eval_dir)
    if not found:
        raise CheckpointError(f"{flag}: there are no results in {eval_dir}")
    step = results.best_step(found)
    try:
        prefix = os.path.join(results.train_dir_of(eval_dir), f"{NAME}-{step}")
    except UserError as error:
        raise CheckpointError(f"{flag}: {error}") from None
    if not os.path.isfile(prefix + INDEX_SUFFIX):
        raise CheckpointError(f"{flag}: {prefix}, the best of {eval_dir}, was deleted")
    print(
        f"best of {eval_dir}: step {step}, overall lwlrap {found[step]:.6f}",
        file=sys.stderr,
    )
    return prefix


def fingerprint(prefix: str) -> int:
    """A number that is equal for equal checkpoints.

    It is the CRC-32 of the index, which contains a checksum of each variable.
    """
    return zlib.crc32(pathlib.Path(prefix + INDEX_SUFFIX).read_bytes())


@contextlib.contextmanager
def locked(directory: str) -> Iterator[None]:
    """Locks a train_dir until the end of the block or of the process.

    Deletes unfinished files of killed processes.

    Raises:
      CheckpointError: another process has locked it.
    """
    error = CheckpointError(
        f"another process is training in {directory}; stop it, or choose another "
        f"--train_dir"
    )
    with files.locked(os.path.join(directory, LOCK_FILE), error):
        _delete_unfinished(directory)
        yield


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


def save_training(
    directory: str,
    network: keras.Model,
    optimizer: keras.optimizers.Optimizer,
    *,
    keep: int = 0,
    resumed_from: str = "",
) -> str:
    """Saves a checkpoint to resume training from; see `save`."""
    step = int(optimizer.iterations.numpy())
    values = network_variables(network) | optimizer_variables(network, optimizer)
    values[GLOBAL_STEP] = np.int64(step)
    if isinstance(optimizer, keras.optimizers.Adam):
        # In TensorFlow 1, the power before the first step is beta, not 1.
        for name, beta in ADAM_POWERS.items():
            values[name] = np.float32(getattr(optimizer, beta) ** (step + 1))
    return save(directory, values, step, keep=keep, resumed_from=resumed_from)


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


def save(
    directory: str,
    values: Mapping[str, Any],
    step: int,
    *,
    keep: int = 0,
    resumed_from: str = "",
) -> str:
    """Writes `model.ckpt-N` and the `checkpoint` state file; deletes old checkpoints.

    Args:
      directory: an existing folder.
      values: all variables or arrays of the checkpoint, by name.
      step: N.
      keep: how many of the newest readable checkpoints are kept, besides the best ones
        of the evaluations in sub-folders; 0: as in the original, see MAX_TO_KEEP.
      resumed_from: prefix of a checkpoint that is kept, too.

    Returns:
      The prefix of the checkpoint.

    Raises:
      UserError: the checkpoint cannot be written, for example because the disk is full.
        Earlier checkpoints are unchanged.
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
        _delete_old(directory, step, keep, resumed_from)
        _write_state(directory, step)
    except (tf.errors.OpError, OSError) as error:
        reason = program.tensorflow_reason(error)
        raise UserError(
            f"cannot write checkpoint {name} in {directory}: {reason}"
        ) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return os.path.join(directory, name)


def check_space(
    directory: str,
    variables: Mapping[str, keras.Variable],
    *,
    steps: range,
    checkpoint_steps: int,
    keep: int = 0,
) -> None:
    """Prints the disk space that the checkpoints of a run need.

    Args:
      directory: train_dir.
      variables: the variables of a checkpoint.
      steps: the steps of the run.
      checkpoint_steps: steps between checkpoints.
      keep: see `save`.

    Raises:
      UserError: the first MIN_FREE checkpoints do not fit on the disk.
    """
    number = steps.stop // checkpoint_steps - steps.start // checkpoint_steps
    number += (steps.start == 0) + (steps.stop % checkpoint_steps > 0)
    if keep:
        number = min(number, keep + 1)  # The oldest is deleted after saving.
    size = sum(variable.numpy().nbytes for variable in variables.values())
    free = shutil.disk_usage(directory).free
    print(
        f"{counted(number, 'checkpoint')} of {size / 1e6:.0f} MB, "
        f"{number * size / 1e9:.1f} GB in all; {free / 1e9:.1f} GB free",
        file=sys.stderr,
    )
    if free < min(number, MIN_FREE) * size:
        raise UserError(
            f"--train_dir: the disk of {directory} has {free / 1e6:.0f} MB free, too "
            f"little for {counted(min(number, MIN_FREE), 'checkpoint')}"
        )


def _list_until(directory: str, step: int) -> list[str]:
    """Lists the checkpoints until a step that was just saved.

    Training resumes from the newest checkpoint that can be read, so later ones are
    damaged. They are neither counted nor deleted.
    """
    prefixes = list_checkpoints(directory)
    return [prefix for prefix in prefixes if checkpoint_step(prefix) <= step]


def _write_state(directory: str, step: int) -> None:
    """Lists the checkpoints for TensorFlow, as relative paths, so folders can move."""
    names = [os.path.basename(prefix) for prefix in _list_until(directory, step)]
    lines = [f'model_checkpoint_path: "{names[-1]}"']
    lines += [f'all_model_checkpoint_paths: "{name}"' for name in names]
    write_whole(pathlib.Path(directory) / STATE_FILE, "\n".join(lines) + "\n")


def _delete_old(directory: str, step: int, keep: int, resumed_from: str) -> None:
    """Deletes old checkpoints; see `save`."""
    prefixes, number = _list_until(directory, step), keep or MAX_TO_KEEP
    if len(prefixes) <= number:
        return
    newest = reversed(prefixes)
    if keep:  # Opening MAX_TO_KEEP checkpoints would take too long.
        newest = filter(_is_whole, newest)
    oldest_kept = next(itertools.islice(newest, number - 1, None), prefixes[0])
    best = {
        results.best_step(by_step)
        for eval_dir in _eval_dirs(directory)
        if (by_step := results.read_results(eval_dir))
    }
    last_kept = -np.inf
    for prefix in prefixes[: prefixes.index(oldest_kept)]:
        if prefix == resumed_from or checkpoint_step(prefix) in best:
            continue
        written = os.path.getmtime(prefix + INDEX_SUFFIX)
        if not keep and written - last_kept >= KEEP_EVERY_SECONDS:
            last_kept = written
            continue
        # Without the index, the rest is not a checkpoint.
        for suffix in (INDEX_SUFFIX, DATA_SUFFIX):
            pathlib.Path(prefix + suffix).unlink(missing_ok=True)


def _eval_dirs(directory: str) -> Iterator[str]:
    """Yields each folder with results inside a folder, also behind symbolic links."""
    visited = set()
    for folder, subfolders, names in os.walk(directory, followlinks=True):
        if (path := os.path.realpath(folder)) in visited:
            subfolders.clear()  # A link may lead back to a folder that contains it.
            continue
        visited.add(path)
        if results.CONTENTS_FILE in names:
            yield folder


def _is_whole(prefix: str) -> bool:
    """Whether the index can be read, and the data have the length that it implies.

    Unlike `restore`, this reads no data, and takes about a millisecond.
    """
    try:
        with open_reader(prefix) as reader:
            types = reader.get_variable_to_dtype_map()
            size = sum(
                types[name].size * math.prod(shape)
                for name, shape in reader.get_variable_to_shape_map().items()
            )
            return os.path.getsize(prefix + DATA_SUFFIX) >= size
    except UnreadableError:
        return False


def _delete_unfinished(directory: str) -> None:
    """Deletes unfinished files of killed processes; the caller holds the lock."""
    for path in pathlib.Path(directory).glob(SAVING_PREFIX + "*"):
        shutil.rmtree(path, ignore_errors=True)
    for name in (STATE_FILE, HPARAMS_FILE):
        for path in pathlib.Path(directory).glob(f".{name}.*.tmp"):
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def open_reader(prefix: str) -> Iterator[Any]:
    """Opens a reader of a checkpoint. Its errors become UnreadableError."""
    try:
        yield tf.train.load_checkpoint(prefix)
    except (tf.errors.OpError, OSError, LookupError, RuntimeError, ValueError) as error:
        # TensorFlow's reader turns some of its errors into Python's own.
        reason = program.tensorflow_reason(error)
        raise UnreadableError(f"checkpoint {prefix} cannot be read: {reason}") from None


def shapes(prefix: str) -> dict[str, tuple[int, ...]]:
    """The shapes of the variables in a checkpoint, by name."""
    with open_reader(prefix) as reader:
        found = reader.get_variable_to_shape_map()
        return {name: tuple(shape) for name, shape in found.items()}


def restore(prefix: str, variables: Mapping[str, keras.Variable]) -> None:
    """Restores variables by name from a checkpoint: all of them, or none.

    Raises:
      CheckpointError: it cannot be read, or a variable is missing or has another shape.
    """
    stored = shapes(prefix)
    missing = [name for name in variables if name not in stored]
    if missing:
        raise CheckpointError(
            f"checkpoint {prefix} lacks {len(missing)} of {len(variables)} variables, "
            f"such as {missing[0]}; was it trained with the same hyperparameters?"
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
