"""Helpers of the benchmarks: alternating runs, medians, and the machine."""

import contextlib
import csv
import datetime
import importlib.metadata
import os
import pathlib
import platform
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence

CLASSES = 10
ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))


def take_turns(
    contenders: Mapping[str, Callable[[], object]], rounds: int, warm_ups: int = 1
) -> dict[str, list[float]]:
    """The seconds of each call. Contenders alternate, so that noise affects all."""
    for _ in range(warm_ups):
        for run in contenders.values():
            run()
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, run in contenders.items():
            started = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - started)
    return seconds


def report(
    title: str, seconds: Mapping[str, Sequence[float]], ours: str, unit: float = 1.0
) -> None:
    """Prints medians, spreads and ratios of the medians.

    Args:
      title: title of the table.
      seconds: seconds of the calls, by contender.
      ours: name of the contender that the others are divided by.
      unit: amount of work in a call; unless it is 1, the work per second is shown too.
    """
    print(f"\n{title}\n")
    print("| | median s | from - to s | per second | ratio to ours |")
    print("|---|---|---|---|---|")
    reference = statistics.median(seconds[ours])
    for name, values in seconds.items():
        median = statistics.median(values)
        rate = f"{unit / median:.1f}" if unit != 1 else ""
        print(
            f"| {name} | {median:.3f} | {min(values):.3f} - {max(values):.3f} | {rate} "
            f"| {median / reference:.2f} |"
        )
    sys.stdout.flush()


def machine(*packages: str) -> str:
    """The processor, its cores, the versions and the date, in one line."""
    processor = platform.processor() or platform.machine()
    flags: set[str] = set()
    if sys.platform == "linux":
        for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                processor = value.strip()
            if key.strip() == "flags":
                flags = set(value.split())
    vectors = [name for name in ("avx2", "avx512f", "avx512_bf16") if name in flags]
    versions = [f"{name} {importlib.metadata.version(name)}" for name in packages]
    return (
        f"{processor} ({', '.join(vectors)}), {os.cpu_count()} cores; "
        f"Python {platform.python_version()}, {', '.join(versions)}; "
        f"{datetime.date.today()}"
    )


def run_process(
    command: Sequence[object], python: str = sys.executable
) -> tuple[float, float]:
    """Runs a Python command as a separate process; returns its seconds and peak MiB.

    Raises:
      ValueError: the command failed.
    """
    started = time.perf_counter()
    process = subprocess.Popen(
        [python, *map(str, command)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise ValueError(f"exit status {process.returncode}: {command}")
    return time.perf_counter() - started, usage.ru_maxrss / 1024


def free_ports(number: int) -> list[int]:
    """Different ports that are not in use."""
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(socket.socket()) for _ in range(number)]
        for server in servers:
            server.bind(("localhost", 0))
        return [server.getsockname()[1] for server in servers]


def make_data(
    root: pathlib.Path,
    num_clips: int,
    seconds: float,
    num_checkpoints: int = 1,
    num_rows: int | None = None,
) -> None:
    """Writes clips of noise, a class map, a CSV, and untrained checkpoints."""
    import numpy as np

    import model
    from tagger import checkpoints
    from tagger.hparams import Hparams
    from tools.make_demo_data import write_wav

    rng = np.random.default_rng(0)
    noise = rng.integers(-9000, 9000, int(seconds * 44100)).astype(np.int16)
    (root / "clips").mkdir(parents=True)
    names = [f"{index:05d}.wav" for index in range(num_clips)]
    for name in names:
        write_wav(root / "clips" / name, noise)
    with (root / "clips.csv").open("w", newline="") as file:
        rows = [(n, f"C{i % CLASSES}") for i, n in enumerate(names[:num_rows])]
        csv.writer(file).writerows([("fname", "labels"), *rows])
    (root / "map.csv").write_text("".join(f"{i},C{i}\n" for i in range(CLASSES)))
    (root / "model").mkdir()
    for step in range(num_checkpoints):
        network = model.define_model(
            "mobilenet-v1", num_classes=CLASSES, hparams=Hparams()
        )
        values = checkpoints.network_variables(network)
        values[checkpoints.GLOBAL_STEP] = np.int64(step)
        checkpoints.save(str(root / "model"), values, step)


def train_command(root: pathlib.Path, steps: int) -> list[object]:
    """Arguments to train on the data that `make_data` wrote."""
    return [
        ROOT / "runner.py",
        "--mode=train",
        f"--class_map_path={root / 'map.csv'}",
        f"--train_clip_dir={root / 'clips'}",
        f"--train_csv_path={root / 'clips.csv'}",
        f"--train_dir={root / 'train'}",
        f"--max_steps={steps}",
    ]


def eval_command(root: pathlib.Path, eval_dir: pathlib.Path) -> list[object]:
    """Arguments to evaluate all checkpoints that `make_data` wrote."""
    return [
        ROOT / "runner.py",
        "--mode=eval",
        f"--class_map_path={root / 'map.csv'}",
        f"--eval_clip_dir={root / 'clips'}",
        f"--eval_csv_path={root / 'clips.csv'}",
        f"--train_dir={root / 'model'}",
        f"--eval_dir={eval_dir}",
        "--eval_timeout_secs=0",
    ]


def inference_command(root: pathlib.Path, checkpoint: pathlib.Path) -> list[object]:
    """Arguments to score the clips that `make_data` wrote."""
    return [
        ROOT / "runner.py",
        "--mode=inference",
        f"--class_map_path={root / 'map.csv'}",
        f"--inference_clip_dir={root / 'clips'}",
        f"--inference_checkpoint={checkpoint}",
        f"--predictions_csv_path={root / 'submission.csv'}",
    ]
