"""Reads and checks class maps, clip CSVs and WAV headers, once, into a table of clips.

Apart from `inputs.py` so that the `make_*` tools, which share these readers, start
without TensorFlow. Every problem of every file is found before the first is reported.
"""

import csv
import dataclasses
import io
import os
import pathlib
import zlib
from collections.abc import Iterable, Sequence

import numpy as np

from tagger import hparams as hparams_lib
from tagger import run_record, wav
from tagger.progress import counted

FILE_COLUMN = "fname"
LABEL_COLUMNS = ("labels", "label")


class InputProblems(ValueError):
    """All that is wrong with the input files, one problem a line."""

    def __init__(self, problems: Sequence[str]):
        # A quoted field may hold line breaks.
        self.problems = [" ".join(problem.splitlines()) for problem in problems]
        super().__init__("\n".join(self.problems))


@dataclasses.dataclass(frozen=True)
class Row:
    """A line of a clip CSV: its number, the clip's name and labels, and all fields."""

    line: int
    fname: str
    labels: tuple[str, ...]
    fields: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Clips:
    """A table of N clips whose headers have been read.

    Attributes:
      paths: N paths of WAV files.
      data_offsets: int64 [N], where the samples start in the file, in bytes.
      num_samples: int64 [N], samples at 44.1 kHz.
      labels: float32 [N, C], 1.0 for each class that the clip is labelled with, else
        0.0.
    """

    paths: list[str]
    data_offsets: np.ndarray
    num_samples: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.paths)

    def __str__(self) -> str:
        num_classes = self.labels.shape[1]
        num_clips = counted(len(self), "clip")
        return f"{num_clips}, {self.hours:.2f} hours, {num_classes} classes"

    def take(self, indices: np.ndarray) -> "Clips":
        """The clips at the given positions, in that order."""
        return Clips(
            paths=[self.paths[index] for index in indices],
            data_offsets=self.data_offsets[indices],
            num_samples=self.num_samples[indices],
            labels=self.labels[indices],
        )

    def checksum(self, class_names: Sequence[str]) -> int:
        """CRC-32 of names, lengths, labels and classes, to know the same clips by.

        The order of the clips is not in it.
        """
        names = [os.path.basename(path) for path in self.paths]
        order = sorted(range(len(names)), key=names.__getitem__)
        names, num_samples = sorted(names), self.num_samples[order].tolist()
        facts = repr((names, num_samples, list(class_names)))
        labels = self.labels[order].tobytes()
        return zlib.crc32(facts.encode(errors="replace") + labels)

    @property
    def hours(self) -> float:
        """Hours of audio."""
        return float(self.num_samples.sum()) / hparams_lib.SAMPLE_RATE / 3600


def read_class_map(path: str) -> list[str]:
    """Reads `index,name` lines, indices 0 to n-1 in order, into n class names.

    Raises:
      FileNotFoundError: there is no such file.
      InputProblems: lines that are not of that form, gaps, names given twice.
    """
    names, problems = [], []
    for line, fields in _csv_lines(path, "--class_map_path"):
        where = f"{path}:{line}"
        if not names and not problems and not fields[0].strip().isdecimal():
            what = f"{where}: expected 0,name but got {','.join(fields)}"
            if FILE_COLUMN in fields:
                raise InputProblems([f"{what}; that is a CSV of clips"])
            problems.append(f"{what}; a class map has no header")
            continue
        if len(fields) != 2 or not fields[1].strip():
            problems.append(f"{where}: expected index,name but got {','.join(fields)}")
            continue
        index, name = fields[0].strip(), fields[1].strip()
        if index != str(len(names)):
            problems.append(f"{where}: expected index {len(names)}, but got '{index}'")
        if name in names:
            problems.append(f"{where}: class {name} is there twice")
        names.append(name)
    if problems:
        raise InputProblems(problems)
    if not names:
        raise InputProblems([f"{path}: empty; expected index,name lines"])
    return names


