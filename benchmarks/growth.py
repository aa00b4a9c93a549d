"""Measures how time and memory grow with the number of clips.

    python benchmarks/growth.py

Complete processes compute features, train a few steps, and run inference, on 1x, 2x and
4x the clips. The program also measures the memory of training with a full shuffle
buffer, the time to the first training step on 300 clips, and the time to check headers.
"""

import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

import measure
from absl import flags

from tagger.terminal import program

CLIPS = (40, 80, 160)
SECONDS = 5
STEPS = 3
FIRST_STEP_CLIPS = 300
HEADERS = 25000  # about as many clips as the noisy and the curated set have
FULL_BUFFER_CLIPS, FULL_BUFFER_SECONDS = 500, 20  # 20,000 examples
FLAGS = flags.FLAGS


def define_flags() -> None:
    """Defines the flags of this program."""
    flags.DEFINE_string("features_of", "", "Only compute features of this folder.")


def drain_features(clip_dir: str) -> None:
    """Computes the features of all clips of a folder, and nothing else."""
    import numpy as np

    import inference
    import inputs
    from tagger.data import clips, wav
    from tagger.hparams import Hparams

    paths = [f"{clip_dir}/{name}" for name in inference.list_wavs(clip_dir)]
    headers = wav.read_wav_headers(paths)
    table = clips.make_clips(paths, headers, np.zeros([len(paths), 1], np.float32))
    for _ in inputs.clip_input(table, Hparams(), skip_unreadable=True):
        pass


def seconds_to_first_step(command: list[object]) -> float:
    """The seconds from the start of a training process to its first loss."""
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *map(str, command)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    for line in process.stdout:
        if line.startswith("step 1:"):
            break
    seconds = time.perf_counter() - started
    process.kill()
    process.wait()
    return seconds


def seconds_to_check_headers(clip_dir: pathlib.Path) -> float:
    """The seconds to read HEADERS headers, of links to some clips."""
    from tagger.data import wav

    sources = list(clip_dir.iterdir())
    links = [clip_dir / f"link{index}.wav" for index in range(HEADERS)]
    for index, link in enumerate(links):
        link.hardlink_to(sources[index % len(sources)])
    started = time.perf_counter()
    wav.read_wav_headers([str(link) for link in links])
    return time.perf_counter() - started


def main(argv: Sequence[str]) -> int:
    """Measures and prints the tables."""
    program.check_no_arguments(argv)
    program.start_tensorflow()
    if FLAGS.features_of:
        drain_features(FLAGS.features_of)
        return 0
    this = pathlib.Path(__file__).resolve()
    print(measure.machine("tensorflow"))
    print(
        f"\nWhole processes on clips of {SECONDS} s: seconds, and peak memory in MiB\n"
    )
    print(f"| clips | features | {STEPS} training steps | inference |")
    print("|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for count in CLIPS:
            root = pathlib.Path(folder) / str(count)
            measure.make_data(root, count, SECONDS)
            cells = [
                "{:.1f} s, {:.0f} MiB".format(*measure.run_process(command))
                for command in (
                    [this, f"--features_of={root / 'clips'}"],
                    measure.train_command(root, STEPS),
                    measure.inference_command(root, root / "model"),
                )
            ]
            print(f"| {count} | {' | '.join(cells)} |", flush=True)
        root = pathlib.Path(folder) / "full"
        measure.make_data(root, FULL_BUFFER_CLIPS, FULL_BUFFER_SECONDS)
        seconds, mebibytes = measure.run_process(measure.train_command(root, STEPS))
        print(
            f"\nTraining, {FULL_BUFFER_CLIPS} clips of {FULL_BUFFER_SECONDS} s (the "
            f"shuffle buffer full): {STEPS} steps in {seconds:.1f} s, "
            f"{mebibytes:.0f} MiB"
        )
        root = pathlib.Path(folder) / "first"
        measure.make_data(root, FIRST_STEP_CLIPS, SECONDS)
        seconds = seconds_to_first_step(measure.train_command(root, STEPS))
        print(f"First training step on {FIRST_STEP_CLIPS} clips after {seconds:.1f} s")
        seconds = seconds_to_check_headers(root / "clips")
        print(f"Headers of {HEADERS} clips checked in {seconds:.1f} s")
    return 0


if __name__ == "__main__":
    define_flags()
    program.run(main)
