"""The input pipeline: from WAV files to log mel examples and labels.

As in the baseline's inputs.py, TensorFlow computes the features on the fly inside
tf.data. The functions are in the order of the data: file -> waveform -> log mel
spectrogram -> examples -> batches.

Letters for shapes: N clips, E examples, T frames, F mel bands, C classes, S samples.
"""

import os
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from tagger.data import blocks
from tagger.data.clips import Clips
from tagger.data.wav import read_wav_header
from tagger.errors import UserError
from tagger.hparams import Hparams
from tagger.network import spectrogram
from tagger.network.augmentation import augment_batches
from tagger.network.spectrogram import EXACT_FFT, FAST_FFT
from tagger.network.waveforms import (
    CLIP_ERRORS,
    CUT_OFF,
    clip_to_waveform,
    read_part,
    read_samples,
    samples_to_waveform,
)
from tagger.terminal import program
from tagger.terminal.machine import num_cpu_cores

# Size of the buffer that shuffles examples across clips: 768 MB at 38.4 kB each.
EXAMPLE_SHUFFLE_BUFFER = 20000
PREFETCH_BATCHES = 4
SCORING_BATCH = 64  # examples per batch in evaluation and inference
READ_AHEAD_CLIPS = 16  # Files are read in parallel, because disks may be slow.
MAX_MEMORY_SHARE = 0.8  # of the machine, for the shuffle buffer
# One clip per core. tf.data.AUTOTUNE would start with one clip and adapt slowly.
PARALLEL_CLIPS = num_cpu_cores()
ENDLESS = np.iinfo(np.int64).max  # length of the stream from a data service
CACHE_BYTES = 2 * 2**30  # Features up to this size are kept in memory between passes.
# AutoGraph would take 1 s to search these functions for control flow. There is none.
without_autograph = tf.autograph.experimental.do_not_convert


def waveform_to_log_mel_spectrogram(
    waveform: tf.Tensor, hparams: Hparams, *, fft_type: tf.DType = FAST_FFT
) -> tf.Tensor:
    """Computes the log mel spectrogram, or PCEN, of a waveform at 44.1 kHz.

    The mel bands are those of tf.signal.linear_to_mel_weight_matrix, applied to the
    magnitude (not the power) of the STFT. The window is that of tf.signal.hann_window:
    periodic, but symmetric if it has an odd number of samples. The ends are not padded.

    Args:
      waveform: float32 [S] in [-1, 1]. A waveform shorter than one window is padded
        with zeros. (The baseline returns no frames for it, and NaN scores.)
      hparams: STFT and mel hyperparameters.
      fft_type: FAST_FFT or EXACT_FFT.

    Returns:
      float32 [T, F], natural logarithm of magnitude plus mel_log_offset; if frontend is
      pcen, `spectrogram.pcen` of the magnitude.
    """
    mel = spectrogram.mel_spectrogram(waveform, hparams, fft_type)
    return spectrogram.compress(mel, hparams)[0]


def log_mel_spectrogram_to_examples(
    log_mel_spectrogram: tf.Tensor, hparams: Hparams
) -> tf.Tensor:
    """Cuts a log mel spectrogram [T, F] into E overlapping examples.

    As in the original: the last examples are padded with 0.0, which is loud in the log
    domain (silence is log(0.001) = -6.9). E is T / hop in frames, rounded up.

    Returns:
      float32 [E, frames of an example, F].
    """
    examples = tf.signal.frame(
        log_mel_spectrogram,
        frame_length=hparams.example_window_frames,
        frame_step=hparams.example_hop_frames,
        pad_end=True,
        pad_value=0.0,
        axis=0,
    )
    return tf.reshape(examples, [-1, hparams.example_window_frames, hparams.mel_bands])


def waveform_to_examples(
    waveform: tf.Tensor, hparams: Hparams, *, fft_type: tf.DType = FAST_FFT
) -> tf.Tensor:
    """Computes the examples, float32 [E, frames, F], of a waveform, float32 [S]."""
    return log_mel_spectrogram_to_examples(
        waveform_to_log_mel_spectrogram(waveform, hparams, fft_type=fft_type), hparams
    )


def wav_to_examples(path: str, hparams: Hparams) -> tf.Tensor:
    """Computes the examples of a WAV file for scoring, float32 [E, frames, F].

    Raises:
      UserError: the file is not 16-bit PCM, 44.1 kHz, mono; the message names it.
    """
    data_offset, num_samples, _ = read_wav_header(path)
    waveform = clip_to_waveform(path, np.int64(data_offset), np.int64(num_samples))
    return waveform_to_examples(waveform, hparams, fft_type=EXACT_FFT)