def read_rows(path: str, flag: str = "") -> tuple[list[str], list[Row]]:
    """Reads a CSV of clips with their labels.

    The header names the columns: `fname` and `labels` (comma-separated inside quotes),
    or the older `fname,aso_ids,label`; further columns are kept but not looked at.

    Returns:
      The header, and the rows.

    Raises:
      FileNotFoundError: there is no such file; the message names the flag.
      InputProblems: the file is not such a CSV; all its bad lines are listed.
    """
    return checked_rows(_csv_lines(path, flag), path)


def checked_rows(
    lines: Sequence[tuple[int, list[str]]], path: str
) -> tuple[list[str], list[Row]]:
    """As `read_rows`, from what `csv_lines` gives; the path is for messages."""
    header, rows, problems = _parse_rows(lines)
    if problems:
        raise InputProblems(_located(path, problems))
    return header, rows


def _located(path: str, problems: Iterable[tuple[int, str]]) -> list[str]:
    """Problems as (line, what), in the order of lines, as lines of a report."""
    ordered = sorted(problems, key=lambda problem: problem[0])
    return [f"{path}:{line}: {what}" for line, what in ordered]


def _parse_rows(
    lines: Sequence[tuple[int, list[str]]],
) -> tuple[list[str], list[Row], list[tuple[int, str]]]:
    """The header, the rows whose clip can be named, and problems as (line, what)."""
    if not lines:
        return [], [], [(1, "empty; expected a header fname,labels")]
    header = [name.strip() for name in lines[0][1]]
    label_column = next((name for name in LABEL_COLUMNS if name in header), None)
    if FILE_COLUMN not in header or label_column is None:
        what = f"expected a header with fname and labels, but got {','.join(header)}"
        return header, [], [(lines[0][0], what)]
    fname_at, labels_at = header.index(FILE_COLUMN), header.index(label_column)
    rows, problems, seen = [], [], {}
    for line, fields in lines[1:]:
        if len(fields) != len(header):
            what = (
                f"expected {len(header)} fields as in the header, but got "
                f"{len(fields)}; several labels of a clip stand inside quotes"
            )
            problems.append((line, what))
            continue
        fname = fields[fname_at].strip()
        labels = tuple(filter(None, (s.strip() for s in fields[labels_at].split(","))))
        if what := _name_problem(fname):
            problems.append((line, what))
            continue
        if fname in seen:
            what = f"clip {fname} is there twice, first in line {seen[fname]}"
            problems.append((line, what))
        if not labels:
            what = f"clip {fname} has no labels; expected at least one"
            problems.append((line, what))
        seen.setdefault(fname, line)
        rows.append(Row(line, fname, labels, tuple(fields)))
    if not rows and not problems:
        problems.append((lines[0][0], "no clips below the header"))
    return header, rows, problems


def _name_problem(fname: str) -> str:
    if not fname:
        return "the clip has no name"
    if any(ord(letter) < ord(" ") for letter in fname):
        return f"clip {fname!r} has control characters in its name"
    if any(os.path.isabs(p) for p in (fname, fname.replace("\\", "/"))):
        return f"clip {fname!r} must be named relative to the folder of clips"
    if ".." in fname.replace("\\", "/").split("/"):
        return f"clip {fname!r} may not lie outside the folder of clips (..)"
    return ""


def _csv_lines(path: str, flag: str) -> list[tuple[int, list[str]]]:
    prefix = f"{flag}: " if flag else ""
    try:
        return csv_lines(pathlib.Path(path).read_bytes(), path)
    except FileNotFoundError:
        raise FileNotFoundError(f"{prefix}there is no file {path}") from None
    except OSError as error:
        raise OSError(f"{prefix}cannot read {path}: {error.strerror}") from None


