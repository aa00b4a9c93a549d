"""Helpers of the benchmarks: alternating runs, medians, and the machine."""

import contextlib
import csv
import dataclasses
import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import re
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence

from absl import flags

BATCH, CLASSES = 64, 10
# glibc's allocator otherwise returns the memory of every large tensor to the system,
# which clears it before the next use. PyTorch's tuning guide recommends another one
# for this reason: https://docs.pytorch.org/tutorials/recipes/recipes/tuning_guide.html
TUNED_ALLOCATOR = {
    "MALLOC_MMAP_THRESHOLD_": str(2**34),
    "MALLOC_TRIM_THRESHOLD_": str(2**34),
}
FEATURE_TOLERANCE = 2e-2  # Quiet bands differ most in the logarithm.
SETTLE_SECONDS = 0.3  # Threads of the last contender spin for a moment.
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


@dataclasses.dataclass(frozen=True)
class Contender:
    """A Python program that calls `serve`, and additional environment variables."""

    command: Sequence[object]
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)


def define_flags(rounds: int, contenders: Sequence[str]) -> None:
    """Defines the flags of a program that times contenders and can be one of them."""
    flags.DEFINE_integer(
        "rounds", rounds, "Timed runs of each contender.", lower_bound=1
    )
    flags.DEFINE_enum(
        "contender",
        None,
        contenders,
        "Be a contender: run the task once for each line of stdin.",
    )


def serve(run: Callable[[], object], warm_ups: int = 2) -> None:
    """Runs a task once for each line of stdin, and prints the seconds that it took."""
    for _ in range(warm_ups):
        run()
    print("ready", flush=True)
    for _ in sys.stdin:
        started = time.perf_counter()
        run()
        print(time.perf_counter() - started, flush=True)


def take_turns_apart(
    contenders: Mapping[str, Contender], rounds: int
) -> dict[str, list[float]]:
    """Like `take_turns`, but each contender is a process of its own.

    Raises:
      ValueError: a contender ended early.
    """
    with contextlib.ExitStack() as stack:
        processes = {}

        def answer(name: str) -> str:
            line = processes[name].stdout.readline()
            if not line:
                raise ValueError(f"the contender '{name}' ended early")
            return line

        for name, contender in contenders.items():
            process = subprocess.Popen(
                [sys.executable, *map(str, contender.command)],
                env=os.environ | contender.environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            processes[name] = stack.enter_context(process)
            answer(name)
        seconds: dict[str, list[float]] = {name: [] for name in contenders}
        for _ in range(rounds):
            for name, process in processes.items():
                time.sleep(SETTLE_SECONDS)
                process.stdin.write("\n")
                process.stdin.flush()
                seconds[name].append(float(answer(name)))
    return seconds


def torch_contenders(
    task: str, table: Sequence[tuple[str, int, int]]
) -> dict[str, dict[str, Contender]]:
    """The contenders in PyTorch, by precision and name.

    Args:
      task: "train" or "score".
      table: the rows of the network, as model.MOBILENET_V1.
    """
    program = ROOT / "benchmarks" / "torch_peer.py"
    common = [program, f"--task={task}", f"--table={json.dumps(table)}"]
    tuned = [*common, "--relu_in_place"]
    bfloat16 = [*tuned, "--bfloat16"]
    return {
        "float32": {
            "PyTorch, common settings": Contender(common),
            "PyTorch, tuned": Contender(tuned, TUNED_ALLOCATOR),
            "PyTorch, tuned, compiled": Contender(
                [*tuned, "--compiled"], TUNED_ALLOCATOR
            ),
        },
        "bfloat16": {
            "PyTorch, tuned": Contender(bfloat16, TUNED_ALLOCATOR),
            "PyTorch, tuned, compiled": Contender(
                [*bfloat16, "--compiled"], TUNED_ALLOCATOR
            ),
        },
    }


def modern_hparams() -> str:
    """The hyperparameters of recipes/modern.sh."""
    recipe = (ROOT / "recipes" / "modern.sh").read_text()
    return re.search(r"^hparams=(\S+)$", recipe, re.MULTILINE)[1]


def random_batch():
    """Features, float32 [64, 100, 96], and labels, float32 [64, C] in {0, 1}."""
    import numpy as np

    rng = np.random.default_rng(0)
    features = rng.normal(-3, 2, (BATCH, 100, 96)).astype(np.float32)
    return features, (rng.random((BATCH, CLASSES)) < 0.1).astype(np.float32)


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
    instructions: set[str] = set()
    if sys.platform == "linux":
        for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                processor = value.strip()
            if key.strip() == "flags":
                instructions = set(value.split())
    vectors = [
        name for name in ("avx2", "avx512f", "avx512_bf16") if name in instructions
    ]
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
    from tagger.hparams import SAMPLE_RATE, Hparams
    from tagger.runs import checkpoints
    from tagger.runs.run import Run
    from tools.make_demo_data import write_wav

    rng = np.random.default_rng(0)
    noise = rng.integers(-9000, 9000, int(seconds * SAMPLE_RATE)).astype(np.int16)
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
        Run(str(root / "model")).save(values, step)


def read_table(root: pathlib.Path):
    """The table of the clips that `make_data` wrote."""
    from tagger.data.clips import read_clips

    _, table = read_clips(
        csv_path=str(root / "clips.csv"),
        clip_dir=str(root / "clips"),
        class_map_path=str(root / "map.csv"),
        train_dir="",
        flag_prefix="train",
    )
    return table


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
