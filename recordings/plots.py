"""Draws the tags of a recording below its spectrogram.

Uses Matplotlib without pyplot, because pyplot would look for a display.
Letters for shapes: E examples, T frames, F mel bands, C classes.
"""

import base64
import io
import math
from collections.abc import Sequence

import matplotlib.image
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from recordings.segments import Segment, Tags
from tagger.hparams import SAMPLE_RATE, Hparams
from tagger.terminal.progress import counted

FIGURE_INCHES = (12, 7)
DOTS_PER_INCH = 100
MAX_COLUMNS = 4000  # of the spectrogram; more would only take time
URL_COLUMNS = 300  # of the spectrogram in a page
MAX_CLASSES = 20  # as many as have legible names
NAME_POINTS = 8
TICKS_HZ = (50, 200, 500, 1000, 2000, 5000, 10000, 20000)
# The HTK mel scale, as in tf.signal.linear_to_mel_weight_matrix.
MEL_BREAK_HZ = 700.0
MEL_HIGH_Q = 1127.0


def tags_figure(
    tags: Tags,
    class_names: Sequence[str],
    hparams: Hparams,
    segments: Sequence[Segment],
) -> Figure:
    """A spectrogram, and below it the scores of classes over time.

    It has at most MAX_CLASSES classes: the detected ones, then those with the highest
    scores. Its title says how many were detected, and how many are shown.

    Args:
      tags: the scores of a recording, with log_mel.
      class_names: C names.
      hparams: hyperparameters of the features, for the axes.
      segments: the detections.
    """
    figure = Figure(figsize=FIGURE_INCHES, dpi=DOTS_PER_INCH, layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    image = _draw_spectrogram(above, tags.log_mel, hparams)
    figure.colorbar(image, ax=above, label="features", pad=0.01)
    detected = np.isin(class_names, [segment.class_name for segment in segments])
    order = np.lexsort([-tags.scores.max(axis=0), ~detected])  # the last key is first
    shown = order[:MAX_CLASSES]
    columns, column_seconds = score_columns(tags.scores[:, shown], hparams)
    image = below.imshow(
        columns.T,
        aspect="auto",
        interpolation="nearest",
        extent=(0, len(columns) * column_seconds, len(shown), 0),
        vmin=0,
        vmax=1,
    )
    below.set_title(
        f"{counted(int(detected.sum()), 'class')} detected; {len(shown)} of "
        f"{counted(len(class_names), 'class')} shown"
    )
    below.set_yticks(np.arange(len(shown)) + 0.5)
    names = [class_names[index] for index in shown]
    below.set_yticklabels(names, parse_math=False, fontsize=NAME_POINTS)
    below.set_xlabel("s")
    figure.colorbar(image, ax=below, label="score", pad=0.01)
    above.set_xlim(0, tags.seconds)
    return figure


def score_columns(scores: np.ndarray, hparams: Hparams) -> tuple[np.ndarray, float]:
    """The highest score of the examples that cover a time, as detections do.

    Args:
      scores: float64 [E, C] in [0, 1], of each example.
      hparams: hyperparameters of the features.

    Returns:
      float64 [columns, C], 0 where there is no example, and the seconds of a column.
    """
    window, hop = hparams.example_window_frames, hparams.example_hop_frames
    column_frames = math.gcd(window, hop)
    window, hop = window // column_frames, hop // column_frames
    columns = np.zeros([(len(scores) - 1) * hop + window, scores.shape[1]])
    for offset in range(window):
        covered = columns[offset::hop][: len(scores)]
        np.maximum(covered, scores, out=covered)
    return columns, column_frames * hparams.stft_hop_samples / SAMPLE_RATE


def _draw_spectrogram(axes: Axes, log_mel: np.ndarray, hparams: Hparams) -> AxesImage:
    """Draws a log mel spectrogram with seconds and Hz at its axes."""
    columns, column_frames = _columns(log_mel, MAX_COLUMNS)
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


def spectrogram_url(log_mel: np.ndarray) -> str:
    """A log mel spectrogram, float32 [T, F], without axes; a PNG as data URL."""
    columns, _ = _columns(log_mel, URL_COLUMNS)
    png = io.BytesIO()
    matplotlib.image.imsave(png, columns.T, origin="lower", format="png")
    return f"data:image/png;base64,{base64.b64encode(png.getvalue()).decode()}"


def _columns(log_mel: np.ndarray, most: int) -> tuple[np.ndarray, int]:
    """At most this many maxima over equal numbers of frames, and this number.

    The maxima show sounds that are shorter than a column.
    """
    column_frames = -(-len(log_mel) // most)
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
