"""The folder of an evaluation: its results, and the run that they belong to.

This module needs no TensorFlow.
"""

import contextlib
import os
import pathlib
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from tagger.errors import UserError
from tagger.runs import run_record
from tagger.runs.checkpoint_files import (
    INDEX_SUFFIX,
    CheckpointError,
    UnreadableError,
    checkpoint_prefix,
    checkpoint_step,
    fingerprint,
)
from tagger.terminal import files
from tagger.terminal.progress import counted

CONTENTS_FILE = "evaluated.json"  # describes what was evaluated
# Of each result, the step and the fingerprint of its checkpoint.
FINGERPRINTS_FILE = "fingerprints.txt"
SEEN_FILE = "steps-seen.txt"  # in the order in which evaluators first saw them
SCORES_FILE = "scores-best.npz"  # labels and scores of the best step
NO_RUN = "none"  # instead of the id of a run, see `claim`


def _read_overall(text: str) -> float | None:
    """The overall lwlrap in the text of a result; None if it has none."""
    match = re.search(r"^Overall lwlrap = (\d\.\d+)$", text, re.M)
    return float(match[1]) if match else None


def _best(results: Mapping[int, float]) -> tuple[int, float] | None:
    """The item with the highest overall lwlrap, and of equal ones the latest step."""
    return max(results.items(), key=lambda item: item[::-1], default=None)


def _is_other_run(stored: Mapping[str, Any], train_dir: str) -> bool:
    """Whether a folder is known to have another run than the one that was evaluated."""
    record = run_record.read_record(train_dir)
    known = record is not None and record.run and stored.get("run")
    return bool(known) and record.run != stored["run"]


def _fingerprint(prefix: str) -> int | None:
    """The fingerprint of a checkpoint; None if it was deleted or cannot be read."""
    try:
        return fingerprint(prefix)
    except UnreadableError:
        return None