def csv_lines(contents: bytes, path: str) -> list[tuple[int, list[str]]]:
    """The records of a CSV that are not blank, as (number of its first line, fields).

    Raises:
      InputProblems: it is not a CSV in UTF-8; the path is for the message.
    """
    try:
        text = contents.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = 1 + contents[: error.start].count(b"\n")
        raise InputProblems([f"{path}:{line}: not in UTF-8: {error.reason}"]) from None
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    lines, first = [], 1
    try:
        for fields in reader:
            if any(field.strip() for field in fields):
                lines.append((first, fields))
            first = reader.line_num + 1
    except csv.Error as error:
        raise InputProblems([f"{path}:{first}: not a CSV: {error}"]) from None
    return lines


def read_clips(
    *,
    csv_path: str,
    clip_dir: str,
    class_map_path: str,
    train_dir: str,
    flag_prefix: str,
) -> tuple[list[str], Clips]:
    """Reads and checks a labelled set of N clips: class map, CSV, every WAV header.

    Args:
      csv_path: CSV of clips and labels.
      clip_dir: folder that the names in the CSV are relative to.
      class_map_path: class map with all the labels.
      train_dir: folder whose checkpoints, if there are any, have the same class map.
      flag_prefix: "train" or "eval", to name the flags in messages.

    Returns:
      The C class names, and the table of clips in the order of the CSV.

    Raises:
      InputProblems: with all problems of all these files.
    """
    problems, row_problems, class_names, rows, headers = [], [], [], [], []
    try:
        class_names = read_class_map(class_map_path)
        if problem := run_record.class_map_problem(train_dir, class_names):
            problems.append(problem)
            class_names = []
    except (ValueError, OSError) as error:
        problems += str(error).splitlines()
    try:
        lines = _csv_lines(csv_path, f"--{flag_prefix}_csv_path")
        _, rows, row_problems = _parse_rows(lines)
    except (InputProblems, OSError) as error:
        problems += str(error).splitlines()
    if class_names:
        row_problems += _label_problems(rows, class_names, class_map_path)
    paths = [os.path.join(clip_dir, row.fname) for row in rows]
    if os.path.isdir(clip_dir) and paths and not any(map(os.path.exists, paths)):
        problems.append(
            f"--{flag_prefix}_clip_dir: none of the {len(paths)} clips of {csv_path} "
            f"is in {clip_dir}"
        )
    elif os.path.isdir(clip_dir):
        headers = wav.read_wav_headers(paths)
        row_problems += [
            (row.line, str(header))
            for row, header in zip(rows, headers, strict=True)
            if isinstance(header, ValueError)
        ]
    else:
        problems.append(f"--{flag_prefix}_clip_dir: there is no folder {clip_dir}")
    problems += _located(csv_path, row_problems)
    if problems:
        raise InputProblems(problems)
    class_index = {name: index for index, name in enumerate(class_names)}
    labels = np.zeros([len(rows), len(class_names)], np.float32)
    for index, row in enumerate(rows):
        labels[index, [class_index[label] for label in row.labels]] = 1.0
    return class_names, make_clips(paths, headers, labels)


def _label_problems(
    rows: Sequence[Row], class_names: Sequence[str], class_map_path: str
) -> list[tuple[int, str]]:
    """A problem for each label that is not in the class map, at its first line."""
    known, unknown = set(class_names), {}
    for row in rows:
        for label in row.labels:
            if label not in known:
                unknown.setdefault(label, []).append(row)
    problems = []
    for label, where in unknown.items():
        others = f" and {len(where) - 1} more" if len(where) > 1 else ""
        hint = hparams_lib.did_you_mean(label, class_names)
        what = (
            f"label {label} of {where[0].fname}{others} is not in the class map "
            f"{class_map_path}{hint}"
        )
        problems.append((where[0].line, what))
    return problems


def make_clips(
    paths: Sequence[str], headers: Sequence[tuple[int, int]], labels: np.ndarray
) -> Clips:
    """Puts N paths, headers (offset in bytes, samples) and labels [N, C] in a table."""
    table = np.array(headers, np.int64).reshape(-1, 2)
    return Clips(list(paths), table[:, 0], table[:, 1], labels)
