"""The Kaggle kernel on as many clips as Kaggle's private test set has.

    python benchmarks/kaggle_kernel.py [--clips 3361] [--longest 20.4]

Packs an untrained checkpoint of 80 classes, writes clips to folders as on Kaggle, and
runs the kernel as a process. Lengths are evenly spaced. With the defaults, their mean
is that of the test set (12.9 hours of 4,481 clips). One clip in a hundred is cut off.
"""

import csv
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

import measure
from absl import flags

from tagger.data.clips import read_class_map
from tagger.hparams import SAMPLE_RATE, Hparams
from tagger.runs.run import Run
from tagger.terminal import program

SHORTEST = 0.3  # s
LENGTHS = 50  # different clips; the others are links to them
CUT_EVERY = 100  # clips
CUT_BYTES = 100
CLASS_MAP = measure.ROOT / "class_map.csv"
COMPETITION = "competitions/freesound-audio-tagging-2019"
FLAGS = flags.FLAGS


def define_flags() -> None:
    """Defines the flags of this program."""
    flags.DEFINE_integer("clips", 3361, "Number of clips.", lower_bound=1)
    flags.DEFINE_float("longest", 20.4, "Length of the longest clip in s.")


def write_checkpoint(folder: pathlib.Path, num_classes: int) -> None:
    """Writes an untrained checkpoint with the default hyperparameters."""
    import numpy as np

    import model
    from tagger.runs import checkpoints

    folder.mkdir()
    network = model.define_model(
        "mobilenet-v1", num_classes=num_classes, hparams=Hparams()
    )
    step = {checkpoints.GLOBAL_STEP: np.int64(0)}
    Run(str(folder)).save(checkpoints.network_variables(network) | step, 0)


def write_competition(
    folder: pathlib.Path, class_names: list[str], num_clips: int, longest: float
) -> float:
    """Writes clips of noise and a sample submission; returns the hours of all clips."""
    import numpy as np

    from tools.make_demo_data import write_wav

    test = folder / "test"
    test.mkdir(parents=True)
    names = [f"{index:08x}.wav" for index in range(num_clips)]
    seconds = np.linspace(SHORTEST, longest, min(LENGTHS, num_clips))
    sizes = np.round(SAMPLE_RATE * seconds).astype(int)
    rng = np.random.default_rng(0)
    for name, size in zip(names, sizes):
        write_wav(test / name, rng.integers(-9000, 9000, size).astype(np.int16))
    for index in range(len(sizes), num_clips):
        (test / names[index]).hardlink_to(test / names[index % len(sizes)])
    for name in names[::CUT_EVERY]:
        head = (test / name).read_bytes()[:CUT_BYTES]
        (test / name).unlink()  # Its other links stay complete.
        (test / name).write_bytes(head)
    with (folder / "sample_submission.csv").open("w", newline="") as file:
        zeros = [0] * len(class_names)
        csv.writer(file).writerows(
            [["fname", *class_names], *([name, *zeros] for name in names)]
        )
    return sizes[np.arange(num_clips) % len(sizes)].sum() / SAMPLE_RATE / 3600


def main(argv: Sequence[str]) -> int:
    """Runs the kernel, and prints its output and how long it took."""
    program.check_no_arguments(argv)
    program.start_tensorflow()
    class_names = read_class_map(CLASS_MAP)
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        inputs, packed, checkpoint = root / "input", root / "packed", root / "model"
        write_checkpoint(checkpoint, len(class_names))
        hours = write_competition(
            inputs / COMPETITION, class_names, FLAGS.clips, FLAGS.longest
        )
        pack = measure.ROOT / "kaggle" / "pack.py"
        measure.run_process([pack, packed, "--owner=me", f"--checkpoint={checkpoint}"])
        (packed / "dataset").rename(inputs / "tagger")
        started = time.perf_counter()
        subprocess.run(
            [sys.executable, packed / "kernel" / "kernel.py"],
            cwd=root,
            env=os.environ | {"TAGGER_INPUT_DIR": str(inputs)},
            check=True,
        )
        seconds = time.perf_counter() - started
        rows = (root / "submission.csv").read_text().splitlines()[1:]
    print(measure.machine("tensorflow"))
    print(
        f"{len(rows)} rows for {FLAGS.clips} clips ({hours:.2f} hours) in "
        f"{seconds:.0f} s: {1000 * seconds / FLAGS.clips:.0f} ms per clip"
    )
    return 0


if __name__ == "__main__":
    define_flags()
    program.run(main)
