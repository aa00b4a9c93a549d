"""Progress on a terminal: a bar on stderr. In a pipe or a notebook there is none."""

import os
import sys

import tqdm

DELAY_SECONDS = 1  # Work that is done sooner shows no bar.
# Of a terminal that does not tell its size, such as those that notebooks start.
COLUMNS, LINES = 80, 24


def progress_bar(
    total: int, *, what: str, unit: str, done: int = 0, keep: bool = False
) -> tqdm.tqdm:
    """A bar with rate and time left, to be used in a `with` and moved by `update`.

    Args:
      total: how many units there are.
      what: what is being done, the bar's title.
      unit: what is counted, in the singular.
      done: how many units were done before.
      keep: whether the bar is there from the start, and stays when it is closed.
    """
    sized = _tells_size()
    return tqdm.tqdm(
        total=total,
        initial=done,
        desc=what,
        unit=unit,
        leave=keep,
        delay=0 if keep else DELAY_SECONDS,
        dynamic_ncols=sized,
        ncols=None if sized else COLUMNS,
        nrows=None if sized else LINES,
        disable=None,  # where stderr is no terminal
    )


def leave_out(bar: tqdm.tqdm) -> None:
    """Moves a bar by one unit that shall not count in its rate and time left.

    Such as the first of several, when it takes longer than those to come.
    """
    bar.initial = bar.n = bar.last_print_n = bar.n + 1
    bar.unpause()
    bar.refresh()


def _tells_size() -> bool:
    try:
        return all(os.get_terminal_size(sys.stderr.fileno()))
    except OSError:
        return False


def print_result(text: str) -> None:
    """Prints to stdout at once; a bar on the same terminal makes room."""
    with tqdm.tqdm.external_write_mode(file=sys.stdout):
        print(text, flush=True)


def counted(number: int, noun: str) -> str:
    """A number of things, such as 1 clip or 2 clips."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
