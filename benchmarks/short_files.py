"""Tags many short files into an archive, with interruptions; see docs/archive.md.

    python benchmarks/short_files.py CHECKPOINT [--files 10000] [--seconds 1]

Starts tools.tag, and sends it SIGINT after four tenths of the files and SIGKILL after
seven tenths; the same command then continues. Prints the seconds, the memory and the
number of open files of the process while it works, and checks that the tables are
complete.
"""

import csv
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

import measure
import numpy as np
import soundfile
from absl import flags

from tagger.errors import UserError
from tagger.terminal import program

FLAGS = flags.FLAGS
RATE = 16000  # Hz
STEPS = 10  # at which the process is observed
INTERRUPTIONS = {4: signal.SIGINT, 7: signal.SIGKILL}  # after this many steps
LINE = re.compile(r"file ([\d,]+) of [\d,]+: ")


def define_flags() -> None:
    """Defines the flags of this program."""
    flags.DEFINE_integer("files", 10000, "Number of files.", lower_bound=STEPS)
    flags.DEFINE_float("seconds", 1, "Length of each.", lower_bound=0.1)


def write_files(folder: pathlib.Path) -> None:
    """Writes WAV files of noise."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(FLAGS.files):
        noise = 0.1 * rng.normal(size=round(FLAGS.seconds * RATE))
        soundfile.write(folder / f"{number:06d}.wav", noise, RATE)


def memory_mb(process: int) -> float:
    """The resident memory of a process, in MB."""
    status = pathlib.Path(f"/proc/{process}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) * 1024 / 1e6


def run(command: Sequence[str], interruptions: dict[int, signal.Signals]) -> None:
    """Runs the command until it ends, and sends the next signal when it is due."""
    start, step = time.perf_counter(), FLAGS.files // STEPS
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, cwd=measure.ROOT
    ) as process:
        for line in process.stdout:
            found = LINE.match(line)
            number = int(found[1].replace(",", "")) if found else 0
            if number and number % step == 0:
                files = len(list(pathlib.Path(f"/proc/{process.pid}/fd").iterdir()))
                print(
                    f"| {number:,} | {time.perf_counter() - start:.1f} "
                    f"| {memory_mb(process.pid):.0f} | {files} |",
                    flush=True,
                )
                if sent := interruptions.pop(number // step, None):
                    process.send_signal(sent)
                    print(f"{sent.name} after {number:,} files", flush=True)
    print(f"exit status {process.returncode}", flush=True)


def check(archive: pathlib.Path, files: pathlib.Path, tables: pathlib.Path) -> None:
    """Prints what the tables have.

    Raises:
      ValueError: they are not complete.
    """
    start = time.perf_counter()
    command = [sys.executable, "-m", "tools.tag", f"--archive={archive}"]
    names = {"segments": "csv", "files": "csv", "raven": "txt"}
    paths = {name: tables / f"{name}.{suffix}" for name, suffix in names.items()}
    command += [f"--{name}={path}" for name, path in paths.items()]
    command += [f"--audacity={tables / 'tracks'}", "--threshold=0.1"]
    subprocess.run(command, check=True, cwd=measure.ROOT)
    print(f"all tables: {time.perf_counter() - start:.1f} s")
    with paths["files"].open() as file:
        rows = list(csv.DictReader(file))
    expected = {str(path) for path in files.iterdir()}
    if len(rows) != len(expected) or {row["file"] for row in rows} != expected:
        raise ValueError(f"{paths['files']}: {len(rows)} rows")
    detections = sum(int(row["detections"]) for row in rows)
    for name in ("segments", "raven"):
        with paths[name].open() as file:
            if (found := sum(1 for _ in file) - 1) != detections:
                raise ValueError(f"{paths[name]}: {found} rows, not {detections}")
    tracks = len(list((tables / "tracks").iterdir()))
    print(f"{len(rows):,} files, {detections:,} detections, {tracks:,} label tracks")


def main(argv: Sequence[str]) -> int:
    """Runs all parts."""
    if len(argv) != 2:
        raise UserError("expected a checkpoint; see --help")
    # Shells start background jobs with SIGINT ignored, and children would inherit this.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    print(measure.machine("tensorflow"))
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        files, archive = folder / "files", folder / "archive.db"
        write_files(files)
        checkpoint = str(pathlib.Path(argv[1]).resolve())
        command = [sys.executable, "-m", "tools.tag", checkpoint, str(files)]
        interruptions = dict(INTERRUPTIONS)
        print("\n| file | s | memory MB | open files |\n|---|---|---|---|")
        for _ in range(len(INTERRUPTIONS) + 1):
            run([*command, f"--archive={archive}"], interruptions)
        print(f"archive: {archive.stat().st_size / 1e6:.0f} MB")
        check(archive, files, folder / "tables")
    return 0


if __name__ == "__main__":
    define_flags()
    program.run(main)
