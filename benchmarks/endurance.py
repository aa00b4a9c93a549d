"""Runs a trainer, an evaluator and TensorBoard together, and measures their memory.

    python benchmarks/endurance.py [--minutes 10] [--data DIR]

Training uses small batches and a checkpoint every five steps, so that there are many
steps and evaluations. DIR has audio/, train1.csv, val1.csv and class_map.csv. Without
--data, 100 clips of noise are used for training and evaluation.
"""

import contextlib
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
FOREVER = 10**9
STOP_SECONDS = 120
FLAGS = flags.FLAGS


def define_flags() -> None:
    """Defines the flags of this program."""
    flags.DEFINE_float("minutes", 10, "Minutes to run.")
    flags.DEFINE_string("data", "", "Folder of clips and CSVs. Empty: clips of noise.")


def resident_mebibytes(process: subprocess.Popen) -> float:
    """The current memory of a process.

    Raises:
      ValueError: the process has ended.
    """
    if process.poll() is not None:
        raise ValueError(f"exit status {process.returncode}: {process.args}")
    status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) / 1024


def commands(data: pathlib.Path, root: pathlib.Path) -> dict[str, list[object]]:
    """The three processes, by name."""
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


def main(argv: Sequence[str]) -> int:
    """Runs the three processes and prints the table."""
    program.check_no_arguments(argv)
    print(measure.machine("tensorflow", "tensorboard"))
    with contextlib.ExitStack() as stack:
        root = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
        data = pathlib.Path(FLAGS.data) if FLAGS.data else make_noise(root)
        logs, processes = root / "logs", {}
        logs.mkdir()
        for name, command in commands(data, root / "runs").items():
            log = stack.enter_context((logs / name).open("w"))
            processes[name] = subprocess.Popen(
                [sys.executable, *map(str, command)], stdout=log, stderr=log
            )
            stack.callback(processes[name].kill)
        print("\n| minutes | steps | evaluated | " + " | ".join(processes), end=" |\n")
        print("|---" * (3 + len(processes)) + "|")
        started = time.monotonic()
        for row in range(1, ROWS + 1):
            minutes = row * FLAGS.minutes / ROWS
            time.sleep(max(0, started + 60 * minutes - time.monotonic()))
            steps = (logs / "trainer").read_text().count("\nstep ")
            evaluated = (logs / "evaluator").read_text().count(", all ")
            memory = [f"{resident_mebibytes(p):.0f} MiB" for p in processes.values()]
            print(
                f"| {minutes:.1f} | {steps} | {evaluated} | {' | '.join(memory)} |",
                flush=True,
            )
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
