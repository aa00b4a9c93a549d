"""Scores the test clips of Freesound Audio Tagging 2019 into submission.csv.

A Kaggle kernel that needs no internet. The tagger's code and checkpoints come from the
data sets attached to it, as pack.py packs them. They and the clips are looked for in
all of /kaggle/input, since where Kaggle mounts them has changed before. Of every folder
with checkpoints the newest counts; the scores of several folders are averaged.

A clip that cannot be read gets zeros and a warning: a kernel that stops has no score.
"""

# %%
import csv
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import NamedTuple

INPUT_DIR_VARIABLE = "TAGGER_INPUT_DIR"  # another folder than /kaggle/input, to test
SUBMISSION = pathlib.Path("submission.csv")  # in the folder that the kernel starts in
SAMPLE = "sample_submission.csv"
TEST_FOLDER = "test"
CODE = {"runner.py", "inference.py"}
CLASS_MAP = "class_map.csv"
HPARAMS_FILE = "hparams.json"
CHECKPOINT_INDEX = re.compile(r"model\.ckpt-\d+\.index")


# %%
class Inputs(NamedTuple):
    """What the kernel works on.

    Attributes:
      code: folder of runner.py.
      checkpoints: folders of checkpoints.
      clips: folder of the test clips.
      sample: the sample submission, if there is one.
    """

    code: pathlib.Path
    checkpoints: list[pathlib.Path]
    clips: pathlib.Path
    sample: pathlib.Path | None


def find_inputs(root: pathlib.Path) -> Inputs:
    """Looks for the inputs in a folder and all below it.

    Raises:
      OSError: something is not there.
      ValueError: there are several, and which is meant is not clear.
    """
    if not root.is_dir():
        raise FileNotFoundError(
            f"there is no folder {root}; outside Kaggle, set {INPUT_DIR_VARIABLE}"
        )
    code, checkpoints, clips, samples = [], [], [], []
    for folder, files in walk(root):
        if files >= CODE:
            code.append(folder)
        if any(CHECKPOINT_INDEX.fullmatch(file) for file in files):
            checkpoints.append(folder)
        if folder.name == TEST_FOLDER and any(f.endswith(".wav") for f in files):
            clips.append(folder)
        if SAMPLE in files:
            samples.append(folder / SAMPLE)
    if not checkpoints:
        raise FileNotFoundError(
            f"there is no checkpoint (model.ckpt-N.index) under {root}; attach the "
            f"data set that pack.py packed"
        )
    # What is mounted twice counts once. An index has the check sums of all weights.
    code = distinct(code, contents_of("*.py", "tagger/*.py"))
    checkpoints = distinct(checkpoints, contents_of("*.index", HPARAMS_FILE))
    # A data set may hold other test clips; those of the competition have its sample.
    clips = [c for c in clips if c.parent / SAMPLE in samples] or clips
    clips = distinct(clips, lambda folder: frozenset(os.listdir(folder)))
    clip_folder = the_only(clips, f"folder '{TEST_FOLDER}' of WAV files", root)
    samples = [s for s in samples if s.parent == clip_folder.parent] or samples
    return Inputs(
        code=the_only(code, "version of the tagger's code (runner.py)", root),
        checkpoints=checkpoints,
        clips=clip_folder,
        sample=the_only(samples, SAMPLE, root) if samples else None,
    )


def walk(root: pathlib.Path) -> Iterator[tuple[pathlib.Path, set[str]]]:
    """Every folder under one, in sorted order and once, and the names of its files."""
    seen = set()
    for folder, folders, files in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        yield pathlib.Path(folder), set(files)


def contents_of(*patterns: str) -> Callable[[pathlib.Path], Hashable]:
    """A function that reads the files of a folder that match any of the patterns."""
    return lambda folder: frozenset(
        (path.name, path.read_bytes())
        for pattern in patterns
        for path in folder.glob(pattern)
    )


def distinct(
    folders: Sequence[pathlib.Path], key: Callable[[pathlib.Path], Hashable]
) -> list[pathlib.Path]:
    """The first of those folders that have the same key, in order."""
    kept = {}
    for folder in folders:
        kept.setdefault(key(folder), folder)
    return list(kept.values())


def the_only(
    found: Sequence[pathlib.Path], what: str, root: pathlib.Path
) -> pathlib.Path:
    """The one path that was found.

    Raises:
      FileNotFoundError: none was.
      ValueError: several were.
    """
    if not found:
        raise FileNotFoundError(f"there is no {what} under {root}")
    if len(found) > 1:
        raise ValueError(
            f"expected one {what}, but got {len(found)}: {', '.join(map(str, found))}; "
            f"detach all data sets but one that have it"
        )
    return found[0]