class EvalFolder:
    """The folder of an evaluation, to which several evaluators may write.

    Args:
      directory: the folder, which need not exist yet.
      train_dir: the folder of the checkpoints. Results of checkpoints that have changed
        do not count. None: all results count.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        train_dir: str | os.PathLike[str] | None = None,
    ):
        self.directory = os.fspath(directory)
        self._path = pathlib.Path(directory)
        self._train_dir = None if train_dir is None else os.fspath(train_dir)

    def results(self) -> dict[int, float]:
        """The overall lwlrap of each evaluated step, also by other evaluators.

        Checkpoints may have been deleted since. If one was replaced, its result does
        not count.
        """
        results, fingerprints = {}, self._fingerprints()
        for path in self._path.glob("eval-*.txt"):
            match = re.fullmatch(r"eval-(0|[1-9][0-9]*)\.txt", path.name)
            if not match or self._is_replaced(step := int(match[1]), fingerprints):
                continue
            if (overall := _read_overall(files.read_text(path))) is not None:
                results[step] = overall
        return results

    def best(self) -> tuple[int, float] | None:
        """The step with the highest overall lwlrap, the latest of equals; and this.

        Only checkpoints that still exist, unchanged, count.
        """
        return _best(self._current())

    def _current(self) -> dict[int, float]:
        """The results of the checkpoints that still exist, unchanged."""
        return {
            step: overall
            for step, overall in self.results().items()
            if self._train_dir is None
            or os.path.exists(self._prefix(step) + INDEX_SUFFIX)
        }

    def _prefix(self, step: int) -> str:
        return checkpoint_prefix(self._train_dir, step)

    def change_since(self, step: int, crc32: int | None) -> str:
        """What happened to a checkpoint after it was evaluated.

        Args:
          step: its step.
          crc32: its fingerprint then; None: not known.

        Returns:
          "deleted" or "replaced"; "" if it is unchanged, or this is not known.
        """
        if self._train_dir is None or crc32 is None:
            return ""
        now = _fingerprint(self._prefix(step))
        return "deleted" if now is None else "replaced" if now != crc32 else ""

    def _is_replaced(self, step: int, fingerprints: Mapping[int, int]) -> bool:
        return self.change_since(step, fingerprints.get(step)) == "replaced"

    def _fingerprints(self) -> dict[int, int]:
        """The fingerprints of the checkpoints that have results, by step."""
        text = files.read_text(self._path / FINGERPRINTS_FILE)
        found = re.findall(r"^(\d+) ([0-9a-f]{8})$", text, re.M)
        return {int(step): int(crc32, 16) for step, crc32 in found}

    def _add_fingerprints(self, fingerprints: Mapping[int, int]) -> None:
        lines = [f"{step} {crc32:08x}" for step, crc32 in fingerprints.items()]
        files.append_lines(self._path / FINGERPRINTS_FILE, lines)

    def marker(self, step: int) -> pathlib.Path:
        """The result of a step, which also marks it as evaluated."""
        return self._path / f"eval-{step}.txt"

    def without_result(
        self, prefixes: Iterable[str]
    ) -> Iterator[tuple[str, int | None]]:
        """Yields the checkpoints that have no result, or have changed since.

        Each comes with its fingerprint; None: it was just deleted, or cannot be read.
        """
        fingerprints = self._fingerprints()
        for prefix in prefixes:
            step = checkpoint_step(prefix)
            if not self.marker(step).exists() or self._is_replaced(step, fingerprints):
                yield prefix, _fingerprint(prefix)

    def write_result(
        self, step: int, text: str, *, crc32: int | None = None, **scores: Any
    ) -> None:
        """Writes the result of a step, atomically.

        Args:
          step: the step.
          text: the text of the result.
          crc32: the fingerprint of the checkpoint; None: there is no checkpoint.
          scores: arrays to keep if the step is the best so far; see SCORES_FILE.

        Raises:
          UserError: a file cannot be written; the message names it.
        """
        best, _ = _best(self._current() | {step: _read_overall(text)})
        if crc32 is not None:
            scores["fingerprint"] = crc32
        if best == step:
            with files.atomic(self._path / SCORES_FILE) as file:
                np.savez_compressed(file, step=step, **scores)
        # After a kill in between, the step has no result, and is evaluated again.
        files.write_whole(self.marker(step), text)
        if crc32 is not None:
            self._add_fingerprints({step: crc32})

    def claim(self, source: Sequence[str]) -> None:
        """Prepares the folder for one result, of step 0, that belongs to no run.

        An earlier such result is deleted.

        Args:
          source: the checkpoints or files that its scores are from.

        Raises:
          UserError: the folder has results of a run, or cannot be written.
        """
        stored = self._stored() or {"run": NO_RUN}
        if stored.get("run") != NO_RUN or self.results().keys() - {0}:
            raise UserError(
                f"{self.directory} has results of a run; choose another folder"
            )
        self.marker(0).unlink(missing_ok=True)
        contents = {"run": NO_RUN, "scores_of": list(source)}
        files.write_json(self._path / CONTENTS_FILE, contents)

    def locked(self, shard: tuple[int, int]) -> contextlib.AbstractContextManager[None]:
        """Locks the part of an evaluator; a UserError if another one has locked it."""
        index, num_evaluators = shard
        error = UserError(
            f"--eval_dir: another evaluator writes to {self.directory}; several can "
            f"share the work with --eval_shard"
        )
        return files.locked(self._path / f".lock-{index}-of-{num_evaluators}", error)

    def check(self, contents: Mapping[str, Any], *, write: bool) -> None:
        """Checks that the results are of what is evaluated now.

        Args:
          contents: values that results depend on: the run, and what
            `run_record.changes` compares. Before the run starts, some are not known.
          write: whether to store them in CONTENTS_FILE.

        Raises:
          UserError: there are results for other values; the message names them.
        """
        stored = self._stored() or {}
        # An earlier version stored no id if there was no hparams.json.
        known = {name: value for name, value in stored.items() if value != ""}
        found = run_record.changes(contents, known)
        here = os.path.realpath(self._train_dir)
        if "run" in contents and (other := self._other_train_dir(stored)):
            found.insert(0, f"--train_dir {here}, not {other}")
        if found:
            raise UserError(
                f"--eval_dir: this evaluation has {'; '.join(found)}, unlike the "
                f"results in {self.directory}; choose another folder"
            )
        if write:
            # A relative path, so that both folders can move together.
            relative = os.path.relpath(here, os.path.realpath(self.directory))
            contents = {"train_dir": relative, **contents}
            if contents != stored:
                files.write_json(self._path / CONTENTS_FILE, contents)

    def adopt_results(self) -> None:
        """Assigns results without a fingerprint to the checkpoints of their steps.

        Earlier versions, and the original, did not store fingerprints.
        """
        steps = self.results().keys() - self._fingerprints().keys()
        # Those of deleted checkpoints get a number that no later one will have.
        adopted = {step: _fingerprint(self._prefix(step)) or 0 for step in steps}
        if adopted:
            self._add_fingerprints(adopted)
            print(
                f"note: {counted(len(adopted), 'result')} in {self.directory} without "
                f"the fingerprint of a checkpoint now count as results of those in "
                f"{self._train_dir}",
                file=sys.stderr,
            )

    def _stored(self) -> dict[str, Any] | None:
        """The contents of CONTENTS_FILE; None if there is no such file."""
        path = self._path / CONTENTS_FILE
        stored = files.read_json(path)
        for name in ("train_dir", "run"):
            if stored and not isinstance(stored.get(name, ""), str):
                raise UserError(f"{path} is damaged: {name} is {stored[name]}")
        return stored

    def _stored_train_dir(self, stored: Mapping[str, Any]) -> str:
        path = os.path.join(os.path.realpath(self.directory), stored["train_dir"])
        return os.path.normpath(path)

    def _other_train_dir(self, stored: Mapping[str, Any]) -> str:
        """The folder with the evaluated run, if it exists beside train_dir; or ""."""
        if "train_dir" not in stored:
            return ""
        other = self._stored_train_dir(stored)
        if not os.path.isdir(other) or os.path.samefile(other, self._train_dir):
            return ""
        return "" if _is_other_run(stored, other) else other

    def train_dir(self) -> str:
        """The folder of the evaluated checkpoints.

        Raises:
          UserError: CONTENTS_FILE is missing, damaged or of `claim`, or the folder does
            not exist or has another run.
        """
        path = self._path / CONTENTS_FILE
        stored = self._stored()
        if stored and stored.get("run") == NO_RUN:
            raise UserError(f"{self.directory} has no results of single checkpoints")
        if not stored or "train_dir" not in stored:
            raise UserError(f"{path} cannot be used: it does not exist, or is damaged")
        train_dir = self._stored_train_dir(stored)
        if not os.path.isdir(train_dir):
            raise UserError(f"{path} names a folder that does not exist: {train_dir}")
        if _is_other_run(stored, train_dir):
            raise UserError(f"{path} is about another run than the one in {train_dir}")
        return train_dir

    def steps_seen(self, steps: Iterable[int]) -> list[int]:
        """Adds the steps of the existing checkpoints to SEEN_FILE, and returns all.

        Several evaluators can append to the file at once. A step counts where it
        appears first, so they agree on the order.

        Raises:
          UserError: the file cannot be written; the message names it.
        """
        path = self._path / SEEN_FILE

        def read() -> dict[int, None]:
            lines = re.findall(r"^[0-9]{1,18}$", files.read_text(path), re.MULTILINE)
            return dict.fromkeys(map(int, lines))

        if new := [step for step in steps if step not in read()]:
            files.append_lines(path, map(str, new))
        return list(read())


def best_checkpoint(eval_dir: str, name: str) -> str:
    """The prefix of the best checkpoint of an evaluation; prints its lwlrap.

    Args:
      eval_dir: the folder of the evaluation.
      name: name of the flag or argument with the folder, for messages.

    Raises:
      CheckpointError: there is none; the message has the name.
    """
    all_results = EvalFolder(eval_dir)
    if not (highest := all_results.best()):
        raise CheckpointError(f"{name}: there are no results in {eval_dir}")
    try:
        train_dir = all_results.train_dir()
    except UserError as error:
        raise CheckpointError(f"{name}: {error}") from None
    best = EvalFolder(eval_dir, train_dir).best()
    lost = (
        f"{checkpoint_prefix(train_dir, highest[0])}, the best of {eval_dir} with "
        f"overall lwlrap {highest[1]:.6f}, was deleted or replaced"
    )
    if best is None:
        raise CheckpointError(f"{name}: {lost}, and so were the others")
    if best != highest:
        print(f"note: {lost}", file=sys.stderr)
    text = f"best of {eval_dir}: step {best[0]}, overall lwlrap {best[1]:.6f}"
    print(text, file=sys.stderr)
    return checkpoint_prefix(train_dir, best[0])
