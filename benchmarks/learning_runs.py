"""What the benchmarks of learning share: a run on a fold, results, and their means."""

import contextlib
import csv
import fcntl
import pathlib
import random
import shutil
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import measure  # noqa: F401 (first, because it finds the project)
import numpy as np
import numpy.typing as npt

from tagger.data.csv_files import class_names_of, read_rows, write_csv
from tagger.errors import UserError
from tagger.options import EvalOptions, TrainOptions
from tagger.runs.eval_folder import EvalFolder
from tagger.terminal import program
from tagger.terminal.files import make_folder

NOISE = 0.4  # the share of wrong labels


def open_results(argv: Sequence[str], name: str, header: Sequence[str]) -> pathlib.Path:
    """Makes the folder OUT and the CSV of results in it.

    Args:
      argv: the arguments of the program; the only one is OUT.
      name: of the CSV. If it exists, it is unchanged.
      header: of the CSV.

    Returns:
      The path of the CSV.

    Raises:
      UserError: there is no argument, or the folder cannot be made.
    """
    if len(argv) != 2:
        raise UserError("expected one argument, the folder OUT; see --help")
    make_folder(argv[1], "OUT")
    path = pathlib.Path(argv[1]) / name
    if not path.exists():
        path.write_text(",".join(header) + "\n")
    return path


@contextlib.contextmanager
def output_to(path: pathlib.Path) -> Iterator[None]:
    """Appends what the block prints to a file."""
    with (
        path.open("a") as log,
        contextlib.redirect_stdout(log),
        contextlib.redirect_stderr(log),
    ):
        yield


def append(path: pathlib.Path, rows: Iterable[Sequence[Any]]) -> None:
    """Appends rows to a CSV, all at once; several programs may do so."""
    with path.open("a", newline="") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        csv.writer(file, lineterminator="\n").writerows(rows)


def draw_clips(
    source: pathlib.Path, target: pathlib.Path, number: int, seed: int
) -> None:
    """Writes a CSV with a random selection of clips of each class; 0: of all clips."""
    header, *rows = csv.reader(source.open())
    random.Random(seed).shuffle(rows)
    counts, selected = {}, []
    for row in rows:
        counts[row[1]] = counts.get(row[1], 0) + 1
        if not number or counts[row[1]] <= number:
            selected.append(row)
    write_csv(target, [header, *selected])


def write_noisy(data: pathlib.Path, fold: int, target: pathlib.Path) -> None:
    """Writes trainK.csv with wrong labels, each a random other class.

    A clip has the same label in all folds. It is wrong with the probability NOISE.

    Args:
      data: folder with trainK.csv and valK.csv for the fold K.
      fold: K.
      target: the CSV to write.
    """
    train, others = (
        read_rows(str(data / f"{part}{fold}.csv"))[1] for part in ("train", "val")
    )
    clips = sorted([*train, *others], key=lambda row: row.fname)
    classes, draw = class_names_of(row.labels for row in clips), random.Random(0)
    labels = {row.fname: ",".join(row.labels) for row in clips}
    for row in clips:
        if draw.random() < NOISE:
            wrong = [name for name in classes if name not in row.labels]
            labels[row.fname] = draw.choice(wrong)
    rows = [(row.fname, labels[row.fname]) for row in train]
    write_csv(target, [("fname", "labels"), *rows])


def train_and_evaluate(
    folder: pathlib.Path,
    data: pathlib.Path,
    *,
    train_csv: pathlib.Path,
    fold: int,
    mixed_precision: bool = False,
    keep: bool = False,
    **options: Any,
) -> dict[int, float]:
    """Trains from a new start, with the fold as the seed, and evaluates.

    Args:
      folder: is replaced, and deleted at the end unless keep is set.
      data: folder with audio/, class_map.csv and valK.csv for the fold K.
      train_csv: the clips to train on, in audio/.
      fold: K.
      mixed_precision: in training and evaluation.
      keep: whether the folder stays, with its evaluation in `eval`.
      options: further fields of `TrainOptions`.

    Returns:
      The overall lwlrap of the checkpoints, by step, without that of step 0.
    """
    program.start_tensorflow()
    import keras

    import train

    keras.backend.clear_session()
    shutil.rmtree(folder, ignore_errors=True)
    stopped_by = train.train(
        TrainOptions(
            class_map_path=str(data / "class_map.csv"),
            train_clip_dir=str(data / "audio"),
            train_csv_path=str(train_csv),
            train_dir=str(folder),
            mixed_precision=mixed_precision,
            seed=fold,
            **options,
        )
    )
    if stopped_by:
        raise SystemExit(128 + stopped_by)
    for path in folder.glob("model.ckpt-0.*"):
        path.unlink()
    return evaluate(folder, data, fold, mixed_precision, keep)


def evaluate(
    folder: pathlib.Path,
    data: pathlib.Path,
    fold: int,
    mixed_precision: bool,
    keep: bool = False,
) -> dict[int, float]:
    """Evaluates the checkpoints of a run, and deletes it unless keep is set.

    Returns:
      The overall lwlrap, by step.
    """
    import evaluation

    evaluation.evaluate(
        EvalOptions(
            class_map_path=str(data / "class_map.csv"),
            eval_clip_dir=str(data / "audio"),
            eval_csv_path=str(data / f"val{fold}.csv"),
            train_dir=str(folder),
            eval_dir=str(folder / "eval"),
            eval_timeout_secs=0,
            mixed_precision=mixed_precision,
        )
    )
    found = EvalFolder(folder / "eval").results()
    if not keep:
        shutil.rmtree(folder)  # Checkpoints are large.
    return found


def standard_error(values: npt.ArrayLike) -> np.ndarray:
    """The standard error of the mean over the first axis; 0 for one value."""
    return np.std(values, axis=0) / max(1, len(values) - 1) ** 0.5


def mean_and_error(values: Sequence[float]) -> str:
    """The mean and its standard error, as text."""
    if len(values) < 2:
        return f"{np.mean(values):.3f}" if len(values) else ""
    return f"{np.mean(values):.3f} +- {standard_error(values):.3f}"
