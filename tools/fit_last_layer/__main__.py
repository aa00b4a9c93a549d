"""Solves the last layer of a trained network for other classes, instead of training it.

    python -m tools.fit_last_layer --checkpoint yamnet \
        --class_map_path my_class_map.csv \
        --train_clip_dir audio --train_csv_path train.csv \
        --train_dir runs/solved

The network of the checkpoint computes the embeddings of all examples once. The last
layer is then a logistic regression for each class, with the labels of its clip for each
example. This takes seconds where training takes minutes or hours.

Cross-validation selects the regularisation. It does not divide recordings. This prints
the lwlrap of the cross-validation, and writes a new train_dir with model.ckpt-0 and
hparams.json, which all other programs read. Training can resume from it.

For a detector of sounds in recordings, add the times of the labels, as
tools.make_dataset --annotations writes them:

    ... --events data/events.csv --eval_dir runs/solved/eval --thresholds thresholds.csv

Each example then has the labels that are heard in it. Mixtures of the events with other
parts of the background are additional examples. --thresholds is written with the
thresholds that detect the events best in the cross-validation.
"""

from collections.abc import Sequence

from absl import flags

from tagger.errors import UserError
from tagger.hparams import parse_overrides
from tagger.options import CHECKPOINT_FORMS
from tagger.terminal import program
from tagger.training import last_layer
from tools.fit_last_layer.fitting import fit_last_layer

FLAGS = flags.FLAGS
REQUIRED = (
    *("checkpoint", "class_map_path", "train_clip_dir", "train_csv_path"),
    "train_dir",
)


def define_flags() -> None:
    """Defines the flags of this program."""
    flags.DEFINE_string(
        "checkpoint", None, f"Checkpoint of the other layers: {CHECKPOINT_FORMS}."
    )
    flags.DEFINE_string(
        "class_map_path", None, "CSV of index,name lines, one for each class."
    )
    flags.DEFINE_string("train_clip_dir", None, "Folder of the WAV clips.")
    flags.DEFINE_string("train_csv_path", None, "CSV of the clips and their labels.")
    flags.DEFINE_string("train_dir", None, "New folder to write to.")
    flags.DEFINE_float(
        "c",
        None,
        "C of scikit-learn's LogisticRegression; smaller values regularise more. "
        "Default: selected by cross-validation.",
    )
    flags.DEFINE_integer(
        "folds",
        last_layer.NUM_FOLDS,
        "Folds of the cross-validation; 0: none, which needs --c.",
        lower_bound=0,
    )
    flags.DEFINE_string(
        "group_by",
        "",
        "Column; rows with the same value in it stay in one fold. Default: recording, "
        "if there is such a column.",
    )
    flags.DEFINE_bool(
        "skip_doubtful",
        False,
        "Leave out clips whose labels the cross-validation contradicts, for data sets "
        "with wrong labels.",
    )
    flags.DEFINE_string(
        "events", "", "CSV with the times of the labels in the clips; see above."
    )
    flags.DEFINE_integer(
        "mixtures",
        2,
        "With --events: how often each part of the background is mixed with events.",
        lower_bound=0,
    )
    flags.DEFINE_string(
        "thresholds", "", "CSV to write, with --events: thresholds of detections."
    )
    flags.DEFINE_float(
        "precision",
        None,
        "Precision of the thresholds in cross-validation. Default: they have the "
        "highest F1.",
        0,
        1,
    )
    flags.DEFINE_string(
        "eval_dir", "", "Folder to write the scores of the cross-validation to."
    )
    flags.DEFINE_string(
        "hparams", "", "name=value,...; they override those of the checkpoint."
    )
    flags.DEFINE_bool("mixed_precision", False, "Compute convolutions in bfloat16.")
    flags.register_validator(
        "c",
        lambda c: c is None or 0 < c < float("inf"),
        message="must be a positive number",
    )


def main(argv: Sequence[str]) -> int:
    """Runs the program; returns the exit status."""
    program.check_no_arguments(argv)
    if FLAGS.folds == 1 or (FLAGS.folds == 0 and FLAGS.c is None):
        raise UserError(
            f"--folds must be at least 2, or 0 with --c, but got {FLAGS.folds}"
        )
    if not FLAGS.events and (FLAGS.thresholds or FLAGS.precision is not None):
        raise UserError("--thresholds and --precision need --events")
    if FLAGS.precision is not None and not FLAGS.thresholds:
        raise UserError("--precision needs --thresholds")
    if FLAGS.folds == 0 and (FLAGS.thresholds or FLAGS.eval_dir or FLAGS.skip_doubtful):
        raise UserError(
            "--thresholds, --eval_dir and --skip_doubtful need cross-validation, not 0 "
            "folds"
        )
    if FLAGS.events and FLAGS.skip_doubtful:
        raise UserError("--skip_doubtful and --events are mutually exclusive")
    hparam_overrides = parse_overrides(FLAGS.hparams)
    program.start_tensorflow()
    fit_last_layer(
        checkpoint=FLAGS.checkpoint,
        class_map_path=FLAGS.class_map_path,
        clip_dir=FLAGS.train_clip_dir,
        csv_path=FLAGS.train_csv_path,
        train_dir=FLAGS.train_dir,
        c=FLAGS.c,
        num_folds=FLAGS.folds,
        group_by=FLAGS.group_by,
        skip_doubtful=FLAGS.skip_doubtful,
        hparam_overrides=hparam_overrides,
        mixed_precision=FLAGS.mixed_precision,
        events_path=FLAGS.events,
        mixtures=FLAGS.mixtures,
        thresholds_path=FLAGS.thresholds,
        precision=FLAGS.precision,
        eval_dir=FLAGS.eval_dir,
    )
    return 0


if __name__ == "__main__":
    define_flags()
    program.run(main, required=REQUIRED)
