"""The tags of a recording, and the parts of it in which a class was detected.

Letters for shapes: E examples, T frames, F mel bands, C classes.
"""

import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tagger.hparams import SAMPLE_RATE, Hparams
from tagger.terminal.files import atomic, write_whole
from tagger.terminal.progress import printable

SEGMENT_HEADER = ("file", "start", "end", "class", "score")


class Tags(NamedTuple):
    """What was computed of a recording.

    Attributes:
      seconds: duration of the recording.
      scores: float64 [E, C] in [0, 1], of each example.
      embeddings: float32 [E, 1024], or None if they are not kept.
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
      score: the highest score of the segment's examples.
    """

    start: float
    end: float
    class_name: str
    score: float


def find_segments(
    tags: Tags,
    class_names: Sequence[str],
    hparams: Hparams,
    thresholds: float | np.ndarray,
) -> list[Segment]:
    """Merges consecutive examples with a score of at least the threshold, per class.

    Args:
      tags: the scores of a recording.
      class_names: C names.
      hparams: hyperparameters of the features, for the times.
      thresholds: of all classes, or float64 [C], of each.

    Returns:
      The segments, sorted by their start.
    """
    frame_seconds = hparams.stft_hop_samples / SAMPLE_RATE
    hop_seconds = hparams.example_hop_frames * frame_seconds
    window_seconds = hparams.example_window_frames * frame_seconds
    segments = []
    detected = np.pad(tags.scores >= thresholds, ((1, 1), (0, 0))).astype(np.int8)
    changes = np.diff(detected, axis=0)
    for index, class_name in enumerate(class_names):
        starts, stops = np.flatnonzero(changes[:, index]).reshape(-1, 2).T
        for first, stop in zip(starts, stops, strict=True):
            end = min((stop - 1) * hop_seconds + window_seconds, tags.seconds)
            score = tags.scores[first:stop, index].max()
            segments.append(Segment(first * hop_seconds, end, class_name, score))
    return sorted(segments)


def segment_row(path: str, segment: Segment) -> tuple[str, ...]:
    """A row of the CSV of segments, in valid UTF-8."""
    start, end, class_name, score = segment
    return printable(path), f"{start:.3f}", f"{end:.3f}", class_name, f"{score:.6f}"


def write_label_track(path: pathlib.Path, segments: Sequence[Segment]) -> None:
    """Writes segments as labels for Audacity, atomically."""
    lines = [
        f"{start:.3f}\t{end:.3f}\t{printable(class_name)} {score:.2f}\n"
        for start, end, class_name, score in segments
    ]
    write_whole(path, "".join(lines))


def write_embeddings(
    path: str | pathlib.Path, found: Sequence[tuple[str, np.ndarray]], hparams: Hparams
) -> None:
    """Writes the embeddings of all files to an NPZ file, atomically.

    Its arrays are `embeddings`, float32 [E, 1024], of the examples of all files; for
    each of them `start`, in seconds, and `file_index`, a position in `files`.
    """
    hop_seconds = hparams.example_hop_frames * hparams.stft_hop_samples / SAMPLE_RATE
    paths, embeddings = zip(*found, strict=True)
    lengths = list(map(len, embeddings))
    with atomic(pathlib.Path(path)) as file:
        np.savez(
            file,
            files=np.array(paths),
            file_index=np.repeat(np.arange(len(found)), lengths),
            start=np.concatenate([hop_seconds * np.arange(n) for n in lengths]),
            embeddings=np.concatenate(embeddings),
        )


def top_classes(
    tags: Tags,
    class_names: Sequence[str],
    top: int,
    marked_from: np.ndarray | None = None,
) -> str:
    """Lines with the highest mean scores of a recording.

    Args:
      tags: the scores of a recording.
      class_names: C names.
      top: number of lines.
      marked_from: float64 [C]; means that reach it are marked with "*". None: no marks.
    """
    mean = tags.scores.mean(axis=0)
    best = np.argsort(-mean, kind="stable")[:top]
    reached = mean >= (np.inf if marked_from is None else marked_from)
    return "\n".join(
        f"{'*' if reached[index] else ' '} {mean[index]:.4f}  {class_names[index]}"
        for index in best
    )
