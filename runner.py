#!/usr/bin/env python3
"""Trains, evaluates and applies an audio tagger.

The three modes, in the order in which they are used:

1. `--mode train` learns from a folder of WAV clips and a CSV of their labels. It writes
   checkpoints and TensorBoard events to --train_dir.
2. `--mode eval`, at the same time or later, scores every checkpoint in --train_dir on
   labelled clips. It writes the lwlrap of each class and overall to --eval_dir.
3. `--mode inference` scores a folder of clips with a checkpoint. It writes a CSV in
   Kaggle's format.

`--flagfile FILE` reads flags from a file, one `--name=value` per line. Errors are
reported on stderr, one line for each problem, and the exit status is 1.
"""

import dataclasses
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from absl import flags

from tagger import hparams as hparams_lib
from tagger.errors import UserError
from tagger.runs import run_record
from tagger.terminal import program, signals
from tagger.terminal.progress import counted

FLAGS = flags.FLAGS
Options = TypeVar("Options")

# All modes.
flags.DEFINE_enum(
    "mode", None, ["train", "eval", "inference"], "train, eval or inference."
)
flags.DEFINE_enum(
    "model",
    None,
    hparams_lib.MODEL_NAMES,
    f"Name of the model. By default that of the checkpoints, or "
    f"{hparams_lib.MODEL_NAMES[0]}.",
)
flags.DEFINE_string(
    "hparams",
    "",
    "Hyperparameters as name=value,name=value; see docs/reference.md.",
    allow_overwrite=False,  # A second flag would replace the first.
)
flags.DEFINE_string("class_map_path", "", "CSV of index,name lines, one per class.")
flags.DEFINE_bool(
    "mixed_precision",
    False,
    "Compute convolutions in bfloat16, for GPUs from Ampere on and CPUs with bfloat16; "
    "checkpoints stay float32.",
)

# Train and eval.
flags.DEFINE_string(
    "train_dir",
    "",
    "Folder of checkpoints and TensorBoard events; training resumes from its newest "
    "checkpoint.",
)

# Train.
flags.DEFINE_string("train_clip_dir", "", "Folder of the WAV clips to train on.")
flags.DEFINE_string(
    "train_csv_path", "", "CSV of the clips to train on and their labels."
)
flags.DEFINE_integer(
    "epoch_num_batches",
    0,
    "Batches per epoch, for lrdecay; 0: computed from the WAV headers.",
    lower_bound=0,
    upper_bound=2**31,
)
flags.DEFINE_string(
    "warmstart_checkpoint",
    "",
    "Checkpoint to take weights from: model.ckpt-N, a train_dir for its newest one, or "
    "best:EVAL_DIR for the best one of an evaluation. Needs --hparams warmstart=1.",
)
flags.DEFINE_list(
    "warmstart_include_scopes",
    [],
    "Variables to warm-start: regular expressions, matched from the start of their "
    "names. Empty: all.",
)
flags.DEFINE_list(
    "warmstart_exclude_scopes",
    [],
    "Included variables not to warm-start, in the same form. Empty: none.",
)
flags.DEFINE_bool(
    "warmstart_moving_averages",
    False,
    "Warm-start the moving averages of batch norm, too.",
)
flags.DEFINE_list(
    "train_scopes",
    [],
    "Variables to train, in the same form. All layers and batch norms without such a "
    "variable are frozen. Empty: all are trained.",
)
flags.DEFINE_integer(
    "max_steps",
    0,
    "Total number of steps (batches) to train; 0: 1000 passes over the data.",
    lower_bound=0,
)
flags.DEFINE_integer(
    "checkpoint_steps",
    100,
    "Steps between checkpoints. Checkpoints are also saved at step 0 and at the end.",
    lower_bound=1,
)
flags.DEFINE_integer(
    "keep_checkpoints",
    0,
    "Keep only this number of the newest checkpoints, plus the one that training "
    "resumed from and the best one of each evaluation whose eval_dir is inside "
    "train_dir; 0: as in the original, the newest 10,000 and one per 15 minutes.",
    lower_bound=0,
)
flags.DEFINE_integer(
    "summary_steps", 10, "Steps between values in TensorBoard.", lower_bound=1
)
flags.DEFINE_integer(
    "seed",
    None,
    "Seed. Runs with the same seed give the same losses and weights on one machine.",
    lower_bound=0,
    upper_bound=hparams_lib.MAX_SEED - 1,
)
flags.DEFINE_list(
    "devices",
    [],
    "Devices that train together, such as GPU:0,GPU:1. Empty: all GPUs, or the CPU.",
)
flags.DEFINE_string(
    "data_service",
    "",
    "grpc://host:port of the dispatcher of a tf.data service (tools.data_service) that "
    "computes the features. Empty: this process computes them.",
)

