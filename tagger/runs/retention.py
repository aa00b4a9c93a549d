"""Which old checkpoints of a run are deleted."""

import itertools
import os
import pathlib
from collections.abc import Iterator, Sequence

from tagger.runs import checkpoints
from tagger.runs.checkpoint_files import INDEX_SUFFIX, checkpoint_prefix
from tagger.runs.eval_folder import CONTENTS_FILE, EvalFolder

# As in the original: the newest 10,000 are kept, and of the others one per 15 minutes.
MAX_TO_KEEP = 10000
KEEP_EVERY_SECONDS = 15 * 60


def outdated(
    directory: str, prefixes: Sequence[str], keep: int, *, resumed_from: str
) -> Iterator[str]:
    """Yields the checkpoints to delete.

    Args:
      directory: the folder of the run.
      prefixes: its checkpoints, in the order of steps.
      keep: see `Run.save`.
      resumed_from: the checkpoint that training resumed from; empty: none.
    """
    older = prefixes[: -(keep or MAX_TO_KEEP)]
    if keep and older:  # Reading MAX_TO_KEEP checkpoints would take too long.
        readable = filter(checkpoints.is_readable, reversed(prefixes))
        newest = list(itertools.islice(readable, keep))
        older = prefixes[: prefixes.index(newest[-1])]
    kept = {resumed_from, *_best(directory)} if older else ()
    last_kept = float("-inf")
    for prefix in filter(lambda prefix: prefix not in kept, older):
        written = os.path.getmtime(prefix + INDEX_SUFFIX)
        if not keep and written - last_kept >= KEEP_EVERY_SECONDS:
            last_kept = written
        else:
            yield prefix


def _best(directory: str) -> Iterator[str]:
    """Yields the best checkpoint of each evaluation inside the folder.

    A symbolic link may lead to the folder of an evaluation, or to the one above it. It
    is not followed further, because it may lead to a large folder.
    """
    for folder, subfolders, _ in os.walk(directory):
        paths = [os.path.join(folder, name) for name in subfolders]
        links = map(pathlib.Path, filter(os.path.islink, paths))
        found = [pathlib.Path(folder).glob(CONTENTS_FILE)]
        for link in links:
            found += [link.glob(CONTENTS_FILE), link.glob(f"*/{CONTENTS_FILE}")]
        for path in itertools.chain(*found):
            if best := EvalFolder(path.parent, directory).best():
                yield checkpoint_prefix(directory, best[0])
