"""Inference and evaluation as complete processes: ours, and that of the original.

    python benchmarks/whole_process.py [--original_python PYTHON]

Inference scores 400 five-second clips. Evaluation uses 8 checkpoints and 80 of these
clips. Both run in float32 and with --mixed_precision. The method of the original is
original_way.py. --original_python is a Python to run it with another TensorFlow, such
as 2.13.
"""

import itertools
import pathlib
import sys
import tempfile
from collections.abc import Sequence

import measure
from absl import flags

from tagger.terminal import program

CLIPS, EVAL_CLIPS = 400, 80
SECONDS = 5
CHECKPOINTS = 8
FLAGS = flags.FLAGS


def define_flags() -> None:
    """Defines the flags of this program."""
    flags.DEFINE_string(
        "original_python", sys.executable, "Python to run the method of the original."
    )
    flags.DEFINE_integer("rounds", 1, "Timed runs of each contender.", lower_bound=1)


def main(argv: Sequence[str]) -> int:
    """Times both ways of both modes in turn and prints the tables."""
    program.check_no_arguments(argv)
    program.start_tensorflow()
    peer = measure.ROOT / "benchmarks" / "original_way.py"

    def run_peer(*command: object) -> None:
        measure.run_process([peer, *command], FLAGS.original_python)

    print(measure.machine("tensorflow"))
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        measure.make_data(root, CLIPS, SECONDS, CHECKPOINTS, EVAL_CLIPS)
        prefixes = [root / "model" / f"model.ckpt-{n}" for n in range(CHECKPOINTS)]
        eval_dirs = (root / f"eval{number}" for number in itertools.count())
        mixed = "--mixed_precision"
        infer = measure.inference_command(root, prefixes[0])
        inference = {
            "ours": lambda: measure.run_process(infer),
            f"ours, {mixed}": lambda: measure.run_process([*infer, mixed]),
            "method of the original": lambda: run_peer(root / "clips", prefixes[0]),
        }
        evaluation = {
            "ours": lambda: measure.run_process(
                measure.eval_command(root, next(eval_dirs))
            ),
            f"ours, {mixed}": lambda: measure.run_process(
                [*measure.eval_command(root, next(eval_dirs)), mixed]
            ),
            "method of the original": lambda: run_peer(
                root / "clips", ",".join(map(str, prefixes)), root / "clips.csv"
            ),
        }
        for title, ways in (
            (f"--mode inference, {CLIPS} clips of {SECONDS} s", inference),
            (f"--mode eval, {EVAL_CLIPS} clips, {CHECKPOINTS} checkpoints", evaluation),
        ):
            seconds = measure.take_turns(ways, FLAGS.rounds, warm_ups=0)
            measure.report(title, seconds, "ours")
    return 0


if __name__ == "__main__":
    define_flags()
    program.run(main)
