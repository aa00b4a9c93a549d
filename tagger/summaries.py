"""Writes hyperparameters and pictures for TensorBoard.

The `write_` functions use the default writer of tf.summary.

Letters for shapes: E examples, T frames, F mel bands, C classes.
"""

import dataclasses
import os
from collections.abc import Sequence

import tensorflow as tf
from tensorboard.plugins.hparams import summary_v2 as hparams_summary

from tagger import plots
from tagger.hparams import Hparams
from tagger.trainer import StepResult

PICTURE_EXAMPLES = 8


def writer(directory: str, *, enabled: bool) -> tf.summary.SummaryWriter:
    """A writer of events to a folder; if it is not enabled, it writes nothing."""
    if not enabled:
        return tf.summary.create_noop_writer()
    return tf.summary.create_file_writer(directory)


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


def write_examples(
    features: tf.Tensor,
    labels: tf.Tensor,
    class_names: Sequence[str],
    hparams: Hparams,
    *,
    step: int,
) -> None:
    """Writes a picture of some examples, `first_batch`, for the Images tab.

    Args:
      features: float32 [E, T, F], log mel examples.
      labels: float32 [E, C], nonzero for the classes of each example.
      class_names: C names.
      hparams: hyperparameters of the features.
      step: the training step of the picture.
    """
    png = plots.examples_picture(
        features[:PICTURE_EXAMPLES].numpy(),
        labels[:PICTURE_EXAMPLES].numpy(),
        class_names=class_names,
        hparams=hparams,
    )
    tf.summary.image("first_batch", tf.io.decode_png(png)[tf.newaxis], step=step)
