"""Measures the training steps around the border of two epochs.

    python benchmarks/epoch_border.py [--epochs 4]

A step here is what a user waits for: the next batch, then the training step. The buffer
of shuffled examples holds the complete epoch, so at the border all of them change.
"""

import pathlib
import statistics
import tempfile
import time
from collections.abc import Sequence

import measure
from absl import flags

from tagger.terminal import program

program.start_tensorflow()

import inputs  # noqa: E402
import train  # noqa: E402
from tagger.hparams import Hparams  # noqa: E402

CLIPS, SECONDS = 128, 5  # 20 batches of 64 examples
AROUND = 2  # steps before a border, and after it
FLAGS = flags.FLAGS


def define_flags() -> None:
    """Defines the flags of this program."""
    flags.DEFINE_integer("epochs", 4, "Epochs to train.", lower_bound=2)


def main(argv: Sequence[str]) -> int:
    """Times all steps and prints the table."""
    program.check_no_arguments(argv)
    hparams = Hparams()
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        measure.make_data(root, CLIPS, SECONDS)
        table = measure.read_table(root)
        num_examples = int(hparams.num_examples(table.num_samples).sum())
        per_epoch = num_examples // hparams.batch_size
        trainer = train.define_trainer(
            num_classes=measure.CLASSES, hparams=hparams, epoch_num_batches=per_epoch
        )
        batches = inputs.read_batches(inputs.train_input(table, hparams, seed=0))
        trainer.train_step(*next(batches))  # fills the buffer, traces the step
        seconds = []
        for _ in range(1, per_epoch * FLAGS.epochs):
            started = time.perf_counter()
            float(trainer.train_step(*next(batches)).loss)
            seconds.append(time.perf_counter() - started)
    print(measure.machine("tensorflow", "keras"))
    print(f"\nTraining steps, {per_epoch} per epoch\n")
    print("| | median s | slowest s | slowest / median of all |")
    print("|---|---|---|---|")
    position = [step % per_epoch for step in range(1, per_epoch * FLAGS.epochs)]
    near = [p < AROUND or p >= per_epoch - AROUND for p in position]
    median = statistics.median(seconds)
    for name, at_border in (("around a border", True), ("elsewhere", False)):
        part = [s for s, n in zip(seconds, near, strict=True) if n == at_border]
        print(
            f"| {name} | {statistics.median(part):.3f} | {max(part):.3f} "
            f"| {max(part) / median:.2f} |"
        )
    return 0


if __name__ == "__main__":
    define_flags()
    program.run(main)
