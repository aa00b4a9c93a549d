"""Trains, evaluates and applies an audio tagger.

The three modes, in the order in which they are used:

1. `--mode train` learns from a folder of WAV clips and a CSV of their labels, and
   writes checkpoints and TensorBoard's loss into --train_dir.
2. `--mode eval`, at the same time or later, scores every checkpoint in --train_dir on
   labelled clips, and writes lwlrap per class and overall into --eval_dir.
3. `--mode inference` scores a folder of clips with a checkpoint, and writes a CSV as
   Kaggle takes it.

`--help` lists the flags by mode. An error is one line (or one line a problem) on stderr
and exit status 1.
"""

import itertools
import os
import re
import signal
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from absl import flags

from tagger import hparams as hparams_lib
from tagger import signals


class Flag(NamedTuple):
    """A flag: its name, default (whose type is the flag's), help and lowest value."""

    name: str
    default: str | int | bool | None
    help: str
    low: int | None = None


ALL_MODES = "All modes"
TRAIN = "--mode train"
TRAIN_AND_EVAL = "--mode train and --mode eval"
EVAL = "--mode eval"
INFERENCE = "--mode inference"
FLAGS = {
    ALL_MODES: (
        Flag("mode", "", "What to do: train, eval or inference."),
        Flag("model", "mobilenet-v1", "Name of the model; there is mobilenet-v1."),
        Flag(
            "hparams",
            "",
            "Hyperparameters as name=value,name=value; see docs/reference.md.",
        ),
        Flag("class_map_path", "", "CSV of index,name lines, one for each class."),
        Flag(
            "mixed_precision",
            False,
            "Compute convolutions in bfloat16, for GPUs from Ampere on and CPUs with "
            "bfloat16; checkpoints stay float32.",
        ),
    ),
    TRAIN_AND_EVAL: (
        Flag(
            "train_dir",
            "",
            "Folder of checkpoints and TensorBoard's events; where it holds "
            "checkpoints, training resumes from the newest.",
        ),
    ),
    TRAIN: (
        Flag("train_clip_dir", "", "Folder of the WAV clips to train on."),
        Flag("train_csv_path", "", "CSV of the clips to train on and their labels."),
        Flag(
            "epoch_num_batches",
            0,
            "Batches in an epoch, for lrdecay; 0: count them from the WAV headers.",
            0,
        ),
        Flag(
            "warmstart_checkpoint",
            "",
            "model.ckpt-N, or a train_dir (its newest), to take weights from; with "
            "--hparams warmstart=1.",
        ),
        Flag(
            "warmstart_include_scopes",
            "",
            "Comma-separated regular expressions, matched from the start of variables' "
            "names: the variables to warm-start. Empty: all.",
        ),
        Flag(
            "warmstart_exclude_scopes",
            "",
            "Likewise, the variables not to warm-start, of those included. Empty: "
            "none.",
        ),
        Flag(
            "max_steps",
            0,
            "Stop after so many steps (batches) in all; 0: 1000 passes over the data.",
            0,
        ),
        Flag(
            "checkpoint_steps",
            100,
            "A checkpoint every so many steps; also at step 0 and at the end.",
            1,
        ),
        Flag("summary_steps", 10, "TensorBoard's scalars every so many steps.", 1),
        Flag(
            "seed",
            None,
            "Runs with one seed give the same losses and weights on one machine.",
            0,
        ),
        Flag(
            "devices",
            "",
            "Comma-separated devices that train together, such as GPU:0,GPU:1. Empty: "
            "all GPUs, or else the CPU.",
        ),
        Flag(
            "data_service",
            "",
            "grpc://host:port of a tf.data service's dispatcher (tools.data_service), "
            "whose workers compute the features. Empty: computed here.",
        ),
    ),
    EVAL: (
        Flag("eval_clip_dir", "", "Folder of the WAV clips to evaluate on."),
        Flag("eval_csv_path", "", "CSV of the clips to evaluate on and their labels."),
        Flag("eval_dir", "", "Folder for the results and TensorBoard's events."),
        Flag("eval_every_k", 1, "Look at every k-th checkpoint.", 1),
        Flag(
            "eval_shard",
            "0/1",
            "i/n: this evaluator takes every n-th checkpoint, i from 0 to n-1.",
        ),
        Flag(
            "eval_timeout_secs",
            600,
            "Seconds to wait for a new checkpoint; 0: evaluate what is there and "
            "leave; -1: wait for ever.",
            -1,
        ),
    ),
    INFERENCE: (
        Flag("inference_clip_dir", "", "Folder whose *.wav clips to score."),
        Flag(
            "inference_checkpoint",
            "",
            "model.ckpt-N, or a train_dir (its newest), or several of them, "
            "comma-separated: their scores are averaged.",
        ),
        Flag("predictions_csv_path", "", "CSV to write the scores to."),
        Flag(
            "inference_shard",
            "0/1",
            "i/n: score every n-th clip only, i from 0 to n-1, into X-i-of-n.csv; "
            "tools.join_predictions joins the parts.",
        ),
    ),
}
MODES = {
    "train": (ALL_MODES, TRAIN_AND_EVAL, TRAIN),
    "eval": (ALL_MODES, TRAIN_AND_EVAL, EVAL),
    "inference": (ALL_MODES, INFERENCE),
}
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
HELP_WIDTH = 88
MAX_INTEGER = 2**31 - 1  # of a flag
CLEARER = {  # than what absl says
    "invalid literal for int.*: ": "expected a whole number: ",
    "flag (--[a-z_]+)=.*: already defined as .*": r"\1 is given twice; join its values "
    "by commas",
}


