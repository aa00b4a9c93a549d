"""The start and the end of every program: flags, TensorFlow, errors.

All programs use absl flags: `--help` lists those of the program, `--helpfull` lists
all, and `--flagfile` reads flags from a file.
"""

import functools
import gc
import os
import platform
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence

from absl import app, flags, logging

from tagger import signals

GPU_SECONDS = 10  # to wait for the driver's list of GPUs
OLDEST_PYTHON, NEWEST_PYTHON = (3, 11), (3, 13)


def run(main: Callable[[list[str]], int], argv: Sequence[str] | None = None) -> None:
    """Parses the flags, calls main, and exits.

    A ValueError, FloatingPointError or OSError that main raises is printed to stderr,
    each line after "error: ", and the exit status is 1.

    Args:
      main: takes the name of the program and the arguments that are not flags, and
        returns the exit status.
      argv: the command line; None: the command line of this process.

    Raises:
      SystemExit: always.
    """
    if not OLDEST_PYTHON <= sys.version_info[:2] <= NEWEST_PYTHON:
        supported = "{}.{} to {}.{}".format(*OLDEST_PYTHON, *NEWEST_PYTHON)
        print(
            f"warning: Python {supported} is supported, but this is Python "
            f"{platform.python_version()}",
            file=sys.stderr,
        )
    try:
        app.run(functools.partial(_report_errors, main), argv and list(argv))
    except UnicodeDecodeError as error:
        sys.exit(f"error: --flagfile: {error}")


def _report_errors(main: Callable[[list[str]], int], argv: list[str]) -> int:
    if not flags.FLAGS["verbosity"].present:
        # The default of absl is INFO, which logs every detail of what is saved.
        logging.set_verbosity(logging.WARNING)
    if sys.stdout is None:  # The caller has closed it.
        sys.stdout = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")
    # Names of files and classes may have letters that the terminal does not know.
    if hasattr(sys.stdout, "reconfigure"):  # not in a notebook
        sys.stdout.reconfigure(errors="replace")
    try:
        with signals.handler(signals.exit_now, [signal.SIGTERM]):
            return main(argv)
    except (ValueError, FloatingPointError, OSError) as error:
        for line in (str(error) or repr(error)).splitlines():
            print(f"error: {line}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstopped by SIGINT", file=sys.stderr)
        return signals.exit_status(signal.SIGINT)


def tensorflow_reason(error: Exception) -> str:
    """What went wrong, from the message of an error of TensorFlow or Python.

    TensorFlow puts names of operations, iterators and Python files around it.
    """
    message = getattr(error, "message", None) or getattr(error, "strerror", None)
    lines = re.sub(r"\{\{.*?\}\} ?", "", str(message or error)).splitlines()
    around = (" ", "\t", "[[", "Graph execution error", "Detected at")
    reason = " ".join(line for line in lines if line and not line.startswith(around))
    return re.sub(r".*Iterator::\S+: ", "", reason) or type(error).__name__


def check_no_arguments(argv: Sequence[str]) -> None:
    """Checks that all arguments are flags.

    Raises:
      ValueError: there are other arguments; the message names the first.
    """
    if argv[1:]:
        raise ValueError(
            f"flags start with --, but got '{argv[1]}' (hyperparameters are joined by "
            f"commas, without spaces)"
        )


def set_environment() -> None:
    """Sets the variables that TensorFlow and Keras read when they are imported.

    TF_* variables that the user has set are unchanged. oneDNN makes a training step on
    a CPU about twice as fast; TensorFlow enables it by default only on some processors.
    Warnings are shown, because they explain why TensorFlow does not use a GPU.
    """
    os.environ["KERAS_BACKEND"] = "tensorflow"
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")


def start_tensorflow() -> None:
    """Imports TensorFlow with these settings, and lets processes share a GPU.

    Each process takes only the GPU memory that it needs.
    """
    set_environment()
    # Searching the many imported objects for garbage would take more than a second,
    # during the import and at the end of the process.
    gc.disable()
    import tensorflow as tf

    gc.enable()
    if not gc.get_freeze_count():  # Later calls must not keep what is garbage by then.
        gc.freeze()

    gpus = tf.config.list_physical_devices("GPU")
    for device in gpus:
        tf.config.experimental.set_memory_growth(device, True)
    if not gpus and "CUDA_VISIBLE_DEVICES" not in os.environ and (found := list_gpus()):
        print(
            f"warning: TensorFlow does not use {found}; install its CUDA libraries "
            f"with pip install -r requirements-gpu.txt",
            file=sys.stderr,
        )


def list_gpus() -> str:
    """The NVIDIA GPUs that the driver lists; empty without a driver."""
    try:
        done = subprocess.run(
            ["nvidia-smi", "-L"], capture_output=True, text=True, timeout=GPU_SECONDS
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return ", ".join(re.findall(r"^GPU \d+: [^(\n]+(?= \()", done.stdout, re.MULTILINE))
