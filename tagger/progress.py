"""Terminal output: a progress bar on stderr, results on stdout."""

import os
import shutil
import sys

import tqdm

DELAY_SECONDS = 1  # Work that takes less time shows no bar.


def progress_bar(
    total: int | None, *, what: str, unit: str, done: int = 0, keep: bool = False
) -> tqdm.tqdm:
    """A bar with speed and remaining time, for a `with` block; hidden in a pipe.

    Args:
      total: number of units; None: unknown.
      what: title of the bar.
      unit: name of the unit, in the singular.
      done: number of units that are already done.
      keep: whether the bar appears at once and remains after it is closed.
    """
    # By itself, tqdm shows no bar on a terminal without a size, such as in notebooks.
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
        disable=None,  # disabled if stderr is not a terminal
    )


def print_result(text: str) -> None:
    """Prints text to stdout and flushes it; a bar on the terminal moves below it.

    If the program that reads stdout has ended, such as `head`, the work continues, and
    further text is lost.
    """
    try:
        tqdm.tqdm.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def counted(number: int, noun: str) -> str:
    """The number with its noun, such as "1 clip", "2 clips" or "2 classes"."""
    plural = f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{number} {noun if number == 1 else plural}"
