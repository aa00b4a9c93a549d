"""Scores recordings of any length block by block, with a trained tagger.

Letters for shapes: E examples, T frames, F mel bands, C classes, S samples.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from recordings import decoding
from recordings.segments import Tags
from tagger.errors import UserError
from tagger.hparams import SAMPLE_RATE, Hparams

BLOCK_EXAMPLES = 64  # as many as inference scores at once

# Maps a waveform, float32 [S], and the number of its first frames that are only context
# to scores, float64 [E, C], embeddings, float32 [E, 1024], and the spectrogram of the
# other frames, float32 [T, F].
Scorer = Callable[[np.ndarray, int], Sequence[np.ndarray]]


class Tagger(NamedTuple):
    """A loaded checkpoint: C class names, hyperparameters of the features, scorer."""

    class_names: list[str]
    hparams: Hparams
    score: Scorer


def load(
    checkpoint: str,
    *,
    class_map_path: str = "",
    hparam_overrides: Mapping[str, Any] | None = None,
    mixed_precision: bool = False,
) -> Tagger:
    """Loads a checkpoint.

    Args:
      checkpoint: see `Run.find`.
      class_map_path: class map; empty: the classes in hparams.json.
      hparam_overrides: hyperparameters for a checkpoint without hparams.json.
      mixed_precision: see `model.define_model`.

    Raises:
      UserError: the checkpoint or the class map cannot be used.
    """
    import model
    from tagger.runs.run import Run

    found = Run.find(checkpoint, "CHECKPOINT")
    class_names = found.run.class_names(class_map_path)
    network, hparams = model.load_network(
        found,
        class_names,
        hparam_overrides=hparam_overrides,
        mixed_precision=mixed_precision,
    )
    scorer = define_scorer(model.add_embeddings(network), hparams)
    return Tagger(class_names, hparams, scorer)


def define_scorer(network: Any, hparams: Hparams) -> Scorer:
    """Defines a scorer from a network with the outputs logits and embeddings."""
    import tensorflow as tf

    import inputs

    @tf.function(
        input_signature=[
            tf.TensorSpec([None], tf.float32),
            tf.TensorSpec([], tf.int32),
        ],
        autograph=False,
    )
    def score(
        waveform: tf.Tensor, context: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """See `Scorer`."""
        log_mel = inputs.waveform_to_log_mel_spectrogram(
            waveform, hparams, fft_type=inputs.EXACT_FFT
        )[context:]
        examples = inputs.log_mel_spectrogram_to_examples(log_mel, hparams)
        logits, embeddings = network(examples, training=False)
        return tf.sigmoid(tf.cast(logits, tf.float64)), embeddings, log_mel

    return score


def context_frames(hparams: Hparams) -> int:
    """Number of earlier frames that change a frame's features by more than 1e-8."""
    if hparams.frontend == "log":
        return 0
    return math.ceil(20 * hparams.pcen_seconds / hparams.stft_hop_seconds)


def overlapping_blocks(path: str, hparams: Hparams) -> Iterator[tuple[np.ndarray, int]]:
    """Reads a recording in overlapping blocks.

    A block starts with some frames of context. The BLOCK_EXAMPLES examples after them
    follow those of the previous block. Only the last block may have fewer.

    Yields:
      float32 [S], the samples of a block, and the number of its frames of context: at
      most `context_frames`, as many as there are.

    Raises:
      UserError: see `decoding.read_blocks`, or there are no samples.
    """
    hop = hparams.example_hop_frames
    step = BLOCK_EXAMPLES * hop * hparams.stft_hop_samples
    num_frames = max(
        (BLOCK_EXAMPLES - 1) * hop + hparams.example_window_frames,
        BLOCK_EXAMPLES * hop + 1,  # One more frame shows that there is a next block.
    )
    size = (num_frames - 1) * hparams.stft_hop_samples + hparams.stft_window_samples
    block, context = np.zeros(0, np.float32), 0
    sizes = itertools.chain([size], itertools.repeat(step))
    for chunk in decoding.read_chunks(path, sizes):
        block = np.concatenate([block, chunk])
        if not block.size:
            raise UserError(f"{path}: has no samples")
        yield block, context
        start = context * hparams.stft_hop_samples
        if hparams.num_examples(block.size - start) <= BLOCK_EXAMPLES:
            return
        start += step
        context = min(context_frames(hparams), start // hparams.stft_hop_samples)
        block = block[start - context * hparams.stft_hop_samples :]


def tag(
    path: str,
    tagger: Tagger,
    *,
    keep_embeddings: bool = False,
    keep_log_mel: bool = False,
    progress: Callable[[float], Any] = lambda seconds: None,
) -> Tags:
    """Scores a recording block by block, with the same result as in one piece.

    Args:
      path: the sound file.
      tagger: from `load`.
      keep_embeddings, keep_log_mel: whether the result has these.
      progress: called with the seconds of each block.

    Raises:
      UserError: the file cannot be read, or a score is not finite; the message names
        the file.
    """
    hparams = tagger.hparams
    step_frames = BLOCK_EXAMPLES * hparams.example_hop_frames
    step = step_frames * hparams.stft_hop_samples
    scores, embeddings, log_mel = [], [], []
    num_samples, peak = 0, 0.0
    for number, (block, context) in enumerate(overlapping_blocks(path, hparams)):
        start = number * step - context * hparams.stft_hop_samples
        new_samples = start + block.size - num_samples
        num_samples += new_samples
        peak = max(peak, np.abs(block).max())
        values = [np.asarray(value) for value in tagger.score(block, context)]
        if not np.isfinite(values[0]).all():
            raise UserError(f"{path}: the scores are not finite")
        scores.append(values[0][:BLOCK_EXAMPLES])
        if keep_embeddings:
            embeddings.append(values[1][:BLOCK_EXAMPLES])
        if keep_log_mel:
            log_mel.append(values[2][:step_frames])
        progress(new_samples / SAMPLE_RATE)
    doubt = decoding.describe_doubt(num_samples, peak, hparams.stft_window_samples)
    return Tags(
        num_samples / SAMPLE_RATE,
        np.concatenate(scores),
        np.concatenate(embeddings) if keep_embeddings else None,
        np.concatenate(log_mel) if keep_log_mel else None,
        doubt or decoding.describe_range(path, hparams.mel_max_hz),
    )
