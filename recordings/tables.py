"""Tables of tagged recordings: detections, files, Raven selections, Audacity labels.

https://www.ravensoundsoftware.com/knowledge-base/selection-tables
"""

import contextlib
import csv
import io
import math
import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from recordings.segments import Segment
from tagger.hparams import Hparams
from tagger.terminal.files import atomic, write_whole
from tagger.terminal.progress import printable

SEGMENT_HEADER = ("file", "start", "end", "class", "score")
FILE_HEADER = ("file", "seconds", "detections", "status")
RAVEN_HEADER = (
    *("Selection", "View", "Channel", "Begin Time (s)", "End Time (s)"),
    *("Low Freq (Hz)", "High Freq (Hz)", "Begin Path", "Begin File"),
    *("File Offset (s)", "Annotation", "Score"),
)
HEADERS = {"segments": SEGMENT_HEADER, "files": FILE_HEADER, "raven": RAVEN_HEADER}


class Tagged(NamedTuple):
    """A file that was tried.

    Attributes:
      path: its path.
      seconds: its duration; None if it failed.
      segments: its detections.
      status: "ok", "note: " and why the scores mean little, or "failed: " and why.
      probabilities: of the calibrated classes; NaN: not known.
    """

    path: str
    seconds: float | None
    segments: Sequence[Segment]
    status: str
    probabilities: Sequence[float] = ()


def write_tables(
    paths: Mapping[str, str],
    tagged: Iterable[Tagged],
    hparams: Hparams,
    calibrated: Sequence[str] = (),
) -> None:
    """Writes tables, each atomically. Their size needs no memory.

    Args:
      paths: paths of the tables, by the names in HEADERS; empty: it is not written.
      tagged: the files.
      hparams: hyperparameters of the features, for the frequencies.
      calibrated: the classes whose probabilities the table of files has.

    Raises:
      UserError: one cannot be written; the message names it.
    """
    with contextlib.ExitStack() as stack:
        writers = {
            name: stack.enter_context(_table(name, path, calibrated))
            for name, path in paths.items()
            if path
        }
        num_selections, begin = 0, 0.0
        for file in tagged:
            path = printable(file.path)
            for segment in file.segments:
                num_selections += 1
                if "segments" in writers:
                    writers["segments"].writerow(segment_row(path, segment))
                if "raven" in writers:
                    row = _raven_row(num_selections, begin, path, segment, hparams)
                    writers["raven"].writerow(row)
            if "files" in writers:
                writers["files"].writerow(_file_row(path, file, len(calibrated)))
            # The times of Raven count from the start of the first file.
            begin += file.seconds or 0


@contextlib.contextmanager
def _table(name: str, path: str, calibrated: Sequence[str]) -> Iterator:
    """A writer of the rows after the header."""
    dialect, header = {}, HEADERS[name]
    if name == "files":
        header += tuple(f"p({class_name})" for class_name in calibrated)
    if name == "raven":  # It has no quotes. Its fields have no tabs.
        dialect = {"delimiter": "\t", "quoting": csv.QUOTE_NONE, "quotechar": None}
    with atomic(pathlib.Path(path)) as file:
        text = io.TextIOWrapper(file, "utf-8", newline="")
        writer = csv.writer(text, lineterminator="\n", **dialect)
        writer.writerow(header)
        yield writer
        text.flush()
        text.detach()


def segment_row(path: str, segment: Segment) -> tuple[str, ...]:
    """A row of the CSV of segments."""
    start, end, class_name, score = segment
    return printable(path), f"{start:.3f}", f"{end:.3f}", class_name, f"{score:.6f}"


def _file_row(path: str, file: Tagged, num_calibrated: int) -> tuple[object, ...]:
    if file.seconds is None:  # Not a file without detections.
        return path, "", "", printable(file.status), *[""] * num_calibrated
    cells = ("" if math.isnan(p) else f"{p:.4f}" for p in file.probabilities)
    return path, f"{file.seconds:.3f}", len(file.segments), file.status, *cells


def _raven_row(
    number: int, begin: float, path: str, segment: Segment, hparams: Hparams
) -> tuple[object, ...]:
    """A selection; `begin` is the start of its file in the sequence of all files."""
    start, end, class_name, score = segment
    return (
        *(number, "Spectrogram 1", 1, f"{begin + start:.3f}", f"{begin + end:.3f}"),
        *(f"{hparams.mel_min_hz:g}", f"{hparams.mel_max_hz:g}"),
        *(path, os.path.basename(path), f"{start:.3f}", class_name, f"{score:.6f}"),
    )


def write_label_track(path: pathlib.Path, segments: Sequence[Segment]) -> None:
    """Writes segments as labels for Audacity, atomically."""
    lines = [
        f"{start:.3f}\t{end:.3f}\t{printable(class_name)} {score:.2f}\n"
        for start, end, class_name, score in segments
    ]
    write_whole(path, "".join(lines))
