"""The hyperparameters: names, defaults, units, allowed values and meanings.

Names, defaults and order are those of the DCASE 2019 Task 2 baseline (`parse_hparams`
in its model.py). mel_gain and all after decay_epochs are additions, off by default.
This module does not import TensorFlow.
"""

import dataclasses
import math
import numbers
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from tagger.errors import UserError

SAMPLE_RATE = 44100  # Hz, of every clip
MAX_SEED = 2**31  # Seeds are smaller, because TensorFlow takes an int32.
MODEL_NAMES = ("mobilenet-v1", "yamnet")
# The values of a model that differ from the defaults of `Hparams`.
MODEL_DEFAULTS: dict[str, dict[str, Any]] = {
    # As YAMNet was trained, but for 44.1 kHz instead of 16 kHz; see mel_gain.
    "yamnet": {
        "mel_bands": 64,
        "mel_min_hz": 125.0,
        "mel_max_hz": 7500.0,
        "mel_gain": 0.25,
        "example_window_seconds": 0.96,
        "example_hop_seconds": 0.48,
        "bneps": 1e-4,
    },
}
# On a CPU, TensorFlow's convolutions crash if a layer has 2**31 values or more. With
# examples of the default size, that happens above 3,495 examples.
MAX_BATCH_SIZE = 3000

# Allowed values: a description for documentation and messages, and a predicate.
Allowed = tuple[str, Callable[[Any], bool]]
POSITIVE: Allowed = ("above 0", lambda value: value > 0)
NOT_NEGATIVE: Allowed = ("0 or more", lambda value: value >= 0)
FRACTION: Allowed = ("from 0 to 1", lambda value: 0 <= value <= 1)
SWITCH: Allowed = ("0 or 1", lambda value: value in (0, 1))


def _up_to(high: float) -> Allowed:
    return f"above 0, at most {high:g}", lambda value: 0 < value <= high


def _from_0_to(high: float) -> Allowed:
    return f"from 0 to {high:g}", lambda value: 0 <= value <= high


def _one_of(*names: str) -> Allowed:
    return " or ".join(names), lambda value: value in names