def clip_examples(
    positions: tf.data.Dataset,
    clips: Clips,
    hparams: Hparams,
    *,
    deterministic: bool,
    parallel_clips: int = PARALLEL_CLIPS,
) -> tf.data.Dataset:
    """Maps positions of clips to (position, examples float32 [E, frames, F]).

    Files are read ahead, and the features of `parallel_clips` clips are computed at the
    same time. If `deterministic`, the order is that of the positions.
    """
    paths = tf.constant([os.fsencode(path) for path in clips.paths], tf.string)
    data_offsets = tf.constant(clips.data_offsets)
    num_samples = tf.constant(clips.num_samples)

    @without_autograph
    def read(index: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return index, read_samples(
            paths[index], data_offsets[index], num_samples[index]
        )

    @without_autograph
    def compute(index: tf.Tensor, samples: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return index, waveform_to_examples(samples_to_waveform(samples), hparams)

    options = tf.data.Options()
    # The parallelism is fixed, so autotuning would only cost time.
    options.autotune.enabled = parallel_clips == tf.data.AUTOTUNE
    options.deterministic = deterministic
    dataset = positions.map(read, num_parallel_calls=READ_AHEAD_CLIPS)
    dataset = dataset.map(compute, num_parallel_calls=parallel_clips)
    return dataset.with_options(options)


def _block_examples(clips: Clips, hparams: Hparams) -> tf.data.Dataset:
    """Maps clips, in order, to (examples float32 [E, frames, F], int32 [E] positions).

    A long clip becomes several elements, so that its length needs no memory. Files are
    read ahead, and the features of PARALLEL_CLIPS blocks are computed at the same time.
    """
    positions, parts = blocks.split_clips(clips, hparams)
    paths = tf.constant([os.fsencode(path) for path in parts.paths], tf.string)
    is_whole = parts.num_samples == clips.num_samples[positions]
    is_first = np.diff(positions, prepend=-1) > 0

    @without_autograph
    def read(position, is_first, is_whole, *part):
        samples = tf.cond(
            is_whole, lambda: read_samples(*part), lambda: read_part(*part)
        )
        return position, is_first, samples

    @without_autograph
    def compute(position, is_first, samples):
        waveform = samples_to_waveform(samples)
        mel = spectrogram.mel_spectrogram(waveform, hparams, EXACT_FFT)
        return position, is_first, mel

    @without_autograph
    def finish(before, block):
        """Maps the state before a block to that after it, and to its examples."""
        position, is_first, mel = block
        before = tf.where(is_first, np.float32(np.nan), before)
        log_mel, after = spectrogram.compress(mel, hparams, before)
        examples = log_mel_spectrogram_to_examples(log_mel, hparams)
        examples = examples[: blocks.BLOCK_EXAMPLES]
        return after, (examples, tf.repeat(position, tf.shape(examples)[0]))

    options = tf.data.Options()
    options.autotune.enabled = False  # The parallelism is fixed.
    files = (paths, parts.data_offsets, parts.num_samples)
    columns = (positions.astype(np.int32), is_first, is_whole, *files)
    dataset = tf.data.Dataset.from_tensor_slices(columns).with_options(options)
    dataset = dataset.map(read, num_parallel_calls=READ_AHEAD_CLIPS)
    dataset = dataset.map(compute, num_parallel_calls=PARALLEL_CLIPS)
    return dataset.scan(tf.fill([hparams.mel_bands], np.float32(np.nan)), finish)


def shuffle_buffer(clips: Clips, hparams: Hparams, num_shards: int = 1) -> int:
    """Returns the size of the shuffle buffer: at most the mean examples per shard.

    A larger buffer would only take longer to allocate.

    Raises:
      UserError: it does not fit into the memory.
    """
    num_examples = int(hparams.num_examples(clips.num_samples).sum())
    buffered = max(1, min(EXAMPLE_SHUFFLE_BUFFER, num_examples // num_shards))
    needed = 4 * buffered * hparams.example_window_frames * hparams.mel_bands  # float32
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > MAX_MEMORY_SHARE * memory:
        raise UserError(
            f"the shuffle buffer would take {needed / 1e9:.0f} GB, but this machine "
            f"has {memory / 1e9:.0f} GB; a smaller example_window_seconds reduces it"
        )
    return buffered


def train_input(
    clips: Clips,
    hparams: Hparams,
    *,
    seed: int,
    deterministic: bool = False,
    shard: int = 0,
    num_shards: int = 1,
    data_service: str = "",
    job_name: str = "",
) -> tf.data.Dataset:
    """Creates an endless dataset of training batches.

    As in the original, each epoch shuffles the list of clips, then the examples across
    clips. Each example is used once per epoch. tf.data fuses `shuffle` and `repeat`:
    the buffer is filled for the next epoch while the current epoch ends.

    Args:
      clips: the N clips to train on, with labels.
      hparams: feature hyperparameters and batch_size.
      seed: seed of the order of clips and examples.
      deterministic: whether the same seed always gives the same batches.
      shard: index of this worker, from 0. It gets a part of the clips of each epoch.
      num_shards: number of workers that share an epoch, all with the same seed. Their
        numbers of clips differ by at most one. Their numbers of examples differ more,
        so one worker may start its next epoch before another.
      data_service: grpc://host:port of the dispatcher of a tf.data service, which
        computes the features; empty: this process computes them.
      job_name: name of the data service job; unique per start, equal on all workers.

    Returns:
      Dataset of (features float32 [batch_size, frames, F], labels float32 [batch_size,
      C]). A batch may span two epochs.

    Raises:
      tf.errors.OpError: during iteration, a clip cannot be read; the message names it.
    """
    labels = tf.constant(clips.labels)

    @without_autograph
    def label(clip: tf.Tensor, examples: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return examples, tf.tile(labels[clip][tf.newaxis], [tf.shape(examples)[0], 1])

    if not data_service:
        # All shards draw the same order. Each takes every num_shards-th clip of it.
        order = tf.data.Dataset.range(len(clips)).shuffle(len(clips), seed=seed)
        order = order.shard(num_shards, shard)
        dataset = clip_examples(order, clips, hparams, deterministic=deterministic)
    else:
        dataset = _served_examples(
            clips, hparams, seed=seed, service=data_service, job_name=job_name
        )
    buffered = shuffle_buffer(clips, hparams, num_shards)
    dataset = dataset.map(label).unbatch().shuffle(buffered, seed=seed)
    if not data_service:
        dataset = dataset.repeat()
    dataset = dataset.batch(hparams.batch_size, drop_remainder=True)
    dataset = augment_batches(dataset, hparams, seed=(seed, shard))
    return dataset.prefetch(PREFETCH_BATCHES)


def _served_examples(
    clips: Clips, hparams: Hparams, *, seed: int, service: str, job_name: str
) -> tf.data.Dataset:
    """Like `clip_examples`, but endless, from a data service shared by all trainers.

    The data workers process the clips one by one, in the same order in each epoch. Each
    trainer gets the next clip that is ready. Each clip is used once per epoch, but
    examples of two epochs mix at their border. If a data worker dies, the clips that it
    was processing are missing from the epoch.
    """
    order = tf.constant(np.random.default_rng(seed).permutation(len(clips)))
    # A service can distribute a range one number at a time. With `shuffle`, the first
    # worker would take all numbers in the buffer.
    positions = tf.data.Dataset.range(ENDLESS).map(
        without_autograph(lambda number: order[number % len(clips)])
    )
    # AUTOTUNE, because the service has other cores than this machine.
    dataset = clip_examples(
        positions, clips, hparams, deterministic=False, parallel_clips=tf.data.AUTOTUNE
    )
    return dataset.apply(
        tf.data.experimental.service.distribute(
            processing_mode=tf.data.experimental.service.ShardingPolicy.DYNAMIC,
            service=service,
            job_name=job_name,
            compression=None,  # Compression hardly shrinks log mel spectrograms.
        )
    )


def clip_input(
    clips: Clips, hparams: Hparams, *, skip_unreadable: bool = False
) -> tf.data.Dataset:
    """Creates a dataset of the examples of clips, in order; batches may span clips.

    Args:
      clips: the N clips.
      hparams: feature hyperparameters.
      skip_unreadable: whether clips, or blocks of long ones, that cannot be read are
        skipped. Otherwise, they raise an error that names the clip.

    Returns:
      Dataset of (features float32 [B, frames, F], int32 [B] positions of the clips that
      the examples are from). B is SCORING_BATCH, or less in the last batch. Features of
      at most CACHE_BYTES are kept between passes, unless skip_unreadable is set.
    """
    dataset = _block_examples(clips, hparams)
    if skip_unreadable:
        dataset = dataset.ignore_errors()
    dataset = dataset.unbatch().batch(SCORING_BATCH)
    num_values = hparams.num_examples(clips.num_samples).sum() * (
        hparams.example_window_frames * hparams.mel_bands
    )
    if num_values * np.float32().nbytes <= CACHE_BYTES and not skip_unreadable:
        dataset = dataset.cache()
    return dataset.prefetch(PREFETCH_BATCHES)


def read_batches(dataset: tf.data.Dataset) -> Iterator[tuple[tf.Tensor, tf.Tensor]]:
    """Yields the batches of a dataset.

    Raises:
      UserError: a clip can no longer be read; the message names it.
    """
    try:
        yield from dataset
    except CLIP_ERRORS as error:
        reason = program.tensorflow_reason(error)
        if isinstance(error, tf.errors.InvalidArgumentError) and CUT_OFF not in reason:
            raise
        raise UserError(f"a clip can no longer be read: {reason}") from None
