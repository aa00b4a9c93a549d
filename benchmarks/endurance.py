"""Measures the memory and the open files of four processes that run together.

    python benchmarks/endurance.py [--minutes 10] [--data DIR]

They are a trainer, an evaluator, TensorBoard, and tools.tag with an archive. Training
uses small batches and a checkpoint every five steps, so that there are many steps and
evaluations. DIR has audio/, train1.csv, val1.csv and class_map.csv. Without --data, 100
clips of noise are used for training and evaluation. The files to tag are noise of many
lengths, and more than can be tagged in the time.
"""

import contextlib
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence

import measure
from absl import flags

from tagger.terminal import program

HPARAMS = "batch_size=8,lr=1e-3,bndecay=0.9"
CHECKPOINT_STEPS = 5
ROWS = 10  # of the table
PORT = 16006
SOUND_SECONDS = [0.05 * number for number in range(1, 101)]  # of the sounds to tag
NAMES = 1000  # of each of these sounds, as hard links
FOREVER = 10**9
STOP_SECONDS = 120
FLAGS = flags.FLAGS


def define_flags() -> None:
    """Defines the flags of this program."""
    flags.DEFINE_float("minutes", 10, "Minutes to run.")
    flags.DEFINE_string("data", "", "Folder of clips and CSVs. Empty: clips of noise.")


def resources(process: subprocess.Popen) -> str:
    """The current resident memory and the number of open files of a process.

    Raises:
      ValueError: the process has ended.
    """
    if process.poll() is not None:
        raise ValueError(f"exit status {process.returncode}: {process.args}")
    folder = pathlib.Path(f"/proc/{process.pid}")
    status = (folder / "status").read_text()
    mebibytes = int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) / 1024
    return f"{mebibytes:.0f} MiB, {len(os.listdir(folder / 'fd'))} files"


def commands(
    data: pathlib.Path, root: pathlib.Path, tagged: pathlib.Path
) -> dict[str, list[object]]:
    """The four processes, by name."""
    training, evaluation = (data / f"{name}1.csv" for name in ("train", "val"))
    shared = [measure.ROOT / "runner.py", f"--class_map_path={data / 'class_map.csv'}"]
    run = root / "run"
    return {
        "trainer": [
            *shared,
            "--mode=train",
            f"--train_clip_dir={data / 'audio'}",
            f"--train_csv_path={training}",
            f"--train_dir={run}",
            f"--hparams={HPARAMS}",
            f"--checkpoint_steps={CHECKPOINT_STEPS}",
            f"--max_steps={FOREVER}",
        ],
        "evaluator": [
            *shared,
            "--mode=eval",
            f"--eval_clip_dir={data / 'audio'}",
            f"--eval_csv_path={evaluation}",
            f"--train_dir={run}",
            f"--eval_dir={run / 'eval'}",
            "--eval_timeout_secs=-1",
        ],
        "TensorBoard": [
            *("-m", "tensorboard.main", "--port", PORT, "--logdir", root),
        ],
        "tools.tag": [
            *("-m", "tools.tag", tagged / "model", tagged / "sounds"),
            f"--class_map_path={tagged / 'map.csv'}",
            f"--archive={tagged / 'archive.db'}",
        ],
    }


def make_noise(folder: pathlib.Path) -> pathlib.Path:
    """Writes clips of noise; returns their folder."""
    measure.make_data(folder / "noise", num_clips=100, seconds=1)
    data = folder / "noise"
    (data / "clips").rename(data / "audio")
    (data / "map.csv").rename(data / "class_map.csv")
    for name in ("train1.csv", "val1.csv"):
        (data / name).write_bytes((data / "clips.csv").read_bytes())
    return data


def make_sounds(folder: pathlib.Path) -> pathlib.Path:
    """Writes an untrained network, and sounds to tag; returns their folder."""
    import numpy as np

    from tagger.hparams import SAMPLE_RATE
    from tools.make_demo_data import write_wav

    measure.make_data(folder / "tagged", num_clips=1, seconds=1)
    sounds = folder / "tagged" / "sounds"
    sounds.mkdir()
    rng = np.random.default_rng(0)
    for number, seconds in enumerate(SOUND_SECONDS):
        samples = rng.integers(-9000, 9000, round(seconds * SAMPLE_RATE))
        path = sounds / f"000-{number:03d}.wav"
        write_wav(path, samples.astype(np.int16))
        for link in range(1, NAMES):
            os.link(path, sounds / f"{link:03d}-{number:03d}.wav")
    return folder / "tagged"


def main(argv: Sequence[str]) -> int:
    """Runs the four processes and prints the table."""
    program.check_no_arguments(argv)
    print(measure.machine("tensorflow", "tensorboard"))
    with contextlib.ExitStack() as stack:
        root = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
        data = pathlib.Path(FLAGS.data).resolve() if FLAGS.data else make_noise(root)
        tagged = make_sounds(root)
        logs, processes = root / "logs", {}
        logs.mkdir()
        for name, command in commands(data, root / "runs", tagged).items():
            log = stack.enter_context((logs / name).open("w"))
            processes[name] = subprocess.Popen(
                [sys.executable, *map(str, command)],
                stdout=log,
                stderr=log,
                cwd=measure.ROOT,
            )
            stack.callback(processes[name].kill)
        columns = ["minutes", "steps", "evaluated", "tagged files", *processes]
        print(f"\n| {' | '.join(columns)} |")
        print("|---" * len(columns) + "|", flush=True)
        started = time.monotonic()
        for number in range(1, ROWS + 1):
            minutes = number * FLAGS.minutes / ROWS
            time.sleep(max(0, started + 60 * minutes - time.monotonic()))
            steps = (logs / "trainer").read_text().count("\nstep ")
            evaluated = (logs / "evaluator").read_text().count(", all ")
            files = (logs / "tools.tag").read_text().count(" hours per hour, ")
            used = map(resources, processes.values())
            row = [f"{minutes:.1f}", steps, evaluated, files, *used]
            print(f"| {' | '.join(map(str, row))} |", flush=True)
        address = f"http://localhost:{PORT}/data/plugin/timeseries/tags"
        with urllib.request.urlopen(address) as answer:
            print(f"\nTensorBoard shows {answer.read().decode()[:300]}")
        for name, process in processes.items():
            process.terminate()
            print(f"{name}: exit status {process.wait(STOP_SECONDS)}")
        last = (logs / "trainer").read_text().splitlines()[-1]
        print(f"trainer: {last}")
    return 0


if __name__ == "__main__":
    define_flags()
    program.run(main)
