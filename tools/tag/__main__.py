"""Tags recordings of any format and length with a trained tagger.

    python -m tools.tag runs/first meeting.mp3 field_recordings/
    python -m tools.tag runs/first --segments tags.csv --audacity labels night.flac

The first argument is a checkpoint, model.ckpt-N, a train_dir for its newest one, or
best:EVAL_DIR. The others are sound files, folders, or patterns such as "*.mp3". For
each file, this prints the classes with the highest scores, averaged over the recording.
Flags select further results: detections with their times as a CSV, label tracks for
Audacity, pictures, and embeddings.

A file that cannot be read is reported. The others are tagged, and the exit status is 1.
"""

import math
import sys
from collections.abc import Sequence

from absl import flags

from recordings.decoding import find_files
from recordings.thresholds import (
    DEFAULT_THRESHOLD,
    Rule,
    order_thresholds,
    read_thresholds,
    report_other_checkpoint,
)
from tagger.errors import UserError
from tagger.hparams import parse_overrides
from tagger.runs.checkpoint_files import describe
from tagger.terminal import program
from tagger.terminal.progress import counted
from tools.tag.results import Outputs, check_outputs, tag_files
from tools.tag.scoring import load

FLAGS = flags.FLAGS


def define_flags() -> None:
    """Defines the flags of this program."""
    flags.DEFINE_integer("top", 5, "Classes to print for each file.", lower_bound=1)
    flags.DEFINE_float(
        "threshold", DEFAULT_THRESHOLD, "Lowest score of a detection.", 0, 1
    )
    flags.DEFINE_string(
        "thresholds",
        "",
        "CSV with the threshold of each class, as tools.report writes it; instead of "
        "--threshold.",
    )
    flags.DEFINE_string("segments", "", "CSV to write: one row per detection.")
    flags.DEFINE_string("audacity", "", "Folder to write a label track per file to.")
    flags.DEFINE_string("plot", "", "Folder to write a picture per file to.")
    flags.DEFINE_string("embeddings", "", "NPZ file to write: a row per example.")
    flags.DEFINE_string("class_map_path", "", "Class map, if there is no hparams.json.")
    flags.DEFINE_string("hparams", "", "name=value,..., if there is no hparams.json.")
    flags.DEFINE_bool(
        "mixed_precision",
        False,
        "Compute convolutions in bfloat16, for hardware that supports it.",
    )
    flags.register_validator(
        "threshold", lambda score: not math.isnan(score), message="must be a number"
    )
    # A forgotten file name must not overwrite a recording.
    for name, suffix in (("segments", ".csv"), ("embeddings", ".npz")):
        flags.register_validator(
            name,
            lambda path, suffix=suffix: not path or path.endswith(suffix),
            message=f"must end with {suffix}",
        )


def main(argv: Sequence[str]) -> int:
    """Runs the program; returns the exit status."""
    if len(argv) < 3:
        raise UserError("expected a checkpoint and at least one file; see --help")
    hparam_overrides = parse_overrides(FLAGS.hparams)
    by_class = None
    if FLAGS.thresholds:
        if FLAGS["threshold"].present:
            raise UserError("--thresholds replaces --threshold; give only one of them")
        by_class = read_thresholds(FLAGS.thresholds, "--thresholds")
    found = find_files(argv[2:])
    outputs = Outputs(*(FLAGS[name].value for name in Outputs._fields))
    check_outputs(outputs, found)
    program.start_tensorflow()
    from tagger.runs.run import Run

    checkpoint = Run.find(argv[1], "CHECKPOINT")
    tagger = load(
        checkpoint,
        class_map_path=FLAGS.class_map_path,
        hparam_overrides=hparam_overrides,
        mixed_precision=FLAGS.mixed_precision,
    )
    rule = Rule(FLAGS.threshold)
    if by_class is not None:
        rule = order_thresholds(by_class, tagger.class_names, "--thresholds")
        own = describe(checkpoint.prefix)
        report_other_checkpoint(FLAGS.thresholds, own, "--thresholds")
        print("* marks scores that reach the threshold of the class", file=sys.stderr)
    num_failed = tag_files(found, tagger, outputs, rule=rule, top=FLAGS.top)
    if num_failed:
        print(f"{num_failed} of {counted(len(found), 'file')} failed", file=sys.stderr)
    return 1 if num_failed else 0


if __name__ == "__main__":
    define_flags()
    program.run(main)
