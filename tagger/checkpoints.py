"""Checkpoints: names, files, saving, restoring and warm starts.

The format is that of TensorFlow 1's Saver, as in the baseline: `model.ckpt-N` stores
each variable under its own name. The original and this program can therefore use each
other's checkpoints. Only this module contains the names and the format of checkpoints.

A checkpoint is complete if its index file exists. Both files are written to a temporary
folder and flushed to disk. Then they are renamed, the index last.
"""

import contextlib
import os
import pathlib
import re
import shutil
import sys
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from tagger import program, results
from tagger.files import lock, write_whole
from tagger.run_record import HPARAMS_FILE

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


class CheckpointError(ValueError):
    """A checkpoint is missing, cannot be read, or does not fit the network."""


class UnreadableError(CheckpointError):
    """A checkpoint was deleted or is damaged."""


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
      flag: name of the flag with the path, for messages.

    Raises:
      CheckpointError: there is no checkpoint; the message names the flag.
    """
    if path.startswith(BEST):
        return _find_best(path.removeprefix(BEST), flag)
    if os.path.isdir(path):
        prefixes = list_checkpoints(path)
        if not prefixes:
            raise CheckpointError(f"{flag}: there is no complete checkpoint in {path}")
        return prefixes[-1]
    prefix = path.removesuffix(INDEX_SUFFIX)
    if not os.path.isfile(prefix + INDEX_SUFFIX):
        raise CheckpointError(
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
    except ValueError as error:
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
    with open(os.path.join(directory, LOCK_FILE), "w") as file:
        try:
            lock(file)
        except BlockingIOError:
            raise CheckpointError(
                f"another process is training in {directory}; stop it, or choose "
                f"another --train_dir"
            ) from None
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
) -> str:
    """Saves a checkpoint to resume training from; see `save`."""
    step = int(optimizer.iterations.numpy())
    values = network_variables(network) | optimizer_variables(network, optimizer)
    values[GLOBAL_STEP] = np.int64(step)
    if isinstance(optimizer, keras.optimizers.Adam):
        # In TensorFlow 1, the power before the first step is beta, not 1.
        for name, beta in ADAM_POWERS.items():
            values[name] = np.float32(getattr(optimizer, beta) ** (step + 1))
    return save(directory, values, step, keep=keep)


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


def save(directory: str, values: Mapping[str, Any], step: int, *, keep: int = 0) -> str:
    """Writes `model.ckpt-N` and the `checkpoint` state file; deletes old checkpoints.

    Args:
      directory: an existing folder.
      values: all variables or arrays of the checkpoint, by name.
      step: N.
      keep: how many of the newest checkpoints are kept, besides the best ones of the
        evaluations in sub-folders; 0: as in the original, see MAX_TO_KEEP.

    Returns:
      The prefix of the checkpoint.

    Raises:
      OSError: the checkpoint cannot be written, for example because the disk is full.
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
        _delete_old(directory, keep)
        _write_state(directory)
    except (tf.errors.OpError, OSError) as error:
        reason = program.tensorflow_reason(error)
        raise OSError(
            f"cannot write checkpoint {name} in {directory}: {reason}"
        ) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return os.path.join(directory, name)


def first_not_finite(variables: Mapping[str, keras.Variable]) -> str:
    """The name of the first variable with a value that is not finite; else ""."""
    for name, variable in variables.items():
        if not np.isfinite(variable.numpy()).all():
            return name
    return ""


def _write_state(directory: str) -> None:
    """Lists the checkpoints for TensorFlow, as relative paths, so folders can move."""
    names = [os.path.basename(prefix) for prefix in list_checkpoints(directory)]
    lines = [f'model_checkpoint_path: "{names[-1]}"']
    lines += [f'all_model_checkpoint_paths: "{name}"' for name in names]
    write_whole(pathlib.Path(directory) / STATE_FILE, "\n".join(lines) + "\n")


def _delete_old(directory: str, keep: int) -> None:
    """Deletes old checkpoints; see `save`."""
    prefixes = list_checkpoints(directory)[: -(keep or MAX_TO_KEEP)]
    if not prefixes:
        return
    evaluations = pathlib.Path(directory).glob(f"**/{results.CONTENTS_FILE}")
    found = [results.read_results(str(path.parent)) for path in evaluations]
    best = {results.best_step(by_step) for by_step in found if by_step}
    last_kept = -np.inf
    for prefix in prefixes:
        if checkpoint_step(prefix) in best:
            continue
        written = os.path.getmtime(prefix + INDEX_SUFFIX)
        if not keep and written - last_kept >= KEEP_EVERY_SECONDS:
            last_kept = written
            continue
        # Without the index, the rest is not a checkpoint.
        for suffix in (INDEX_SUFFIX, DATA_SUFFIX):
            pathlib.Path(prefix + suffix).unlink(missing_ok=True)


