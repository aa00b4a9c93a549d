"""Draws examples as log mel spectrograms.

Uses Matplotlib without pyplot, because pyplot would look for a display.
Letters for shapes: E examples, T frames, F mel bands, C classes.
"""

import io
import textwrap
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from tagger.hparams import Hparams

DOTS_PER_INCH = 100
EXAMPLE_COLUMNS = 4
COLUMN_INCHES = 3.2
ROW_INCHES = 2.6
AXIS_LABEL_INCHES = 0.3  # below the last row
TITLE_CHARACTERS = 30  # per line
TICKS_HZ = (50, 200, 500, 1000, 2000, 5000, 10000, 20000)
# The HTK mel scale, as in tf.signal.linear_to_mel_weight_matrix.
MEL_BREAK_HZ = 700.0
MEL_HIGH_Q = 1127.0


def examples_picture(
    features: np.ndarray,
    labels: np.ndarray,
    *,
    class_names: Sequence[str],
    hparams: Hparams,
) -> bytes:
    """Draws examples, each below the names of its classes.

    Args:
      features: float32 [E, T, F], natural logarithm of magnitude plus mel_log_offset.
      labels: float32 [E, C], nonzero for the classes of each example.
      class_names: C names.
      hparams: hyperparameters of the features, for the axes.

    Returns:
      A PNG file.
    """
    figure, grid = _new_grid(len(features))
    seconds = features.shape[1] * hparams.stft_hop_seconds
    ticks = [hz for hz in TICKS_HZ if hparams.mel_min_hz <= hz <= hparams.mel_max_hz]
    bands = [_hz_to_band(hz, hparams) for hz in ticks]
    for axes, example, label in zip(grid.flat, features, labels):
        image = axes.imshow(
            example.T,
            origin="lower",
            aspect="auto",
            extent=(0, seconds, 0, hparams.mel_bands),
            vmin=features.min(),
            vmax=features.max(),
        )
        names = ", ".join(class_names[index] for index in np.flatnonzero(label))
        title = textwrap.fill(names, TITLE_CHARACTERS)
        axes.set_title(title, fontsize=9, parse_math=False)
        axes.set_yticks(bands, ticks)
    for axes in grid[-1]:
        axes.set_xlabel("s")
    for axes in grid[:, 0]:
        axes.set_ylabel("Hz, mel scale")
    figure.colorbar(image, ax=grid, label="log mel magnitude", pad=0.01)
    png = io.BytesIO()
    figure.savefig(png, format="png")
    return png.getvalue()


def _new_grid(num_examples: int) -> tuple[Figure, np.ndarray]:
    """A figure, and its axes as an array of rows and columns."""
    rows = -(-num_examples // EXAMPLE_COLUMNS)
    width = COLUMN_INCHES * EXAMPLE_COLUMNS
    height = ROW_INCHES * rows + AXIS_LABEL_INCHES
    figure = Figure(figsize=(width, height), dpi=DOTS_PER_INCH, layout="constrained")
    grid = figure.subplots(
        rows, EXAMPLE_COLUMNS, sharex=True, sharey=True, squeeze=False
    )
    for axes in grid.flat[num_examples:]:
        axes.set_visible(False)
    return figure, grid


def _hz_to_band(hz: float, hparams: Hparams) -> float:
    """The position of a frequency on an axis where band b extends from b to b + 1."""
    low, mel, high = (
        MEL_HIGH_Q * np.log1p(value / MEL_BREAK_HZ)
        for value in (hparams.mel_min_hz, hz, hparams.mel_max_hz)
    )
    # The centres of the bands divide the range into mel_bands + 1 equal parts.
    return (mel - low) / (high - low) * (hparams.mel_bands + 1) - 0.5
