"""The results of tagging: what is printed for each file, and the files to write.

Letters for shapes: E examples, C classes, D values of an embedding.
"""

import datetime
import os
import pathlib
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from recordings.calibration import probabilities
from recordings.decoding import Sound
from recordings.segments import Segment, Tags, find_segments
from recordings.tables import HEADERS, Tagged, write_label_track, write_tables
from recordings.thresholds import Rule
from tagger.errors import UserError
from tagger.hparams import SAMPLE_RATE, Hparams
from tagger.terminal.files import atomic, make_folder
from tagger.terminal.progress import duration, print_result, printable, progress_bar
from tools.tag.scoring import Tagger, tag


class Outputs(NamedTuple):
    """The paths of the results to write, as the flags; empty: it is not written."""

    segments: str = ""
    files: str = ""
    raven: str = ""
    embeddings: str = ""
    audacity: str = ""
    plot: str = ""

    def tables(self) -> dict[str, str]:
        """The paths of the tables, by their names."""
        return {name: getattr(self, name) for name in HEADERS}


def check_outputs(outputs: Outputs, *, replace: bool = False) -> None:
    """Checks that the results can be written.

    Args:
      outputs: the results.
      replace: whether existing tables are replaced.

    Raises:
      UserError: they cannot.
    """
    for name, path in outputs._asdict().items():
        if path and name in ("audacity", "plot"):
            make_folder(path, f"--{name}")
        elif path:
            make_folder(os.path.dirname(path) or ".", f"--{name}")
            if os.path.isdir(path):
                raise UserError(f"--{name}: {path} is a folder")
            if os.path.isfile(path) and not replace:
                raise UserError(
                    f"--{name}: {path} exists; delete it, name another file, or use "
                    f"--archive, which continues a run"
                )


def check_names(outputs: Outputs, sounds: Iterable[Sound]) -> None:
    """Checks that no two recordings have results in the same file.

    Raises:
      UserError: there are such recordings.
    """
    first = {}
    for sound in sounds if outputs.audacity or outputs.plot else []:
        other = first.setdefault(result_path("", sound, ""), sound)
        if other is not sound:
            raise UserError(
                f"the results of {other.path} and {sound.path} would have the same "
                f"name; tag them in separate runs"
            )


def tag_files(
    found: Sequence[Sound],
    tagger: Tagger,
    outputs: Outputs,
    *,
    rule: Rule,
    top: int,
) -> int:
    """Tags files, prints their classes with the highest scores, and writes the results.

    Args:
      found: the files.
      tagger: from `scoring.load`.
      outputs: what to write.
      rule: when a class is detected. The thresholds of each class, as arrays [C], also
        mark the printed scores.
      top: number of classes to print.

    Returns:
      The number of files that could not be read or whose results were not written.
    """
    tagged, embedded = [], []

    def accept(sound: Sound, tags: Tags | None, error: str) -> str:
        """Keeps the results of a file, and writes its own files; see `tag_each`."""
        if tags is None:
            tagged.append(Tagged(sound.path, None, [], f"failed: {error}"))
            return error
        segments = find_segments(tags, tagger.class_names, tagger.hparams, rule)
        tagged.append(
            Tagged(
                sound.path,
                tags.seconds,
                segments,
                status(tags.doubt),
                calibrated(tags, tagger.calibrations),
            )
        )
        if outputs.embeddings:
            embedded.append((sound.path, tags.embeddings))
        try:
            write_files(outputs, sound, tags, segments, tagger)
        except UserError as problem:
            return str(problem)
        return ""

    try:
        return tag_each(
            found,
            tagger,
            accept,
            keep_embeddings=bool(outputs.embeddings),
            keep_log_mel=bool(outputs.plot),
            marked_from=rule.threshold if np.ndim(rule.threshold) else np.inf,
            top=top,
        )
    finally:  # The results so far are kept if this is interrupted.
        try:
            if embedded:
                write_embeddings(outputs.embeddings, embedded, tagger.hparams)
        finally:
            names = () if tagger.calibrations is None else tagger.class_names
            write_tables(outputs.tables(), tagged, tagger.hparams, names)


def tag_each(
    found: Sequence[Sound],
    tagger: Tagger,
    accept: Callable[[Sound, Tags | None, str], str],
    *,
    keep_embeddings: bool,
    keep_log_mel: bool = False,
    marked_from: float | np.ndarray = np.inf,
    top: int = 0,
    num_before: int = 0,
) -> int:
    """Tags files, and prints a line or the classes with the highest scores of each.

    Args:
      found: the files.
      tagger: from `scoring.load`.
      accept: called with each file and its tags, or None and an error. Returns this
        error, or another one of the file; "" if there is none.
      keep_embeddings, keep_log_mel: see `scoring.tag`.
      marked_from: see `top_classes`.
      top: number of classes to print; 0: prints the progress instead.
      num_before: number of files that were tagged earlier.

    Returns:
      The number of files that could not be read or were not accepted.
    """
    num_failed, pace = 0, Pace(found, num_before)
    with progress_bar(None, what="tagging", unit="s of sound") as bar:
        for sound in found:
            bar.set_description_str(pace.start(sound))
            tags, error = None, ""
            try:
                tags = tag(
                    sound.path,
                    tagger,
                    keep_embeddings=keep_embeddings,
                    keep_log_mel=keep_log_mel,
                    progress=lambda seconds: bar.update(round(seconds)),
                )
            except UserError as problem:
                error = str(problem)
            if error := accept(sound, tags, error):
                bar.write(f"error: {printable(error)}", file=sys.stderr)
                num_failed += 1
                continue
            name = printable(sound.path)
            if tags.doubt:
                bar.write(f"note: {name}: {tags.doubt}", file=sys.stderr)
            line = f"{name} ({tags.seconds:.1f} s)"
            if top:
                best = top_classes(
                    tags,
                    tagger.class_names,
                    top,
                    marked_from,
                    calibrated(tags, tagger.calibrations),
                )
                print_result(f"{line}\n{best}")
            else:
                print_result(f"{pace.position}: {line}; {pace.finish(tags.seconds)}")
    return num_failed


