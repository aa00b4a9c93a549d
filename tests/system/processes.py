"""Processes that the tests start, watch and kill."""

import atexit
import functools
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import forks
from helpers import PROGRAM_ENVIRONMENT, ROOT, program_command

SMALL_RUNNER = "tests/system/small_runner.py"
HANG_SECONDS = 300  # A process of the tests that takes longer hangs.
POLL_SECONDS = 0.02


@functools.cache
def forking_python() -> str:
    """A program that stands in for Python and starts in little time, see forks.py."""
    if not forks.POSSIBLE:
        return sys.executable
    server = subprocess.Popen(
        [sys.executable, "-I", forks.__file__],
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},  # no further threads
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    atexit.register(server.communicate)
    path = server.stdout.readline().rstrip()
    assert path, server.stderr.read()
    return path


def forked_command(*command: object) -> list[str]:
    """Like `program_command`, with a fork instead of a new Python."""
    return [forking_python(), *program_command(*command)[1:]]


def run_forked(*command: object, **options) -> subprocess.CompletedProcess:
    """Like `run_program`, with a fork instead of a new Python."""
    return subprocess.run(forked_command(*command), env=PROGRAM_ENVIRONMENT, **options)


def copy_code(folder: pathlib.Path) -> pathlib.Path:
    """Copies the programs to a new folder, with the first two rows of the network."""
    for name in ("kaggle", "notebooks", "recipes", "recordings", "tagger", "tools"):
        shutil.copytree(ROOT / name, folder / name)
    for path in [*ROOT.glob("*.py"), *ROOT.glob("*.txt"), ROOT / "class_map.csv"]:
        shutil.copy(path, folder)
    with (folder / "model.py").open("a") as file:
        file.write("\nMOBILENET_V1 = MOBILENET_V1[:2]\n")
    return folder


class Process:
    """A running program of the repository, with its output in files.

    Args:
      folder: folder of the files.
      name: name of the files, without suffix.
      command: arguments of `program_command`.
      environment: environment variables of the program.
    """

    def __init__(
        self, folder: pathlib.Path, name: str, *command: object, **environment: str
    ):
        self._out, self._err = (folder / f"{name}.{kind}" for kind in ("out", "err"))
        with self._out.open("w") as out, self._err.open("w") as err:
            self._process = subprocess.Popen(
                forked_command(*command),
                env=PROGRAM_ENVIRONMENT | environment,
                stdout=out,
                stderr=err,
            )

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.send(signal.SIGKILL)
        self._process.wait()

    @property
    def pid(self) -> int:
        """The number of the process: of the program, if nothing was forked."""
        return self._process.pid

    @property
    def out(self) -> str:
        """The text on stdout so far."""
        return self._out.read_text()

    @property
    def err(self) -> str:
        """The text on stderr so far."""
        return self._err.read_text()

    def wait_for(self, pattern: str) -> bool:
        """Waits until a line of output matches; False if the program ends before."""
        deadline = time.monotonic() + HANG_SECONDS
        while not re.search(pattern, self.out + self.err, re.MULTILINE):
            assert time.monotonic() < deadline, self.err
            if self.ends_within(POLL_SECONDS):
                return False
        return True

    def send(self, number: signal.Signals) -> None:
        """Sends a signal to the program."""
        self._process.send_signal(forks.KILL if number == signal.SIGKILL else number)

    def ends_within(self, seconds: float) -> bool:
        """Whether the program ends within this time."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def status(self) -> int:
        """Waits for the end of the program; returns its exit status."""
        try:
            return self._process.wait(HANG_SECONDS)
        finally:
            self.send(signal.SIGKILL)

    def losses(self) -> dict[int, str]:
        """The printed losses, by step."""
        found = re.findall(r"^step (\d+): loss (\S+?)(?:,|$)", self.out, re.MULTILINE)
        return {int(step): loss for step, loss in found}