def define_flags(flag_groups: Mapping[str, Sequence[Flag]]) -> flags.FlagValues:
    """Declares the flags of a table such as FLAGS, and --help."""
    values = flags.FlagValues()
    flags.DEFINE_boolean("help", False, "Show this help.", flag_values=values)
    for flag in itertools.chain(*flag_groups.values()):
        if isinstance(flag.default, bool):
            flags.DEFINE_boolean(flag.name, flag.default, flag.help, flag_values=values)
        elif isinstance(flag.default, str):
            flags.DEFINE_string(
                flag.name,
                flag.default,
                flag.help,
                flag_values=values,
                allow_overwrite=flag.name != "hparams",  # Half of them would be lost.
            )
        else:
            flags.DEFINE_integer(
                flag.name,
                flag.default,
                flag.help,
                flag.low,
                MAX_INTEGER,
                flag_values=values,
            )
    return values


def help_text(introduction: str, flag_groups: Mapping[str, Sequence[Flag]]) -> str:
    """The introduction, then all flags with their defaults, by group."""
    lines = [introduction.strip(), ""]
    for title, group in flag_groups.items():
        lines.append(f"{title}:")
        for flag in group:
            unset = flag.default is False or flag.default in (None, "")
            lines.append(f"  --{flag.name}{'' if unset else f'={flag.default}'}")
            indent = " " * 6
            lines += textwrap.wrap(
                flag.help, HELP_WIDTH, initial_indent=indent, subsequent_indent=indent
            )
        lines.append("")
    return "\n".join(lines)


def check_flags(values: flags.FlagValues) -> dict[str, Any]:
    """Checks what can be known before any file is read.

    Returns:
      The hyperparameters given.

    Raises:
      ValueError: a flag is missing, contradicts another or has a wrong value; names it.
    """
    if values.mode not in MODES:
        got = (
            f", but got '{values.mode}'" if values.mode else "; --help lists all flags"
        )
        raise ValueError(f"--mode must be one of {', '.join(MODES)}{got}")
    check_model(values)
    missing = [name for name in REQUIRED[values.mode] if not values[name].value]
    if missing:
        listed = ", ".join(f"--{name}" for name in missing)
        raise ValueError(f"--mode {values.mode} needs {listed}")
    overrides = hparams_lib.parse_overrides(values.hparams)
    if values.mode == "train":
        _check_warmstart(values, bool(overrides.get("warmstart")))
        parse_devices(values.devices)
        parse_address(values.data_service)
    if values.mode == "eval":
        parse_shard("eval_shard", values.eval_shard)
    if values.mode == "inference":
        parse_shard("inference_shard", values.inference_shard)
        if not split_list(values.inference_checkpoint):
            raise ValueError("--inference_checkpoint names no checkpoint")
    return overrides


def check_model(values: flags.FlagValues) -> None:
    """Raises a ValueError where there is no model of the name in --model."""
    if values.model not in hparams_lib.MODEL_NAMES:
        raise ValueError(
            f"--model must be one of {', '.join(hparams_lib.MODEL_NAMES)}, "
            f"but got '{values.model}'"
        )


