"""For a machine with a GPU: which is the limit, the network or the features?

    python benchmarks/gpu.py [--batch_sizes 64,128,256] [--rounds 10]

Times training steps and scores in float32 and bfloat16, and the features that
`train_input` delivers. The CPU computes the features. A GPU that needs more audio per
second than the CPU delivers has to wait. Without a GPU the program runs on the CPU, as
a trial.
"""

import pathlib
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence

import measure
from absl import flags

from tagger.terminal import program

program.start_tensorflow()

import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

import inputs  # noqa: E402
import model  # noqa: E402
import train  # noqa: E402
from tagger import hparams  # noqa: E402
from tagger.terminal import machine  # noqa: E402

CLIPS, SECONDS = 400, 5
EPOCHS = 3  # of the features, after one that fills the buffer
FLAGS = flags.FLAGS


def define_flags() -> None:
    """Defines the flags of this program."""
    flags.DEFINE_list("batch_sizes", ["64", "128", "256"], "Examples per batch.")
    flags.DEFINE_integer("rounds", 10, "Timed runs of each batch.", lower_bound=1)


def delivered_examples() -> float:
    """The examples per second that the input pipeline of training delivers."""
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        measure.make_data(root, CLIPS, SECONDS)
        table = measure.read_table(root)
        defaults = hparams.Hparams()
        batches = iter(inputs.train_input(table, defaults, seed=0))
        num_examples = int(defaults.num_examples(table.num_samples).sum())
        per_epoch = num_examples // defaults.batch_size
        for _ in range(per_epoch):
            next(batches)
        started = time.perf_counter()
        for _ in range(EPOCHS * per_epoch):
            next(batches)
        seconds = time.perf_counter() - started
    return EPOCHS * per_epoch * defaults.batch_size / seconds


def network_seconds(mixed_precision: bool) -> Iterator[tuple[int, float, float]]:
    """Yields batch sizes, and the seconds of a training step and of scores.

    The seconds are NaN for batches that do not fit into the memory.
    """
    trainer = train.define_trainer(
        num_classes=measure.CLASSES,
        hparams=hparams.Hparams(),
        epoch_num_batches=1,
        mixed_precision=mixed_precision,
    )
    score = model.score_function(trainer.network)
    rng = np.random.default_rng(0)
    for size in map(int, FLAGS.batch_sizes):
        features = tf.constant(rng.normal(-3, 2, (size, 100, 96)), tf.float32)
        labels = tf.constant(rng.random((size, measure.CLASSES)) < 0.1, tf.float32)
        tasks = {
            "step": lambda x=features, y=labels: float(trainer.train_step(x, y).loss),
            "scores": lambda x=features: score(x).numpy(),
        }
        try:
            seconds = measure.take_turns(tasks, FLAGS.rounds, warm_ups=2)
        except tf.errors.ResourceExhaustedError:
            seconds = dict.fromkeys(tasks, [float("nan")])
        yield size, *map(statistics.median, seconds.values())


def main(argv: Sequence[str]) -> int:
    """Times everything and prints the table."""
    program.check_no_arguments(argv)
    print(measure.machine("tensorflow", "keras"))
    print(machine.describe_platform(mixed_precision=True))
    hop = hparams.Hparams().example_hop_seconds
    delivered = delivered_examples() * hop
    cores = machine.num_cpu_cores()
    print(f"\nThe {cores} CPU cores deliver features of {delivered:.0f} s per second\n")
    print(
        "| precision | batch | step (ms) | needs (s of audio per second) | limit "
        "| scores per second |"
    )
    print("|---|---|---|---|---|---|")
    for precision in ("float32", "bfloat16"):
        for size, step, scores in network_seconds(precision == "bfloat16"):
            need = size * hop / step
            limit = "network" if need < delivered else "features"
            print(
                f"| {precision} | {size} | {step * 1000:.1f} | {need:.0f} | {limit} "
                f"| {size / scores:.0f} |",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    define_flags()
    program.run(main)
