"""What the benchmarks of learning share: a run on a fold, and means over runs."""

import pathlib
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

import measure  # noqa: F401 (first, because it finds the project)
import numpy as np

from tagger import results


def train_and_evaluate(
    folder: pathlib.Path,
    data: pathlib.Path,
    *,
    train_csv: pathlib.Path,
    fold: int,
    steps: int,
    checkpoint_steps: int,
    hparams: Mapping[str, Any],
    mixed_precision: bool = False,
    **options: Any,
) -> dict[int, float]:
    """Trains from a new start, with the fold as the seed, and evaluates.

    Args:
      folder: is deleted and made anew.
      data: folder with audio/, class_map.csv and valK.csv for the fold K.
      train_csv: the clips to train on, in audio/.
      fold: K.
      steps: training steps.
      checkpoint_steps: steps between evaluations.
      hparams: hyperparameters of the run.
      mixed_precision: in training and evaluation.
      options: further fields of `train.Options`.

    Returns:
      The overall lwlrap of the checkpoints, by step, without that of step 0.
    """
    import keras

    import evaluation
    import train

    keras.backend.clear_session()
    shutil.rmtree(folder, ignore_errors=True)
    common = {
        "class_map_path": str(data / "class_map.csv"),
        "train_dir": str(folder),
        "mixed_precision": mixed_precision,
    }
    stopped_by = train.train(
        train.Options(
            train_clip_dir=str(data / "audio"),
            train_csv_path=str(train_csv),
            hparams=hparams,
            max_steps=steps,
            checkpoint_steps=checkpoint_steps,
            seed=fold,
            **common,
            **options,
        )
    )
    if stopped_by:
        raise SystemExit(128 + stopped_by)
    for path in folder.glob("model.ckpt-0.*"):
        path.unlink()
    evaluation.evaluate(
        evaluation.Options(
            eval_clip_dir=str(data / "audio"),
            eval_csv_path=str(data / f"val{fold}.csv"),
            eval_dir=str(folder / "eval"),
            eval_timeout_secs=0,
            **common,
        )
    )
    found = results.read_results(str(folder / "eval"))
    shutil.rmtree(folder)  # Checkpoints are large.
    return found


def mean_and_error(values: Sequence[float]) -> str:
    """The mean and its standard error, as text."""
    if len(values) < 2:
        return f"{np.mean(values):.3f}" if len(values) else ""
    error = np.std(values, ddof=1) / np.sqrt(len(values))
    return f"{np.mean(values):.3f} +- {error:.3f}"
