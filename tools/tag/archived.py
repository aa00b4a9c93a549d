"""Tags recordings into an archive, and writes tables from it."""

import os
import sys
from collections.abc import Iterator, Sequence

import numpy as np

from recordings.archive import Archive
from recordings.decoding import Sound
from recordings.segments import Tags, find_segments
from recordings.tables import Tagged, write_label_track, write_tables
from recordings.thresholds import Rule
from tools.tag.results import (
    Outputs,
    calibrated,
    check_names,
    result_path,
    status,
    tag_each,
)
from tools.tag.scoring import Tagger


def tag_to_archive(
    found: Sequence[Sound],
    tagger: Tagger,
    archive: Archive,
    *,
    retry_failed: bool,
    top: int,
) -> int:
    """Tags the files that are not in an archive, or have changed since, into it.

    Args:
      found: the files.
      tagger: from `scoring.load`.
      archive: the archive, made with the settings of the tagger.
      retry_failed: whether files that failed before are tried again.
      top: see `results.tag_each`.

    Returns:
      The number of files that failed, now or before.

    Raises:
      UserError: the archive cannot be written.
    """

    def accept(sound: Sound, tags: Tags | None, error: str) -> str:
        """Adds the results of a file to the archive; see `tag_each`."""
        archive.add(sound.path, tags, error)
        return error

    pending, num_failed = [], 0
    for sound in found:
        file = archive.find(sound.path)
        if file is None or (file.error and retry_failed):
            pending.append(sound)
        else:
            num_failed += bool(file.error)
    num_before = len(found) - len(pending)
    if num_before:
        failed = f"; {num_failed:,} of them failed, see --retry_failed"
        print(
            f"{num_before:,} of {len(found):,} files are in {archive.path}"
            f"{failed if num_failed else ''}",
            file=sys.stderr,
        )
    return num_failed + tag_each(
        pending, tagger, accept, keep_embeddings=True, top=top, num_before=num_before
    )


def write_archive_tables(
    archive: Archive,
    outputs: Outputs,
    rule: Rule,
    calibrations: np.ndarray | None = None,
) -> None:
    """Writes the tables and label tracks of all files of an archive.

    Args:
      archive: the archive.
      outputs: what to write.
      rule: see `segments.find_segments`.
      calibrations: see `scoring.Tagger`.

    Raises:
      UserError: a table cannot be written, or two label tracks would be the same.
    """
    if not any(outputs):
        return
    paths = [file.path for file in archive.files()]
    folder = os.path.commonpath(list(map(os.path.dirname, paths)) or ["/"])

    def named(path: str) -> Sound:
        return Sound(path, os.path.relpath(path, folder))

    def tagged() -> Iterator[Tagged]:
        """The rows of the tables; also writes the label tracks."""
        for file in archive.files():
            if file.error:
                yield Tagged(file.path, None, [], f"failed: {file.error}")
                continue
            tags, settings = archive.tags(file), archive.settings
            segments = find_segments(tags, settings.class_names, settings.hparams, rule)
            if outputs.audacity:
                track = result_path(outputs.audacity, named(file.path), ".txt")
                write_label_track(track, segments)
            yield Tagged(
                file.path,
                file.seconds,
                segments,
                status(file.doubt),
                calibrated(tags, calibrations),
            )

    check_names(outputs, map(named, paths))
    names = () if calibrations is None else archive.settings.class_names
    write_tables(outputs.tables(), tagged(), archive.settings.hparams, names)
