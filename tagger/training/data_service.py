"""The trainer's side of a tf.data service, which may die."""

import contextlib
import math
import queue
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

from tagger.errors import UserError
from tagger.training.distribution import (
    CONNECT_SECONDS,
    NOTE_SECONDS,
    POLL_SECONDS,
    host_and_port,
)

GIVE_UP_SECONDS = 600  # to wait for a batch, except for the first


def check_reachable(address: str) -> None:
    """Checks that a data service answers. TensorFlow would wait for it without limit.

    Args:
      address: grpc://host:port of its dispatcher.

    Raises:
      UserError: the data service does not answer.
    """
    address = address.removeprefix("grpc://")
    try:
        socket.create_connection(host_and_port(address), CONNECT_SECONDS).close()
    except (OSError, ValueError, UserError) as error:
        raise UserError(
            f"--data_service: cannot reach {address} ({error}); is its dispatcher "
            f"running?"
        ) from None


def served_batches(
    stream: Iterator[Any], received: Sequence[int] = ()
) -> Iterator[Any]:
    """Yields the batches of a stream from a data service, which may die.

    TensorFlow would then wait without limit, and no signal would end it. Here, another
    thread waits for TensorFlow. A note is printed every NOTE_SECONDS. The first batch
    has no time limit, because a large shuffle buffer may need long.

    Args:
      stream: batches without end.
      received: the signals received so far; a handler adds to it. If there are any and
        no batch comes, the generator ends.

    Raises:
      UserError: no batch comes for GIVE_UP_SECONDS, or the stream ends or raises this.
    """
    found = queue.Queue(1)

    def read() -> None:
        """Runs in the other thread."""
        last = OSError("--data_service: it sends no more batches")
        try:
            for batch in stream:
                found.put(batch)
        except Exception as error:
            last = error
        finally:
            found.put(last)

    threading.Thread(target=read, daemon=True).start()
    batch = _next_served(found, received, math.inf)
    while batch is not None:
        if isinstance(batch, Exception):
            raise batch
        yield batch
        batch = _next_served(found, received, GIVE_UP_SECONDS)


def _next_served(
    found: queue.Queue, received: Sequence[int], give_up_seconds: float
) -> Any:
    """The next item of a queue; None after a signal. See `served_batches`."""
    started = noted = time.monotonic()
    while True:
        # A signal does not end the wait in `get`, so it is short.
        with contextlib.suppress(queue.Empty):
            return found.get(timeout=POLL_SECONDS)
        if received:
            return None
        now = time.monotonic()
        if now - noted >= NOTE_SECONDS:
            print("waiting for the data service", file=sys.stderr, flush=True)
            noted = now
        if now - started >= give_up_seconds:
            raise UserError(
                f"--data_service: no batch came for {give_up_seconds} s; are its "
                f"dispatcher and a worker running?"
            )
