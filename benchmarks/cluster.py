"""Tags files with one and with two workers of Ray; see docs/distributed.md.

    python benchmarks/cluster.py CHECKPOINT [--files 10000] [--seconds 1]

Needs requirements-cluster.txt. Prints the seconds and the memory of the workers while
tools.tag_cluster works, and checks that each file has one row. Workers have one core.
"""

import pathlib
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

import measure
import short_files
from absl import flags

from tagger.errors import UserError
from tagger.terminal import program
from tools.tag_cluster.parts import read_parts

WORKERS = (1, 2)
PROCESS = b"ray::MapWorker"
FLAGS = flags.FLAGS


def worker_memory() -> str:
    """The memory of the workers, in MB."""
    processes = [
        int(path.parent.name)
        for path in pathlib.Path("/proc").glob("[0-9]*/cmdline")
        if path.read_bytes().startswith(PROCESS)
    ]
    return ", ".join(f"{short_files.memory_mb(number):.0f}" for number in processes)


def run(command: Sequence[str]) -> None:
    """Runs the command, and prints a row of the table for each tenth of the files."""
    start = time.perf_counter()
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=measure.ROOT,
    ) as process:
        for line in process.stdout:
            found = re.match(r"file ([\d,]+) of", line)
            number = int(found[1].replace(",", "")) if found else 0
            if number and number % (FLAGS.files // short_files.STEPS) == 0:
                print(
                    f"| {number:,} | {time.perf_counter() - start:.1f} "
                    f"| {short_files.memory_mb(process.pid):.0f} | {worker_memory()} |",
                    flush=True,
                )
    if process.returncode:
        raise ValueError(f"exit status {process.returncode}")
    print(f"{time.perf_counter() - start:.1f} s in all", flush=True)


def main(argv: Sequence[str]) -> int:
    """Runs all parts."""
    if len(argv) != 2:
        raise UserError("expected a checkpoint; see --help")
    print(measure.machine("tensorflow", "ray"))
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        short_files.write_files(folder / "files")
        checkpoint = str(pathlib.Path(argv[1]).resolve())
        for workers in WORKERS:
            out = folder / f"out{workers}"
            print(f"\n--workers {workers}\n")
            print("| file | s | program MB | workers MB |\n|---|---|---|---|")
            run(
                [
                    *(sys.executable, "-m", "tools.tag_cluster", checkpoint),
                    *(str(folder / "files"), str(out)),
                    *(f"--workers={workers}", "--files_per_part=100"),
                ]
            )
            rows = sorted(row["file"] for row in read_parts(out, ["file"]))
            if rows != sorted(map(str, (folder / "files").iterdir())):
                raise ValueError(f"{len(rows)} rows")
    return 0


if __name__ == "__main__":
    short_files.define_flags()
    program.run(main)
