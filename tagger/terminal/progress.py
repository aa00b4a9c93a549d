"""Terminal output: a progress bar on stderr, results on stdout."""

import concurrent.futures
import os
import re
import shutil
import sys
from collections.abc import Callable, Sequence
from typing import Any

import tqdm

from tagger.errors import UserError

DELAY_SECONDS = 1  # Work that takes less time shows no bar.
# What a terminal obeys: controls, separators of lines and paragraphs, and characters
# that override the direction of text; for a character class of `re`.
CONTROLS = "\0-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069"
SURROGATES = "\ud800-\udfff"  # stand for bytes that are not UTF-8
UNPRINTABLE = re.compile(f"[{CONTROLS}{SURROGATES}]")


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


def in_parallel(
    function: Callable[[Any], Any],
    items: Sequence[Any],
    *,
    what: str,
    unit: str,
    threads: int | None = None,
) -> list[Any]:
    """Calls a function for each item in threads, with a bar; see `progress_bar`.

    Args:
      threads: number of threads; None: one per core.

    Returns:
      What the function returns, or the UserError that it raises, in order.
    """

    def call(item: Any) -> Any:
        """Runs in a thread."""
        try:
            return function(item)
        except UserError as error:
            return error

    results = []
    with (
        concurrent.futures.ThreadPoolExecutor(threads or os.cpu_count()) as pool,
        progress_bar(len(items), what=what, unit=unit) as bar,
    ):
        for result in pool.map(call, items):
            results.append(result)
            bar.update()
    return results


def print_result(text: str) -> None:
    """Prints text to stdout and flushes it; a bar on the terminal moves below it."""
    tqdm.tqdm.write(text)
    sys.stdout.flush()


def printable(text: str) -> str:
    """The text on one line, in valid UTF-8: other characters become "?"."""
    return UNPRINTABLE.sub("?", text)


def counted(number: int, noun: str) -> str:
    """The number with its noun, such as "1 clip", "2 clips" or "2 classes"."""
    plural = f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{number} {noun if number == 1 else plural}"


def duration(seconds: float) -> str:
    """The duration in a suitable unit: "12.5 s", "8.0 minutes" or "3.25 hours"."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    if seconds < 3600:
        return f"{seconds / 60:.1f} minutes"
    return f"{seconds / 3600:,.2f} hours"
