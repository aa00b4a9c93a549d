"""Starts programs as forks of a process that has imported TensorFlow.

The import takes seconds, a fork takes milliseconds. It is safe, because TensorFlow
starts its threads with the first operation.

Without arguments, this file is that process. It prints the path of a program that
stands in for Python, and ends with its stdin. The program calls this file, which asks
for a fork with its arguments, environment, working directory and streams, passes on
signals, and ends as the fork does.
"""

import contextlib
import gc
import importlib.util
import os
import pathlib
import runpy
import shutil
import signal
import socket
import sys
import tempfile
from multiprocessing import reduction
from multiprocessing.connection import Client, Connection, wait

# On Linux. TensorFlow imports pandas, which starts threads if pyarrow is installed.
POSSIBLE = hasattr(os, "pidfd_open") and not importlib.util.find_spec("pyarrow")
STREAMS = (0, 1, 2)
# Stands in for SIGKILL, which cannot be handled.
KILL = signal.SIGUSR1 if POSSIBLE else signal.SIGKILL
SIGNALS = {number: number for number in (signal.SIGINT, signal.SIGTERM)}
SIGNALS[KILL] = signal.SIGKILL


def serve() -> None:
    """Starts programs until stdin ends."""
    folder = pathlib.Path(tempfile.mkdtemp())
    address, python = str(folder / "socket"), folder / "python"
    command = f'"{sys.executable}" -I "{__file__}" "{address}"'
    python.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
    python.chmod(0o700)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen()
    gc.disable()
    import tensorflow as tf

    gc.freeze()
    gc.enable()
    tf.config.list_physical_devices("GPU")
    assert len(os.listdir("/proc/self/task")) == 1, "a fork would lack threads"
    print(python, flush=True)
    while sys.stdin not in wait([sys.stdin, listener]):
        connection = Connection(listener.accept()[0].detach())
        if not os.fork():
            listener.close()
            start(connection)
            break
        connection.close()
    else:
        shutil.rmtree(folder)


def start(connection: Connection) -> None:
    """Runs a program in another fork, and sends its exit status."""
    arguments, environment, folder = connection.recv()
    streams = [reduction.recv_handle(connection) for _ in STREAMS]
    pid = os.fork()
    if pid:
        with contextlib.suppress(BrokenPipeError):
            connection.send(pid)
        if connection in wait([connection, os.pidfd_open(pid)]):
            os.kill(pid, signal.SIGKILL)  # like the process at the other end
        else:
            connection.send(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        os._exit(0)
    connection.close()
    for stream, source in zip(STREAMS, streams):
        os.dup2(source, stream)
        os.close(source)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:0] = environment.get("PYTHONPATH", folder).split(os.pathsep)
    run(arguments)


def run(arguments: list[str]) -> None:
    """Runs a file, `-m MODULE` or `-c CODE`, each with arguments."""
    kind = arguments[0] if arguments[0] in ("-c", "-m") else ""
    program, *sys.argv[1:] = arguments[bool(kind) :]
    path = os.getcwd() if kind else os.path.dirname(os.path.abspath(program))
    sys.path.insert(0, path)
    if kind == "-c":
        exec(program, {"__name__": "__main__"})
    elif kind == "-m":
        runpy.run_module(program, run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(program, run_name="__main__")


def ask(address: str, arguments: list[str]) -> None:
    """Asks for a fork with these arguments of Python, and ends as it does."""
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # until there is a program
    connection = Client(address)
    connection.send((arguments, dict(os.environ), os.getcwd()))
    for stream in STREAMS:
        reduction.send_handle(connection, stream, None)
    pid = connection.recv()
    for number, sent in SIGNALS.items():
        signal.signal(number, lambda *_, sent=sent: os.kill(pid, sent))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    status = connection.recv()
    if status >= 0:
        os._exit(status)
    for number in SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), -status)


if __name__ == "__main__":
    ask(sys.argv[1], sys.argv[2:]) if len(sys.argv) > 1 else serve()
