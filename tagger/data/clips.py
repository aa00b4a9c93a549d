"""Reads and checks labelled sets of clips: class map, CSV and WAV headers.

This is not part of `inputs.py`, because the `make_*` programs use it without
TensorFlow.
"""

import contextlib
import dataclasses
import os
import zlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from tagger.data import wav
from tagger.data.csv_files import (
    BACKGROUND,
    FILE_COLUMN,
    Row,
    composed,
    parse_rows,
    read_file,
    read_records,
    shown,
)
from tagger.errors import UserError
from tagger.hparams import SAMPLE_RATE
from tagger.terminal.progress import counted, duration, printable


@dataclasses.dataclass(frozen=True)
class Clips:
    """A table of N clips, made from their labels and WAV headers.

    Attributes:
      paths: N paths of WAV files.
      data_offsets: int64 [N], offsets of the samples in the files, in bytes.
      num_samples: int64 [N], samples at 44.1 kHz.
      probes: int64 [N], checksums of some of the samples; see `wav.probe`.
      labels: float32 [N, C], 1.0 for each label of the clip, else 0.0. Clips with the
        label BACKGROUND have only zeros.
    """

    paths: list[str]
    data_offsets: np.ndarray
    num_samples: np.ndarray
    probes: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.paths)

    def __str__(self) -> str:
        length = duration(self.num_samples.sum() / SAMPLE_RATE)
        num_clips, num_classes = counted(len(self), "clip"), self.labels.shape[1]
        return f"{num_clips}, {length}, {num_classes} classes"

    def take(self, indices: np.ndarray) -> "Clips":
        """Returns the clips at the given positions, in that order."""
        return Clips(
            paths=[self.paths[index] for index in indices],
            data_offsets=self.data_offsets[indices],
            num_samples=self.num_samples[indices],
            probes=self.probes[indices],
            labels=self.labels[indices],
        )

    def names(self, clip_dir: str) -> list[str]:
        """The paths relative to a folder."""
        return [os.path.relpath(path, clip_dir) for path in self.paths]

    def identity(self, clip_dir: str) -> dict[str, int]:
        """What distinguishes these clips and labels from others, in any order.

        Args:
          clip_dir: folder of the clips. Their names are relative to it, so that it can
            move.

        Returns:
          The number of clips, and CRC-32s of their names, lengths, samples (see
          `wav.probe`) and labels, by what they are of.
        """
        names = self.names(clip_dir)
        order = sorted(range(len(names)), key=names.__getitem__)
        values = {
            "names": os.fsencode("\0".join(sorted(names))),
            "lengths": self.num_samples[order].tobytes(),
            "samples": self.probes[order].tobytes(),
            "labels": self.labels[order].tobytes(),
        }
        checksums = {name: zlib.crc32(value) for name, value in values.items()}
        return {"clips": len(names)} | checksums


def read_class_map(path: str) -> list[str]:
    """Reads the C class names of a class map: lines `index,name`, from 0 to C-1.

    Raises:
      UserError: the file does not exist, or is not a class map; the message lists all
        invalid lines.
    """
    names, known, problems = [], set(), []
    for line, fields in read_records(path, "--class_map_path"):
        where, got = f"{path}:{line}", shown(fields)
        index, name = fields[0].strip(), composed(fields[-1].strip())
        if index == FILE_COLUMN:
            raise UserError(*[f"{where}: got {got}; this is a CSV of clips"])
        if name != printable(name):
            problems.append(
                f"{where}: expected the name of a class without control characters, "
                f"but got {name!r}"
            )
        if len(fields) != 2 or not index.isdecimal() or not name:
            problems.append(f"{where}: expected {len(names)},name but got {got}")
            continue
        if index != str(len(names)):
            problems.append(f"{where}: expected index {len(names)}, but got '{index}'")
        if name in known:
            problems.append(f"{where}: class {name} appears twice")
        if name == BACKGROUND:
            problems.append(f"{where}: {name} is the label of clips that have no class")
        names.append(name)
        known.add(name)
    if not names and not problems:
        problems.append(f"{path}: empty; expected index,name lines")
    if problems:
        raise UserError(*problems)
    return names


