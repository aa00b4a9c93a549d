"""The results of an evaluation: `eval-N.txt` of each step, and which step is best.

This module needs no TensorFlow.
"""

import json
import os
import pathlib
import re
from collections.abc import Mapping

from tagger import run_record

CONTENTS_FILE = "evaluated.json"  # describes what was evaluated
SCORES_FILE = "scores-best.npz"  # labels and scores of the best step


def marker_path(eval_dir: str, step: int) -> pathlib.Path:
    """The result of a checkpoint, which also marks it as evaluated."""
    return pathlib.Path(eval_dir) / f"eval-{step}.txt"


def read_results(eval_dir: str) -> dict[int, float]:
    """The overall lwlrap in all `eval-N.txt`, also of other evaluators, by step."""
    results = {}
    for path in pathlib.Path(eval_dir).glob("eval-*.txt"):
        if match := re.fullmatch(r"eval-(\d+)\.txt", path.name):
            text = path.read_text(encoding="utf-8", errors="replace")
            if overall := re.search(r"^Overall lwlrap = (\d\.\d+)$", text, re.M):
                results[int(match[1])] = float(overall[1])
    return results


def best_step(results: Mapping[int, float]) -> int:
    """The step with the highest overall lwlrap, or the latest of equal ones."""
    return max(results, key=lambda step: (results[step], step))


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
      ValueError: CONTENTS_FILE is missing or damaged, or the folder has another run.
    """
    path = pathlib.Path(eval_dir) / CONTENTS_FILE
    try:
        contents = json.loads(path.read_text(encoding="utf-8"))
        train_dir = os.path.join(os.path.realpath(eval_dir), contents["train_dir"])
        run = contents.get("run", "")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} cannot be used: {error}") from None
    train_dir = os.path.normpath(train_dir)
    if run != run_record.run_of(train_dir):
        raise ValueError(f"{path} is about another run than the one in {train_dir}")
    return train_dir
