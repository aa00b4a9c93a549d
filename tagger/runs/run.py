"""The folder of a training run: its record, its checkpoints, and who writes to it."""

import contextlib
import dataclasses
import itertools
import os
import pathlib
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import keras

from tagger.data.clips import read_class_map
from tagger.errors import UserError
from tagger.hparams import FIELDS, MODEL_HPARAMS, MODEL_NAMES, Hparams, model_hparams
from tagger.runs import checkpoints, run_record
from tagger.runs.checkpoint_files import (
    DATA_SUFFIX,
    INDEX_SUFFIX,
    NAME,
    CheckpointError,
    UnreadableError,
    checkpoint_step,
    list_checkpoints,
)
from tagger.runs.checkpoints import SAVING_PREFIX
from tagger.runs.eval_folder import CONTENTS_FILE, EvalFolder
from tagger.runs.run_record import HPARAMS_FILE
from tagger.terminal import files

BEST = "best:"  # before an eval_dir, instead of a checkpoint
LOCK_FILE = ".lock"
STATE_FILE = "checkpoint"  # the name that TensorFlow looks for
# As in the original: the newest 10,000 are kept, and of the others one per 15 minutes.
MAX_TO_KEEP = 10000
KEEP_EVERY_SECONDS = 15 * 60


class Run:
    """The folder of a training run, opened to read.

    Within the block of `open_to_train`, it is opened to write.

    Args:
      directory: the folder, which need not exist.

    Attributes:
      record: the contents of hparams.json; None if there is no such file.

    Raises:
      UserError: hparams.json is damaged.
    """

    def __init__(self, directory: str | os.PathLike[str]):
        self.directory = os.fspath(directory)
        self.record = run_record.read_record(self.directory)
        self._resumed_from = ""

    @staticmethod
    def find(path: str | os.PathLike[str], name: str) -> "Checkpoint":
        """Finds a checkpoint.

        Args:
          path: `model.ckpt-N`, also with `.index`; a folder for its newest checkpoint;
            or `best:EVAL_DIR` for the one with the highest overall lwlrap of an
            evaluation.
          name: name of the flag or argument with the path, for messages.

        Raises:
          CheckpointError: there is no checkpoint; the message has the name.
        """
        path = os.fspath(path)
        if path.startswith(BEST):
            return _find_best(path.removeprefix(BEST), name)
        if os.path.isdir(path):
            run = Run(path)
            if not (prefixes := run.checkpoints()):
                raise CheckpointError(
                    f"{name}: there is no complete checkpoint in {path}"
                )
            return Checkpoint(run, prefixes[-1])
        prefix = path.removesuffix(INDEX_SUFFIX)
        if not os.path.isfile(prefix + INDEX_SUFFIX):
            raise UnreadableError(
                f"{name}: there is no checkpoint {prefix} (no file "
                f"{prefix}{INDEX_SUFFIX})"
            )
        return Checkpoint(Run(os.path.dirname(prefix)), prefix)

    def checkpoints(self) -> list[str]:
        """The prefixes of the complete checkpoints, in the order of steps.

        The list is empty if the folder does not exist.
        """
        return list_checkpoints(self.directory)

    def class_names(self, class_map_path: str) -> list[str]:
        """Reads a class map; without a path, returns the classes in hparams.json.

        Raises:
          UserError: the class map cannot be read, or there is no hparams.json.
        """
        if class_map_path:
            return read_class_map(class_map_path)
        if self.record is None:
            raise UserError(
                f"--class_map_path is required, because there is no {self._record_path}"
            )
        return self.record.class_names

    def check_class_map(self, class_names: Sequence[str]) -> None:
        """Checks the C classes against those of the checkpoints, if these are known.

        Raises:
          UserError: they differ.
        """
        if self.record is None or self.record.class_names == list(class_names):
            return
        differences = [
            f"class {index} is {given}, not {trained}"
            for index, (trained, given) in enumerate(
                zip(self.record.class_names, class_names)
            )
            if trained != given
        ] or [f"it has {len(class_names)} classes, not {len(self.record.class_names)}"]
        raise UserError(
            f"class_names (--class_map_path): the class map differs from that of "
            f"training, in {self._record_path}: {differences[0]}"
        )

    def settings(
        self,
        *,
        model_name: str | None,
        overrides: Mapping[str, Any],
        class_names: Sequence[str],
        to_train: bool = False,
    ) -> tuple[str, Hparams]:
        """The model and the hyperparameters to use with the checkpoints.

        They come from hparams.json. Checkpoints of the original have no such file, and
        get the defaults. Given values override both. A line on stderr reports a missing
        file, and each value that differs from the file.

        Args:
          model_name: the name of the model; None: that of the file, or the default.
          overrides: the given values, by name.
          class_names: the C names of the class map in use.
          to_train: whether training starts or resumes. If it resumes, the overrides
            must not change what the network computes.

        Raises:
          UserError: the model or the classes are others, or an override is not allowed.
        """
        if unknown := [name for name in overrides if name not in FIELDS]:
            raise UserError(
                f"hparam_overrides (--hparams): there is no hyperparameter {unknown[0]}"
            )
        model = model_name or MODEL_NAMES[0]
        if to_train and not self.checkpoints():
            return model, model_hparams(model, overrides)
        if self.record is None:
            print(self._missing_record(overrides), file=sys.stderr)
            return model, model_hparams(model, overrides)
        if model_name not in (None, self.record.model):
            raise UserError(
                f"model_name (--model): the model is {self.record.model} in "
                f"{self._record_path}, not {model_name}"
            )
        self.check_class_map(class_names)
        for name, value in overrides.items():
            self._report_override(name, value, to_train)
        return self.record.model, dataclasses.replace(self.record.hparams, **overrides)

    @property
    def _record_path(self) -> str:
        return os.path.join(self.directory, HPARAMS_FILE)

    def _missing_record(self, overrides: Mapping[str, Any]) -> str:
        if overrides:
            return (
                f"note: there is no {self._record_path}; values that are not given are "
                f"the defaults"
            )
        return (
            f"warning: there is no {self._record_path}; using the defaults. The "
            f"original stored no hyperparameters, and wrong values give wrong scores: "
            f"repeat those of the training in --hparams (hparam_overrides in Python)"
        )

    def _report_override(self, name: str, value: Any, to_train: bool) -> None:
        trained = getattr(self.record.hparams, name)
        if value == trained or name == "warmstart":
            return
        if to_train and name in MODEL_HPARAMS:
            raise UserError(
                f"--hparams: {name}={value} cannot replace the {trained} that the "
                f"checkpoints in {self.directory} were trained with; use another "
                f"--train_dir, with warmstart=1 to start from their weights"
            )
        if not to_train and name not in MODEL_HPARAMS:
            print(f"note: {name} matters only in training", file=sys.stderr)
            return
        wrong = "" if to_train else "; scores will be wrong"
        print(
            f"warning: {name}={value} is used, not the {trained} of "
            f"{self._record_path}{wrong}",
            file=sys.stderr,
        )

    @contextlib.contextmanager
    def open_to_train(self) -> Iterator[None]:
        """Locks the folder, which must exist, until the end of the block.

        Deletes unfinished files of killed processes.

        Raises:
          UserError: another process has locked it.
        """
        error = UserError(
            f"another process is training in {self.directory}; stop it, or choose "
            f"another --train_dir"
        )
        folder = pathlib.Path(self.directory)
        with files.locked(folder / LOCK_FILE, error):
            for path in folder.glob(SAVING_PREFIX + "*"):
                shutil.rmtree(path, ignore_errors=True)
            for name in (STATE_FILE, HPARAMS_FILE):
                for path in folder.glob(f".{name}.*.tmp"):
                    path.unlink(missing_ok=True)
            self.record = run_record.read_record(self.directory)
            yield

    def resume(
        self, network: keras.Model, optimizer: keras.optimizers.Optimizer
    ) -> str:
        """Restores the newest checkpoint that can be read; returns its prefix.

        Newer checkpoints that are damaged are reported on stderr. If there are no
        checkpoints, nothing is restored, and the prefix is empty.

        Raises:
          CheckpointError: none can be read, or one does not fit the network.
        """
        prefixes = self.checkpoints()
        for prefix in reversed(prefixes):
            try:
                missing = checkpoints.restore_training(prefix, network, optimizer)
            except UnreadableError as error:
                if prefix == prefixes[0]:
                    raise
                print(f"warning: {error}; trying the previous one", file=sys.stderr)
                continue
            if missing:
                print(
                    f"warning: {prefix} is missing {len(missing)} variables of the "
                    f"optimizer, which are reset to 0; expect larger first updates",
                    file=sys.stderr,
                )
            self._resumed_from = prefix
            return prefix
        return ""

    def write_record(
        self, *, model_name: str, hparams: Hparams, class_names: Sequence[str]
    ) -> None:
        """Writes hparams.json; a run that has checkpoints keeps its id."""
        run = None
        if self.checkpoints():
            run = self.record.run if self.record else ""
        self.record = run_record.write_record(
            self.directory,
            model_name=model_name,
            hparams=hparams,
            class_names=class_names,
            run=run,
        )

    def save(self, values: Mapping[str, Any], step: int, *, keep: int = 0) -> str:
        """Writes `model.ckpt-N` and the state file; deletes old checkpoints.

        Args:
          values: all variables or arrays of the checkpoint, by name.
          step: N.
          keep: how many of the newest readable checkpoints are kept, besides the one
            that training resumed from and the best ones of the evaluations in
            sub-folders; 0: as in the original, see MAX_TO_KEEP.

        Returns:
          The prefix of the checkpoint.

        Raises:
          UserError: it cannot be written. Earlier checkpoints are unchanged.
        """
        prefix = checkpoints.write(self.directory, values, step)
        # Training resumes from the newest checkpoint that can be read, so later ones
        # are damaged. They are neither counted nor deleted.
        prefixes = [p for p in self.checkpoints() if checkpoint_step(p) <= step]
        for old in list(self._outdated(prefixes, keep)):
            # Without the index, the rest is not a checkpoint.
            for suffix in (INDEX_SUFFIX, DATA_SUFFIX):
                pathlib.Path(old + suffix).unlink(missing_ok=True)
            prefixes.remove(old)
        # For TensorFlow, as relative paths, so that the folder can move.
        names = [os.path.basename(p) for p in prefixes]
        lines = [f'model_checkpoint_path: "{names[-1]}"']
        lines += [f'all_model_checkpoint_paths: "{name}"' for name in names]
        files.write_whole(
            pathlib.Path(self.directory) / STATE_FILE, "\n".join(lines) + "\n"
        )
        return prefix

    def _outdated(self, prefixes: Sequence[str], keep: int) -> Iterator[str]:
        """Yields the checkpoints to delete; see `save`."""
        older = prefixes[: -(keep or MAX_TO_KEEP)]
        if keep and older:  # Reading MAX_TO_KEEP checkpoints would take too long.
            readable = filter(checkpoints.is_readable, reversed(prefixes))
            newest = list(itertools.islice(readable, keep))
            older = prefixes[: prefixes.index(newest[-1])]
        kept = {self._resumed_from, *self._best()} if older else ()
        last_kept = float("-inf")
        for prefix in filter(lambda prefix: prefix not in kept, older):
            written = os.path.getmtime(prefix + INDEX_SUFFIX)
            if not keep and written - last_kept >= KEEP_EVERY_SECONDS:
                last_kept = written
            else:
                yield prefix

    def _best(self) -> Iterator[str]:
        """Yields the best checkpoint of each evaluation inside the folder.

        A symbolic link may lead to the folder of an evaluation, or to the one above it.
        It is not followed further, because it may lead to a large folder.
        """
        for folder, subfolders, _ in os.walk(self.directory):
            paths = [os.path.join(folder, name) for name in subfolders]
            links = map(pathlib.Path, filter(os.path.islink, paths))
            found = [pathlib.Path(folder).glob(CONTENTS_FILE)]
            for link in links:
                found += [link.glob(CONTENTS_FILE), link.glob(f"*/{CONTENTS_FILE}")]
            for path in itertools.chain(*found):
                if best := EvalFolder(path.parent).best():
                    yield os.path.join(self.directory, f"{NAME}-{best[0]}")


class Checkpoint(NamedTuple):
    """A checkpoint, and the run that it is of."""

    run: Run
    prefix: str


def _find_best(eval_dir: str, name: str) -> Checkpoint:
    """The best checkpoint of an evaluation; prints its lwlrap."""
    evaluation = EvalFolder(eval_dir)
    best = evaluation.best()
    if best is None:
        raise CheckpointError(f"{name}: there are no results in {eval_dir}")
    try:
        run = Run(evaluation.train_dir())
    except UserError as error:
        raise CheckpointError(f"{name}: {error}") from None
    prefix = os.path.join(run.directory, f"{NAME}-{best[0]}")
    if not os.path.isfile(prefix + INDEX_SUFFIX):
        raise CheckpointError(f"{name}: {prefix}, the best of {eval_dir}, was deleted")
    print(
        f"best of {eval_dir}: step {best[0]}, overall lwlrap {best[1]:.6f}",
        file=sys.stderr,
    )
    return Checkpoint(run, prefix)
