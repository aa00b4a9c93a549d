"""Scores predictions against labels: prints lwlrap per class and overall.

    python -m tools.score submission.csv test.csv
    python -m tools.score submission.csv test_post_competition.csv --where usage=Public

The first argument is a CSV of scores, from --mode inference or from any other program:
the column fname, and a column for each class. The second is a CSV of labels. Rows with
the same fname belong together. Clips without scores, scores of other clips or classes,
repeated rows, and scores that are not finite numbers are errors.

With --out, tools.report can show the result.
"""

import collections
import math
import sys
from collections.abc import Collection, Sequence

import numpy as np
from absl import flags

from tagger.data.clips import label_matrix, label_problems, read_class_map
from tagger.data.csv_files import (
    FILE_COLUMN,
    Row,
    composed,
    read_records,
    read_rows,
    shown,
)
from tagger.errors import UserError
from tagger.metrics.lwlrap import Lwlrap, report_empty_classes
from tagger.runs.eval_folder import EvalFolder
from tagger.terminal import program
from tagger.terminal.files import make_folder
from tagger.terminal.progress import counted, print_result

FLAGS = flags.FLAGS


def define_flags() -> None:
    """Defines the flags of this program."""
    flags.DEFINE_string(
        "where", "", "COLUMN=VALUE: score only clips with this value in the labels CSV."
    )
    flags.DEFINE_string(
        "class_map_path",
        "",
        "Class map. Empty: the classes are the columns of the scores. Their order only "
        "affects clips with equal scores.",
    )
    flags.DEFINE_string(
        "out", "", "Folder to write the result to, for tools.report. Empty: none."
    )


def select_rows(
    rows: Sequence[Row], header: Sequence[str], where: str, path: str
) -> Sequence[Row]:
    """The rows of a CSV with a value in a column.

    Args:
      rows: all rows.
      header: the names of their fields.
      where: COLUMN=VALUE; empty: all rows.
      path: path of the CSV, for messages.

    Raises:
      UserError: there is no such column, or no such row.
    """
    if not where:
        return rows
    column, _, value = where.partition("=")
    if column not in header:
        raise UserError(
            f"--where must be COLUMN=VALUE with a column of {path} "
            f"({shown(header)}), but got {where}"
        )
    index = header.index(column)
    values = [row.fields[index].strip() for row in rows]
    selected = [row for row, own in zip(rows, values) if own == value]
    if not selected:
        raise UserError(
            f"--where: no row of {path} has {where}; there are "
            f"{shown(sorted(set(values)), 'value')}"
        )
    return selected


def read_scores(
    path: str,
    clips: Sequence[str],
    *,
    labelled: Collection[str],
    class_names: Sequence[str],
) -> tuple[list[str], np.ndarray]:
    """Reads the scores of N clips.

    Args:
      path: path of the CSV.
      clips: N names of clips.
      labelled: names of all clips that may have rows.
      class_names: the C classes, in any order in the CSV; empty: all of the CSV.

    Returns:
      The C class names, and float64 [N, C].

    Raises:
      UserError: clips or classes are missing, unknown or repeated, or a score is not a
        finite number. It has one message for each kind of problem, with their number.
    """
    (_, header), *records = read_records(path) or [(1, [""])]
    first, *columns = [composed(name.strip()) for name in header]
    if first != FILE_COLUMN or not columns:
        got = shown(header)
        raise UserError(f"{path}:1: expected a header fname,CLASS,... but got {got}")
    class_names = list(class_names or columns)
    names = [fields[0].strip() for _, fields in records]
    scores, wrong_rows, wrong_cells = {}, [], []
    for name, (line, (_, *cells)) in zip(names, records, strict=True):
        if len(cells) != len(columns):
            wrong_rows.append(f"line {line}")
        scores[name] = [_to_float(cell) for cell in cells]
        wrong_cells += [
            f"{cell!r} for {column} in line {line}"
            for column, cell, score in zip(columns, cells, scores[name])
            if not math.isfinite(score)
        ]
    problems = [
        ("class", "without a column", [n for n in class_names if n not in columns]),
        ("column", "of unknown classes", [n for n in columns if n not in class_names]),
        ("column", "with an earlier name", _repeated(columns)),
        ("row", f"without exactly {len(header)} fields", wrong_rows),
        ("clip", "without a row (see --where)", [n for n in clips if n not in scores]),
        ("row", "of unknown clips", [n for n in scores if n not in labelled]),
        ("row", "of a clip with an earlier row", _repeated(names)),
        ("cell", "without a finite number", wrong_cells),
    ]
    messages = [
        f"{path}: {counted(len(examples), noun)} {what}, e.g. {examples[0]}"
        for noun, what, examples in problems
        if examples
    ]
    if messages:
        raise UserError(*messages)
    order = [columns.index(name) for name in class_names]
    return class_names, np.array([scores[name] for name in clips])[:, order]