# %%
def score(inputs: Inputs, predictions: pathlib.Path) -> None:
    """Scores the clips into a CSV; on the processor where that fails on the GPU.

    Raises:
      ValueError: nothing was scored; the lines printed before say why.
    """
    command = [
        sys.executable,
        str(inputs.code / "runner.py"),
        "--mode=inference",
        f"--class_map_path={inputs.code / CLASS_MAP}",
        f"--inference_clip_dir={inputs.clips}",
        f"--inference_checkpoint={','.join(map(str, inputs.checkpoints))}",
        f"--predictions_csv_path={predictions}",
    ]
    gpus = list_gpus()
    print(*(gpus or ["no GPU; scoring on the processor"]), sep="\n", flush=True)
    status = run(command, {})
    # runner.py writes the rows of all clips or no file at all, whatever its status.
    if gpus and not predictions.exists():
        print("warning: failed with the GPU; now without it", flush=True)
        status = run(command, {"CUDA_VISIBLE_DEVICES": "-1"})
    if not predictions.exists():
        raise ValueError(f"runner.py scored nothing (status {status}); see above")
    if status:
        print(
            f"warning: runner.py ended with status {status}, see above; what it scored "
            f"is submitted",
            flush=True,
        )


def list_gpus() -> list[str]:
    """A line for each GPU of the machine."""
    if shutil.which("nvidia-smi") is None:
        return []
    done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True)
    return done.stdout.splitlines() if done.returncode == 0 else []


def run(command: Sequence[str], environment: dict[str, str]) -> int:
    """Runs a command and prints its output as it comes; returns its exit status."""
    # Inputs are read-only: Python shall not try to write __pycache__ there.
    environment = {"PYTHONDONTWRITEBYTECODE": "1", **environment}
    with subprocess.Popen(
        command,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
    ) as process:
        for line in process.stdout:
            print(line, end="", flush=True)
    return process.returncode


# %%
def read_table(path: pathlib.Path) -> tuple[list[str], dict[str, list[str]]]:
    """The header of a CSV without its first column, and its rows by their first."""
    with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        header, *rows = [row for row in csv.reader(file) if row] or [[""]]
    return header[1:], {row[0]: row[1:] for row in rows}


def choose_rows(clips: Sequence[str], sample_names: Sequence[str]) -> list[str]:
    """The names of the clips to submit, in order.

    Kaggle wants a row for every clip of its solution, and no others. Those are the
    clips of the test folder, and the sample's names as a rule. Where they differ:

    - The sample names all clips of the folder and more: it is of this set, and the
      folder lacks clips. A missing row is refused, so these get rows too.
    - The folder has clips that the sample lacks: the sample is of another set, as when
      the kernel runs again on the private clips. The folder alone counts.
    """
    return list(sample_names if set(clips) <= set(sample_names) else clips)


def check_classes(
    classes: Sequence[str], columns: Sequence[str], sample: pathlib.Path
) -> None:
    """Checks that there is a column for each class, in any order.

    Raises:
      ValueError: the sample has other classes.
    """
    if sorted(columns) != sorted(classes):
        differing = sorted(set(columns) ^ set(classes))
        raise ValueError(
            f"the checkpoints have other classes than {sample}: {len(classes)}, "
            f"not {len(columns)}; in one of both: {', '.join(differing[:5])}"
        )


def write_submission(
    predictions: pathlib.Path, sample: pathlib.Path | None, submission: pathlib.Path
) -> None:
    """Writes the scores in the order of the sample's columns, whole or not at all.

    Raises:
      ValueError: the sample has other classes.
    """
    classes, scores = read_table(predictions)
    columns, names = classes, list(scores)
    if sample is None:
        print(f"warning: there is no {SAMPLE}; the columns are those of {CLASS_MAP}")
    else:
        columns, sample_rows = read_table(sample)
        check_classes(classes, columns, sample)
        names = choose_rows(names, list(sample_rows))
        print(f"{len(scores)} clips in the folder, {len(sample_rows)} in {sample}")
    order = [classes.index(column) for column in columns]
    zeros = ["0.0"] * len(classes)
    part = submission.with_name(submission.name + ".part")
    with open(part, "w", encoding="utf-8", errors="surrogateescape", newline="") as f:
        table = csv.writer(f, lineterminator="\n")
        table.writerow(["fname", *columns])
        for name in names:
            row = scores.get(name, zeros)
            table.writerow([name, *(row[index] for index in order)])
    part.replace(submission)
    print(f"{submission.resolve()}: {len(names)} rows, {len(columns)} classes")


# %%
def main() -> None:
    """Makes the submission.

    Raises:
      SystemExit: it could not be made; one line says why.
    """
    started = time.monotonic()
    try:
        inputs = find_inputs(
            pathlib.Path(os.environ.get(INPUT_DIR_VARIABLE, "/kaggle/input"))
        )
        print(f"code: {inputs.code}", f"clips: {inputs.clips}", sep="\n")
        for number, folder in enumerate(inputs.checkpoints, start=1):
            print(f"checkpoint {number} of {len(inputs.checkpoints)}: {folder}")
        if inputs.sample:  # before hours of scoring
            with open(
                inputs.code / CLASS_MAP, encoding="utf-8-sig", newline=""
            ) as file:
                classes = [row[1] for row in csv.reader(file) if row]
            check_classes(classes, read_table(inputs.sample)[0], inputs.sample)
        with tempfile.TemporaryDirectory() as folder:
            predictions = pathlib.Path(folder) / "predictions.csv"
            score(inputs, predictions)
            write_submission(predictions, inputs.sample, SUBMISSION)
    except (OSError, ValueError, csv.Error) as error:
        raise SystemExit(f"error: {error}") from None
    print(f"done in {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
