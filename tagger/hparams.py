"""The hyperparameters: names, defaults, units, allowed values and meanings.

Names, defaults and order are those of the DCASE 2019 Task 2 baseline (`parse_hparams`
in its model.py). mel_gain and all after decay_epochs are additions, off by default.
This module does not import TensorFlow.
"""

import dataclasses
import difflib
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np

from tagger.errors import UserError
from tagger.hparam_fields import (
    FRACTION,
    NOT_NEGATIVE,
    POSITIVE,
    SWITCH,
    describe,
    from_to,
    hparam,
    one_of,
    parse_value,
    problem_of,
    up_to,
)

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
# examples of the default size, that happens above 3,495 examples, divided by width.
MAX_BATCH_SIZE = 3000


@dataclasses.dataclass(frozen=True)
class Hparams:
    """Hyperparameters of features, model and training; checks their values.

    Raises:
      UserError: a value is outside its range, or two values are in conflict.
    """

    stft_window_seconds: float = hparam(
        0.025, "s", up_to(1), "Window length of the short-time Fourier transform"
    )
    stft_hop_seconds: float = hparam(
        0.010, "s", up_to(1), "Hop length of the short-time Fourier transform"
    )
    mel_bands: int = hparam(96, "bands", up_to(1024), "Number of mel bands")
    mel_min_hz: float = hparam(
        20.0, "Hz", NOT_NEGATIVE, "Lower edge of the lowest mel band"
    )
    mel_max_hz: float = hparam(
        20000.0, "Hz", up_to(SAMPLE_RATE / 2), "Upper edge of the highest mel band"
    )
    # At 44.1 kHz, a window has 2.76 times as many samples as at 16 kHz, and a mel band
    # 1.45 times as many bins of the FFT.
    mel_gain: float = hparam(
        1.0,
        "",
        POSITIVE,
        "Factor applied to the mel spectrogram; 0.25 approximates the magnitudes of "
        "16 kHz audio",
    )
    mel_log_offset: float = hparam(
        0.001,
        "magnitude",
        POSITIVE,
        "Offset added to the mel spectrogram before the logarithm",
    )
    example_window_seconds: float = hparam(1.0, "s", up_to(60), "Length of an example")
    example_hop_seconds: float = hparam(
        0.5, "s", up_to(60), "Time between the starts of consecutive examples"
    )
    batch_size: int = hparam(
        64, "examples", up_to(MAX_BATCH_SIZE), "Examples per batch"
    )
    global_pool: str = hparam(
        "mean", "", one_of("mean", "max"), "Global pooling over time and frequency"
    )
    dropout: float = hparam(
        0.0,
        "",
        FRACTION,
        "Probability of keeping (not dropping) an activation; 0: no dropout layer",
    )
    lsmooth: float = hparam(0.0, "", FRACTION, "Label smoothing towards 0.5; 0: none")
    weights_init_stddev: float = hparam(
        0.0,
        "",
        NOT_NEGATIVE,
        "Standard deviation of the initial weights; 0: Xavier uniform",
    )
    bn: int = hparam(
        1, "", SWITCH, "1: batch norm after each convolution; 0: biases instead"
    )
    bndecay: float = hparam(
        0.9997, "per step", FRACTION, "Decay of the moving averages of batch norm"
    )
    bneps: float = hparam(0.001, "", POSITIVE, "Epsilon of batch norm")
    warmstart: int = hparam(
        0, "", SWITCH, "1: take the initial weights from --warmstart_checkpoint"
    )
    opt: str = hparam("adam", "", one_of("adam", "sgd"), "Optimizer")
    lr: float = hparam(1e-4, "", NOT_NEGATIVE, "Learning rate")
    adam_eps: float = hparam(1e-8, "", POSITIVE, "Epsilon of Adam")
    lrdecay: float = hparam(
        0.0,
        "",
        FRACTION,
        "Factor applied to the learning rate every decay_epochs; 0: constant",
    )
    decay_epochs: float = hparam(
        2.5, "epochs", up_to(100000), "Epochs between decays of the learning rate"
    )
    width: float = hparam(
        1.0,
        "",
        from_to(0.25, 2),
        "Factor applied to the number of filters of each convolution, rounded to a "
        "whole number",
    )
    bn_ramp: int = hparam(
        0,
        "",
        SWITCH,
        "1: ramp up batch-norm decay early in training: min(bndecay, (1+t)/(10+t)) at "
        "step t; 0: constant decay",
    )
    cosine: int = hparam(
        0,
        "",
        SWITCH,
        "1: cosine decay of the learning rate, from lr to 0 at the last step",
    )
    warmup_steps: int = hparam(
        0,
        "steps",
        NOT_NEGATIVE,
        "Steps of linear learning rate warm-up from 0, with cosine=1; 0: no warm-up",
    )
    gain_db: float = hparam(
        0.0,
        "dB",
        from_to(0, 60),
        "Maximum random gain or attenuation of an example; 0: none",
    )
    freq_masks: int = hparam(
        0, "", from_to(0, 10), "Number of random frequency masks per example; 0: none"
    )
    freq_mask_bands: int = hparam(
        12, "bands", from_to(0, 1024), "Maximum width of a frequency mask"
    )
    time_masks: int = hparam(
        0, "", from_to(0, 10), "Number of random time masks per example; 0: none"
    )
    time_mask_frames: int = hparam(
        20, "frames", from_to(0, 6000), "Maximum width of a time mask"
    )
    frontend: str = hparam(
        "log",
        "",
        one_of("log", "pcen"),
        "Compression of the mel spectrogram: logarithm or PCEN",
    )
    pcen_alpha: float = hparam(0.98, "", FRACTION, "PCEN: strength of the gain control")
    pcen_delta: float = hparam(2.0, "", NOT_NEGATIVE, "PCEN: offset")
    pcen_r: float = hparam(0.5, "", up_to(1), "PCEN: exponent")
    pcen_eps: float = hparam(
        1e-6,
        "magnitude",
        ("1e-12 or more", lambda value: value >= 1e-12),
        "PCEN: offset added to the smoothed spectrogram",
    )
    pcen_seconds: float = hparam(
        0.4, "s", up_to(60), "PCEN: time constant of the smoothing"
    )

    def __post_init__(self):
        fields = dataclasses.fields(self)
        problems = [problem_of(field, getattr(self, field.name)) for field in fields]
        if not any(problems):
            problems = [next(self._conflicts(), "")]  # Others may follow from it.
        if any(problems):
            raise UserError(*(f"hyperparameter {text}" for text in problems if text))

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
        if self.batch_size * self.width > MAX_BATCH_SIZE:
            most = int(MAX_BATCH_SIZE / self.width)
            yield f"batch_size must be at most {most} with width={self.width:g}"
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

    def warnings(self, given: Collection[str]) -> Iterator[str]:
        """Yields one message for each given name whose value may be a mistake."""
        for name, (other, needed) in EFFECT_NEEDS.items():
            value = getattr(self, other)
            if name in given and not (value if needed is None else value == needed):
                condition = (
                    f"{other} above 0" if needed is None else f"{other}={needed}"
                )
                yield f"{name} has no effect without {condition}"
        if "dropout" in given and 0 < self.dropout < LEAST_DROPOUT:
            yield (
                f"dropout={self.dropout:g} keeps only {self.dropout:.0%} of the "
                f"activations; it is the probability of keeping them"
            )

    def model_values(self) -> dict[str, Any]:
        """The values that determine what a network computes, by name."""
        return {n: FIELDS[n].type(getattr(self, n)) for n in MODEL_HPARAMS}

    def features(self) -> tuple[Any, ...]:
        """The values that determine the features of a clip."""
        of_network = ("global_pool", "bn", "bneps", "width")
        values = self.model_values().items()
        return tuple(value for name, value in values if name not in of_network)

    def num_frames(self, num_samples: np.ndarray | int) -> np.ndarray | int:
        """STFT frames of a clip of num_samples samples, at least 1 (padded)."""
        beyond_first = np.maximum(num_samples - self.stft_window_samples, 0)
        return 1 + beyond_first // self.stft_hop_samples

    def num_examples(self, num_samples: np.ndarray | int) -> np.ndarray | int:
        """Examples of a clip of num_samples samples: frames / hop, rounded up."""
        return -(-self.num_frames(num_samples) // self.example_hop_frames)


FIELDS = {field.name: field for field in dataclasses.fields(Hparams)}
# These affect only training. The others determine what a network computes.
TRAINING_HPARAMS = (
    *("batch_size", "dropout", "lsmooth", "weights_init_stddev", "bndecay"),
    *("warmstart", "opt", "lr", "adam_eps", "lrdecay", "decay_epochs", "bn_ramp"),
    *("cosine", "warmup_steps", "gain_db"),
    *("freq_masks", "freq_mask_bands", "time_masks", "time_mask_frames"),
)
MODEL_HPARAMS = tuple(name for name in FIELDS if name not in TRAINING_HPARAMS)
# These have no effect unless another one has this value; None: any but 0.
EFFECT_NEEDS = {
    **dict.fromkeys(("bndecay", "bneps", "bn_ramp"), ("bn", 1)),
    "adam_eps": ("opt", "adam"),
    "decay_epochs": ("lrdecay", None),
    "warmup_steps": ("cosine", 1),
    "freq_mask_bands": ("freq_masks", None),
    "time_mask_frames": ("time_masks", None),
    "mel_log_offset": ("frontend", "log"),
    **dict.fromkeys([n for n in FIELDS if n.startswith("pcen_")], ("frontend", "pcen")),
}
# The names that are probably meant by similar words: names and meanings.
WORDS = {name.replace("_", " "): name for name in FIELDS}
WORDS |= {field.metadata["meaning"].lower(): name for name, field in FIELDS.items()}
HELP_ADVICE = "--hparams help lists them"
LEAST_DROPOUT = 0.5  # A smaller probability of keeping activations is often a mistake.


def parse_overrides(text: str) -> dict[str, Any]:
    """Parses `name=value,name=value` into typed values, by name.

    The text "help" prints a list of the hyperparameters, and ends the program.

    Raises:
      UserError: names are unknown or given twice, or values have the wrong type or are
        outside their range; one message for each.
    """
    if text == "help":
        print(*map(describe, FIELDS.values()), sep="\n")
        raise SystemExit(0)
    overrides, problems = {}, []
    for pair in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = (part.strip() for part in pair.partition("="))
        if not equals:
            problems.append(f"takes name=value pairs, but got '{pair}'")
        elif name not in FIELDS:
            words = name.replace("_", " ").lower()
            close = difflib.get_close_matches(words, WORDS, n=1)
            advice = f"did you mean {WORDS[close[0]]}?" if close else HELP_ADVICE
            problems.append(f"there is no hyperparameter '{name}'; {advice}")
        elif name in overrides:
            problems.append(f"{name} is given twice")
        else:
            overrides[name] = None
            try:
                overrides[name] = parse_value(FIELDS[name], value)
            except UserError as error:
                problems.append(str(error))
    if problems:
        raise UserError(*(f"--hparams: {problem}" for problem in problems))
    return overrides


def model_hparams(model_name: str, overrides: Mapping[str, Any]) -> Hparams:
    """Returns the defaults of a model, with the given values overriding them."""
    return Hparams(**MODEL_DEFAULTS.get(model_name, {}) | overrides)