# Eval.
flags.DEFINE_string("eval_clip_dir", "", "Folder of the WAV clips to evaluate on.")
flags.DEFINE_string(
    "eval_csv_path", "", "CSV of the clips to evaluate on and their labels."
)
flags.DEFINE_string("eval_dir", "", "Folder for the results and TensorBoard events.")
flags.DEFINE_integer(
    "eval_every_k", 1, "Evaluate every k-th checkpoint.", lower_bound=1
)
flags.DEFINE_string(
    "eval_shard",
    "0/1",
    "i/n: evaluate only part i of n, i from 0 to n-1: every n-th checkpoint.",
)
flags.DEFINE_integer(
    "eval_timeout_secs",
    600,
    "Seconds to wait for a new checkpoint; 0: evaluate the existing ones and exit; -1: "
    "wait without limit.",
    lower_bound=-1,
)

# Inference.
flags.DEFINE_string("inference_clip_dir", "", "Folder of the *.wav clips to score.")
flags.DEFINE_list(
    "inference_checkpoint",
    [],
    "Checkpoint to use: model.ckpt-N, a train_dir for its newest one, or best:EVAL_DIR "
    "for the best one of an evaluation. The scores of several, separated by commas, "
    "are averaged.",
)
flags.DEFINE_string("predictions_csv_path", "", "CSV to write the scores to.")
flags.DEFINE_string(
    "inference_shard",
    "0/1",
    "i/n: score only part i of n, i from 0 to n-1: every n-th clip. The CSV is named "
    "X-i-of-n.csv; tools.join_predictions joins the parts.",
)

REQUIRED = {
    "train": ("class_map_path", "train_clip_dir", "train_csv_path", "train_dir"),
    "eval": (
        "class_map_path",
        "eval_clip_dir",
        "eval_csv_path",
        "train_dir",
        "eval_dir",
    ),
    "inference": (
        "class_map_path",
        "inference_clip_dir",
        "inference_checkpoint",
        "predictions_csv_path",
    ),
}
WARM_START = (
    "warmstart_checkpoint",
    "warmstart_include_scopes",
    "warmstart_exclude_scopes",
    "warmstart_moving_averages",
)


@flags.validator("hparams")
def _check_hparams(text: str) -> bool:
    try:
        hparams_lib.parse_overrides(text)
    except UserError as error:
        raise flags.ValidationError(str(error)) from None
    return True


@flags.validator(
    "devices",
    message="must be different GPUs, such as GPU:0,GPU:1, or parts of the CPU, such as "
    "CPU:0",
)
def _check_devices(devices: Sequence[str]) -> bool:
    different = len(set(devices)) == len(devices)
    one_kind = len({name[:3] for name in devices}) <= 1
    known = all(re.fullmatch(r"(CPU|GPU):(0|[1-9]\d{0,2})", name) for name in devices)
    return different and one_kind and known


@flags.validator("data_service", message="must be grpc://host:port")
def _check_data_service(address: str) -> bool:
    return not address or bool(re.fullmatch(r"grpc://[^/]+:\d{1,5}", address))


def _is_shard(text: str) -> bool:
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    return bool(match) and int(match[1]) < int(match[2])


for name in ("inference_checkpoint", "train_scopes", *WARM_START[1:3]):
    flags.register_validator(name, all, message="must not have empty parts")
for name in ("eval_shard", "inference_shard"):
    flags.register_validator(
        name, _is_shard, message="must be i/n with i from 0 to n-1, such as 0/4"
    )


