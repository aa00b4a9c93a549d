"""The start and the end of every program: flags, TensorFlow, errors.

All programs use absl flags: `--help` lists those of the program, `--helpfull` lists
all, and `--flagfile` reads flags from a file.
"""

import contextlib
import errno
import functools
import gc
import io
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import NoReturn

from absl import app, flags, logging

from tagger.errors import UserError
from tagger.terminal import signals
from tagger.terminal.progress import CONTROLS

GPU_SECONDS = 10  # to wait for the driver's list of GPUs
OLDEST_PYTHON, NEWEST_PYTHON = (3, 11), (3, 13)
HELP_FLAGS = {"--help", "-help", "-h", "-?", "--helpshort", "-helpshort"}
LOG_LEVEL = "TF_CPP_MIN_LOG_LEVEL"
# Lines that TensorFlow writes at every start: logs of level I (with the time before or
# after it), and what follows them.
ROUTINE_LINES = (
    r"I\d{4} ",
    r"\d{4}-\d\d-\d\d \S+ I ",
    r"WARNING: All log messages before absl::InitializeLog\(\)",
    r"To enable the following instructions: ",
    # Errors and warnings without consequence of TensorFlow 2.16 to 2.19.
    r".*Unable to register cu\w+ factory",
    r".*TF-TRT Warning: Could not find TensorRT",
    r".*computation placer already registered",
)
# A program ends its lines with a line feed. A bar returns to the start of its line.
ESCAPED = re.compile(rf"(?!\n|\t|\A\r)[{CONTROLS}]")
# Routine on a machine without a GPU. TensorFlow 2.22 adds the place in its source.
NO_GPU_LINES = (
    r".*failed call to cuInit|=== Source Location Trace|\S+/cuda_status.cc|\n"
)


def run(
    main: Callable[[list[str]], int],
    argv: Sequence[str] | None = None,
    *,
    required: Sequence[str] = (),
    lossy_stdout: bool = False,
    help_text: Callable[[], str] | None = None,
) -> None:
    """Parses the flags, calls main, and exits.

    Each problem of a UserError that main raises is printed to stderr, after "error: ".
    The exit status is 1. Any other exception passes, and the process ends with its
    traceback and `report_bug`.

    Text that cannot be written to stderr is lost, and the program continues. The same
    holds for stdout if the program that reads it has ended, such as `head`.

    Args:
      main: takes the name of the program and the arguments that are not flags, and
        returns the exit status.
      argv: the command line; None: the command line of this process.
      required: names of flags that must be given.
      lossy_stdout: whether text that cannot be written to stdout for another reason,
        such as a full disk, is lost, too. If not, it is an error.
      help_text: returns what --help prints; None: absl's list of the flags.

    Raises:
      SystemExit: main has returned, or raised a UserError.
    """
    sys.excepthook = report_bug
    open_output(lossy_stdout=lossy_stdout)
    if sys.version_info[:2] < OLDEST_PYTHON:  # pip refuses versions that are too new.
        supported = "{}.{} to {}.{}".format(*OLDEST_PYTHON, *NEWEST_PYTHON)
        print(
            f"warning: Python {supported} is supported, but this is Python "
            f"{platform.python_version()}",
            file=sys.stderr,
        )
    parser = functools.partial(_parse_flags, help_text)
    main = functools.partial(_report_errors, main, required)
    app.run(main, argv and list(argv), parser)


def _parse_flags(help_text: Callable[[], str] | None, argv: list[str]) -> list[str]:
    if help_text and HELP_FLAGS & set(argv):
        print(help_text())
        sys.exit(1)  # as after absl's own help
    try:
        return flags.FLAGS(argv)
    except (UnicodeDecodeError, flags.CantOpenFlagFileError) as error:
        # absl's error repeats the flag; what it was raised for names the file.
        sys.exit(f"error: --flagfile: {error.__context__ or error}")
    except flags.Error as error:
        # Messages of validators name the flag themselves.
        text = re.sub(r"^flag --\w+=.*: (?=--)", "", str(error))
        print(
            *(f"error: {line}" for line in text.splitlines()), sep="\n", file=sys.stderr
        )
        sys.exit(1)


