#!/usr/bin/env python3
"""Trains, evaluates and applies an audio tagger.

The three modes, in the order in which they are used:

1. `--mode train` learns from a folder of WAV clips and a CSV of their labels. It writes
   checkpoints and TensorBoard events to --train_dir.
2. `--mode eval`, at the same time or later, scores every checkpoint in --train_dir on
   labelled clips. It writes the lwlrap of each class and overall to --eval_dir.
3. `--mode inference` scores a folder of clips with a checkpoint. It writes a CSV in
   Kaggle's format.

`--flagfile FILE` reads flags from a file, one `--name=value` per line. `--helpfull`
also lists the flags of absl. Errors are reported on stderr, one line for each problem,
and the exit status is 1.
"""

import functools
import sys
from collections.abc import Callable, Sequence
from typing import Any

from absl import flags

from tagger.errors import UserError
from tagger.options import FIELDS, MODES, EvalOptions, InferenceOptions, TrainOptions
from tagger.terminal import program, signals
from tagger.terminal.progress import counted

FLAGS = flags.FLAGS
ALL_FIELDS = {name: field for of in FIELDS.values() for name, field in of.items()}


def define_flags() -> None:
    """Defines --mode, and a flag for each option."""
    flags.DEFINE_enum("mode", None, list(MODES), "train, eval or inference.")
    for name, field in ALL_FIELDS.items():
        option = field.metadata
        shared = dict(name=name, default=option["default"], help=option["meaning"])
        if option["names"]:
            flags.DEFINE_enum(**shared, enum_values=option["names"])
        elif option["low"] is not None:
            low, high = option["low"], option["high"]
            flags.DEFINE_integer(**shared, lower_bound=low, upper_bound=high)
        elif field.type is bool:
            flags.DEFINE_bool(**shared)
        elif field.type == Sequence[str]:
            flags.DEFINE_list(**shared)
        else:
            # A second --hparams would replace the first.
            flags.DEFINE_string(**shared, allow_overwrite=name != "hparams")
        if option["parse"]:
            is_valid = functools.partial(_is_valid, option["parse"])
            flags.register_validator(name, is_valid)


def _is_valid(parse: Callable[[Any], Any], value: Any) -> bool:
    try:
        if value is not None:
            parse(value)
    except UserError as error:
        raise flags.ValidationError(str(error)) from None
    return True


def help_text() -> str:
    """The docstring and all flags, grouped by the modes that take them."""
    groups = {}
    for name in ("mode", *ALL_FIELDS):
        flag = FLAGS[name]
        parts = [f"--[no]{name}:" if flag.boolean else f"--{name}:", flag.help]
        if name == "mode" or ALL_FIELDS[name].metadata["required"]:
            parts.insert(1, "(required)")
        elif flag.default or type(flag.default) is int:  # not False, None or empty
            parts.append(f"(default: {flag.default})")
        modes = [mode for mode in MODES if name == "mode" or name in FIELDS[mode]]
        of_all = len(modes) == len(MODES)
        title = "flags of all modes" if of_all else f"--mode {' and '.join(modes)}"
        text = flags.text_wrap(" ".join(parts), indent=" " * 6, firstline_indent="  ")
        groups.setdefault(f"\n{title}:", []).append(text)
    sections = ["\n".join([title, *lines]) for title, lines in groups.items()]
    return "\n".join([__doc__.rstrip(), *sections])


def options_from_flags() -> TrainOptions | EvalOptions | InferenceOptions:
    """The options of --mode. Flags of other modes are reported on stderr.

    Raises:
      UserError: flags are missing or contradict each other; the message names them.
    """
    mode = FLAGS.mode
    if mode is None:
        raise UserError(
            f"--mode must be one of {', '.join(MODES)}; --help lists all flags"
        )
    for name in ALL_FIELDS:
        if FLAGS[name].present and name not in FIELDS[mode]:
            print(f"warning: --{name} has no effect in --mode {mode}", file=sys.stderr)
    values, missing = {}, []
    for name, field in FIELDS[mode].items():
        value, option = FLAGS[name].value, field.metadata
        if option["required"] and not value:
            values[name] = ""
            instead = option["unless"]
            if not (instead and FLAGS[instead].value):
                missing.append(f"--{name}" + (instead and f" or --{instead}"))
        else:
            values[name] = option["parse"](value) if option["parse"] else value
    if missing:
        raise UserError(f"--mode {mode} needs {', '.join(missing)}")
    options = MODES[mode](**values)
    if not isinstance(options, InferenceOptions):
        options.check()
    return options


def main(argv: Sequence[str]) -> int:
    """Runs the mode that --mode selects; returns the exit status.

    Raises:
      UserError: a flag is wrong, or the mode failed; the message says why.
    """
    program.check_no_arguments(argv)
    options = options_from_flags()  # before TensorFlow is imported
    program.start_tensorflow()
    if isinstance(options, TrainOptions):
        import train

        stopped_by = train.train(options)
        return signals.exit_status(stopped_by) if stopped_by else 0
    if isinstance(options, EvalOptions):
        import evaluation

        evaluation.evaluate(options)
        return 0
    import inference

    problems = inference.predict(options)
    if problems:
        print(
            f"error: {counted(len(problems), 'clip')} could not be read; all scores of "
            f"these clips are 0:",
            *problems,
            sep="\n",
            file=sys.stderr,
        )
    return 1 if problems else 0


define_flags()
if __name__ == "__main__":
    # The results are in files, so stdout may be lost.
    program.run(main, lossy_stdout=True, help_text=help_text)
