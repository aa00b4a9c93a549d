"""How every program of this project starts and ends: flags, TensorFlow, errors.

Flags are absl's: `--help` lists a program's own, `--helpfull` all, and `--flagfile`
reads them from a file.
"""

import functools
import os
import signal
import sys
from collections.abc import Callable, Sequence

from absl import app, flags, logging

from tagger import signals


def run(main: Callable[[list[str]], int], argv: Sequence[str] | None = None) -> None:
    """Parses the flags, calls main, and exits.

    A ValueError, FloatingPointError or OSError that main raises is printed to stderr,
    each line after "error: ", and the exit status is 1.

    Args:
      main: takes the program's name and the arguments that are no flags, and returns
        the exit status.
      argv: the command line; None: that of the process.

    Raises:
      SystemExit: always.
    """
    app.run(functools.partial(_report_errors, main), argv and list(argv))


def _report_errors(main: Callable[[list[str]], int], argv: list[str]) -> int:
    if not flags.FLAGS["verbosity"].present:
        # absl's own default, INFO, lists every detail of what TensorFlow saves.
        logging.set_verbosity(logging.WARNING)
    try:
        with signals.handler(signals.leave, [signal.SIGTERM]):
            return main(argv)
    except (ValueError, FloatingPointError, OSError) as error:
        for line in str(error).splitlines():
            print(f"error: {line}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstopped by SIGINT", file=sys.stderr)
        return signals.exit_status(signal.SIGINT)


def check_no_arguments(argv: Sequence[str]) -> None:
    """Checks that nothing but flags was given, for programs that take nothing else.

    Raises:
      ValueError: there are other arguments; the message has the first.
    """
    if argv[1:]:
        raise ValueError(
            f"flags start with --, but got '{argv[1]}' (hyperparameters are joined by "
            f"commas, without spaces)"
        )


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
    """Imports TensorFlow with the settings above, and lets processes share a GPU.

    A trainer and an evaluator may, so each takes memory only as it needs it.
    """
    set_environment()
    import tensorflow as tf

    for device in tf.config.list_physical_devices("GPU"):
        tf.config.experimental.set_memory_growth(device, True)