def _check_warmstart(values: flags.FlagValues, warmstart: bool) -> None:
    if warmstart and not values.warmstart_checkpoint:
        raise ValueError("--hparams warmstart=1 needs --warmstart_checkpoint")
    if warmstart:
        return
    for flag in FLAGS[TRAIN]:
        if flag.name.startswith("warmstart_") and values[flag.name].value:
            raise ValueError(f"--{flag.name} needs --hparams warmstart=1")


def parse_devices(text: str) -> list[str]:
    """Parses --devices.

    Raises:
      ValueError: they are not different GPUs, or parts of the CPU.
    """
    devices = split_list(text)
    wrong = [name for name in devices if not re.fullmatch(r"(CPU|GPU):\d{1,3}", name)]
    if wrong:
        raise ValueError(
            f"--devices must be such as GPU:0,GPU:1 or CPU:0, but got '{wrong[0]}'"
        )
    if len(set(devices)) < len(devices):
        raise ValueError(f"--devices names a device twice: '{text}'")
    if len(devices) == 1 and devices[0].startswith("CPU") and devices != ["CPU:0"]:
        raise ValueError(f"--devices: the CPU as a whole is CPU:0, but got '{text}'")
    if len({name[:3] for name in devices}) > 1:
        raise ValueError(f"--devices must be GPUs or CPUs, but got both: '{text}'")
    return devices


def parse_address(text: str) -> tuple[str, int] | None:
    """Parses --data_service: host and port; None of an empty one.

    Raises:
      ValueError: it is not grpc://host:port.
    """
    match = re.fullmatch(r"grpc://([^/]+):(\d{1,5})", text)
    if text and not match:
        raise ValueError(f"--data_service must be grpc://host:port, but got '{text}'")
    return (match[1], int(match[2])) if match else None


def parse_shard(flag: str, text: str) -> tuple[int, int]:
    """Parses the i/n of --eval_shard or --inference_shard.

    Raises:
      ValueError: it is not two whole numbers with 0 <= i < n.
    """
    shard, slash, num_shards = text.partition("/")
    if not (slash and shard.isdecimal() and num_shards.isdecimal()):
        raise ValueError(f"--{flag} must be i/n, such as 0/4, but got '{text}'")
    if int(shard) >= int(num_shards):
        raise ValueError(f"--{flag} i/n must have i from 0 to n-1, but got '{text}'")
    return int(shard), int(num_shards)


def warn_of_idle_flags(values: flags.FlagValues) -> None:
    """Says which of the flags given have no effect in this mode."""
    idle = [FLAGS[title] for title in FLAGS if title not in MODES[values.mode]]
    for flag in itertools.chain(*idle):
        if values[flag.name].present:
            print(
                f"warning: --{flag.name} has no effect in --mode {values.mode}",
                file=sys.stderr,
            )


def split_list(text: str) -> list[str]:
    """The parts of a comma-separated flag; none of an empty one."""
    return [part.strip() for part in text.split(",") if part.strip()]


def set_environment() -> None:
    """Sets what TensorFlow reads when it is imported; what the user has set stays.

    oneDNN, which TensorFlow switches on by itself on some processors only, makes a
    training step on a CPU about twice as fast. Warnings are shown: they say why
    TensorFlow does not use a GPU.
    """
    os.environ["KERAS_BACKEND"] = "tensorflow"
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")


def start_tensorflow() -> None:
    """Imports TensorFlow, and lets processes share a GPU.

    A trainer and an evaluator may, so each takes memory only as it needs it.
    """
    import tensorflow as tf

    for device in tf.config.list_physical_devices("GPU"):
        tf.config.experimental.set_memory_growth(device, True)


def run_train(values: flags.FlagValues, overrides: dict[str, Any]) -> int:
    """Calls train.train with the flags; returns the exit status."""
    import train

    stopped_by = train.train(
        model_name=values.model,
        hparam_overrides=overrides,
        class_map_path=values.class_map_path,
        train_clip_dir=values.train_clip_dir,
        train_csv_path=values.train_csv_path,
        train_dir=values.train_dir,
        epoch_num_batches=values.epoch_num_batches,
        warmstart_checkpoint=values.warmstart_checkpoint,
        warmstart_include_scopes=split_list(values.warmstart_include_scopes),
        warmstart_exclude_scopes=split_list(values.warmstart_exclude_scopes),
        max_steps=values.max_steps,
        checkpoint_steps=values.checkpoint_steps,
        summary_steps=values.summary_steps,
        seed=values.seed,
        devices=parse_devices(values.devices),
        data_service=parse_address(values.data_service),
        mixed_precision=values.mixed_precision,
    )
    return signals.exit_status(stopped_by) if stopped_by else 0


