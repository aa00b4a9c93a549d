"""The results of an evaluation: `eval-N.txt` of each step, and which step is best.

Also reads and writes the thresholds of the classes. This module needs no TensorFlow.
Letter for shapes: C classes.
"""

import json
import os
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from tagger.data.clips import composed, read_records, write_csv
from tagger.errors import UserError
from tagger.runs import run_record
from tagger.terminal.progress import counted

CONTENTS_FILE = "evaluated.json"  # describes what was evaluated
SEEN_FILE = "steps-seen.txt"  # in the order in which evaluators first saw them
SCORES_FILE = "scores-best.npz"  # labels and scores of the best step
THRESHOLDS_FILE = "thresholds.csv"  # of the classes, for the best step
THRESHOLDS_HEADER = ("class", "threshold")
DEFAULT_THRESHOLD = 0.5  # also of a class without clips


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


def write_thresholds(eval_dir: str, thresholds: Mapping[str, float]) -> None:
    """Writes THRESHOLDS_FILE with all digits, atomically.

    Raises:
      UserError: it cannot be written; the message names the file.
    """
    rows = [(n, np.format_float_positional(t)) for n, t in thresholds.items()]
    path = pathlib.Path(eval_dir) / THRESHOLDS_FILE
    write_csv(path, [THRESHOLDS_HEADER, *rows])


def read_thresholds(path: str, flag: str) -> dict[str, float]:
    """Reads a CSV of thresholds in [0, 1], by class.

    Args:
      path: path of the CSV, with the header class,threshold.
      flag: name of the flag with the path, for messages.

    Raises:
      UserError: the file cannot be read.
      UserError: it is not such a CSV; the message lists all bad lines.
    """
    (_, header), *records = read_records(path, flag) or [(1, [])]
    if tuple(name.strip() for name in header) != THRESHOLDS_HEADER:
        expected, got = ",".join(THRESHOLDS_HEADER), ",".join(header)
        raise UserError(*[f"{path}:1: expected a header {expected} but got {got}"])
    thresholds, problems = {}, []
    for line, fields in records:
        name, text = composed(fields[0].strip()), fields[-1].strip()
        if len(fields) != 2 or not is_score(text):
            got = ",".join(fields)
            problems.append(
                f"{path}:{line}: expected a class and a number from 0 to 1, but got "
                f"{got}"
            )
        elif name in thresholds:
            problems.append(f"{path}:{line}: class {name} appears twice")
        else:
            thresholds[name] = float(text)
    if problems:
        raise UserError(*problems)
    return thresholds


def is_score(text: str) -> bool:
    """Whether the text is a number from 0 to 1."""
    try:
        return 0 <= float(text) <= 1
    except ValueError:
        return False


def order_thresholds(
    thresholds: Mapping[str, float], class_names: Sequence[str], flag: str
) -> np.ndarray:
    """The thresholds of C classes in the order of the class map, float64 [C].

    Raises:
      UserError: a class has no threshold, or there are other classes; the message
        names the flag and the classes.
    """
    missing = [name for name in class_names if name not in thresholds]
    if missing:
        number = counted(len(missing), "class")
        raise UserError(f"{flag}: no threshold for {number}, such as {missing[0]}")
    unknown = [name for name in thresholds if name not in class_names]
    if unknown:
        number = counted(len(unknown), "class")
        raise UserError(
            f"{flag}: {number} that the checkpoint does not have, such as {unknown[0]}"
        )
    return np.array([thresholds[name] for name in class_names])
