"""Pictures, as PNG files in memory: examples, lwlrap per class, lwlrap over steps.

Matplotlib is imported with the first picture, as it takes a second, and without pyplot,
which would look for a screen.

Letters for shapes: E examples, T frames, F mel bands, C classes.
"""

import io
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from tagger.hparams import Hparams

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DOTS_PER_INCH = 100
BLUE, ORANGE, GREY = (
    "#4477aa",
    "#dd7722",
    "#888888",
)  # also told apart by the colorblind
MAX_DOTS = 60  # A curve of more steps has a dot at its best only.
EXAMPLE_COLUMNS = 4
TITLE_CHARACTERS = 30  # in a line above an example
TICKS_HZ = (50, 200, 500, 1000, 2000, 5000, 10000, 20000)
# The HTK mel scale, as tf.signal.linear_to_mel_weight_matrix has it.
MEL_BREAK_HZ = 700.0
MEL_HIGH_Q = 1127.0


def examples_picture(
    features: np.ndarray,
    labels: np.ndarray,
    *,
    class_names: Sequence[str],
    hparams: Hparams,
) -> bytes:
    """Draws log mel examples under the names of their classes.

    Args:
      features: float32 [E, T, F], natural logarithm of magnitude plus mel_log_offset.
      labels: float32 [E, C], not 0 for the classes of each example.
      class_names: C names.
      hparams: for the axes.
    """
    rows = -(-len(features) // EXAMPLE_COLUMNS)
    figure = _new_figure(width=3.2 * EXAMPLE_COLUMNS, height=2.6 * rows + 0.3)
    grid = figure.subplots(
        rows, EXAMPLE_COLUMNS, sharex=True, sharey=True, squeeze=False
    )
    _, num_frames, num_bands = features.shape
    seconds = num_frames * hparams.stft_hop_seconds
    ticks = [hz for hz in TICKS_HZ if hparams.mel_min_hz <= hz <= hparams.mel_max_hz]
    for axes in grid.flat[len(features) :]:
        axes.set_visible(False)
    for axes, example, label in zip(grid.flat, features, labels):
        image = axes.imshow(
            example.T,
            origin="lower",
            aspect="auto",
            extent=(0, seconds, 0, num_bands),
            vmin=features.min(),
            vmax=features.max(),
        )
        names = ", ".join(class_names[index] for index in np.flatnonzero(label))
        title = textwrap.fill(names, TITLE_CHARACTERS)
        axes.set_title(title, fontsize=9, parse_math=False)
        axes.set_yticks([_band_of(hz, hparams) for hz in ticks], ticks)
    for axes in grid[-1]:
        axes.set_xlabel("s")
    for axes in grid[:, 0]:
        axes.set_ylabel("Hz, mel scale")
    figure.colorbar(image, ax=grid, label="log mel magnitude", pad=0.01)
    return _png(figure)


def _band_of(hz: float, hparams: Hparams) -> float:
    """Where a frequency lies on an axis of mel bands, band b being from b to b + 1."""
    low, mel, high = (
        MEL_HIGH_Q * np.log1p(value / MEL_BREAK_HZ)
        for value in (hparams.mel_min_hz, hz, hparams.mel_max_hz)
    )
    # The bands' centres cut the range into mel_bands + 1 parts.
    return (mel - low) / (high - low) * (hparams.mel_bands + 1) - 0.5


def per_class_picture(
    values: np.ndarray,
    num_clips: np.ndarray,
    *,
    class_names: Sequence[str],
    title: str,
    other_values: np.ndarray | None = None,
    other_title: str = "",
) -> bytes:
    """Draws lwlrap per class, best first, beside that of another checkpoint.

    Args:
      values: float [C] in [0, 1].
      num_clips: int [C]; classes without clips are left out.
      class_names: C names.
      title: what the values are of.
      other_values: float [C], NaN where not known; None: there is no other.
      other_title: what the other values are of.
    """
    order = np.argsort(values, kind="stable")
    order = order[num_clips[order] > 0]
    places = np.arange(len(order))
    figure = _new_figure(width=9, height=1.4 + 0.19 * len(order))
    axes = figure.subplots()
    bars = axes.barh(
        places, values[order], color=BLUE, height=0.75, label="this checkpoint"
    )
    for place, value in zip(places, values[order]):
        axes.text(1.01, place, f"{value:.3f}", fontsize=8, va="center")
    if other_values is not None:
        (ticks,) = axes.plot(
            other_values[order],
            places,
            linestyle="none",
            marker="|",
            markersize=9,
            markeredgewidth=2.5,
            color=ORANGE,
            label=other_title,
            clip_on=False,
        )
        axes.legend(
            handles=[bars, ticks],
            loc="lower left",
            bbox_to_anchor=(0, 1),
            ncols=2,
            frameon=False,
        )
    names = [f"{class_names[index]} ({num_clips[index]})" for index in order]
    axes.set_yticks(places, names, fontsize=8, parse_math=False)
    axes.set_ylim(-0.6, len(order) - 0.4)
    axes.set_xlim(0, 1.005)
    axes.grid(axis="x", alpha=0.4)
    axes.set_axisbelow(True)
    axes.set_xlabel("lwlrap; in brackets the number of clips")
    figure.suptitle(title)
    return _png(figure)


def lwlrap_picture(overall: Mapping[int, float]) -> bytes:
    """Draws overall lwlrap over steps, by step, and marks the best."""
    steps = sorted(overall)
    best = max(steps, key=lambda step: overall[step])
    figure = _new_figure(width=8, height=4.5)
    axes = figure.subplots()
    axes.plot(
        steps,
        [overall[step] for step in steps],
        color=BLUE,
        marker="." if len(steps) <= MAX_DOTS else "",
    )
    axes.plot(best, overall[best], marker="o", color=ORANGE, clip_on=False)
    axes.axhline(overall[best], color=GREY, linewidth=0.8, linestyle=":")
    axes.set_title(f"Overall lwlrap; best {overall[best]:.3f} at step {best}")
    axes.set_xlabel("step")
    axes.set_ylabel("lwlrap")
    axes.set_ylim(0, 1)
    axes.set_xlim(0, 1.02 * max(steps[-1], 1))
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(alpha=0.4)
    return _png(figure)


def _new_figure(*, width: float, height: float) -> "Figure":
    """An empty figure of a size in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=DOTS_PER_INCH, layout="constrained")


def _png(figure: "Figure") -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():  # of letters that the font lacks
        warnings.simplefilter("ignore")
        figure.savefig(buffer, format="png")
    return buffer.getvalue()
