"""The flags --threshold and --thresholds: when a class is detected."""

import math
from collections.abc import Sequence

from absl import flags

from recordings.class_tables import ByClass
from recordings.thresholds import (
    DEFAULT_THRESHOLD,
    Rule,
    order_thresholds,
    read_thresholds,
)
from tagger.errors import UserError

FLAGS = flags.FLAGS


def define_flags() -> None:
    """Defines these flags, as those of the program that calls this."""
    flags.disclaim_key_flags()  # Its --help lists them.
    flags.DEFINE_float(
        "threshold", DEFAULT_THRESHOLD, "Lowest score of a detection.", 0, 1
    )
    flags.DEFINE_string(
        "thresholds",
        "",
        "CSV with the threshold of each class, as tools.report writes it; instead of "
        "--threshold.",
    )
    flags.register_validator(
        "threshold", lambda score: not math.isnan(score), message="must be a number"
    )


def read_flags() -> Rule | ByClass:
    """The rule of all classes, or a `Rule` for each class of a CSV.

    Raises:
      UserError: both flags are given, or see `read_thresholds`.
    """
    if not FLAGS.thresholds:
        return Rule(FLAGS.threshold)
    if FLAGS["threshold"].present:
        raise UserError("--thresholds replaces --threshold; give only one of them")
    return read_thresholds(FLAGS.thresholds, "--thresholds")


def rule_for(
    given: Rule | ByClass, class_names: Sequence[str], checkpoint: str
) -> Rule:
    """The rule of all classes, or as arrays [C], of each; warns of those for another
    checkpoint.

    Args:
      given: from `read_flags`.
      class_names: C names.
      checkpoint: the checkpoint in use, see `checkpoint_files.describe`.

    Raises:
      UserError: see `order_thresholds`.
    """
    if isinstance(given, Rule):
        return given
    rule = order_thresholds(given, class_names, "--thresholds")
    given.report_other_checkpoint(checkpoint)
    return rule
