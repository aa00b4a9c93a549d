"""What TensorBoard shows besides scalars: hyperparameters and pictures.

Each function uses the default writer of tf.summary.
"""

import dataclasses
import os

import tensorflow as tf
from tensorboard.plugins.hparams import summary_v2 as hparams_summary

from tagger.hparams import Hparams


def write_hparams(hparams: Hparams, train_dir: str) -> None:
    """Writes the hyperparameters of a run for the HParams tab.

    Training and evaluation both write them, with the same name for the same train_dir.
    The tab has one row for each name, with the scalars of both.
    """
    parent, name = os.path.split(os.path.realpath(train_dir))
    # The name comes first, because the tab cuts off the end of a long text.
    hparams_summary.hparams(dataclasses.asdict(hparams), trial_id=f"{name} in {parent}")


def write_picture(name: str, png: bytes, *, step: int) -> None:
    """Writes a PNG file for the Images tab."""
    tf.summary.image(name, tf.io.decode_png(png)[tf.newaxis], step=step)