def _to_float(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _repeated(names: Sequence[str]) -> list[str]:
    counts = collections.Counter(names)
    return [n for n, count in counts.items() for _ in range(count - 1)]


def write_result(
    directory: str,
    lwlrap: Lwlrap,
    *,
    source: str,
    class_names: Sequence[str],
    clips: Sequence[str],
    labels: np.ndarray,
    scores: np.ndarray,
) -> None:
    """Writes a result as evaluation does. An earlier one of this program is replaced.

    Raises:
      UserError: the folder has other results or cannot be written, or a score is not
        from 0 to 1.
    """
    low, high = scores.min(), scores.max()
    if low < 0 or high > 1:
        raise UserError(
            f"--out needs scores from 0 to 1, but they are from {low:g} to {high:g}"
        )
    make_folder(directory, "--out")
    folder = EvalFolder(directory)
    folder.claim([source])
    folder.write_result(
        0,
        f"{lwlrap}\n",
        class_names=class_names,
        clips=clips,
        labels=labels,
        scores=scores,
    )


def score(
    scores_path: str, labels_path: str, *, where: str, class_map_path: str, out: str
) -> Lwlrap:
    """Scores the predictions in a CSV.

    Args:
      scores_path, labels_path: the CSVs.
      where, class_map_path, out: see the flags; empty: not used.

    Raises:
      UserError: a file or an argument cannot be used.
    """
    class_names = read_class_map(class_map_path) if class_map_path else []
    header, rows = read_rows(labels_path)
    selected = select_rows(rows, header, where, labels_path)
    clips = [row.fname for row in selected]
    labelled = {row.fname for row in rows}
    class_names, scores = read_scores(
        scores_path, clips, labelled=labelled, class_names=class_names
    )
    source = f"classes of {class_map_path or scores_path}"
    if problems := label_problems(selected, class_names, labels_path, source):
        raise UserError(*problems)
    labels = label_matrix(selected, class_names)
    ties = np.count_nonzero((np.diff(np.sort(scores)) == 0).any(axis=1))
    print(
        f"{counted(len(clips), 'clip')}, {counted(len(class_names), 'class')}; "
        f"{counted(ties, 'clip')} with equal scores, of which the last ranks first",
        file=sys.stderr,
    )
    report_empty_classes(labels, class_names)
    lwlrap = Lwlrap(class_names)
    lwlrap.accumulate(labels, scores)
    if out:
        write_result(
            out,
            lwlrap,
            source=scores_path,
            class_names=class_names,
            clips=clips,
            labels=labels,
            scores=scores,
        )
    return lwlrap


def main(argv: Sequence[str]) -> int:
    """Runs the program; returns the exit status."""
    if len(argv) != 3:
        raise UserError(
            "expected two arguments, the CSVs of scores and of labels; see --help"
        )
    lwlrap = score(
        argv[1],
        argv[2],
        where=FLAGS.where,
        class_map_path=FLAGS.class_map_path,
        out=FLAGS.out,
    )
    print_result(str(lwlrap))
    return 0


if __name__ == "__main__":
    define_flags()
    program.run(main)
