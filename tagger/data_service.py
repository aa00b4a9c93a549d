"""The trainer's side of a tf.data service, which may die."""

import queue
import socket
import sys
import threading
from collections.abc import Iterator
from typing import Any

from tagger import signals
from tagger.distribution import CONNECT_SECONDS, host_and_port

NOTE_SECONDS = 20  # to wait for a batch of a data service, before a note is printed
GIVE_UP_SECONDS = 600  # to wait for it after that


def check_reachable(address: str) -> None:
    """Checks that a data service answers. TensorFlow would wait for it without limit.

    Args:
      address: grpc://host:port of its dispatcher.

    Raises:
      OSError: the data service does not answer.
    """
    host, port = host_and_port(address.removeprefix("grpc://"))
    try:
        socket.create_connection((host, port), CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise OSError(
            f"--data_service: cannot reach {host}:{port} ({error}); is its dispatcher "
            f"running?"
        ) from None


def served_batches(stream: Iterator[Any]) -> Iterator[Any]:
    """Yields the batches of a stream from a data service, which may die.

    TensorFlow would then wait without limit, and no signal would end it. Here, another
    thread waits for TensorFlow. The time between two batches is limited.

    Raises:
      OSError: the next batch does not come in time, or the stream raises it.
    """
    found = queue.Queue(1)

    def read() -> None:
        """Runs in the other thread."""
        try:
            for batch in stream:
                found.put(batch)
        except Exception as error:
            found.put(error)

    threading.Thread(target=read, daemon=True).start()
    batch = found.get()
    while not isinstance(batch, Exception):
        yield batch
        batch = _next_served(found)
    raise batch


def _next_served(found: queue.Queue) -> Any:
    """The next item of a queue; see `served_batches`."""
    try:
        return found.get(timeout=NOTE_SECONDS)
    except queue.Empty:
        print("waiting for the data service", file=sys.stderr)
    with signals.handler(signals.exit_now):
        try:
            return found.get(timeout=GIVE_UP_SECONDS)
        except queue.Empty:
            raise OSError(
                f"--data_service: no batch came for {GIVE_UP_SECONDS} s; are its "
                f"dispatcher and a worker running?"
            ) from None