def _report_errors(
    main: Callable[[list[str]], int], required: Sequence[str], argv: list[str]
) -> int:
    if not flags.FLAGS["verbosity"].present:
        # The default of absl is INFO, which logs every detail of what is saved.
        logging.set_verbosity(logging.WARNING)
    try:
        missing = [name for name in required if flags.FLAGS[name].value is None]
        if missing:
            raise UserError(*(f"--{name} is required; see --help" for name in missing))
        with signals.handler(signals.exit_now, [signal.SIGTERM]):
            status = main(argv)
        sys.stdout.flush()  # An error at the exit would be a traceback.
        return status
    except UserError as error:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
        print(*(f"error: {line}" for line in error.problems), sep="\n", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstopped by SIGINT", file=sys.stderr)
        return signals.exit_status(signal.SIGINT)


def report_bug(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Prints an exception that ends the process; a full disk is one line."""
    if (full := os.strerror(errno.ENOSPC)) in str(error):  # whoever was writing
        print(f"error: {full}: {tensorflow_reason(error)}", file=sys.stderr)
        return
    traceback.print_exception(kind, error, trace)
    print(
        "error: this is a bug, or an error of the machine; please report it, with the "
        "lines above",
        file=sys.stderr,
    )


class _Output(io.FileIO):
    """An open file descriptor. Text that nobody can read any more is lost.

    Args:
      descriptor: the descriptor, which stays open.
      lossy: whether text is also lost after any other error. If not, the first such
        error is raised.
    """

    def __init__(self, descriptor: int, *, lossy: bool):
        super().__init__(descriptor, "w", closefd=False)
        self._lossy = lossy

    def write(self, data) -> int | None:
        """Writes bytes; returns their number, also if they are lost."""
        try:
            written = super().write(data)
        except OSError as error:
            if not self._lossy and not isinstance(error, BrokenPipeError):
                self._lossy = True  # Later writes, such as at the exit, add nothing.
                raise
            return len(data)
        # None: a pipe that does not block is full.
        return len(data) if written is None and self._lossy else written


class _Text(io.TextIOWrapper):
    """Text whose control characters, as in names of files, are escaped."""

    def write(self, text: str) -> int:
        super().write(ESCAPED.sub(lambda found: ascii(found[0])[1:-1], text))
        return len(text)


def open_output(*, lossy_stdout: bool) -> None:
    """Opens sys.stdout and sys.stderr anew, so that no message can end a program.

    No name in a message can change the terminal: control characters are escaped.

    Streams that the caller has closed become /dev/null. Otherwise, the next file that
    is opened would get their descriptor, and TensorFlow's messages.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free descriptor
    # Names of files and classes may have letters that the terminal does not know.
    for descriptor, name, errors, lossy in (
        (1, "stdout", "replace", lossy_stdout),
        (2, "stderr", "backslashreplace", True),
    ):
        stream = getattr(sys, name)
        if stream is None or stream is getattr(sys, f"__{name}__"):
            output = io.BufferedWriter(_Output(descriptor, lossy=lossy))
            stream = _Text(
                output,
                stream and stream.encoding,
                errors,
                line_buffering=descriptor == 2 or os.isatty(descriptor),
                write_through=bool(stream and stream.write_through),
            )
            setattr(sys, name, stream)
        elif hasattr(stream, "reconfigure"):  # not in a notebook
            stream.reconfigure(errors=errors)


def tensorflow_reason(error: BaseException) -> str:
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
      UserError: there are other arguments; the message names the first.
    """
    if argv[1:]:
        raise UserError(
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
    os.environ.setdefault(LOG_LEVEL, "1")


@contextlib.contextmanager
def without_routine_lines() -> Iterator[None]:
    """Hides the ROUTINE_LINES that are written to stderr within the block.

    TensorFlow writes them while it is imported and looks for GPUs, whatever its log
    level is. Another process passes on all other lines, so that they also appear if
    TensorFlow aborts this process. If LOG_LEVEL is 0, nothing is hidden.
    """
    if os.environ.get(LOG_LEVEL) == "0" or "tensorflow" in sys.modules:
        yield
        return
    routine = [*ROUTINE_LINES, *([] if shutil.which("nvidia-smi") else [NO_GPU_LINES])]
    terminal = os.dup(2)
    source, target = os.pipe()
    reader = os.fork()
    if not reader:
        os.close(target)
        _pass_on(source, terminal, re.compile("|".join(routine).encode()))
    os.close(source)
    os.dup2(target, 2)
    os.close(target)
    try:
        yield
    finally:
        os.dup2(terminal, 2)  # closes the pipe
        os.close(terminal)
        os.waitpid(reader, 0)


def _pass_on(source: int, target: int, hidden: re.Pattern[bytes]) -> NoReturn:
    """Copies lines without those that match at their start, and ends the process."""
    try:
        for number in signals.STOP_SIGNALS:  # The pipe ends with the other process.
            signal.signal(number, signal.SIG_IGN)
        with open(source, "rb", buffering=0) as lines:
            for line in lines:
                if not hidden.match(line):
                    os.write(target, line)
    finally:
        os._exit(0)


def start_tensorflow() -> None:
    """Imports TensorFlow with these settings, and lets processes share a GPU.

    Each process takes only the GPU memory that it needs.
    """
    with without_routine_lines():
        set_environment()
        # Searching the many imported objects for garbage would take more than a second,
        # during the import and at the end of the process.
        gc.disable()
        import tensorflow as tf

        gc.enable()
        # Later calls must not keep what is garbage by then.
        if not gc.get_freeze_count():
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
