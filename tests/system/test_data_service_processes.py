"""A tf.data service whose workers and dispatcher die while a trainer uses it."""

import contextlib
import pathlib
import signal
import subprocess
import time

from conftest import (
    PROGRAM_ENVIRONMENT,
    SMALL_HPARAMS,
    free_ports,
    program_command,
)

HANG_SECONDS = 120  # No step of this test takes so long.
STEPS_FETCHED_AHEAD = 35  # at most: two epochs and a half


class Process:
    """A program of this project, with its stdout and stderr in a file."""

    def __init__(self, log: pathlib.Path, *command: object):
        self.log = log
        with log.open("w") as file:
            self.process = subprocess.Popen(
                program_command(*command),
                env=PROGRAM_ENVIRONMENT,
                stdout=file,
                stderr=file,
            )

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.kill()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def wait_for(self, text: str) -> None:
        """Waits until the text is in the log."""
        deadline = time.monotonic() + HANG_SECONDS
        while text not in (log := self.log.read_text()):
            assert time.monotonic() < deadline, log
            assert self.process.poll() is None, log
            time.sleep(0.05)

    def step(self) -> int:
        """The last step that a trainer has printed."""
        return int(self.log.read_text().rpartition("\nstep ")[2].partition(":")[0])


def test_training_continues_when_a_data_worker_or_the_dispatcher_dies(
    dataset, tmp_path
):
    (port,) = free_ports(1)
    stack = contextlib.ExitStack()

    def start(name: str, *command: object) -> Process:
        return stack.enter_context(Process(tmp_path / name, *command))

    def start_server(name: str, *arguments: object) -> Process:
        server = start(name, "tools.data_service", *arguments)
        server.wait_for(f"{arguments[0]} is ready")
        return server

    dispatcher = ("dispatcher", f"--port={port}", f"--work_dir={tmp_path / 'journal'}")
    worker = (
        "worker",
        f"--dispatcher=localhost:{port}",
        "--port=0",
        "--host=localhost",
    )
    flags = dataset.train_flags(
        tmp_path / "run",
        hparams=SMALL_HPARAMS,
        data_service=f"grpc://localhost:{port}",
    )
    with stack:
        first_dispatcher = start_server("dispatcher", *dispatcher)
        first_worker = start_server("first", *worker)
        second_worker = start_server("second", *worker)
        trainer = start("trainer", "runner.py", *flags)
        trainer.wait_for("step 5:")
        first_worker.kill()
        trainer.wait_for(f"step {trainer.step() + STEPS_FETCHED_AHEAD}:")
        first_dispatcher.kill()
        second_dispatcher = start_server("restarted", *dispatcher)
        third_worker = start_server("third", *worker)
        second_worker.kill()  # The only worker left is one of the new dispatcher.
        trainer.wait_for(f"step {trainer.step() + STEPS_FETCHED_AHEAD}:")
        for process, number, status in (
            (trainer, signal.SIGTERM, 128 + signal.SIGTERM),
            (third_worker, signal.SIGTERM, -signal.SIGTERM),
            (second_dispatcher, signal.SIGINT, -signal.SIGINT),
        ):
            process.process.send_signal(number)
            assert process.process.wait(HANG_SECONDS) == status
