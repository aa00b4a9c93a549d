"""Scores recordings of any length block by block, with a trained tagger.

Letters for shapes: E examples, T frames, F mel bands, C classes, D values of an
embedding, S samples.
"""

import collections
import concurrent.futures
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from recordings import decoding, doubts
from recordings.segments import Tags
from tagger.data import blocks
from tagger.errors import UserError
from tagger.hparams import SAMPLE_RATE, Hparams

SCORED_AT_ONCE = 3  # blocks; each more needs memory for its activations

# Maps a block of a waveform, float32 [S], and the state of the features before it,
# float32 [F] (see `spectrogram.compress`), to scores, float64 [E, C], embeddings,
# float32 [E, D], the spectrogram, float32 [T, F], and the state of the next block.
Scorer = Callable[[np.ndarray, np.ndarray], Sequence[np.ndarray]]


class Tagger(NamedTuple):
    """A loaded checkpoint: C class names, hyperparameters of the features, scorer.

    `calibrations` is float64 [C, 2], see calibration.py; None: not known.
    """

    class_names: list[str]
    hparams: Hparams
    score: Scorer
    calibrations: np.ndarray | None = None


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
    from tagger.network import spectrogram

    @tf.function(
        input_signature=[
            tf.TensorSpec([None], tf.float32),
            tf.TensorSpec([hparams.mel_bands], tf.float32),
        ],
        autograph=False,
    )
    def score(waveform: tf.Tensor, before: tf.Tensor) -> tuple[tf.Tensor, ...]:
        """See `Scorer`."""
        mel = spectrogram.mel_spectrogram(waveform, hparams, spectrogram.EXACT_FFT)
        log_mel, after = spectrogram.compress(mel, hparams, before)
        examples = inputs.log_mel_spectrogram_to_examples(log_mel, hparams)
        logits, embeddings = network(examples[: blocks.BLOCK_EXAMPLES], training=False)
        return tf.sigmoid(tf.cast(logits, tf.float64)), embeddings, log_mel, after

    return score


def overlapping_blocks(
    path: str,
    hparams: Hparams,
    observe: decoding.Observer = lambda block, rate: None,
) -> Iterator[np.ndarray]:
    """Reads a recording in blocks; see `blocks.py`.

    Args:
      path: the sound file.
      hparams: hyperparameters of the features.
      observe: see `decoding.Observer`.

    Yields:
      float32 [S], the samples of a block.

    Raises:
      UserError: see `decoding.read_blocks`, or there are no samples.
    """
    size, step = blocks.block_samples(hparams)
    block = np.zeros(0, np.float32)
    sizes = itertools.chain([size], itertools.repeat(step))
    for chunk in decoding.read_chunks(path, sizes, observe):
        block = np.concatenate([block, chunk])
        if not block.size:
            raise UserError(f"{path}: has no samples")
        yield block
        if hparams.num_examples(block.size) <= blocks.BLOCK_EXAMPLES:
            return
        block = block[step:]


def decoded_ahead(items: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """Yields blocks; a thread decodes the next one while the caller scores one."""
    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        following = thread.submit(next, items, None)
        while (block := following.result()) is not None:
            following = thread.submit(next, items, None)
            yield block


def scored_ahead(
    items: Iterator[np.ndarray], tagger: Tagger
) -> Iterator[tuple[np.ndarray, list[np.ndarray]]]:
    """Yields blocks with their scores, in order; see `Scorer`.

    Several blocks are scored at once, because the small operations of the network leave
    cores idle. PCEN starts from the state of the block before, so these wait for it.
    """
    at_once = 1 if tagger.hparams.frontend == "pcen" else SCORED_AT_ONCE
    state = np.full(tagger.hparams.mel_bands, np.nan, np.float32)
    pending = collections.deque()
    with concurrent.futures.ThreadPoolExecutor(at_once) as threads:
        for block in items:
            pending.append((block, threads.submit(tagger.score, block, state)))
            if len(pending) == at_once:
                block, future = pending.popleft()
                *values, state = map(np.asarray, future.result())
                yield block, values
        for block, future in pending:
            yield block, [np.asarray(value) for value in future.result()[:-1]]


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
    _, step = blocks.block_samples(hparams)
    scores, embeddings, log_mel = [], [], []
    num_samples, peak = 0, 0.0
    energy = doubts.EnergyRange(hparams.mel_max_hz)
    decoded = decoded_ahead(overlapping_blocks(path, hparams, energy.add))
    for number, (block, values) in enumerate(scored_ahead(decoded, tagger)):
        new_samples = number * step + block.size - num_samples
        num_samples += new_samples
        new = block[block.size - new_samples :]
        peak = max(peak, new.max(initial=0), -new.min(initial=0))
        if not np.isfinite(values[0]).all():
            raise UserError(f"{path}: the scores are not finite")
        scores.append(values[0])
        if keep_embeddings:
            embeddings.append(values[1])
        if keep_log_mel:
            log_mel.append(
                values[2][: blocks.BLOCK_EXAMPLES * hparams.example_hop_frames]
            )
        progress(new_samples / SAMPLE_RATE)
    doubt = doubts.describe_doubt(num_samples, peak, hparams.stft_window_samples)
    return Tags(
        num_samples / SAMPLE_RATE,
        np.concatenate(scores),
        np.concatenate(embeddings) if keep_embeddings else None,
        np.concatenate(log_mel) if keep_log_mel else None,
        doubt or energy.describe(),
    )
