"""Runs a server of a tf.data service, which computes features for runner.py.

    python -m tools.data_service dispatcher --port 5050
    python -m tools.data_service worker --dispatcher HOST:5050 --port 5051

One dispatcher distributes the clips. Any number of workers read them and compute their
features. `runner.py --mode train --data_service grpc://HOST:5050` trains on these.
Workers may start and stop at any time. They read the clips from the same paths as the
trainer.

Use a trusted network only: the servers run whatever a client sends, which includes
reading and writing files. They listen on all addresses of the machine, and TensorFlow
has no option to change this. See docs/distributed.md.
"""

import socket
import sys
from collections.abc import Sequence
from typing import Any

from absl import flags

from tagger.errors import UserError
from tagger.terminal import program, signals

FLAGS = flags.FLAGS
ROLES = ("dispatcher", "worker")
MAX_PORT = 65535


def define_flags() -> None:
    """Defines the flags of this program."""
    flags.DEFINE_integer(
        "port", None, "Port to listen on; 0: any free port.", 0, MAX_PORT
    )
    flags.DEFINE_string(
        "work_dir",
        "",
        "For a dispatcher: folder for its journal, from which it resumes after a "
        "restart. Empty: no journal.",
    )
    flags.DEFINE_string("dispatcher", "", "For a worker: host:port of the dispatcher.")
    flags.DEFINE_string(
        "host",
        socket.gethostname(),
        "For a worker: name or address of this machine for the trainers.",
    )


def start_server(
    role: str, *, port: int, work_dir: str = "", dispatcher: str = "", host: str = ""
) -> Any:
    """Starts a server, which runs until it is deleted or the process ends.

    Args:
      role: "dispatcher" or "worker". A worker waits for the dispatcher.
      port, work_dir, dispatcher, host: see `define_flags`.

    Returns:
      A `DispatchServer` or a `WorkerServer` of `tf.data.experimental.service`.

    Raises:
      UserError: the server cannot be started.
    """
    import tensorflow as tf

    service = tf.data.experimental.service
    try:
        if role == "dispatcher":
            return service.DispatchServer(
                service.DispatcherConfig(
                    port=port,
                    work_dir=work_dir or None,
                    fault_tolerant_mode=bool(work_dir),
                )
            )
        return service.WorkerServer(
            service.WorkerConfig(
                dispatcher_address=dispatcher,
                worker_address=f"{host}:{port or '%port%'}",
                port=port,
            )
        )
    except (tf.errors.OpError, RuntimeError) as error:
        reason = program.tensorflow_reason(error)
        raise UserError(f"cannot start the {role} on --port {port}: {reason}") from None


def main(argv: Sequence[str]) -> int:
    """Runs the server until a signal ends the process."""
    if len(argv) != 2 or argv[1] not in ROLES:
        raise UserError(
            f"expected one argument, {' or '.join(ROLES)}, but got "
            f"'{' '.join(argv[1:])}'"
        )
    role = argv[1]
    if role == "worker" and ":" not in FLAGS.dispatcher:
        raise UserError(f"--dispatcher must be host:port, but got '{FLAGS.dispatcher}'")
    program.start_tensorflow()
    import tensorflow as tf

    tf.config.set_visible_devices([], "GPU")
    if role == "worker":
        print(f"waiting for {FLAGS.dispatcher}", file=sys.stderr)
    with signals.end_at_once():
        server = start_server(
            role,
            port=FLAGS.port,
            work_dir=FLAGS.work_dir,
            dispatcher=FLAGS.dispatcher,
            host=FLAGS.host,
        )
        where = ""
        if role == "dispatcher":
            where = f" on port {server.target.rpartition(':')[2]}"
        print(f"{role} is ready{where}", file=sys.stderr)
        server.join()
    return 0


if __name__ == "__main__":
    define_flags()
    program.run(main, required=["port"])