def _parse_shard(text: str) -> tuple[int, int]:
    shard, num_shards = text.split("/")
    return int(shard), int(num_shards)


# Functions that convert the values of flags to the values that the modes use.
PARSERS: Mapping[str, Callable[[str], Any]] = {
    "hparams": hparams_lib.parse_overrides,
    "eval_shard": _parse_shard,
    "inference_shard": _parse_shard,
}


def check_flags() -> None:
    """Checks the flags, before any clip is read and before TensorFlow is imported.

    Raises:
      UserError: flags are missing or contradict each other; the message names them.
    """
    if FLAGS.mode is None:
        raise UserError(
            f"--mode must be one of {', '.join(REQUIRED)}; --help lists all flags"
        )
    missing = [f"--{name}" for name in REQUIRED[FLAGS.mode] if not FLAGS[name].value]
    if missing:
        raise UserError(f"--mode {FLAGS.mode} needs {', '.join(missing)}")
    if FLAGS.mode != "train":
        return
    overrides = hparams_lib.parse_overrides(FLAGS.hparams)
    record = run_record.read_record(FLAGS.train_dir)
    try:  # to use them together
        hparams_lib.model_hparams(FLAGS.model or hparams_lib.MODEL_NAMES[0], overrides)
    except UserError:
        if record is None:
            raise
        # They may fit together with those of the run that is resumed.
        dataclasses.replace(record.hparams, **overrides)
    warmstart = overrides.get("warmstart")
    if warmstart and not FLAGS.warmstart_checkpoint:
        raise UserError("--hparams warmstart=1 needs --warmstart_checkpoint")
    for name in WARM_START:
        if FLAGS[name].value and not warmstart:
            raise UserError(f"--{name} needs --hparams warmstart=1")
    if overrides.get("bn_ramp") and FLAGS.warmstart_moving_averages:
        raise UserError(
            "--hparams bn_ramp=1 would soon replace the moving averages that "
            "--warmstart_moving_averages restores"
        )
    if warmstart and FLAGS.train_scopes and not FLAGS.warmstart_moving_averages:
        raise UserError(
            "--train_scopes needs --warmstart_moving_averages, because frozen layers "
            "use their moving averages"
        )


def make_options(options_class: type[Options]) -> Options:
    """The options of a mode, from its flags.

    Flags of other modes are reported on stderr.

    Args:
      options_class: a dataclass whose fields have the names of flags.
    """
    names = [field.name for field in dataclasses.fields(options_class)]
    for flag in FLAGS.get_key_flags_for_module(sys.modules[__name__]):
        if flag.present and flag.name not in ("mode", *names):
            print(
                f"warning: --{flag.name} has no effect in --mode {FLAGS.mode}",
                file=sys.stderr,
            )
    values = {name: FLAGS[name].value for name in names}
    for name in PARSERS.keys() & values.keys():
        values[name] = PARSERS[name](values[name])
    return options_class(**values)


def run_train() -> int:
    """Calls train.train with the flags; returns the exit status."""
    import train

    stopped_by = train.train(make_options(train.Options))
    return signals.exit_status(stopped_by) if stopped_by else 0


def run_eval() -> int:
    """Calls evaluation.evaluate with the flags; returns the exit status."""
    import evaluation

    evaluation.evaluate(make_options(evaluation.Options))
    return 0


def run_inference() -> int:
    """Calls inference.predict with the flags; returns the exit status."""
    import inference

    problems = inference.predict(make_options(inference.Options))
    if problems:
        print(
            f"error: {counted(len(problems), 'clip')} could not be read; all scores of "
            f"these clips are 0:",
            *problems,
            sep="\n",
            file=sys.stderr,
        )
    return 1 if problems else 0


def main(argv: Sequence[str]) -> int:
    """Runs the mode that --mode selects; returns the exit status.

    Raises:
      UserError: the mode failed; the message says why.
    """
    program.check_no_arguments(argv)
    check_flags()
    program.start_tensorflow()
    run = {"train": run_train, "eval": run_eval, "inference": run_inference}
    return run[FLAGS.mode]()


if __name__ == "__main__":
    program.run(main, lossy_stdout=True)  # The results are in files.
