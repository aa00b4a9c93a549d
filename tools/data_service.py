"""Runs a part of a tf.data service, which computes features for runner.py.

    python -m tools.data_service dispatcher --port 5050
    python -m tools.data_service worker --dispatcher HOST:5050 --port 5051

One dispatcher deals the clips, any number of workers read them and compute their
features, and runner.py --mode train --data_service grpc://HOST:5050 trains on them.
Workers may come and go meanwhile. They read the clips by the paths that the trainer
was given.
"""

import argparse
import re
import socket
import sys
from collections.abc import Sequence
from typing import Any

import runner
from tagger import signals

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
    try:
        _check_arguments(parsed)
        runner.set_environment()
        runner.start_tensorflow()
        _server = _start(parsed)  # Kept: it may wait for its clients when deleted.
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return signals.wait_for_stop()


def _check_arguments(parsed: argparse.Namespace) -> None:
    if not 0 <= parsed.port <= MAX_PORT:
        raise ValueError(f"--port must be from 0 to {MAX_PORT}, but got {parsed.port}")
    if parsed.role == "worker" and not re.fullmatch(r".+:\d{1,5}", parsed.dispatcher):
        raise ValueError(
            f"--dispatcher must be host:port, but got '{parsed.dispatcher}'"
        )


def _start(parsed: argparse.Namespace) -> Any:
    """Starts the server that the arguments ask for.

    Raises:
      OSError: it cannot be started.
    """
    import tensorflow as tf

    tf.config.set_visible_devices([], "GPU")
    try:
        with signals.end_at_once():
            if parsed.role == "dispatcher":
                server = start_dispatcher(port=parsed.port, work_dir=parsed.work_dir)
                where = f"at port {server.target.rpartition(':')[2]}"
            else:
                where = f"for the dispatcher {parsed.dispatcher}"
                print(f"waiting {where}", file=sys.stderr, flush=True)
                server = start_worker(
                    port=parsed.port, dispatcher=parsed.dispatcher, host=parsed.host
                )
    except (tf.errors.OpError, RuntimeError) as error:
        reason = str(getattr(error, "message", error)).splitlines()[0]
        raise OSError(
            f"cannot start the {parsed.role} ({reason}); --port must be free, and "
            f"--work_dir a folder to write in"
        ) from None
    print(f"{parsed.role} is ready {where}", file=sys.stderr, flush=True)
    return server


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
