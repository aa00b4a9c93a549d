"""Writes scalars and hyperparameters for TensorBoard.

The `write_` functions use the default writer of tf.summary.
"""

import contextlib
import dataclasses
import itertools
import os
from collections.abc import Callable, Iterator

import tensorflow as tf
from tensorboard.plugins.hparams import summary_v2 as hparams_summary

from tagger.hparams import Hparams
from tagger.trainer import StepResult

PROFILE_AFTER = 10  # steps; the first ones trace the graph and fill caches


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


@contextlib.contextmanager
def profiler(
    train_dir: str, num_steps: int
) -> Iterator[Callable[[], contextlib.AbstractContextManager]]:
    """Writes TensorFlow's profile of some steps, for the Profile tab.

    Args:
      train_dir: folder of the run.
      num_steps: number of steps after the first PROFILE_AFTER ones; 0: no profile.

    Yields:
      A function that makes the context of a step, for each step in turn.
    """
    steps = itertools.count()
    first, end = PROFILE_AFTER, PROFILE_AFTER + num_steps
    running = False

    def step_context() -> contextlib.AbstractContextManager:
        """Starts or ends the profile, and marks the step in it."""
        nonlocal running
        step = next(steps)
        if running and step == end:
            tf.profiler.experimental.stop()
            running = False
        if first == step < end:
            tf.profiler.experimental.start(train_dir)
            running = True
        return tf.profiler.experimental.Trace("train", step_num=step, _r=1)

    try:
        yield step_context
    finally:
        if running:
            tf.profiler.experimental.stop()
