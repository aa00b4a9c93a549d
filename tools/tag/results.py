"""The results of tagging: what is printed for each file, and the files to write.

Letters for shapes: E examples, C classes.
"""

import os
import pathlib
import sys
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from recordings.decoding import Sound
from recordings.segments import Segment, Tags, find_segments
from recordings.thresholds import Rule
from tagger.data.csv_files import write_csv
from tagger.errors import UserError
from tagger.hparams import SAMPLE_RATE, Hparams
from tagger.terminal.files import atomic, make_folder, write_whole
from tagger.terminal.progress import print_result, printable, progress_bar
from tools.tag.scoring import Tagger, tag

SEGMENT_HEADER = ("file", "start", "end", "class", "score")


class Outputs(NamedTuple):
    """The paths of the results to write, as the flags; empty: it is not written."""

    segments: str = ""
    embeddings: str = ""
    audacity: str = ""
    plot: str = ""


def check_outputs(outputs: Outputs, found: Sequence[Sound]) -> None:
    """Checks that the results can be written.

    Raises:
      UserError: they cannot, or two files would have the same result.
    """
    for name, path in outputs._asdict().items():
        if path and name in ("segments", "embeddings"):
            make_folder(os.path.dirname(path) or ".", f"--{name}")
            if os.path.isdir(path):
                raise UserError(f"--{name}: {path} is a folder")
        elif path:
            make_folder(path, f"--{name}")
    first = {}
    for sound in found if outputs.audacity or outputs.plot else []:
        other = first.setdefault(result_path("", sound, ""), sound)
        if other is not sound:
            raise UserError(
                f"the results of {other.path} and {sound.path} would have the same "
                f"name; tag them in separate runs"
            )


def tag_files(
    found: Sequence[Sound],
    tagger: Tagger,
    outputs: Outputs,
    *,
    rule: Rule,
    top: int,
) -> int:
    """Tags files, prints their classes with the highest scores, and writes the results.

    Args:
      found: the files.
      tagger: from `scoring.load`.
      outputs: what to write.
      rule: when a class is detected. The thresholds of each class, as arrays [C], also
        mark the printed scores.
      top: number of classes to print.

    Returns:
      The number of files that could not be read or whose results were not written.
    """
    rows, embedded, num_failed = [], [], 0
    marked_from = rule.threshold if np.ndim(rule.threshold) else np.inf
    try:
        with progress_bar(None, what="tagging", unit="s of sound") as bar:
            for sound in found:
                try:
                    tags = tag(
                        sound.path,
                        tagger,
                        keep_embeddings=bool(outputs.embeddings),
                        keep_log_mel=bool(outputs.plot),
                        progress=lambda seconds: bar.update(round(seconds)),
                    )
                    segments = find_segments(
                        tags, tagger.class_names, tagger.hparams, rule
                    )
                    rows += [segment_row(sound.path, segment) for segment in segments]
                    if outputs.embeddings:
                        embedded.append((sound.path, tags.embeddings))
                    write_files(outputs, sound, tags, segments, tagger)
                except UserError as error:
                    bar.write(f"error: {printable(str(error))}", file=sys.stderr)
                    num_failed += 1
                    continue
                name = printable(sound.path)
                if tags.doubt:
                    bar.write(f"note: {name}: {tags.doubt}", file=sys.stderr)
                best = top_classes(tags, tagger.class_names, top, marked_from)
                print_result(f"{name} ({tags.seconds:.1f} s)\n{best}")
    finally:  # The results so far are kept if this is interrupted.
        try:
            if embedded:
                write_embeddings(outputs.embeddings, embedded, tagger.hparams)
        finally:
            if outputs.segments:
                write_csv(outputs.segments, [SEGMENT_HEADER, *rows])
    return num_failed


def result_path(folder: str, sound: Sound, suffix: str) -> pathlib.Path:
    """The path of a result of one file."""
    return pathlib.Path(folder) / (sound.name.replace("/", "__") + suffix)


def write_files(
    outputs: Outputs,
    sound: Sound,
    tags: Tags,
    segments: Sequence[Segment],
    tagger: Tagger,
) -> None:
    """Writes the results that have a file for each recording."""
    if outputs.audacity:
        write_label_track(result_path(outputs.audacity, sound, ".txt"), segments)
    if outputs.plot:
        path = result_path(outputs.plot, sound, ".png")
        write_picture(path, tags, tagger, segments)


def write_picture(
    path: pathlib.Path, tags: Tags, tagger: Tagger, segments: Sequence[Segment]
) -> None:
    """Draws the tags of a recording, see `plots.tags_figure`, to a PNG, atomically."""
    from recordings import plots

    figure = plots.tags_figure(tags, tagger.class_names, tagger.hparams, segments)
    with atomic(path) as file:
        figure.savefig(file, format="png")


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
    marked_from: float | np.ndarray = np.inf,
) -> str:
    """Lines with the highest mean scores of a recording.

    Args:
      tags: the scores of a recording.
      class_names: C names.
      top: number of lines.
      marked_from: means that reach it are marked with "*"; of all classes, or float64
        [C], of each.
    """
    mean = tags.scores.mean(axis=0)
    best = np.argsort(-mean, kind="stable")[:top]
    reached = mean >= marked_from
    return "\n".join(
        f"{'*' if reached[index] else ' '} {mean[index]:.4f}  {class_names[index]}"
        for index in best
    )
