"""Processes that the tests start, watch and kill."""

import pathlib
import re
import signal
import subprocess
import time

from helpers import PROGRAM_ENVIRONMENT, program_command

HANG_SECONDS = 300  # No process of the tests takes so long.
POLL_SECONDS = 0.02


class Process:
    """A program of the repository that is running, with its output in files.

    Args:
      folder: where the files are put.
      name: of the files.
      command: of `program_command`.
      environment: variables that are set for it.
    """

    def __init__(
        self, folder: pathlib.Path, name: str, *command: object, **environment: str
    ):
        self._out, self._err = (folder / f"{name}.{kind}" for kind in ("out", "err"))
        with self._out.open("w") as out, self._err.open("w") as err:
            self._process = subprocess.Popen(
                program_command(*command),
                env=PROGRAM_ENVIRONMENT | environment,
                stdout=out,
                stderr=err,
            )

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self._process.kill()
        self._process.wait()

    @property
    def out(self) -> str:
        """What it has written to stdout so far."""
        return self._out.read_text()

    @property
    def err(self) -> str:
        """What it has written to stderr so far."""
        return self._err.read_text()

    def wait_for(self, pattern: str) -> bool:
        """Waits until a line of its output matches; False if it ended before."""
        deadline = time.monotonic() + HANG_SECONDS
        while not re.search(pattern, self.out + self.err, re.MULTILINE):
            assert time.monotonic() < deadline, self.err
            if self.ends_within(POLL_SECONDS):
                return False
        return True

    def send(self, number: signal.Signals) -> None:
        """Sends it a signal."""
        self._process.send_signal(number)

    def ends_within(self, seconds: float) -> bool:
        """Whether it ends in that time."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def status(self) -> int:
        """Its exit status, once it has ended."""
        try:
            return self._process.wait(HANG_SECONDS)
        finally:
            self._process.kill()

    def losses(self) -> dict[int, str]:
        """The losses that it has printed, by step."""
        found = re.findall(r"^step (\d+): loss (\S+?)(?:,|$)", self.out, re.MULTILINE)
        return {int(step): loss for step, loss in found}
