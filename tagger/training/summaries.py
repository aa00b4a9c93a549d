"""Reports of steps and hyperparameters, in the terminal and for TensorBoard."""

import contextlib
import dataclasses
import os
import sys
import time
from collections.abc import Callable, Iterator

import tensorflow as tf
from tensorboard.plugins.hparams import summary_v2 as hparams_summary

from tagger.hparams import Hparams
from tagger.terminal import progress
from tagger.training.trainer import StepResult


@contextlib.contextmanager
def reports(
    train_dir: str, hparams: Hparams, *, steps: range, summary_steps: int
) -> Iterator[Callable[[int, StepResult], None]]:
    """Yields a function that reports the result of a step.

    It writes values for TensorBoard now and then, and prints a line. On a terminal, it
    prints only the lines with a speed. Once, it prints how long the steps will take.

    Args:
      train_dir: folder for TensorBoard's events; empty: none are written.
      hparams: hyperparameters of the run.
      steps: the steps to come.
      summary_steps: steps between values in TensorBoard.
    """
    writer = tf.summary.create_noop_writer()
    if train_dir:
        writer = tf.summary.create_file_writer(train_dir)
        with writer.as_default():
            write_hparams(hparams, train_dir)
    done = timed_step = steps.start - 1
    timed_at = time.monotonic()

    def report(step: int, result: StepResult) -> None:
        """See above; the speed is that since the last summary."""
        nonlocal timed_step, timed_at
        rate = None
        if step % summary_steps == 0:
            seconds = time.monotonic() - timed_at
            rate = (step - timed_step) * hparams.batch_size / seconds
            # The second time, because the first step takes longer.
            if done < timed_step <= done + summary_steps:
                remaining = steps.stop - 1 - step
                hours = remaining * seconds / (step - timed_step) / 3600
                count = progress.counted(remaining, "step")
                text = f"the remaining {count} will take about {hours:.2g} hours"
                bar.write(text, file=sys.stderr)
            timed_step, timed_at = step, timed_at + seconds
            tf.summary.scalar("loss", result.loss, step=step)
            tf.summary.scalar("learning_rate", result.learning_rate, step=step)
            tf.summary.scalar("examples_per_second", rate, step=step)
        loss = float(result.loss)
        bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
        bar.update()
        if rate is not None or not sys.stdout.isatty():
            speed = "" if rate is None else f", {rate:.1f} examples/s"
            progress.print_result(f"step {step}: loss {loss:.6f}{speed}")

    bar = progress.progress_bar(
        done + len(steps), what="training", unit="step", done=done, keep=True
    )
    with writer.as_default(), bar:
        yield report


def write_hparams(hparams: Hparams, train_dir: str) -> None:
    """Writes the hyperparameters of a run for the HParams tab, to the default writer.

    Training and evaluation both write them, with the same name for the same train_dir.
    The tab has one row for each name, with the scalars of both.
    """
    parent, name = os.path.split(os.path.realpath(train_dir))
    # The name comes first, because the tab cuts off the end of a long text.
    hparams_summary.hparams(dataclasses.asdict(hparams), trial_id=f"{name} in {parent}")
