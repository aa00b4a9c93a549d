"""Writes scalars and hyperparameters for TensorBoard.

The `write_` functions use the default writer of tf.summary.
"""

import dataclasses
import os

import tensorflow as tf
from tensorboard.plugins.hparams import summary_v2 as hparams_summary

from tagger.hparams import Hparams
from tagger.training.trainer import StepResult


def write_step(result: StepResult, rate: float, step: int) -> None:
    """Writes the scalars of a training step; the rate is in examples per second."""
    tf.summary.scalar("loss", result.loss, step=step)
    tf.summary.scalar("learning_rate", result.learning_rate, step=step)
    tf.summary.scalar("examples_per_second", rate, step=step)


def write_hparams(hparams: Hparams, train_dir: str) -> None:
    """Writes the hyperparameters of a run for the HParams tab.

    Training and evaluation both write them, with the same name for the same train_dir.
    The tab has one row for each name, with the scalars of both.
    """
    parent, name = os.path.split(os.path.realpath(train_dir))
    # The name comes first, because the tab cuts off the end of a long text.
    hparams_summary.hparams(dataclasses.asdict(hparams), trial_id=f"{name} in {parent}")
