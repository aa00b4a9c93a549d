"""Writes the scores of all clips in a folder to a CSV. Used by --mode inference."""

import os
import sys
import zlib
from collections.abc import Iterable, Iterator, Sequence

import keras
import numpy as np
import tensorflow as tf

import inputs
import model
from tagger.data.clips import Clips, make_clips, read_class_map
from tagger.data.csv_files import FINGERPRINT_COLUMN, write_csv
from tagger.data.wav import SOUND_EXTENSIONS, read_wav_headers
from tagger.errors import UserError
from tagger.hparams import Hparams
from tagger.options import InferenceOptions
from tagger.runs.checkpoint_files import fingerprint
from tagger.runs.run import Checkpoint, Run
from tagger.terminal import machine
from tagger.terminal.files import make_folder
from tagger.terminal.progress import counted, print_result, progress_bar


def predict(options: InferenceOptions) -> list[str]:
    """Writes one row of C scores in [0, 1] for each `*.wav` file of a folder.

    A clip that cannot be read gets the score 0 in every class. It does not stop the
    program, because a submission needs a row for every clip.

    Returns:
      One message for each clip that could not be read.

    Raises:
      UserError: another input cannot be used, or a score is not finite; the message
        names the input, or the clip.
    """
    class_names = read_class_map(options.class_map_path)
    found = [
        Run.find(path, "--inference_checkpoint")
        for path in options.inference_checkpoint
    ]
    clip_dir, (index, num_parts) = options.inference_clip_dir, options.inference_shard
    all_paths = [os.path.join(clip_dir, name) for name in list_wavs(clip_dir)]
    paths = all_paths[index::num_parts]
    csv_path = part_path(options.predictions_csv_path, index, num_parts)
    make_folder(os.path.dirname(csv_path) or ".", "--predictions_csv_path")
    if os.path.exists(csv_path) and not os.path.isfile(csv_path):
        raise UserError(f"--predictions_csv_path: {csv_path} is not a regular file")
    all_clips, all_problems = _read_headers(all_paths, num_classes=len(class_names))
    own = set(paths)
    clips = all_clips.take(np.flatnonzero([p in own for p in all_clips.paths]))
    problems = {path: all_problems[path] for path in own & all_problems.keys()}
    device = machine.describe_platform(mixed_precision=options.mixed_precision)
    print(device, clips, sep="\n", file=sys.stderr)
    networks = [
        model.load_network(
            checkpoint,
            class_names,
            model_name=options.model,
            hparam_overrides=options.hparams,
            mixed_precision=options.mixed_precision,
        )
        for checkpoint in found
    ]
    identity = None
    if num_parts > 1:
        identity = _identity(options, found, networks, all_paths, all_clips)
    prefixes = [prefix for _, prefix in found]
    mean = _score(prefixes, networks, clips, len(class_names))
    for row in np.flatnonzero(np.isnan(mean).any(axis=1)):
        path = clips.paths[row]
        problems[path] = str(UserError(f"{path}: can no longer be read"))
    scores = dict(zip(clips.paths, np.clip(np.nan_to_num(mean), 0, 1), strict=True))
    zeros = np.zeros(len(class_names))
    rows = [scores.get(path, zeros) for path in paths]
    names = [os.path.basename(path) for path in paths]
    _write_predictions(csv_path, names, class_names, rows, identity)
    num_scored = len(names) - len(problems)
    print_result(f"scores of {num_scored} of {len(names)} clips written to {csv_path}")
    return [problems[path] for path in sorted(problems)]


def list_wavs(clip_dir: str) -> list[str]:
    """The sorted names of the `*.wav` files in --inference_clip_dir.

    Other sound files, and sub-folders, are counted on stderr.

    Raises:
      UserError: there is no such folder, or there are no such files.
    """
    if not os.path.isdir(clip_dir):
        raise UserError(f"--inference_clip_dir: there is no folder {clip_dir}")
    with os.scandir(clip_dir) as entries:
        folders = {entry.name: os.path.isdir(entry.path) for entry in entries}
    sounds = [
        name
        for name in sorted(folders)
        if os.path.splitext(name)[1].lower() in SOUND_EXTENSIONS
    ]
    names = [name for name in sounds if name.endswith(".wav")]
    if num_folders := sum(folders.values()):
        print(
            f"note: {clip_dir} has {counted(num_folders, 'sub-folder')}; clips in them "
            f"will not be scored",
            file=sys.stderr,
        )
    if len(sounds) > len(names):
        print(
            f"note: {counted(len(sounds) - len(names), 'sound file')} not named *.wav "
            f"will not be scored; tools.make_dataset converts them",
            file=sys.stderr,
        )
    if not names:
        raise UserError(f"--inference_clip_dir: there are no *.wav files in {clip_dir}")
    return names