def run_eval(values: flags.FlagValues, overrides: dict[str, Any]) -> int:
    """Calls evaluation.evaluate with the flags; returns the exit status."""
    import evaluation

    evaluation.evaluate(
        evaluation.Options(
            class_map_path=values.class_map_path,
            eval_clip_dir=values.eval_clip_dir,
            eval_csv_path=values.eval_csv_path,
            train_dir=values.train_dir,
            eval_dir=values.eval_dir,
            model=values.model,
            hparams=overrides,
            eval_every_k=values.eval_every_k,
            eval_shard=parse_shard("eval_shard", values.eval_shard),
            eval_timeout_secs=values.eval_timeout_secs,
            mixed_precision=values.mixed_precision,
        )
    )
    return 0


def run_inference(values: flags.FlagValues, overrides: dict[str, Any]) -> int:
    """Calls inference.predict with the flags; returns the exit status."""
    import inference
    from tagger.progress import counted

    problems = inference.predict(
        inference.Options(
            class_map_path=values.class_map_path,
            inference_clip_dir=values.inference_clip_dir,
            inference_checkpoint=split_list(values.inference_checkpoint),
            predictions_csv_path=values.predictions_csv_path,
            model=values.model,
            hparams=overrides,
            inference_shard=parse_shard("inference_shard", values.inference_shard),
            mixed_precision=values.mixed_precision,
        )
    )
    if problems:
        print(
            f"error: {counted(len(problems), 'clip')} could not be read, with the "
            f"score 0 in every class:",
            *problems,
            sep="\n",
            file=sys.stderr,
        )
    return 1 if problems else 0


def run_mode(values: flags.FlagValues) -> int:
    """Checks the flags and calls the mode; returns the exit status.

    Raises:
      ValueError: a flag cannot be used.
      OSError: TensorFlow ran out of memory, or could not write its events.
    """
    overrides = check_flags(values)
    warn_of_idle_flags(values)
    set_environment()
    start_tensorflow()
    import tensorflow as tf

    run = {"train": run_train, "eval": run_eval, "inference": run_inference}
    try:
        return run[values.mode](values, overrides)
    except tf.errors.ResourceExhaustedError as error:
        reason = str(error.message).splitlines()[0]
        raise OSError(
            f"out of memory or disk space; a smaller batch_size may help: {reason}"
        ) from None
    except tf.errors.OpError as error:
        raise OSError(f"TensorFlow: {str(error.message).splitlines()[0]}") from None


def run_command(
    arguments: Sequence[str],
    *,
    introduction: str,
    flag_groups: Mapping[str, Sequence[Flag]],
    run: Callable[[flags.FlagValues], int],
) -> int:
    """Runs a program that has flags; its errors are lines on stderr.

    Args:
      arguments: of the command line.
      introduction: what --help says first.
      flag_groups: flags by title.
      run: what to do with the parsed flags; returns the exit status.

    Returns:
      The exit status.
    """

    def parse_and_run() -> int:
        """Shows the help, or runs with the flags."""
        values = define_flags(flag_groups)
        rest = values([sys.argv[0], *arguments], known_only=False)[1:]
        if values.help:
            print(help_text(introduction, flag_groups))
            return 0
        if rest:
            raise ValueError(
                f"flags start with --, but got '{rest[0]}' (hyperparameters are joined "
                f"by commas, without spaces)"
            )
        return run(values)

    return run_telling_errors(parse_and_run)


def run_telling_errors(run: Callable[[], int]) -> int:
    """Calls a function that returns an exit status; its errors are lines on stderr.

    Returns:
      The exit status.
    """
    try:
        with signals.handler(signals.leave, [signal.SIGTERM]):
            return run()
    except (flags.Error, ValueError, FloatingPointError, OSError) as error:
        for line in str(error).splitlines():
            for pattern, text in CLEARER.items():
                line = re.sub(pattern, text, line)
            print(f"error: {line}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        after_echo = "\n" if sys.stderr.isatty() else ""  # of ^C
        print(f"{after_echo}stopped by SIGINT", file=sys.stderr)
        return signals.exit_status(signal.SIGINT)


def main(arguments: Sequence[str]) -> int:
    """Runs the program with its command-line arguments; returns the exit status."""
    return run_command(arguments, introduction=__doc__, flag_groups=FLAGS, run=run_mode)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
