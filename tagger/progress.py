"""What a person sees on a terminal: a bar on stderr, results on stdout."""

import shutil
import sys

import tqdm

DELAY_SECONDS = 1  # Work that takes less time shows no bar.


def progress_bar(
    total: int, *, what: str, unit: str, done: int = 0, keep: bool = False
) -> tqdm.tqdm:
    """A bar with speed and time left, for a `with` block; in a pipe there is none.

    Args:
      total: number of units.
      what: what is being done, the bar's title.
      unit: what is counted, in the singular.
      done: units that were done before.
      keep: whether the bar appears at once, and stays when it is closed.
    """
    # tqdm itself shows nothing on a terminal without a size, as notebooks have them.
    size = shutil.get_terminal_size()
    return tqdm.tqdm(
        total=total,
        initial=done,
        desc=what,
        unit=unit,
        leave=keep,
        delay=0 if keep else DELAY_SECONDS,
        ncols=size.columns,
        nrows=size.lines,
        disable=None,  # where stderr is no terminal
    )


def print_result(text: str) -> None:
    """Prints to stdout at once, above a bar on the same terminal."""
    tqdm.tqdm.write(text)
    sys.stdout.flush()


def counted(number: int, noun: str) -> str:
    """A number of things, such as 1 clip or 2 clips."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
