"""Handlers of SIGINT and SIGTERM, which stop programs.

A signal that is ignored when a program starts stays ignored, because shells start
background jobs with SIGINT ignored.
"""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from typing import Any

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def exit_status(number: int) -> int:
    """The exit status after a signal, as shells report it."""
    return 128 + number


@contextlib.contextmanager
def handler(
    handle: Callable[[int, Any], None] | signal.Handlers,
    numbers: Sequence[int] = STOP_SIGNALS,
) -> Iterator[None]:
    """Handles signals within the block, except those that are ignored."""
    previous = {number: signal.getsignal(number) for number in numbers}
    for number, before in previous.items():
        if before != signal.SIG_IGN:
            signal.signal(number, handle)
    try:
        yield
    finally:
        for number, before in previous.items():
            signal.signal(number, before)


def end_at_once() -> contextlib.AbstractContextManager[None]:
    """Lets both signals end the process while TensorFlow waits in C++.

    Python's own handlers would run only after the wait.
    """
    return handler(signal.SIG_DFL)


def exit_now(number: int, frame: Any = None) -> None:
    """A handler that ends the process at once.

    It raises no exception, because an exception inside TensorFlow can crash it.
    """
    with contextlib.suppress(OSError):
        os.write(2, f"stopped by {signal.Signals(number).name}\n".encode())
    os._exit(exit_status(number))


class StopRequest:
    """Whether SIGINT or SIGTERM came within the block, so that a loop can save and end.

    Attributes:
      signal: the number of the last one; 0: none came.
    """

    def __init__(self):
        self.signal = 0

    def __enter__(self) -> "StopRequest":
        self._handler = handler(self._handle)
        self._handler.__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._handler.__exit__(*exception)

    def __bool__(self) -> bool:
        return bool(self.signal)

    def _handle(self, number: int, frame: Any) -> None:
        self.signal = number
