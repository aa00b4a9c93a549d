"""What TensorBoard shows besides scalars: hyperparameters, pictures and tables.

Each function writes to the default writer of tf.summary.
"""

import dataclasses
import os
from collections.abc import Sequence

import numpy as np
import tensorflow as tf
from tensorboard.plugins.hparams import api

import hparams as hparams_lib
from hparams import Hparams

LOSS = "loss"
LWLRAP = "Lwlrap"
METRICS = (LOSS, LWLRAP)  # of a run, in the HParams tab


def write_hparams(hparams: Hparams, train_dir: str) -> None:
    """Writes the hyperparameters of a run, for the HParams tab.

    Training and evaluation both write them: the tab has a row for each trial, with the
    metrics of all folders of that trial, wherever --eval_dir is.
    """
    # Those of training first: the tab hides what does not fit.
    names = sorted(hparams_lib.FIELDS, key=lambda n: n in hparams_lib.MODEL_HPARAMS)
    api.hparams_config(
        hparams=[api.HParam(name) for name in names],
        metrics=[api.Metric(name) for name in METRICS],
    )
    api.hparams(dataclasses.asdict(hparams), trial_id=os.path.realpath(train_dir))


def write_picture(name: str, png: bytes, *, step: int) -> None:
    """Writes a PNG file as a picture."""
    tf.summary.image(name, tf.io.decode_png(png)[tf.newaxis], step=step)


def write_per_class(
    values: np.ndarray, num_clips: np.ndarray, class_names: Sequence[str], *, step: int
) -> None:
    """Writes a table: lwlrap, float [C], and clips, int [C], per class, best first."""
    lines = ["| class | lwlrap | clips |", "|---|---:|---:|"]
    for index in np.argsort(-values, kind="stable"):
        name = class_names[index].replace("_", r"\_").replace("|", r"\|")
        lines.append(f"| {name} | {values[index]:.6f} | {num_clips[index]} |")
    tf.summary.text("per_class_table", "\n".join(lines), step=step)