def part_path(path: str, index: int, num_parts: int) -> str:
    """The path of one part of a CSV: `X-i-of-n.csv` for X.csv, X.csv if n is 1."""
    if num_parts == 1:
        return path
    stem, suffix = os.path.splitext(path)
    return f"{stem}-{index}-of-{num_parts}{suffix}"


def _read_headers(
    paths: Sequence[str], num_classes: int
) -> tuple[Clips, dict[str, str]]:
    """The clips with a valid header, and a message for each other path, by path."""
    headers = dict(zip(paths, read_wav_headers(paths), strict=True))
    problems = {
        path: str(header)
        for path, header in headers.items()
        if isinstance(header, UserError)
    }
    valid = [path for path in paths if path not in problems]
    no_labels = np.zeros([len(valid), num_classes], np.float32)
    return make_clips(valid, [headers[path] for path in valid], no_labels), problems


def _identity(
    options: InferenceOptions,
    found: Sequence[Checkpoint],
    networks: Sequence[tuple[keras.Model, Hparams]],
    paths: Sequence[str],
    clips: Clips,
) -> str:
    """What all parts of an inference have in common: checksums, by what they are of.

    Args:
      options: the options of the inference.
      found: the checkpoints.
      networks: of each checkpoint, the network and its hyperparameters.
      paths: the clips of all parts, also those that cannot be read.
      clips: those that can be read.

    Returns:
      Words such as `precision:1a2b3c4d`; then "-" and the number of paths.
    """
    settings = [
        [network.name, *hparams.model_values().values()]
        for network, hparams in networks
    ]
    crc32s = [fingerprint(prefix) for _, prefix in found]
    order = sorted(range(len(found)), key=lambda row: (crc32s[row], settings[row]))
    values = {
        "checkpoints": [crc32s[row] for row in order],
        "hyperparameters": [settings[row] for row in order],
        "precision": options.mixed_precision,
        "files": [os.path.basename(path) for path in paths],
        "parts": options.inference_shard[1],
    }
    checksums = {
        name: zlib.crc32(repr(value).encode(errors="surrogateescape"))
        for name, value in values.items()
    } | clips.identity(options.inference_clip_dir)
    words = [f"{name}:{value:08x}" for name, value in checksums.items()]
    return f"{' '.join(words)}-{len(paths)}"


def _score(
    prefixes: Sequence[str],
    networks: Sequence[tuple[keras.Model, Hparams]],
    clips: Clips,
    num_classes: int,
) -> np.ndarray:
    """The mean of the scores that networks give to N clips.

    Networks with the same features share a pass over the clips.

    Args:
      prefixes: the checkpoints.
      networks: of each checkpoint, the network and its hyperparameters.
      clips: the clips.
      num_classes: C.

    Returns:
      float64 [N, C] in [0, 1]; NaN for a clip that can no longer be read.

    Raises:
      UserError: a score is not finite.
    """
    named = [(name, *both) for name, both in zip(prefixes, networks, strict=True)]
    mean = np.zeros([len(clips), num_classes])
    for hparams, functions in model.group_by_features(named):
        scores = np.full_like(mean, np.nan)
        batches = inputs.clip_input(clips, hparams, skip_unreadable=True)
        names = ", ".join(name for name, _ in functions)
        print(f"scoring {counted(len(clips), 'clip')} with {names}", file=sys.stderr)
        with progress_bar(len(clips), what="scoring", unit="clip") as bar:
            counts = np.zeros(len(clips), int)
            batches = _count_examples(batches, counts)
            for index, score in model.score_clips(functions, batches, clips.paths):
                scores[index] = score
                bar.update()
        # A part of a long clip could no longer be read.
        scores[counts < hparams.num_examples(clips.num_samples)] = np.nan
        mean += scores * (len(functions) / len(prefixes))
    return mean


def _count_examples(
    batches: Iterable[tuple[tf.Tensor, tf.Tensor]], counts: np.ndarray
) -> Iterator[tuple[tf.Tensor, tf.Tensor]]:
    """Yields batches, and adds the number of examples of each clip to int [N]."""
    for features, positions in batches:
        np.add.at(counts, positions.numpy(), 1)
        yield features, positions


def _write_predictions(
    path: str,
    names: Sequence[str],
    class_names: Sequence[str],
    scores: Sequence[np.ndarray],
    identity: str | None,
) -> None:
    """Writes N rows of C scores, with just enough digits to restore their values.

    A part also has a column with its `_identity`.
    """
    last = [] if identity is None else [identity]
    rows = (
        [name, *row.tolist(), *last] for name, row in zip(names, scores, strict=True)
    )
    header = ["fname", *class_names, *([FINGERPRINT_COLUMN] if last else [])]
    write_csv(path, [header, *rows])
