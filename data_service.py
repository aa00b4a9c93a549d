"""Runs a part of a tf.data service, which computes features for runner.py.

    python data_service.py dispatcher --port 5050
    python data_service.py worker --dispatcher HOST:5050 --port 5051

One dispatcher deals the clips, any number of workers read them and compute their
features, and runner.py --mode train --data_service grpc://HOST:5050 trains on them.
Workers may come and go meanwhile. They read the clips by the paths that the trainer
was given.
"""

import signal

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback of the imports below

import argparse
import socket
import sys
import threading
from collections.abc import Sequence
from typing import Any

import runner

PROTOCOL = "grpc"
MAX_PORT = 65535


def start_dispatcher(*, port: int, work_dir: str) -> Any:
    """Starts the server that deals the clips; it runs until the process ends.

    Args:
      port: to listen at; 0: any that is free.
      work_dir: folder for its journal, from which it goes on after a restart; or empty.
    """
    from tensorflow.data.experimental import service

    return service.DispatchServer(
        service.DispatcherConfig(
            port=port,
            protocol=PROTOCOL,
            work_dir=work_dir or None,
            fault_tolerant_mode=bool(work_dir),
        )
    )


def start_worker(*, port: int, dispatcher: str, host: str) -> Any:
    """Starts a server that computes features; it runs until the process ends.

    Args:
      port: to listen at; 0: any that is free.
      dispatcher: host:port of the dispatcher, which is waited for.
      host: the name of this machine, under which trainers reach it.
    """
    from tensorflow.data.experimental import service

    return service.WorkerServer(
        service.WorkerConfig(
            dispatcher_address=dispatcher,
            worker_address=f"{host}:{port or '%port%'}",
            port=port,
            protocol=PROTOCOL,
        )
    )


def _parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    roles = parser.add_subparsers(dest="role", required=True)
    dispatcher = roles.add_parser("dispatcher", help="deals the clips; one of them")
    worker = roles.add_parser("worker", help="computes features; any number of them")
    for role in (dispatcher, worker):
        role.add_argument(
            "--port", type=int, required=True, help="to listen at; 0: any that is free"
        )
    dispatcher.add_argument(
        "--work_dir", default="", help="folder to go on from when it is started again"
    )
    worker.add_argument("--dispatcher", required=True, help="host:port of it")
    worker.add_argument(
        "--host",
        default=socket.gethostname(),
        help="name or address of this machine, as trainers reach it "
        "(default: %(default)s)",
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> int:
    """Runs the program until a signal; returns the exit status."""
    parsed = _parse_arguments(arguments)
    if not 0 <= parsed.port <= MAX_PORT:
        print(
            f"error: --port must be from 0 to {MAX_PORT}, but got {parsed.port}",
            file=sys.stderr,
        )
        return 1
    runner.set_environment()
    runner.start_tensorflow()
    import tensorflow as tf

    tf.config.set_visible_devices([], "GPU")
    # While it waits for its dispatcher, only the system sees a signal.
    previous = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        if parsed.role == "dispatcher":
            server = start_dispatcher(port=parsed.port, work_dir=parsed.work_dir)
            where = f" at port {server.target.rpartition(':')[2]}"
        else:
            server = start_worker(
                port=parsed.port, dispatcher=parsed.dispatcher, host=parsed.host
            )
            where = f", for the dispatcher {parsed.dispatcher}"
    except tf.errors.OpError as error:
        print(f"error: {str(error.message).splitlines()[0]}", file=sys.stderr)
        return 1
    signal.signal(signal.SIGINT, previous)
    print(f"{parsed.role} is ready{where}", file=sys.stderr, flush=True)
    return _wait_for_signal(server)


def _wait_for_signal(server: Any) -> int:
    """Holds the server until SIGINT or SIGTERM; returns the exit status."""
    stop, received = threading.Event(), []

    def note(number: int, frame: object) -> None:
        received.append(number)
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, note)
    stop.wait()
    print(f"stopped by {signal.Signals(received[0]).name}", file=sys.stderr)
    return runner.SIGNAL_STATUS + received[0]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
