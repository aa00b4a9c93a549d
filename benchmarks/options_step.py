"""Measures what the options of docs/learning.md cost in a training step.

    python benchmarks/options_step.py [--rounds 5]

A step here is what a user waits for: the next batch, then the training step. The
contenders are the published baseline, and the values of recipes/modern.sh with
bn_ramp=1. Each is a process of its own, and they run in turns.
"""

import pathlib
import tempfile
from collections.abc import Sequence

import measure
from absl import flags

from tagger.terminal import program

program.start_tensorflow()

import inputs  # noqa: E402
import train  # noqa: E402
from tagger.hparams import Hparams, parse_overrides  # noqa: E402

CLIPS, SECONDS = 128, 5  # 20 batches of 64 examples
STEPS = 10  # per measurement; a few batches of them are prefetched
OPTIONS = {"baseline": "", "modern": measure.modern_hparams() + ",bn_ramp=1"}
FLAGS = flags.FLAGS


def define_flags() -> None:
    """Defines the flags of this program."""
    measure.define_flags(5, list(OPTIONS))
    flags.DEFINE_string("data", None, "Folder of clips; used by the contenders.")


def steps(root: pathlib.Path, options: str):
    """A function that trains STEPS steps."""
    hparams = Hparams(**parse_overrides(options))
    table = measure.read_table(root)
    trainer = train.define_trainer(
        num_classes=measure.CLASSES,
        hparams=hparams,
        epoch_num_batches=20,
        max_steps=10000,
    )
    batches = inputs.read_batches(inputs.train_input(table, hparams, seed=0))

    def run() -> None:
        for _ in range(STEPS):
            float(trainer.train_step(*next(batches)).loss)

    return run


def main(argv: Sequence[str]) -> int:
    """Times all contenders and prints the table."""
    program.check_no_arguments(argv)
    if FLAGS.contender:
        measure.serve(
            steps(pathlib.Path(FLAGS.data), OPTIONS[FLAGS.contender]), warm_ups=1
        )
        return 0
    print(measure.machine("tensorflow", "keras"))
    with tempfile.TemporaryDirectory() as folder:
        measure.make_data(pathlib.Path(folder), CLIPS, SECONDS)
        command = [pathlib.Path(__file__).resolve(), f"--data={folder}", "--contender"]
        seconds = measure.take_turns_apart(
            {name: measure.Contender([*command, name]) for name in OPTIONS},
            FLAGS.rounds,
        )
    per_step = {name: [s / STEPS for s in values] for name, values in seconds.items()}
    title = f"Training step with its input, {measure.BATCH} examples"
    measure.report(title, per_step, "baseline", measure.BATCH)
    return 0


if __name__ == "__main__":
    define_flags()
    program.run(main)
