"""What TensorBoard shows besides scalars: hyperparameters, pictures and tables.

Each function writes to the default writer of tf.summary.
"""

import dataclasses
import os
from collections.abc import Sequence

import numpy as np
import tensorflow as tf
from tensorboard.plugins.hparams import summary_v2 as hparams_summary

from tagger.hparams import Hparams


def write_hparams(hparams: Hparams, train_dir: str) -> None:
    """Writes the hyperparameters of a run, for the HParams tab.

    Training and evaluation both write them, under one name: the tab has a row for each
    name, with the scalars of both, wherever --eval_dir is.
    """
    parent, name = os.path.split(os.path.realpath(train_dir))
    # The name first, as the tab shows the beginning of what is long.
    hparams_summary.hparams(dataclasses.asdict(hparams), trial_id=f"{name} in {parent}")


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
