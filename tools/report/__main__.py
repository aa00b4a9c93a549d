"""Writes a page about an evaluation: for which classes and clips it is wrong, and how.

    python -m tools.report runs/first/eval --clip_dir train_curated
    python -m tools.report runs/first/eval --clip_dir clips --against runs/second/eval

The argument is an --eval_dir of runner.py, or the --out of tools.score. This writes
report.html and thresholds.csv to it. The page works offline. It has the lwlrap of all
steps, and for the best step: a table and curves of the classes, the pairs of classes
that are most often confused, and the clips with the lowest precision, each with a
player. With --against, it compares the lwlrap of each class with that of another
evaluation of the same clips. thresholds.csv has the threshold of the highest F1 of each
class. Values from fewer than ten clips are marked.
"""

import os
import pathlib
from collections.abc import Sequence

from absl import flags

from recordings.thresholds import (
    PRECISION_FILE,
    THRESHOLDS_FILE,
    Rule,
    order_thresholds,
    read_thresholds,
    report_other_checkpoint,
    write_thresholds,
)
from tagger.errors import UserError
from tagger.terminal import program
from tagger.terminal.files import write_whole
from tagger.terminal.progress import print_result
from tools.report.detections import precision_thresholds
from tools.report.diagnosis import class_results, read_evaluation
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
        if own := evaluation.checkpoint:
            report_other_checkpoint(FLAGS.thresholds, own, "--thresholds")
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
    return 0


if __name__ == "__main__":
    define_flags()
    program.run(main)