def _delete_unfinished(directory: str) -> None:
    """Deletes unfinished files of killed processes; the caller holds the lock."""
    for path in pathlib.Path(directory).glob(SAVING_PREFIX + "*"):
        shutil.rmtree(path, ignore_errors=True)
    for name in (STATE_FILE, HPARAMS_FILE):
        for path in pathlib.Path(directory).glob(f".{name}.*.tmp"):
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def _open(prefix: str) -> Iterator[Any]:
    """Opens a reader of a checkpoint. Its errors become UnreadableError."""
    try:
        yield tf.train.load_checkpoint(prefix)
    except (tf.errors.OpError, OSError, LookupError, RuntimeError, ValueError) as error:
        # TensorFlow's reader turns some of its errors into Python's own.
        reason = program.tensorflow_reason(error)
        raise UnreadableError(f"checkpoint {prefix} cannot be read: {reason}") from None


def shapes(prefix: str) -> dict[str, tuple[int, ...]]:
    """The shapes of the variables in a checkpoint, by name."""
    with _open(prefix) as reader:
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
    with _open(prefix) as reader:
        values = {name: reader.get_tensor(name) for name in variables}
    for name, value in values.items():
        variables[name].assign(value)


class WarmStart(NamedTuple):
    """The variables that a warm start restores, and those that it skips.

    Attributes:
      restored: names of the variables to restore.
      skipped: names of the other variables, by the reason.
    """

    restored: list[str]
    skipped: dict[str, list[str]]

    def report(self, prefix: str) -> str:
        """Lines with the variables that are restored or skipped, and the reasons."""
        total = len(self.restored) + sum(map(len, self.skipped.values()))
        lines = [
            f"warm start from {prefix}: {len(self.restored)} of {total} variables "
            f"restored; all other state is reset",
            f"  restored: {', '.join(self.restored) if self.skipped else 'all'}",
        ]
        for reason, names in self.skipped.items():
            lines.append(f"  skipped, {reason}: {', '.join(names)}")
        return "\n".join(lines)


def plan_warm_start(
    network_shapes: Mapping[str, tuple[int, ...]],
    checkpoint_shapes: Mapping[str, tuple[int, ...]],
    *,
    include_scopes: Sequence[str],
    exclude_scopes: Sequence[str],
) -> WarmStart:
    """Selects the variables of a warm start by names and shapes.

    Args:
      network_shapes: shapes of the network's variables to restore, by name.
      checkpoint_shapes: shapes of the variables in the checkpoint by name.
      include_scopes: regular expressions that match from the start of a name; empty:
        all variables.
      exclude_scopes: the same, for included variables to skip; empty: none.

    Raises:
      ValueError: a scope matches no variable, a shape differs, or there is no variable
        to restore; the message names the flag to change.
    """
    included = matching(
        network_shapes, include_scopes or [""], "--warmstart_include_scopes"
    )
    excluded = matching(network_shapes, exclude_scopes, "--warmstart_exclude_scopes")
    restored, skipped = [], {}
    for name, shape in network_shapes.items():
        if name not in included:
            skipped.setdefault("not in --warmstart_include_scopes", []).append(name)
        elif name in excluded:
            skipped.setdefault("in --warmstart_exclude_scopes", []).append(name)
        elif name not in checkpoint_shapes:
            skipped.setdefault("not in the checkpoint", []).append(name)
        elif checkpoint_shapes[name] != shape:
            scopes = [*exclude_scopes, name.split("/")[0] + "/"]
            raise ValueError(
                f"warm start: {name} has shape {list(checkpoint_shapes[name])} in the "
                f"checkpoint, but {list(shape)} in the network; skip it with "
                f"--warmstart_exclude_scopes={','.join(scopes)}"
            )
        else:
            restored.append(name)
    if not restored:
        raise ValueError(
            "warm start: nothing to restore, all variables are skipped; check "
            "--warmstart_include_scopes and --warmstart_exclude_scopes, and that "
            "--warmstart_checkpoint has this model"
        )
    return WarmStart(restored, skipped)


def matching(names: Iterable[str], scopes: Sequence[str], flag: str) -> set[str]:
    """The names that at least one of the scopes matches from the start."""
    matching = set()
    for scope in scopes:
        try:
            found = {name for name in names if re.match(scope, name)}
        except (re.error, OverflowError) as error:
            raise ValueError(
                f"{flag}: '{scope}' is not a regular expression: {error}"
            ) from None
        if not found:
            raise ValueError(
                f"{flag}: '{scope}' matches no variable of the network, such as "
                f"{next(iter(names))}"
            )
        matching |= found
    return matching