def read_clips(
    *,
    csv_path: str,
    clip_dir: str,
    class_map_path: str,
    flag_prefix: str,
    check_class_map: Callable[[Sequence[str]], None],
) -> tuple[list[str], Clips]:
    """Reads and checks a labelled set of N clips: class map, CSV, every WAV header.

    Args:
      csv_path: CSV of clips and labels.
      clip_dir: folder that the names in the CSV are relative to.
      class_map_path: class map with all the labels.
      flag_prefix: "train" or "eval", for the names of flags in messages.
      check_class_map: raises a UserError if the checkpoints have other classes.

    Returns:
      The C class names, and the table of clips in the order of the CSV.

    Raises:
      UserError: a file is invalid; the message lists all problems of all files.
    """
    problems, class_names, rows = [], [], []
    with _collected(problems):
        class_names = read_class_map(class_map_path)
        check_class_map(class_names)
    with _collected(problems):
        contents = read_file(csv_path, f"--{flag_prefix}_csv_path")
        _, rows, row_problems = parse_rows(contents, csv_path)
        problems += row_problems
    if class_names:
        class_map = f"class map {class_map_path}"
        problems += label_problems(rows, class_names, csv_path, class_map)
    paths = [os.path.join(clip_dir, row.fname) for row in rows]
    headers = []
    with _collected(problems):
        _check_folder(clip_dir, paths, f"--{flag_prefix}_clip_dir")
        headers = wav.read_wav_headers(paths)
    problems += [
        f"{csv_path}:{row.line}: {header}"
        for row, header in zip(rows, headers)
        if isinstance(header, UserError)
    ]
    if problems:
        raise UserError(*problems)
    return class_names, make_clips(paths, headers, label_matrix(rows, class_names))


def _check_folder(clip_dir: str, paths: Sequence[str], flag: str) -> None:
    """Checks that a folder exists and contains at least one of the clips."""
    if not os.path.isdir(clip_dir):
        raise UserError(f"{flag}: there is no folder {clip_dir}")
    if paths and not any(map(os.path.exists, paths)):
        raise UserError(
            f"{flag}: none of the {len(paths)} clips is in {clip_dir}; the first is "
            f"{paths[0]}"
        )


@contextlib.contextmanager
def _collected(problems: list[str]) -> Iterator[None]:
    """Adds the problems of a UserError in the block to a list."""
    try:
        yield
    except UserError as error:
        problems += error.problems


def label_matrix(rows: Sequence[Row], class_names: Sequence[str]) -> np.ndarray:
    """Returns float32 [N, C], 1.0 for each label of each of N rows, else 0.0."""
    indices = {name: index for index, name in enumerate(class_names)}
    labels = np.zeros([len(rows), len(class_names)], np.float32)
    for row, values in zip(rows, labels):
        values[[indices[name] for name in row.labels if name in indices]] = 1
    return labels


def label_problems(
    rows: Sequence[Row], class_names: Sequence[str], csv_path: str, source: str
) -> list[str]:
    """Returns a problem for each label that is not a class; `source` names these."""
    known, unknown = set(class_names), {}
    for row in rows:
        for label in set(row.labels) - known - {BACKGROUND}:
            unknown.setdefault(label, []).append(row)
    return [
        f"{csv_path}:{found[0].line}: label {label} of {found[0].fname} is not in the "
        f"{source} ({counted(len(found), 'clip')} in all)"
        for label, found in unknown.items()
    ]


def make_clips(
    paths: Sequence[str], headers: Sequence[wav.WavHeader], labels: np.ndarray
) -> Clips:
    """Creates a table from N paths, headers and labels."""
    table = np.array(headers, np.int64).reshape(-1, len(wav.WavHeader._fields))
    return Clips(list(paths), *table.T, labels)