class Pace:
    """The progress of tagging files. The remaining time is estimated from their sizes.

    Args:
      sounds: the files to tag.
      num_before: number of files that were tagged earlier.
    """

    def __init__(self, sounds: Sequence[Sound], num_before: int):
        self._number, self._total = num_before, num_before + len(sounds)
        self._size_left = sum(map(_size, sounds))
        self._size_done, self._seconds, self._sound = 0, 0.0, None
        self._start = time.monotonic()

    @property
    def position(self) -> str:
        """The position of the file in work, such as "file 23 of 2,000"."""
        return f"file {self._number:,} of {self._total:,}"

    def start(self, sound: Sound) -> str:
        """Starts a file; the one before it is done. Returns its position."""
        self._number += 1
        self._sound = _size(sound)
        self._size_left -= self._sound
        return self.position

    def finish(self, seconds: float) -> str:
        """Ends a file of some seconds; returns what is done, speed and time left."""
        self._seconds += seconds
        self._size_done += self._sound
        elapsed = max(time.monotonic() - self._start, 1e-9)
        left = round(elapsed * self._size_left / max(1, self._size_done))
        return (
            f"{duration(self._seconds)} done, {self._seconds / elapsed:,.0f} "
            f"hours per hour, {datetime.timedelta(seconds=left)} left"
        )


def _size(sound: Sound) -> int:
    """The size of a file; 0 if there is none."""
    return os.path.getsize(sound.path) if os.path.isfile(sound.path) else 0


def status(doubt: str) -> str:
    """The status of a file that was tagged, in the table of files."""
    return f"note: {doubt}" if doubt else "ok"


def result_path(folder: str, sound: Sound, suffix: str) -> pathlib.Path:
    """The path of a result of one file."""
    return pathlib.Path(folder) / (sound.name.replace("/", "__") + suffix)


def write_files(
    outputs: Outputs,
    sound: Sound,
    tags: Tags,
    segments: Sequence[Segment],
    tagger: Tagger,
) -> None:
    """Writes the results that have a file for each recording."""
    if outputs.audacity:
        write_label_track(result_path(outputs.audacity, sound, ".txt"), segments)
    if outputs.plot:
        path = result_path(outputs.plot, sound, ".png")
        write_picture(path, tags, tagger, segments)


def write_picture(
    path: pathlib.Path, tags: Tags, tagger: Tagger, segments: Sequence[Segment]
) -> None:
    """Draws the tags of a recording, see `plots.tags_figure`, to a PNG, atomically."""
    from recordings import plots

    figure = plots.tags_figure(tags, tagger.class_names, tagger.hparams, segments)
    with atomic(path) as file:
        figure.savefig(file, format="png")


def write_embeddings(
    path: str | pathlib.Path, found: Sequence[tuple[str, np.ndarray]], hparams: Hparams
) -> None:
    """Writes the embeddings of all files to an NPZ file, atomically.

    Its arrays are `embeddings`, float32 [E, D], of the examples of all files; for
    each of them `start`, in seconds, and `file_index`, a position in `files`.
    """
    hop_seconds = hparams.example_hop_frames * hparams.stft_hop_samples / SAMPLE_RATE
    paths, embeddings = zip(*found, strict=True)
    lengths = list(map(len, embeddings))
    with atomic(pathlib.Path(path)) as file:
        np.savez(
            file,
            files=np.array(paths),
            file_index=np.repeat(np.arange(len(found)), lengths),
            start=np.concatenate([hop_seconds * np.arange(n) for n in lengths]),
            embeddings=np.concatenate(embeddings),
        )


def calibrated(tags: Tags, calibrations: np.ndarray | None) -> np.ndarray:
    """The probabilities of C classes in a recording; empty: no calibrations."""
    if calibrations is None:
        return np.zeros(0)
    return probabilities(calibrations, tags.scores.mean(axis=0))


def top_classes(
    tags: Tags,
    class_names: Sequence[str],
    top: int,
    marked_from: float | np.ndarray = np.inf,
    chances: Sequence[float] = (),
) -> str:
    """Lines with the highest mean scores of a recording.

    Args:
      tags: the scores of a recording.
      class_names: C names.
      top: number of lines.
      marked_from: means that reach it are marked with "*"; of all classes, or float64
        [C], of each.
      chances: C probabilities to print, see `calibrated`; empty: none.
    """
    mean = tags.scores.mean(axis=0)
    best = np.argsort(-mean, kind="stable")[:top]
    reached = mean >= marked_from
    shown = [""] * len(mean)
    if len(chances):
        shown = [f"p={'-' if np.isnan(p) else f'{p:.2f}':6}" for p in chances]
    return "\n".join(
        f"{'*' if reached[index] else ' '} {mean[index]:.4f}  {shown[index]}"
        f"{class_names[index]}"
        for index in best
    )
