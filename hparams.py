"""Every hyperparameter once: default, unit, range and the value that turns it off.

Names, defaults and order are those of the DCASE 2019 Task 2 baseline (`parse_hparams`
in its model.py). What training used is kept beside its checkpoints in `hparams.json`,
so that evaluation and inference need not be told again. This module needs no
TensorFlow.
"""

import dataclasses
import difflib
import json
import math
import os
import pathlib
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

SAMPLE_RATE = 44100  # Hz, of every clip: the only rate of the data set.
MAX_SEED = 2**31  # Seeds are below it, as TensorFlow takes them.
HPARAMS_FILE = "hparams.json"
MODEL_NAMES = ("mobilenet-v1",)


@dataclasses.dataclass(frozen=True)
class Allowed:
    """The values a hyperparameter may take: the words for a message, and the test."""

    text: str
    test: Callable[[Any], bool]


POSITIVE = Allowed("above 0", lambda value: value > 0)
NOT_NEGATIVE = Allowed("0 or more", lambda value: value >= 0)
FRACTION = Allowed("from 0 to 1", lambda value: 0 <= value <= 1)
SWITCH = Allowed("0 or 1", lambda value: value in (0, 1))


def _up_to(high: float) -> Allowed:
    return Allowed(f"above 0, at most {high:g}", lambda value: 0 < value <= high)


def _one_of(*names: str) -> Allowed:
    return Allowed(" or ".join(names), lambda value: value in names)