def _hparam(default: Any, unit: str, allowed: Allowed, meaning: str) -> Any:
    metadata = {"unit": unit, "allowed": allowed, "meaning": meaning}
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class Hparams:
    """Hyperparameters of features, model and training; checks their values.

    Raises:
      UserError: a value is outside its range, or two values are in conflict.
    """

    stft_window_seconds: float = _hparam(
        0.025, "s", _up_to(1), "Window length of the short-time Fourier transform"
    )
    stft_hop_seconds: float = _hparam(
        0.010, "s", _up_to(1), "Hop length of the short-time Fourier transform"
    )
    mel_bands: int = _hparam(96, "bands", _up_to(1024), "Number of mel bands")
    mel_min_hz: float = _hparam(
        20.0, "Hz", NOT_NEGATIVE, "Lower edge of the lowest mel band"
    )
    mel_max_hz: float = _hparam(
        20000.0, "Hz", _up_to(SAMPLE_RATE / 2), "Upper edge of the highest mel band"
    )
    # At 44.1 kHz, a window has 2.76 times as many samples as at 16 kHz, and a mel band
    # 1.45 times as many bins of the FFT.
    mel_gain: float = _hparam(
        1.0,
        "",
        POSITIVE,
        "Factor applied to the mel spectrogram; 0.25 approximates the magnitudes of "
        "16 kHz audio",
    )
    mel_log_offset: float = _hparam(
        0.001,
        "magnitude",
        POSITIVE,
        "Offset added to the mel spectrogram before the logarithm",
    )
    example_window_seconds: float = _hparam(
        1.0, "s", _up_to(60), "Length of an example"
    )
    example_hop_seconds: float = _hparam(
        0.5, "s", _up_to(60), "Time between the starts of consecutive examples"
    )
    batch_size: int = _hparam(
        64, "examples", _up_to(MAX_BATCH_SIZE), "Examples per batch"
    )
    global_pool: str = _hparam(
        "mean", "", _one_of("mean", "max"), "Global pooling over time and frequency"
    )
    dropout: float = _hparam(
        0.0,
        "",
        FRACTION,
        "Probability of keeping (not dropping) an activation; 0: no dropout layer",
    )
    lsmooth: float = _hparam(0.0, "", FRACTION, "Label smoothing towards 0.5; 0: none")
    weights_init_stddev: float = _hparam(
        0.0,
        "",
        NOT_NEGATIVE,
        "Standard deviation of the initial weights; 0: Xavier uniform",
    )
    bn: int = _hparam(
        1, "", SWITCH, "1: batch norm after each convolution; 0: biases instead"
    )
    bndecay: float = _hparam(
        0.9997, "per step", FRACTION, "Decay of the moving averages of batch norm"
    )
    bneps: float = _hparam(0.001, "", POSITIVE, "Epsilon of batch norm")
    warmstart: int = _hparam(
        0, "", SWITCH, "1: take the initial weights from --warmstart_checkpoint"
    )
    opt: str = _hparam("adam", "", _one_of("adam", "sgd"), "Optimizer")
    lr: float = _hparam(1e-4, "", NOT_NEGATIVE, "Learning rate")
    adam_eps: float = _hparam(1e-8, "", POSITIVE, "Epsilon of Adam")
    lrdecay: float = _hparam(
        0.0,
        "",
        FRACTION,
        "Factor applied to the learning rate every decay_epochs; 0: constant",
    )
    decay_epochs: float = _hparam(
        2.5, "epochs", _up_to(100000), "Epochs between decays of the learning rate"
    )
    bn_ramp: int = _hparam(
        0,
        "",
        SWITCH,
        "1: ramp up batch-norm decay early in training: min(bndecay, (1+t)/(10+t)) at "
        "step t; 0: constant decay",
    )
    cosine: int = _hparam(
        0,
        "",
        SWITCH,
        "1: cosine decay of the learning rate, from lr to 0 at the last step",
    )
    warmup_steps: int = _hparam(
        0,
        "steps",
        NOT_NEGATIVE,
        "Steps of linear learning rate warm-up from 0, with cosine=1; 0: no warm-up",
    )
    gain_db: float = _hparam(
        0.0,
        "dB",
        _from_0_to(60),
        "Maximum random gain or attenuation of an example; 0: none",
    )
    freq_masks: int = _hparam(
        0, "", _from_0_to(10), "Number of random frequency masks per example; 0: none"
    )
    freq_mask_bands: int = _hparam(
        12, "bands", _from_0_to(1024), "Maximum width of a frequency mask"
    )
    time_masks: int = _hparam(
        0, "", _from_0_to(10), "Number of random time masks per example; 0: none"
    )
    time_mask_frames: int = _hparam(
        20, "frames", _from_0_to(6000), "Maximum width of a time mask"
    )
    frontend: str = _hparam(
        "log",
        "",
        _one_of("log", "pcen"),
        "Compression of the mel spectrogram: logarithm or PCEN",
    )
    pcen_alpha: float = _hparam(
        0.98, "", FRACTION, "PCEN: strength of the gain control"
    )
    pcen_delta: float = _hparam(2.0, "", NOT_NEGATIVE, "PCEN: offset")
    pcen_r: float = _hparam(0.5, "", _up_to(1), "PCEN: exponent")
    pcen_eps: float = _hparam(
        1e-6,
        "magnitude",
        ("1e-12 or more", lambda value: value >= 1e-12),
        "PCEN: offset added to the smoothed spectrogram",
    )
    pcen_seconds: float = _hparam(
        0.4, "s", _up_to(60), "PCEN: time constant of the smoothing"
    )

    def __post_init__(self):
        for field in dataclasses.fields(self):
            _check_value(field, getattr(self, field.name))
        for conflict in self._conflicts():  # Others may follow from the first.
            raise UserError(f"hyperparameter {conflict}")

    def _conflicts(self) -> Iterator[str]:
        """Yields one message for each conflict between values."""
        if self.mel_min_hz >= self.mel_max_hz:
            yield (
                f"mel_min_hz must be below mel_max_hz, but {self.mel_min_hz:g} Hz is "
                f"not below {self.mel_max_hz:g} Hz"
            )
        for name in (
            "stft_window_samples",
            "stft_hop_samples",
            "example_window_frames",
            "example_hop_frames",
        ):
            if getattr(self, name) < 1:
                seconds = name.rsplit("_", 1)[0] + "_seconds"
                value = getattr(self, seconds)
                yield f"{seconds} must give {name} of at least 1, but got {value:g}"
        if self.cosine and self.lrdecay:
            yield "cosine=1 and lrdecay are mutually exclusive; set only one of them"
        if self.frontend == "pcen" and self.gain_db:
            yield "gain_db needs frontend=log; PCEN removes gains"
        if self.freq_masks and self.freq_mask_bands > self.mel_bands:
            yield f"freq_mask_bands must be at most mel_bands, {self.mel_bands}"
        if self.time_masks and self.time_mask_frames > self.example_window_frames:
            frames = self.example_window_frames
            yield f"time_mask_frames must be at most the {frames} frames of an example"

    @property
    def stft_window_samples(self) -> int:
        """Number of samples in an STFT window."""
        return round(SAMPLE_RATE * self.stft_window_seconds)

    @property
    def stft_hop_samples(self) -> int:
        """Number of samples between the starts of consecutive STFT windows."""
        return round(SAMPLE_RATE * self.stft_hop_seconds)

    @property
    def fft_length(self) -> int:
        """Length of the FFT: the smallest power of two that covers an STFT window."""
        return 1 << (self.stft_window_samples - 1).bit_length()

    @property
    def example_window_frames(self) -> int:
        """Number of STFT frames in an example."""
        # As in the original: not seconds / hop, which rounds 0.235 / 0.01 to 23.
        return round(1 / self.stft_hop_seconds * self.example_window_seconds)

    @property
    def example_hop_frames(self) -> int:
        """Number of STFT frames between the starts of consecutive examples."""
        return round(1 / self.stft_hop_seconds * self.example_hop_seconds)

    def __str__(self) -> str:
        """The values that differ from the defaults."""
        values = dataclasses.asdict(self).items()
        changed = [f"{n}={value}" for n, value in values if value != FIELDS[n].default]
        return ", ".join(changed) or "defaults"

    def features(self) -> tuple[Any, ...]:
        """The values that determine the features of a clip."""
        of_network = ("global_pool", "bn", "bneps")
        names = [name for name in MODEL_HPARAMS if name not in of_network]
        return tuple(getattr(self, name) for name in names)

    def num_frames(self, num_samples: np.ndarray | int) -> np.ndarray | int:
        """STFT frames of a clip of num_samples samples, at least 1 (padded)."""
        beyond_first = np.maximum(num_samples - self.stft_window_samples, 0)
        return 1 + beyond_first // self.stft_hop_samples

    def num_examples(self, num_samples: np.ndarray | int) -> np.ndarray | int:
        """Examples of a clip of num_samples samples: frames / hop, rounded up."""
        return -(-self.num_frames(num_samples) // self.example_hop_frames)


# The types of their values, with a description.
KINDS = {
    int: (int, "a whole number"),
    float: (numbers.Real, "a number"),
    str: (str, "a name"),
}
FIELDS = {field.name: field for field in dataclasses.fields(Hparams)}
# These affect only training. The others determine what a network computes.
TRAINING_HPARAMS = (
    *("batch_size", "dropout", "lsmooth", "weights_init_stddev", "bndecay"),
    *("warmstart", "opt", "lr", "adam_eps", "lrdecay", "decay_epochs", "bn_ramp"),
    *("cosine", "warmup_steps", "gain_db"),
    *("freq_masks", "freq_mask_bands", "time_masks", "time_mask_frames"),
)
MODEL_HPARAMS = tuple(name for name in FIELDS if name not in TRAINING_HPARAMS)


def _check_value(field: dataclasses.Field, value: Any) -> None:
    text, is_allowed = field.metadata["allowed"]
    kind, description = KINDS[field.type]
    if not isinstance(value, kind):
        raise UserError(
            f"hyperparameter {field.name} must be {description}, but got {value}"
        )
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"hyperparameter {field.name} must be finite, but got {value}")
    if not is_allowed(value):
        raise UserError(f"hyperparameter {field.name} must be {text}, but got {value}")


def parse_overrides(text: str) -> dict[str, Any]:
    """Parses `name=value,name=value` into typed values, by name.

    Raises:
      UserError: a name is unknown or given twice, or a value has the wrong type or is
        outside its range.
    """
    overrides = {}
    for pair in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = (part.strip() for part in pair.partition("="))
        if not equals:
            raise UserError(f"--hparams takes name=value pairs, but got '{pair}'")
        if name not in FIELDS:
            raise UserError(
                f"--hparams: there is no hyperparameter '{name}'; the names are "
                f"{', '.join(FIELDS)}"
            )
        if name in overrides:
            raise UserError(f"--hparams: {name} is given twice")
        field = FIELDS[name]
        try:
            overrides[name] = field.type(value)
        except ValueError:
            raise UserError(
                f"--hparams: {name} must be {KINDS[field.type][1]}, but got '{value}'"
            ) from None
        _check_value(field, overrides[name])
    return overrides


def model_hparams(model_name: str, overrides: Mapping[str, Any]) -> Hparams:
    """Returns the defaults of a model, with the given values overriding them."""
    return Hparams(**MODEL_DEFAULTS.get(model_name, {}) | overrides)
