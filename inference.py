"""Scores the clips of a folder into a CSV. Called by runner.py in --mode inference."""

import csv
import io
import os
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

import inputs
import model
from tagger import checkpoints, distribution
from tagger.clips import Clips, list_wavs, make_clips, read_class_map
from tagger.files import part_path, write_whole
from tagger.hparams import Hparams
from tagger.progress import counted, progress_bar
from tagger.wav import read_wav_headers


def predict(
    *,
    model_name: str,
    hparam_overrides: Mapping[str, Any],
    class_map_path: str,
    inference_clip_dir: str,
    inference_checkpoints: Sequence[str],
    predictions_csv_path: str,
    shard: int = 0,
    num_shards: int = 1,
    mixed_precision: bool = False,
) -> list[str]:
    """Writes a row of C scores in [0, 1] for each of the N `*.wav` files of a folder.

    Of several shards, each writes the rows of every num_shards-th clip into a part of
    its own; tools.join_predictions makes one table of them.

    A clip that cannot be read gets the score 0 in every class, and the others go on:
    where every clip must have a row, no clip may stop the rest.

    Args:
      inference_checkpoints: `model.ckpt-N` paths, or folders whose newest is meant; the
        scores of several are averaged.

    Returns:
      What is wrong with each clip that could not be read; empty if all could.

    Raises:
      ValueError, OSError: anything else that cannot be used; what to do about it.
    """
    class_names = read_class_map(class_map_path)
    prefixes = [
        checkpoints.find_checkpoint(path, "--inference_checkpoint")
        for path in inference_checkpoints
    ]
    predictions_csv_path = part_path(predictions_csv_path, shard, num_shards)
    _check_writable(predictions_csv_path)
    names = list_wavs(inference_clip_dir)[shard::num_shards]
    paths = [os.path.join(inference_clip_dir, name) for name in names]
    clips, problems = _readable(paths, num_classes=len(class_names))
    print(distribution.describe_platform(), clips, sep="\n", file=sys.stderr)
    scores = np.zeros([len(clips), len(class_names)])
    for prefix in prefixes:
        print(f"scoring {counted(len(names), 'clip')} with {prefix}", file=sys.stderr)
        network, hparams = model.load_network(
            prefix,
            class_names,
            model_name=model_name,
            hparam_overrides=hparam_overrides,
            mixed_precision=mixed_precision,
        )
        scored, lost = _score(clips, prefix, network, hparams)
        problems.update(lost)
        scores += scored / len(prefixes)
    by_path = dict(zip(clips.paths, np.clip(scores, 0, 1), strict=True))
    unreadable = np.zeros(len(class_names))
    rows = [unreadable if path in problems else by_path[path] for path in paths]
    _write_predictions(predictions_csv_path, names, class_names, rows)
    num_scored = len(names) - len(problems)
    print(f"{num_scored} of {len(names)} clips scored in {predictions_csv_path}")
    return [problems[path] for path in sorted(problems)]


def _readable(paths: Sequence[str], num_classes: int) -> tuple[Clips, dict[str, str]]:
    """The clips whose headers can be used, and what is wrong with each other path."""
    headers = dict(zip(paths, read_wav_headers(paths), strict=True))
    problems = {
        path: str(header)
        for path, header in headers.items()
        if isinstance(header, ValueError)
    }
    good = [path for path in paths if path not in problems]
    no_labels = np.zeros([len(good), num_classes], np.float32)
    return make_clips(good, [headers[path] for path in good], no_labels), problems


def _score(
    clips: Clips, prefix: str, network: keras.Model, hparams: Hparams
) -> tuple[np.ndarray, dict[str, str]]:
    """Scores N clips with the network of a checkpoint.

    Returns:
      float64 [N, C] in [0, 1], and what is wrong with each clip that could no longer be
      read, by path; its scores are 0.

    Raises:
      FloatingPointError: a score is not finite.
    """
    scores = np.full([len(clips), network.output.shape[-1]], -1.0)
    batches = inputs.clip_input(clips, hparams, skip_unreadable=True)
    score = model.score_function(network)
    with progress_bar(len(clips), what="scoring", unit="clip") as bar:
        for position, clip_scores in model.clip_scores(score, batches):
            if not np.isfinite(clip_scores).all():
                raise FloatingPointError(
                    f"{clips.paths[position]}: the scores are not finite; checkpoint "
                    f"{prefix} is broken"
                )
            scores[position] = clip_scores
            bar.update()
    lost = {
        clips.paths[position]: f"{clips.paths[position]}: could no longer be read when "
        f"its turn came"
        for position in np.flatnonzero(scores[:, 0] < 0)
    }
    return np.maximum(scores, 0), lost


def _check_writable(path: str) -> None:
    """Finds out now, and not after hours, that the CSV cannot be written."""
    directory = os.path.dirname(path) or "."
    if not os.path.isdir(directory):
        raise FileNotFoundError(
            f"--predictions_csv_path: there is no folder {directory}"
        )
    if os.path.isdir(path):
        raise IsADirectoryError(f"--predictions_csv_path: {path} is a folder")
    if not os.access(directory, os.W_OK):
        raise PermissionError(f"--predictions_csv_path: cannot write in {directory}")


def _write_predictions(
    path: str,
    names: Sequence[str],
    class_names: Sequence[str],
    scores: Sequence[np.ndarray],
) -> None:
    """Writes N rows of C scores as decimals that read back as exactly the same."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["fname", *class_names])
    for name, row in zip(names, scores, strict=True):
        table.writerow([name, *(np.format_float_positional(s, trim="0") for s in row)])
    write_whole(pathlib.Path(path), text.getvalue())