def _hparam(default: Any, unit: str, allowed: Allowed, meaning: str) -> Any:
    metadata = {"unit": unit, "allowed": allowed, "meaning": meaning}
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class Hparams:
    """The hyperparameters of features, model and training; values are checked when
    made.

    Raises:
      ValueError: a value is outside its range, or two contradict each other.
    """

    stft_window_seconds: float = _hparam(
        0.025, "s", _up_to(1), "Window of the Short-Time Fourier Transform"
    )
    stft_hop_seconds: float = _hparam(
        0.010, "s", _up_to(1), "Hop of the Short-Time Fourier Transform"
    )
    mel_bands: int = _hparam(96, "bands", _up_to(1024), "Bands of the mel spectrogram")
    mel_min_hz: float = _hparam(
        20.0, "Hz", NOT_NEGATIVE, "Lower edge of the lowest mel band"
    )
    mel_max_hz: float = _hparam(
        20000.0, "Hz", _up_to(SAMPLE_RATE / 2), "Upper edge of the highest mel band"
    )
    mel_log_offset: float = _hparam(
        0.001,
        "magnitude",
        POSITIVE,
        "Added to the mel spectrogram before the logarithm",
    )
    example_window_seconds: float = _hparam(
        1.0, "s", _up_to(60), "Length of an example"
    )
    example_hop_seconds: float = _hparam(
        0.5, "s", _up_to(60), "From the start of one example to the next"
    )
    batch_size: int = _hparam(64, "examples", _up_to(100000), "Examples in a batch")
    global_pool: str = _hparam(
        "mean", "", _one_of("mean", "max"), "Pooling over time and frequency"
    )
    dropout: float = _hparam(
        0.0, "", FRACTION, "Probability to KEEP an activation; 0: no dropout layer"
    )
    lsmooth: float = _hparam(0.0, "", FRACTION, "Label smoothing towards 0.5; 0: none")
    weights_init_stddev: float = _hparam(
        0.0,
        "",
        NOT_NEGATIVE,
        "Deviation of the truncated normal that weights start from; 0: Xavier uniform",
    )
    bn: int = _hparam(1, "", SWITCH, "Batch norm after every convolution; 0: biases")
    bndecay: float = _hparam(
        0.9997, "per step", FRACTION, "Decay of batch norm's moving averages"
    )
    bneps: float = _hparam(0.001, "", POSITIVE, "Batch norm's epsilon")
    warmstart: int = _hparam(
        0, "", SWITCH, "Start from the weights of --warmstart_checkpoint"
    )
    opt: str = _hparam("adam", "", _one_of("adam", "sgd"), "Optimizer")
    lr: float = _hparam(1e-4, "", NOT_NEGATIVE, "Learning rate")
    adam_eps: float = _hparam(1e-8, "", POSITIVE, "Adam's epsilon")
    lrdecay: float = _hparam(
        0.0,
        "",
        FRACTION,
        "Factor on the learning rate every decay_epochs; 0: constant rate",
    )
    decay_epochs: float = _hparam(
        2.5,
        "epochs",
        _up_to(100000),
        "Epochs from one decay of the learning rate to the next",
    )

    def __post_init__(self):
        for field in dataclasses.fields(self):
            _check_value(field, getattr(self, field.name))
        if self.mel_min_hz >= self.mel_max_hz:
            raise ValueError(
                f"hyperparameter mel_min_hz must be below mel_max_hz, but "
                f"{self.mel_min_hz:g} Hz is not below {self.mel_max_hz:g} Hz"
            )
        for name, size_name, unit in (
            ("stft_window_seconds", "stft_window_samples", "sample"),
            ("stft_hop_seconds", "stft_hop_samples", "sample"),
            ("example_window_seconds", "example_window_frames", "frame"),
            ("example_hop_seconds", "example_hop_frames", "frame"),
        ):
            if getattr(self, size_name) < 1:
                raise ValueError(
                    f"hyperparameter {name} must come to at least 1 {unit}, but "
                    f"{getattr(self, name):g} s comes to none"
                )

    @property
    def stft_window_samples(self) -> int:
        """Samples in an STFT window."""
        return round(SAMPLE_RATE * self.stft_window_seconds)

    @property
    def stft_hop_samples(self) -> int:
        """Samples from one STFT window to the next."""
        return round(SAMPLE_RATE * self.stft_hop_seconds)

    @property
    def fft_length(self) -> int:
        """The power of two that holds an STFT window."""
        return 1 << (self.stft_window_samples - 1).bit_length()

    @property
    def example_window_frames(self) -> int:
        """STFT frames in an example."""
        return round(self.example_window_seconds / self.stft_hop_seconds)

    @property
    def example_hop_frames(self) -> int:
        """STFT frames from the start of one example to the next."""
        return round(self.example_hop_seconds / self.stft_hop_seconds)

    def num_frames(self, num_samples: np.ndarray | int) -> np.ndarray | int:
        """STFT frames of clips of so many samples; short clips are padded to 1."""
        beyond_first = np.maximum(num_samples - self.stft_window_samples, 0)
        return 1 + beyond_first // self.stft_hop_samples

    def num_examples(self, num_samples: np.ndarray | int) -> np.ndarray | int:
        """Examples of clips of so many samples: the frames over the hop, rounded up."""
        return -(-self.num_frames(num_samples) // self.example_hop_frames)


FIELDS = {field.name: field for field in dataclasses.fields(Hparams)}
# Those that say what the network computes; the others only matter while it trains.
MODEL_HPARAMS = (
    "stft_window_seconds",
    "stft_hop_seconds",
    "mel_bands",
    "mel_min_hz",
    "mel_max_hz",
    "mel_log_offset",
    "example_window_seconds",
    "example_hop_seconds",
    "global_pool",
    "bn",
    "bneps",
)


def _check_value(field: dataclasses.Field, value: Any) -> None:
    allowed = field.metadata["allowed"]
    finite = not isinstance(value, float) or math.isfinite(value)
    if not (finite and allowed.test(value)):
        raise ValueError(
            f"hyperparameter {field.name} must be {allowed.text}, but got {value}"
        )


def parse_overrides(text: str) -> dict[str, Any]:
    """Parses `name=value,name=value` into the values given, each of its own type.

    Raises:
      ValueError: an unknown name, one given twice, a wrong type or a value out of
        range.
    """
    overrides = {}
    for pair in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = (part.strip() for part in pair.partition("="))
        if not equals:
            raise ValueError(f"--hparams takes name=value pairs, but got '{pair}'")
        if name not in FIELDS:
            raise ValueError(
                f"--hparams: there is no hyperparameter '{name}'"
                f"{did_you_mean(name, FIELDS)}; there are {', '.join(FIELDS)}"
            )
        if name in overrides:
            raise ValueError(f"--hparams: {name} is given twice")
        field = FIELDS[name]
        try:
            overrides[name] = field.type(value)
        except ValueError:
            kind = {int: "a whole number", float: "a number"}[field.type]
            raise ValueError(
                f"--hparams: {name} must be {kind}, but got '{value}'"
            ) from None
    Hparams(**overrides)
    return overrides


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """A hint in brackets where a name is like one of others, else nothing."""
    by_lower = {other.lower(): other for other in names}
    close = difflib.get_close_matches(name.lower(), by_lower, n=1)
    return f" (did you mean {by_lower[close[0]]}?)" if close else ""


def parse_hparams(text: str) -> Hparams:
    """The defaults with the `name=value` pairs of a --hparams flag over them."""
    return Hparams(**parse_overrides(text))


def non_defaults(hparams: Hparams) -> dict[str, Any]:
    """The values that are not the default, by name."""
    return {
        name: getattr(hparams, name)
        for name, field in FIELDS.items()
        if getattr(hparams, name) != field.default
    }


def write_hparams(
    directory: str,
    *,
    model_name: str,
    hparams: Hparams,
    class_names: Sequence[str],
    clips_crc32: int | None = None,
) -> None:
    """Writes what a training run uses to `hparams.json`, whole or not at all."""
    record = {
        "model": model_name,
        "hparams": dataclasses.asdict(hparams),
        "class_names": list(class_names),
        "clips_crc32": clips_crc32,
    }
    write_whole(
        pathlib.Path(directory) / HPARAMS_FILE, json.dumps(record, indent=2) + "\n"
    )


def trained_hparams(
    directory: str,
    *,
    model_name: str,
    overrides: Mapping[str, Any],
    class_names: Sequence[str],
) -> Hparams:
    """The hyperparameters for using the checkpoints in a directory.

    Those they were trained with, from the `hparams.json` beside them, under the values
    given on the command line. A directory without that file (one of the original's)
    gives the defaults under the values given. A value given that differs from the
    trained one is a warning on stderr.

    Raises:
      ValueError: the file is damaged, or of another model or other classes.
    """
    path = pathlib.Path(directory) / HPARAMS_FILE
    record = _read_record(directory)
    if record is None:
        print(
            f"note: there is no {path}; the defaults and what --hparams gives are used",
            file=sys.stderr,
        )
        return Hparams(**overrides)
    if record.model != model_name:
        raise ValueError(f"{path} is of a model {record.model}, not {model_name}")
    if problem := class_map_problem(directory, class_names):
        raise ValueError(problem)
    for name, value in _changed(overrides, record.hparams).items():
        wrong = "; scores will be wrong" if name in MODEL_HPARAMS else ""
        print(
            f"warning: --hparams: {name}={value} from the command line is used, not "
            f"the {getattr(record.hparams, name)} of {path}{wrong}",
            file=sys.stderr,
        )
    return dataclasses.replace(record.hparams, **overrides)


def resumed_hparams(
    directory: str,
    *,
    model_name: str,
    overrides: Mapping[str, Any],
    class_names: Sequence[str],
) -> Hparams:
    """As `trained_hparams`, for more training in that directory.

    Raises:
      ValueError: as there, or a value given would change what the checkpoints compute.
    """
    record = _read_record(directory)
    if record is not None:
        for name, value in _changed(overrides, record.hparams).items():
            if name in MODEL_HPARAMS:
                raise ValueError(
                    f"--hparams: {name}={value} cannot replace the "
                    f"{getattr(record.hparams, name)} that the checkpoints in "
                    f"{directory} were trained with; use another --train_dir, with "
                    f"warmstart=1 to start from their weights"
                )
    return trained_hparams(
        directory, model_name=model_name, overrides=overrides, class_names=class_names
    )


def warn_of_other_model(directory: str, hparams: Hparams) -> None:
    """Warns where weights come from a model with other features or pooling."""
    record = _read_record(directory)
    if record is None:
        return
    given = {name: getattr(hparams, name) for name in MODEL_HPARAMS}
    for name, value in _changed(given, record.hparams).items():
        print(
            f"warning: {name} is {value}, but {getattr(record.hparams, name)} where "
            f"the weights of the warm start come from",
            file=sys.stderr,
        )


def warn_of_other_clips(directory: str, clips_crc32: int) -> None:
    """Warns where training goes on with other clips than before, if that is known."""
    record = _read_record(directory)
    if record is not None and record.clips_crc32 not in (None, clips_crc32):
        print(
            f"warning: training in {directory} goes on with other clips or labels than "
            f"before",
            file=sys.stderr,
        )


def _changed(values: Mapping[str, Any], hparams: Hparams) -> dict[str, Any]:
    """Those of the values, by name, that differ from hyperparameters; not warmstart."""
    return {
        name: value
        for name, value in values.items()
        if value != getattr(hparams, name) and name != "warmstart"
    }


def class_map_problem(directory: str, class_names: Sequence[str]) -> str:
    """What is wrong with using these classes with the checkpoints there, or nothing.

    Raises:
      ValueError: `hparams.json` is damaged.
    """
    record = _read_record(directory)
    if record is None or record.class_names == list(class_names):
        return ""
    return (
        f"--class_map_path: the class map differs from the one trained with, which is "
        f"in {pathlib.Path(directory) / HPARAMS_FILE}: "
        f"{_first_difference(record.class_names, class_names)}"
    )


@dataclasses.dataclass(frozen=True)
class _Record:
    """What `hparams.json` holds."""

    model: str
    hparams: Hparams
    class_names: list[str]
    clips_crc32: int | None


def _read_record(directory: str) -> _Record | None:
    path = pathlib.Path(directory) / HPARAMS_FILE
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return _Record(
            record["model"],
            Hparams(**record["hparams"]),
            record["class_names"],
            record.get("clips_crc32"),
        )
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged: {error}") from None


def _first_difference(trained: Sequence[str], given: Sequence[str]) -> str:
    if len(trained) != len(given):
        return f"{len(trained)} classes were trained, {len(given)} are given"
    index = next(i for i, pair in enumerate(zip(trained, given)) if pair[0] != pair[1])
    return f"class {index} is {given[index]}, but was {trained[index]}"


def make_folder(path: str, flag: str) -> None:
    """Makes a folder that files can be written into, where it is not there yet.

    Raises:
      OSError: it cannot be made or written into; the message names the flag.
    """
    if os.path.exists(path) and not os.path.isdir(path):
        raise NotADirectoryError(f"{flag}: {path} is a file, not a folder")
    try:
        os.makedirs(path, exist_ok=True)
    except OSError as error:
        raise OSError(f"{flag}: cannot make {path}: {error.strerror}") from None
    if not os.access(path, os.W_OK | os.X_OK):
        raise PermissionError(f"{flag}: cannot write in {path}")


def write_whole(path: pathlib.Path, contents: str | bytes) -> None:
    """Writes a file that appears whole or not at all, even when killed; text as UTF-8.

    Raises:
      OSError: it cannot be written; the message names it.
    """
    try:
        _write_and_rename(pathlib.Path(path), contents)
    except OSError as error:
        raise OSError(f"cannot write {path}: {error.strerror or error}") from None


def _write_and_rename(path: pathlib.Path, contents: str | bytes) -> None:
    if isinstance(contents, str):
        contents = contents.encode("utf-8", "surrogateescape")
    descriptor, temporary = tempfile.mkstemp(
        prefix=f".{path.name}.", suffix=".tmp", dir=path.parent
    )
    try:
        with open(descriptor, "wb") as file:
            file.write(contents)
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)  # mkstemp's 0600 hides it from others.
        os.replace(temporary, path)
    except BaseException:
        pathlib.Path(temporary).unlink(missing_ok=True)
        raise
