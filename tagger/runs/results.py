"""The results of an evaluation: `eval-N.txt` of each step, and which step is best.

This module needs no TensorFlow.
"""

import json
import os
import pathlib
import re
from collections.abc import Iterable, Mapping

from tagger.errors import UserError
from tagger.runs import run_record

CONTENTS_FILE = "evaluated.json"  # describes what was evaluated
SEEN_FILE = "steps-seen.txt"  # in the order in which evaluators first saw them
SCORES_FILE = "scores-best.npz"  # labels and scores of the best step


def marker_path(eval_dir: str, step: int) -> pathlib.Path:
    """The result of a checkpoint, which also marks it as evaluated."""
    return pathlib.Path(eval_dir) / f"eval-{step}.txt"


def read_results(eval_dir: str) -> dict[int, float]:
    """The overall lwlrap in all `eval-N.txt`, also of other evaluators, by step."""
    results = {}
    for path in pathlib.Path(eval_dir).glob("eval-*.txt"):
        if match := re.fullmatch(r"eval-(\d+)\.txt", path.name):
            overall = read_overall(path.read_text(encoding="utf-8", errors="replace"))
            if overall is not None:
                results[int(match[1])] = overall
    return results


def read_overall(text: str) -> float | None:
    """The overall lwlrap in the text of an `eval-N.txt`; None if it has none."""
    match = re.search(r"^Overall lwlrap = (\d\.\d+)$", text, re.MULTILINE)
    return float(match[1]) if match else None


def best_step(results: Mapping[int, float]) -> int:
    """The step with the highest overall lwlrap, or the latest of equal ones."""
    return max(results, key=lambda step: (results[step], step))


def steps_seen(eval_dir: str, steps: Iterable[int]) -> list[int]:
    """Adds the steps of the existing checkpoints to SEEN_FILE, and returns all.

    Several evaluators can append to the file at once. A step counts where it appears
    first, so they agree on the order.

    Raises:
      UserError: the file cannot be written; the message names it.
    """
    path = pathlib.Path(eval_dir) / SEEN_FILE
    seen = _read_seen(path)
    if new := [step for step in steps if step not in seen]:
        try:
            with open(path, "ab", buffering=0) as file:  # Writes all lines at once.
                file.write("".join(f"{step}\n" for step in new).encode())
        except OSError as error:
            raise UserError(f"cannot write {path}: {error.strerror}") from None
        seen = _read_seen(path)
    return list(seen)


def _read_seen(path: pathlib.Path) -> dict[int, None]:
    """The steps in SEEN_FILE, in order, each once."""
    text = path.read_text(errors="replace") if path.exists() else ""
    return dict.fromkeys(int(word) for word in text.split() if word.isdecimal())


def describe_run(eval_dir: str, train_dir: str, clips_crc32: int) -> str:
    """The text of CONTENTS_FILE.

    Args:
      eval_dir: folder of the results.
      train_dir: folder of the checkpoints; stored relative to eval_dir, so that both
        can move together.
      clips_crc32: `Clips.checksum` of the evaluated clips.
    """
    relative = os.path.relpath(os.path.realpath(train_dir), os.path.realpath(eval_dir))
    run = run_record.run_of(train_dir)
    contents = {"train_dir": relative, "run": run, "clips_crc32": clips_crc32}
    return json.dumps(contents, indent=2) + "\n"


def train_dir_of(eval_dir: str) -> str:
    """The folder of the evaluated checkpoints.

    Raises:
      UserError: CONTENTS_FILE is missing or damaged, or the folder does not exist or
        has another run.
    """
    path = pathlib.Path(eval_dir) / CONTENTS_FILE
    try:
        contents = json.loads(path.read_text(encoding="utf-8"))
        train_dir = os.path.join(os.path.realpath(eval_dir), contents["train_dir"])
        run = contents.get("run", "")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} cannot be used: {error}") from None
    train_dir = os.path.normpath(train_dir)
    if not os.path.isdir(train_dir):
        raise UserError(f"{path} names a folder that does not exist: {train_dir}")
    if run != run_record.run_of(train_dir):
        raise UserError(f"{path} is about another run than the one in {train_dir}")
    return train_dir
