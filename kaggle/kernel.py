# %% [markdown]
"""Writes the scores of the test clips of Freesound Audio Tagging 2019.

This Kaggle kernel needs no internet access. Its code and checkpoints come from the
attached data sets, which `tools.pack_kernel` makes. It searches all folders below
/kaggle/input, because Kaggle has moved its inputs before. It uses the newest checkpoint
of each folder and averages their scores. The result is submission.csv.

A clip that cannot be read gets zeros and is reported. It does not stop the kernel,
because a kernel that stops gets no score.
"""

# %%
import csv
import glob
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence

INPUT_DIR_VARIABLE = "TAGGER_INPUT_DIR"  # replaces /kaggle/input
SUBMISSION = pathlib.Path("submission.csv")  # in the working directory
SAMPLE = "sample_submission.csv"


# %%
def find_folders(root: pathlib.Path, pattern: str) -> list[pathlib.Path]:
    """The folders, at any depth, with files that match a pattern; follows links.

    Raises:
      SystemExit: there are no such files.
    """
    paths = glob.glob(f"{glob.escape(str(root))}/**/{pattern}", recursive=True)
    folders = sorted({pathlib.Path(path).parent.resolve() for path in paths})
    if not folders:
        raise SystemExit(
            f"error: there is no {pattern} below {root}; attach the competition and "
            f"the data set of tools.pack_kernel (or set {INPUT_DIR_VARIABLE} to "
            f"another folder)"
        )
    print(f"{pattern}:", *folders, flush=True)
    return folders


def read_csv(path: pathlib.Path) -> list[list[str]]:
    """The rows of a CSV, without empty lines."""
    with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        return [row for row in csv.reader(file) if row]


def read_sample(
    sample: pathlib.Path, class_map: pathlib.Path
) -> tuple[list[str], list[str]]:
    """The classes and the clips in the order of the sample submission.

    Raises:
      SystemExit: the classes of the sample and of the class map differ.
    """
    classes = [row[1] for row in read_csv(class_map)]
    (_, *columns), *rows = read_csv(sample) or [[""]]
    if sorted(columns) != sorted(classes):
        differing = sorted(set(columns) ^ set(classes))
        raise SystemExit(
            f"error: {sample} has other classes ({len(columns)}) than the checkpoints "
            f"({len(classes)}); they differ in {', '.join(differing[:5])}"
        )
    return columns, [row[0] for row in rows]


# %%
def score(command: Sequence[str], predictions: pathlib.Path) -> None:
    """Runs runner.py, which writes a row for every clip, or no file at all.

    If it writes no file on a machine with a GPU, it runs again on the CPU.

    Raises:
      SystemExit: there is no file; the output of runner.py has the reason.
    """
    attempts = {"all devices": {}}
    if shutil.which("nvidia-smi"):
        attempts["the CPU"] = {"CUDA_VISIBLE_DEVICES": "-1"}
    for devices, environment in attempts.items():
        print(f"scoring on {devices}", flush=True)
        with subprocess.Popen(
            command,
            env=os.environ | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
        ) as process:
            for line in process.stdout:  # Notebooks only show what Python prints.
                print(line, end="", flush=True)
        if predictions.exists():
            return
    raise SystemExit(
        f"error: runner.py scored nothing (exit status {process.returncode})"
    )


def write_submission(
    predictions: pathlib.Path, columns: Sequence[str], sample_clips: Sequence[str]
) -> None:
    """Writes the predictions in the order of the sample, completely or not at all.

    Clips that are only in the sample get zeros, because Kaggle rejects a submission
    that lacks rows. If the sample lacks clips, it is for another test set, because
    Kaggle runs the kernel again on private clips. Then the predictions give the rows.
    """
    (_, *classes), *rows = read_csv(predictions)
    scores = {row[0]: dict(zip(classes, row[1:])) for row in rows}
    clips = sample_clips if scores.keys() <= set(sample_clips) else list(scores)
    zeros = dict.fromkeys(classes, "0.0")
    part = SUBMISSION.with_suffix(".part")
    with part.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["fname", *columns])
        for clip in clips:
            row = scores.get(clip, zeros)
            table.writerow([clip, *(row[name] for name in columns)])
    part.replace(SUBMISSION)
    missing = len(set(clips) - scores.keys())
    print(f"{SUBMISSION}: {len(clips)} clips, of which {missing} have no file")


# %%
def main() -> None:
    """Makes the submission.

    Raises:
      SystemExit: it cannot be made; the message has the reason in one line.
    """
    root = pathlib.Path(os.environ.get(INPUT_DIR_VARIABLE, "/kaggle/input"))
    code = find_folders(root, "runner.py")[0]
    checkpoints = find_folders(root, "model.ckpt-*.index")
    competition = find_folders(root, SAMPLE)[0]
    class_map = code / "class_map.csv"
    columns, sample_clips = read_sample(competition / SAMPLE, class_map)
    with tempfile.TemporaryDirectory() as folder:
        predictions = pathlib.Path(folder) / "predictions.csv"
        command = [
            sys.executable,
            str(code / "runner.py"),
            "--mode=inference",
            f"--class_map_path={class_map}",
            f"--inference_clip_dir={competition / 'test'}",
            f"--inference_checkpoint={','.join(map(str, checkpoints))}",
            f"--predictions_csv_path={predictions}",
        ]
        score(command, predictions)
        write_submission(predictions, columns, sample_clips)


if __name__ == "__main__":
    main()
