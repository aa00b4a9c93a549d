"""Draws the tags of a recording below its spectrogram.

Uses Matplotlib without pyplot, because pyplot would look for a display.
Letters for shapes: E examples, T frames, F mel bands, C classes.
"""

import io
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from tagger.hparams import SAMPLE_RATE, Hparams

FIGURE_INCHES = (12, 7)
DOTS_PER_INCH = 100
MAX_COLUMNS = 4000  # of the spectrogram; more would only take time
MAX_CLASSES = 12
TICKS_HZ = (50, 200, 500, 1000, 2000, 5000, 10000, 20000)
# The HTK mel scale, as in tf.signal.linear_to_mel_weight_matrix.
MEL_BREAK_HZ = 700.0
MEL_HIGH_Q = 1127.0


def tags_picture(
    log_mel: np.ndarray,
    scores: np.ndarray,
    *,
    class_names: Sequence[str],
    hparams: Hparams,
) -> bytes:
    """Draws a spectrogram, and below it the scores of the highest classes over time.

    Args:
      log_mel: float32 [T, F], natural logarithm of magnitude plus mel_log_offset.
      scores: float64 [E, C] in [0, 1], of each example.
      class_names: C names.
      hparams: hyperparameters of the features, for the axes.

    Returns:
      A PNG file.
    """
    figure = Figure(figsize=FIGURE_INCHES, dpi=DOTS_PER_INCH, layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    image = _draw_spectrogram(above, log_mel, hparams)
    figure.colorbar(image, ax=above, label="log mel magnitude", pad=0.01)
    best = np.argsort(-scores.max(axis=0), kind="stable")[:MAX_CLASSES]
    # A column starts where its example starts.
    frame_seconds = hparams.stft_hop_samples / SAMPLE_RATE
    hop = hparams.example_hop_frames * frame_seconds
    image = below.imshow(
        scores[:, best].T,
        aspect="auto",
        interpolation="nearest",
        extent=(0, len(scores) * hop, len(best), 0),
        vmin=0,
        vmax=1,
    )
    below.set_yticks(np.arange(len(best)) + 0.5)
    below.set_yticklabels([class_names[index] for index in best], parse_math=False)
    below.set_xlabel("s")
    figure.colorbar(image, ax=below, label="score", pad=0.01)
    above.set_xlim(0, max(len(log_mel) * frame_seconds, hop))
    png = io.BytesIO()
    figure.savefig(png, format="png")
    return png.getvalue()


def _draw_spectrogram(axes: Axes, log_mel: np.ndarray, hparams: Hparams) -> AxesImage:
    """Draws a log mel spectrogram with seconds and Hz at its axes."""
    columns, column_frames = _columns(log_mel)
    column_seconds = column_frames * hparams.stft_hop_samples / SAMPLE_RATE
    image = axes.imshow(
        columns.T,
        origin="lower",
        aspect="auto",
        extent=(0, len(columns) * column_seconds, 0, hparams.mel_bands),
    )
    ticks = {_hz_to_band(hz, hparams): hz for hz in TICKS_HZ}
    ticks = {band: hz for band, hz in ticks.items() if 0 <= band <= hparams.mel_bands}
    axes.set_yticks(list(ticks), list(ticks.values()))
    axes.set_ylabel("Hz, mel scale")
    return image


def _columns(log_mel: np.ndarray) -> tuple[np.ndarray, int]:
    """At most MAX_COLUMNS maxima over equal numbers of frames, and this number.

    The maxima show sounds that are shorter than a column.
    """
    column_frames = -(-len(log_mel) // MAX_COLUMNS)
    starts = np.arange(0, len(log_mel), column_frames)
    return np.maximum.reduceat(log_mel, starts), column_frames


def _hz_to_band(hz: float, hparams: Hparams) -> float:
    """The position of a frequency on an axis where band b extends from b to b + 1."""
    low, mel, high = (
        MEL_HIGH_Q * np.log1p(value / MEL_BREAK_HZ)
        for value in (hparams.mel_min_hz, hz, hparams.mel_max_hz)
    )
    # The centres of the bands divide the range into mel_bands + 1 equal parts.
    return (mel - low) / (high - low) * (hparams.mel_bands + 1) - 0.5
