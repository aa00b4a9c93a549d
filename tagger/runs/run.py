"""The folder of a training run: its record, its checkpoints, and who writes to it."""

import contextlib
import os
import pathlib
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import keras

from tagger.data.clips import read_class_map
from tagger.errors import UserError
from tagger.hparams import FIELDS, MODEL_NAMES, Hparams, model_hparams
from tagger.runs import checkpoints, run_record
from tagger.runs.checkpoint_files import (
    DATA_SUFFIX,
    INDEX_SUFFIX,
    CheckpointError,
    UnreadableError,
    fingerprint,
    list_checkpoints,
)
from tagger.runs.checkpoints import SAVING_PREFIX
from tagger.runs.eval_folder import best_checkpoint
from tagger.runs.retention import outdated
from tagger.runs.run_record import HPARAMS_FILE
from tagger.terminal import files

BEST = "best:"  # before an eval_dir, instead of a checkpoint
LOCK_FILE = ".lock"
STATE_FILE = "checkpoint"  # the name that TensorFlow looks for


class Run:
    """The folder of a training run, opened to read.

    Within the block of `open_to_train`, it is opened to write.

    Args:
      directory: the folder, which need not exist.

    Attributes:
      record: the contents of hparams.json; None if there is no such file.
      resumed_from: the checkpoint that `resume` restored; empty: none.

    Raises:
      UserError: hparams.json is damaged.
    """

    def __init__(self, directory: str | os.PathLike[str]):
        self.directory = os.fspath(directory)
        self.record = run_record.read_record(self.directory)
        self.resumed_from = ""

    @staticmethod
    def find(path: "str | os.PathLike[str] | Checkpoint", name: str) -> "Checkpoint":
        """Finds a checkpoint.

        Args:
          path: `model.ckpt-N`, or one of its files; a folder for its newest checkpoint;
            `best:EVAL_DIR` for the one with the highest overall lwlrap of an
            evaluation; or a checkpoint that was found before, which is returned.
          name: name of the flag or argument with the path, for messages.

        Raises:
          CheckpointError: there is no checkpoint; the message has the name.
        """
        if isinstance(path, Checkpoint):
            return path
        path = os.fspath(path)
        if path.startswith(BEST):
            prefix = best_checkpoint(path.removeprefix(BEST), name)
            found = Checkpoint(Run(os.path.dirname(prefix)), prefix)
        elif os.path.isdir(path):
            run = Run(path)
            if not (prefixes := run.checkpoints()):
                raise CheckpointError(
                    f"{name}: there is no complete checkpoint in {path}"
                )
            found = Checkpoint(run, prefixes[-1])
        else:
            prefix = path.removesuffix(INDEX_SUFFIX).removesuffix(DATA_SUFFIX)
            if not os.path.isfile(prefix + INDEX_SUFFIX):
                raise UnreadableError(
                    f"{name}: there is no checkpoint {prefix} (no file "
                    f"{prefix}{INDEX_SUFFIX})"
                )
            found = Checkpoint(Run(os.path.dirname(prefix)), prefix)
        found.run.report_misplacement(found.prefix)
        return found

    def checkpoints(self) -> list[str]:
        """The prefixes of the complete checkpoints, in the order of steps.

        The list is empty if the folder does not exist.
        """
        return list_checkpoints(self.directory)

    @property
    def id(self) -> str:
        """What distinguishes the run from others; "" before its first checkpoint.

        Without hparams.json, it is the id in the newest checkpoint; in a checkpoint of
        the original, there is none, and it is the fingerprint of the oldest one.
        """
        if not (prefixes := self.checkpoints()):
            return ""
        if self.record and self.record.run:
            return self.record.run
        with contextlib.suppress(UnreadableError):
            if stored := checkpoints.origin(prefixes[-1]).run:
                return stored
        return f"{fingerprint(prefixes[0]):08x}"

    def misplacement(self, prefix: str) -> str:
        """Why a checkpoint in the folder is not one of this run; "" if it is.

        Raises:
          UnreadableError: it cannot be read.
        """
        known = [self.record.run, *self.record.copied_from] if self.record else []
        return checkpoints.misplacement(prefix, known)

    def report_misplacement(self, prefix: str) -> None:
        """Warns if a checkpoint is not one of this run."""
        with contextlib.suppress(UnreadableError):  # Restoring it is an error.
            if problem := self.misplacement(prefix):
                print(f"warning: {problem}", file=sys.stderr)

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
        if self.record:
            self.record.check_class_map(self._record_path, class_names)

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
            run_record.report_missing(self._record_path, overrides)
            return model, model_hparams(model, overrides)
        return self.record.settings(
            self._record_path,
            model_name=model_name,
            overrides=overrides,
            class_names=class_names,
            to_train=to_train,
        )

    def resumed_training(self, training: dict[str, Any]) -> dict[str, Any]:
        """Reports on stderr how a resumed training differs from the last one.

        Args:
          training: see `RunRecord`.

        Returns:
          The same. train_scopes that are not given are those of the last training.
        """
        last = self.record.training if self.record and self.checkpoints() else {}
        return run_record.resumed_training(self._record_path, training, last)

    @property
    def _record_path(self) -> str:
        return os.path.join(self.directory, HPARAMS_FILE)

    @contextlib.contextmanager
    def open_to_train(self) -> Iterator[None]:
        """Makes the folder, and locks it until the end of the block.

        Deletes unfinished files of killed processes.

        Raises:
          UserError: it is not writable, or another process has locked it.
        """
        files.make_folder(self.directory, "--train_dir")
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
        """Restores the newest checkpoint of this run; returns its prefix.

        Newer ones that are damaged or misplaced are reported on stderr. If there are no
        checkpoints, nothing is restored, and the prefix is empty.

        Raises:
          CheckpointError: there are only such ones, or one does not fit the network.
        """
        prefixes = self.checkpoints()
        for prefix in reversed(prefixes):
            try:
                if problem := self.misplacement(prefix):
                    raise UnreadableError(problem)
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
            self.resumed_from = prefix
            return prefix
        return ""

    def write_record(
        self,
        *,
        model_name: str,
        hparams: Hparams,
        class_names: Sequence[str],
        training: Mapping[str, Any] | None = None,
    ) -> None:
        """Writes hparams.json.

        A run that has checkpoints keeps its id, also if its folder was moved. If the
        folder is a copy of another one that still exists, it is a new run.

        Args:
          model_name, hparams, class_names, training: see `RunRecord`; None: the folder
            is not for training.
        """
        run = self.id
        earlier = self.record.copied_from if run and self.record else []
        if run and self.record and self.record.is_copied_to(self.directory):
            print(
                f"note: {self.directory} is a copy of {self.record.folder}; from now "
                f"on, it is another run",
                file=sys.stderr,
            )
            run, earlier = "", [*earlier, run]
        self.record = run_record.write_record(
            self.directory,
            model_name=model_name,
            hparams=hparams,
            class_names=class_names,
            run=run or None,
            copied_from=earlier,
            folder="" if training is None else os.path.realpath(self.directory),
            training=dict(training or {}),
        )

    def save(self, values: Mapping[str, Any], step: int, *, keep: int = 0) -> str:
        """Writes `model.ckpt-N` and the state file; deletes old checkpoints.

        Args:
          values: all variables or arrays of the checkpoint, by name.
          step: N.
          keep: how many of the newest readable checkpoints are kept, besides the one
            that training resumed from and the best ones of the evaluations in
            sub-folders; 0: as in the original, see retention.py.

        Returns:
          The prefix of the checkpoint.

        Raises:
          UserError: it cannot be written. Earlier checkpoints are unchanged.
        """
        if self.record and self.record.training:
            values = {**values, checkpoints.RUN_ID: self.record.run}
        prefix = checkpoints.write(self.directory, values, step)
        prefixes = self.checkpoints()
        # Training resumes from the newest checkpoint that can be read, so later ones
        # are damaged. They are neither counted nor deleted.
        prefixes = prefixes[: prefixes.index(prefix) + 1]
        for old in list(
            outdated(self.directory, prefixes, keep, resumed_from=self.resumed_from)
        ):
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


class Checkpoint(NamedTuple):
    """A checkpoint, and the run that it is of."""

    run: Run
    prefix: str
