"""The folder of an evaluation: its results, and the run that they belong to.

This module needs no TensorFlow.
"""

import contextlib
import json
import os
import pathlib
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from tagger.errors import UserError
from tagger.runs import run_record
from tagger.terminal import files

CONTENTS_FILE = "evaluated.json"  # describes what was evaluated
SEEN_FILE = "steps-seen.txt"  # in the order in which evaluators first saw them
SCORES_FILE = "scores-best.npz"  # labels and scores of the best step


def _read_overall(text: str) -> float | None:
    """The overall lwlrap in the text of a result; None if it has none."""
    match = re.search(r"^Overall lwlrap = (\d\.\d+)$", text, re.M)
    return float(match[1]) if match else None


def _best(results: Mapping[int, float]) -> tuple[int, float] | None:
    """The item with the highest overall lwlrap, and of equal ones the latest step."""
    return max(results.items(), key=lambda item: item[::-1], default=None)


class EvalFolder:
    """The folder of an evaluation, to which several evaluators may write.

    Args:
      directory: the folder, which need not exist yet.
    """

    def __init__(self, directory: str | os.PathLike[str]):
        self.directory = os.fspath(directory)
        self._path = pathlib.Path(directory)

    def results(self) -> dict[int, float]:
        """The overall lwlrap of each evaluated step, also by other evaluators."""
        results = {}
        for path in self._path.glob("eval-*.txt"):
            if match := re.fullmatch(r"eval-(\d+)\.txt", path.name):
                text = path.read_text(encoding="utf-8", errors="replace")
                if (overall := _read_overall(text)) is not None:
                    results[int(match[1])] = overall
        return results

    def best(self) -> tuple[int, float] | None:
        """The step with the highest overall lwlrap, the latest of equals; and this."""
        return _best(self.results())

    def marker(self, step: int) -> pathlib.Path:
        """The result of a step, which also marks it as evaluated."""
        return self._path / f"eval-{step}.txt"

    def write_result(self, step: int, text: str, **scores: Any) -> None:
        """Writes the result of a step, atomically.

        Args:
          step: the step.
          text: the text of the result.
          scores: arrays to keep if the step is the best so far; see SCORES_FILE.

        Raises:
          UserError: a file cannot be written; the message names it.
        """
        best, _ = _best(self.results() | {step: _read_overall(text)})
        if best == step:
            with files.atomic(self._path / SCORES_FILE) as file:
                np.savez_compressed(file, step=step, **scores)
        # After a kill in between, the step has no result, and is evaluated again.
        files.write_whole(self.marker(step), text)

    def locked(self, shard: tuple[int, int]) -> contextlib.AbstractContextManager[None]:
        """Locks the part of an evaluator; a UserError if another one has locked it."""
        index, num_evaluators = shard
        error = UserError(
            f"--eval_dir: another evaluator writes to {self.directory}; several can "
            f"share the work with --eval_shard"
        )
        return files.locked(self._path / f".lock-{index}-of-{num_evaluators}", error)

    def check_contents(self, train_dir: str, clips_crc32: int, *, write: bool) -> None:
        """Checks that the results are of these checkpoints and clips.

        Args:
          train_dir: folder of the checkpoints; stored relative to this folder, so that
            both can move together.
          clips_crc32: `Clips.checksum` of the evaluated clips.
          write: whether to describe them in CONTENTS_FILE if there are no results yet.

        Raises:
          UserError: there are results of another evaluation.
        """
        path = self._path / CONTENTS_FILE
        here = os.path.realpath(self.directory)
        contents = {
            "train_dir": os.path.relpath(os.path.realpath(train_dir), here),
            "run": run_record.run_of(train_dir),
            "clips_crc32": clips_crc32,
        }
        text = json.dumps(contents, indent=2) + "\n"
        if not path.exists():
            if write:
                files.write_whole(path, text)
        elif path.read_text(encoding="utf-8", errors="replace") != text:
            raise UserError(
                f"--eval_dir: {self.directory} has results for another run, clips, "
                f"labels or classes; choose another folder (or delete {path} if "
                f"--train_dir was only moved)"
            )

    def train_dir(self) -> str:
        """The folder of the evaluated checkpoints.

        Raises:
          UserError: CONTENTS_FILE is missing or damaged, or the folder does not exist
            or has another run.
        """
        path = self._path / CONTENTS_FILE
        try:
            contents = json.loads(path.read_text(encoding="utf-8"))
            here = os.path.realpath(self.directory)
            train_dir = os.path.normpath(os.path.join(here, contents["train_dir"]))
            run = contents.get("run", "")
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path} cannot be used: {error}") from None
        if not os.path.isdir(train_dir):
            raise UserError(f"{path} names a folder that does not exist: {train_dir}")
        if run != run_record.run_of(train_dir):
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
            text = path.read_text(errors="replace") if path.exists() else ""
            return dict.fromkeys(int(word) for word in text.split() if word.isdecimal())

        if new := [step for step in steps if step not in read()]:
            try:
                # Writes all lines at once. The last line may be incomplete.
                with open(path, "ab", buffering=0) as file:
                    file.write("".join(f"\n{step}" for step in new).encode() + b"\n")
            except OSError as error:
                raise UserError(f"cannot write {path}: {error.strerror}") from None
        return list(read())
