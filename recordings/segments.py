"""The tags of a recording, and the parts of it in which a class was detected.

Letters for shapes: E examples, T frames, F mel bands, C classes, D values
of an embedding.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from recordings.thresholds import Rule
from tagger.hparams import SAMPLE_RATE, Hparams

ROUNDING_SECONDS = 1e-6  # of sums of hops


class Tags(NamedTuple):
    """What was computed of a recording.

    Attributes:
      seconds: duration of the recording.
      scores: float64 [E, C] in [0, 1], of each example.
      embeddings: float32 [E, D], or None if they are not kept.
      log_mel: float32 [T, F], from `inputs.waveform_to_log_mel_spectrogram`, or None if
        it is not kept.
      doubt: why the scores mean little; empty if there is no reason.
    """

    seconds: float
    scores: np.ndarray
    embeddings: np.ndarray | None
    log_mel: np.ndarray | None
    doubt: str = ""


class Segment(NamedTuple):
    """A part of a recording in which a class was detected.

    Attributes:
      start, end: seconds from the start of the recording.
      class_name: the class.
      score: the highest score of the segment's examples, see `mean_scores`.
    """

    start: float
    end: float
    class_name: str
    score: float


def example_times(hparams: Hparams) -> tuple[float, float]:
    """Seconds from the start of an example to that of the next one, and to its end."""
    frame_seconds = hparams.stft_hop_samples / SAMPLE_RATE
    hop, window = hparams.example_hop_frames, hparams.example_window_frames
    return hop * frame_seconds, window * frame_seconds


def mean_scores(
    scores: np.ndarray, mean_seconds: float, hop_seconds: float
) -> np.ndarray:
    """The mean scores, float64 [E], over the examples near each; see `Rule`.

    Beyond the ends of a recording, the first and the last score are repeated.

    Args:
      scores: float64 [E].
      mean_seconds: see `Rule`.
      hop_seconds: the time between the starts of examples.
    """
    reach = int((mean_seconds / 2 + ROUNDING_SECONDS) / hop_seconds)
    if not reach or not scores.size:
        return scores
    padded = np.pad(scores, reach, mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 1)
    return windows.mean(axis=1)


def find_segments(
    tags: Tags,
    class_names: Sequence[str],
    hparams: Hparams,
    rule: Rule,
) -> list[Segment]:
    """Merges consecutive examples with a score of at least the threshold, per class.

    Args:
      tags: the scores of a recording.
      class_names: C names.
      hparams: hyperparameters of the features, for the times.
      rule: of all classes, or as arrays [C], of each.

    Returns:
      The segments, sorted by their start.
    """
    hop_seconds, window_seconds = example_times(hparams)
    segments = []
    values = [np.broadcast_to(value, len(class_names)) for value in rule]
    # A mean is at most the highest score.
    reached = tags.scores.max(axis=0, initial=0) >= values[0]
    for index in np.flatnonzero(reached):
        threshold, gap_seconds, min_seconds, mean_seconds = (v[index] for v in values)
        class_name, own = class_names[index], tags.scores[:, index]
        scores = mean_scores(own, mean_seconds, hop_seconds)
        detected = np.pad(scores >= threshold, 1).astype(np.int8)
        starts, stops = np.flatnonzero(np.diff(detected)).reshape(-1, 2).T
        gaps = (starts[1:] - stops[:-1]) * hop_seconds
        apart = gaps > gap_seconds + ROUNDING_SECONDS
        starts = starts[np.append(True, apart)[: starts.size]]
        stops = stops[np.append(apart, True)[: stops.size]]
        for first, stop in zip(starts, stops, strict=True):
            seconds = (stop - 1 - first) * hop_seconds + window_seconds
            if seconds >= min_seconds - ROUNDING_SECONDS:
                start = first * hop_seconds
                end = min(start + seconds, tags.seconds)
                score = scores[first:stop].max()
                segments.append(Segment(start, end, class_name, score))
    return sorted(segments)
