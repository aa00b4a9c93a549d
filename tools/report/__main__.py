"""Writes a page about an evaluation: for which classes and clips it is wrong, and how.

    python -m tools.report runs/first/eval --clip_dir train_curated
    python -m tools.report runs/first/eval --clip_dir clips --against runs/second/eval

The argument is an --eval_dir of runner.py, or the --out of tools.score. This writes
report.html and thresholds.csv to it. The page works offline. It has the lwlrap of all
steps, and for the best step: a table and curves of the classes, the pairs of classes
that are most often confused, and the clips with the lowest precision, each with a
player. With --against, it compares the lwlrap of each class with that of another
evaluation of the same clips. thresholds.csv has the threshold of the highest F1 of each
class. Values from fewer than ten clips are marked. --calibration writes how scores
become probabilities.
"""

import os
import pathlib
import sys
from collections.abc import Sequence

import numpy as np
from absl import flags

from recordings.calibration import COLUMNS, COUNT_COLUMNS, calibrate
from recordings.class_tables import CHECKPOINT_COLUMN
from recordings.thresholds import (
    PRECISION_FILE,
    THRESHOLDS_FILE,
    Rule,
    order_thresholds,
    read_thresholds,
    write_thresholds,
)
from tagger.data.csv_files import write_csv
from tagger.errors import UserError
from tagger.terminal import program
from tagger.terminal.files import make_folder, write_whole
from tagger.terminal.progress import counted, print_result
from tools.report.detections import find_detections, precision_thresholds
from tools.report.diagnosis import (
    FEW_CLIPS,
    Evaluation,
    class_results,
    read_evaluation,
)
from tools.report.page import make_page

FLAGS = flags.FLAGS


def define_flags() -> None:
    """Defines the flags of this program."""
    flags.DEFINE_string(
        "clip_dir", "", "Folder of the evaluated clips. Empty: the page has no players."
    )
    flags.DEFINE_string(
        "against", "", "Another --eval_dir with results for the same clips, to compare."
    )
    flags.DEFINE_float(
        "precision", 0.9, "Precision of the thresholds in a second CSV.", 0, 1
    )
    flags.DEFINE_string(
        "thresholds",
        "",
        "CSV of thresholds to show, instead of those with this precision.",
    )
    flags.DEFINE_string(
        "calibration",
        "",
        "CSV to write: how the scores of each class become probabilities, for "
        "tools.tag.",
    )
    flags.register_validator(
        "calibration",
        lambda path: not path or path.endswith(".csv"),
        message="must end with .csv",
    )


def write_calibrations(path: str, evaluation: Evaluation) -> None:
    """Calibrates each class, writes a CSV, and prints which classes have too few clips.

    Raises:
      UserError: no class has enough clips, or the CSV cannot be written.
    """
    names, rows, few = evaluation.class_names, [], []
    own = [evaluation.checkpoint] if evaluation.checkpoint else []
    for name, labels, scores in zip(names, evaluation.labels.T, evaluation.scores.T):
        values = calibrate(labels, scores, min_clips=FEW_CLIPS).tolist()
        if np.isnan(values).any():
            few.append(name)
            values = ["", ""]
        rows.append([name, *values, len(labels), int(labels.sum()), *own])
    if len(few) == len(names):
        raise UserError(
            f"--calibration: no class has {FEW_CLIPS} clips, and {FEW_CLIPS} others"
        )
    end = [CHECKPOINT_COLUMN] * len(own)
    make_folder(os.path.dirname(path) or ".", "--calibration")
    write_csv(path, [[*COLUMNS, *COUNT_COLUMNS, *end], *rows])
    if few:
        print(
            f"note: no calibration of {counted(len(few), 'class')} with fewer than "
            f"{FEW_CLIPS} clips, or fewer than {FEW_CLIPS} others, such as {few[0]}",
            file=sys.stderr,
        )
    print_result(f"{path} written: {counted(len(rows) - len(few), 'class')}")


def main(argv: Sequence[str]) -> int:
    """Runs the program; returns the exit status."""
    if len(argv) != 2:
        raise UserError("expected one argument, an --eval_dir; see --help")
    eval_dir, clip_dir = argv[1], FLAGS.clip_dir
    if clip_dir and not os.path.isdir(clip_dir):
        raise UserError(f"--clip_dir: there is no folder {clip_dir}")
    evaluation = read_evaluation(eval_dir)
    if clip_dir:
        program.start_tensorflow()
    classes, names = class_results(evaluation), evaluation.class_names
    precise = precision_thresholds(evaluation, FLAGS.precision)
    shown, title = precise, f"Thresholds with a precision of {FLAGS.precision:g}"
    if FLAGS.thresholds:
        by_class = read_thresholds(FLAGS.thresholds, "--thresholds")
        shown = order_thresholds(by_class, names, "--thresholds").threshold
        by_class.report_other_checkpoint(evaluation.checkpoint)
        title = f"Thresholds in {FLAGS.thresholds}"
    page = make_page(
        evaluation,
        classes,
        eval_dir=eval_dir,
        clip_dir=clip_dir,
        thresholds=shown,
        thresholds_title=title,
        against=FLAGS.against,
    )
    path = os.path.join(eval_dir, "report.html")
    write_whole(pathlib.Path(path), page)
    best = {
        result.name: Rule(result.threshold) if result.num_clips else Rule()
        for result in classes
    }
    own = evaluation.checkpoint
    write_thresholds(eval_dir, best, own)
    write_thresholds(
        eval_dir, dict(zip(names, map(Rule, precise))), own, PRECISION_FILE
    )
    print_result(
        f"{path}, {THRESHOLDS_FILE} and {PRECISION_FILE} written for step "
        f"{evaluation.step}"
    )
    if FLAGS.thresholds:
        *_, total = find_detections(evaluation, shown)
        print_result(f"with {FLAGS.thresholds}: {total}")
    if FLAGS.calibration:
        write_calibrations(FLAGS.calibration, evaluation)
    return 0


if __name__ == "__main__":
    define_flags()
    program.run(main)
