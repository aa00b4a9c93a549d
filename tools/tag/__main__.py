"""Tags recordings of any format and length with a trained tagger.

    python -m tools.tag runs/first meeting.mp3 field_recordings/
    python -m tools.tag runs/first --segments tags.csv --audacity labels night.flac
    python -m tools.tag runs/first field_recordings/ --archive field.db
    python -m tools.tag --archive field.db --segments tags.csv --files files.csv

The first argument is a checkpoint, model.ckpt-N, a train_dir for its newest one, or
best:EVAL_DIR. The others are sound files, folders, or patterns such as "*.mp3". For
each file, this prints the classes with the highest scores, averaged over the recording.
Flags select further results: detections with their times as a CSV, label tracks for
Audacity, pictures, and embeddings.

With --archive, scores and embeddings are added to a database, file by file. The same
command continues after an interruption. Without a checkpoint, the tables are written
from the archive.

A file that cannot be read is reported. The others are tagged, and the exit status is 1.
"""

import sys
from collections.abc import Sequence

import numpy as np
from absl import flags

from recordings.archive import Archive, Settings
from recordings.calibration import read_calibrations
from recordings.class_tables import ByClass, ordered
from recordings.decoding import Sound, find_files
from recordings.thresholds import Rule
from tagger.errors import UserError
from tagger.hparams import parse_overrides
from tagger.runs.checkpoint_files import describe
from tagger.terminal import program
from tagger.terminal.progress import counted
from tools.tag import rule_flags
from tools.tag.archived import tag_to_archive, write_archive_tables
from tools.tag.results import Outputs, check_names, check_outputs, tag_files
from tools.tag.scoring import Tagger, load

FLAGS = flags.FLAGS
DEFAULT_TOP = 5


def define_flags() -> None:
    """Defines the flags of this program."""
    flags.DEFINE_integer(
        "top",
        None,
        "Classes to print for each file; 0: print the progress instead. The default is "
        "5, or 0 with --archive.",
        lower_bound=0,
    )
    flags.DEFINE_string("archive", "", "Database of scores and embeddings to add to.")
    flags.DEFINE_bool(
        "retry_failed", False, "With --archive, try files again that failed before."
    )
    rule_flags.define_flags()
    flags.DEFINE_string(
        "calibration",
        "",
        "CSV of tools.report --calibration: print the probability of each class, too, "
        "and write it to --files.",
    )
    flags.DEFINE_string("segments", "", "CSV to write: one row per detection.")
    flags.DEFINE_string("files", "", "CSV to write: one row per file that was tried.")
    flags.DEFINE_string("raven", "", "Selection table to write for Raven, a .txt file.")
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
    # A forgotten file name must not overwrite a recording.
    for name, suffix in (
        *(("segments", ".csv"), ("files", ".csv"), ("raven", ".txt")),
        ("embeddings", ".npz"),
    ):
        flags.register_validator(
            name,
            lambda path, suffix=suffix: not path or path.endswith(suffix),
            message=f"must end with {suffix}",
        )


def main(argv: Sequence[str]) -> int:
    """Runs the program; returns the exit status."""
    outputs = Outputs(*(FLAGS[name].value for name in Outputs._fields))
    _check_flags(argv, outputs)
    hparam_overrides = parse_overrides(FLAGS.hparams)
    given, calibrations = rule_flags.read_flags(), None
    if FLAGS.calibration:
        calibrations = read_calibrations(FLAGS.calibration, "--calibration")
    check_outputs(outputs, replace=bool(FLAGS.archive))
    if len(argv) == 1:
        with Archive(FLAGS.archive) as archive:
            settings = archive.settings
            names, checkpoint = settings.class_names, settings.description
            rule = rule_flags.rule_for(given, names, checkpoint)
            calibrations = _calibrations(calibrations, names, checkpoint)
            write_archive_tables(archive, outputs, rule, calibrations)
        return 0
    found = find_files(argv[2:])
    check_names(outputs, found)
    program.start_tensorflow()
    from tagger.runs.run import Run

    prefix = Run.find(argv[1], "CHECKPOINT").prefix
    tagger = load(
        prefix,
        class_map_path=FLAGS.class_map_path,
        hparam_overrides=hparam_overrides,
        mixed_precision=FLAGS.mixed_precision,
    )
    checkpoint = describe(prefix)
    rule = rule_flags.rule_for(given, tagger.class_names, checkpoint)
    calibrations = _calibrations(calibrations, tagger.class_names, checkpoint)
    tagger = tagger._replace(calibrations=calibrations)
    num_failed = _tag(found, tagger, outputs, rule, prefix)
    if num_failed:
        print(f"{num_failed} of {counted(len(found), 'file')} failed", file=sys.stderr)
    return 1 if num_failed else 0


def _check_flags(argv: Sequence[str], outputs: Outputs) -> None:
    """Checks which flags are given together.

    Raises:
      UserError: they exclude one another.
    """
    only_archive = len(argv) == 1
    if len(argv) < 3 and not (FLAGS.archive and only_archive):
        raise UserError(
            "expected a checkpoint and at least one file, or only --archive; see --help"
        )
    if FLAGS.calibration and not outputs.files and (only_archive or not _top()):
        raise UserError("--calibration needs --files, or classes to print, --top")
    if only_archive and not any(outputs):
        raise UserError("expected a table to write from --archive; see --help")
    if FLAGS.archive:
        for name in ("embeddings", "plot"):
            if getattr(outputs, name):
                raise UserError(f"--{name} cannot be used together with --archive")
    elif FLAGS.retry_failed:
        raise UserError("--retry_failed needs --archive")


def _top() -> int:
    """The number of classes to print for each file."""
    if FLAGS.top is None:
        return 0 if FLAGS.archive else DEFAULT_TOP
    return FLAGS.top


def _calibrations(
    by_class: ByClass | None, class_names: Sequence[str], checkpoint: str
) -> np.ndarray | None:
    """The calibrations of C classes, float64 [C, 2], if there is a CSV.

    Raises:
      UserError: see `class_tables.ordered`.
    """
    if by_class is None:
        return None
    values = ordered(by_class, class_names, "--calibration", "row")
    by_class.report_other_checkpoint(checkpoint)
    return np.array(values)


def _tag(
    found: Sequence[Sound],
    tagger: Tagger,
    outputs: Outputs,
    rule: Rule,
    prefix: str,
) -> int:
    """Tags files, and writes the results; returns the number of files that failed."""
    top = _top()
    if top and tagger.calibrations is not None:
        print("p is the probability of the class; -: no calibration", file=sys.stderr)
    if FLAGS.archive:
        settings = Settings.of(
            prefix, tagger.class_names, tagger.hparams, FLAGS.mixed_precision
        )
        with Archive(FLAGS.archive, settings) as archive:
            num_failed = tag_to_archive(
                found, tagger, archive, retry_failed=FLAGS.retry_failed, top=top
            )
            write_archive_tables(archive, outputs, rule, tagger.calibrations)
        return num_failed
    if top and FLAGS.thresholds:
        print("* marks scores that reach the threshold of the class", file=sys.stderr)
    return tag_files(found, tagger, outputs, rule=rule, top=top)


if __name__ == "__main__":
    define_flags()
    program.run(main)
