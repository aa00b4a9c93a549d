"""The input pipeline: from WAV files to log mel examples and labels.

As in the baseline's inputs.py, features are computed on the fly inside tf.data, by
TensorFlow's operations alone. Read from top to bottom as a clip flows: file -> waveform
-> log mel spectrogram -> examples -> batches.

Letters for shapes: N clips, E examples, T frames, F mel bands, C classes, S samples.
"""

import dataclasses
import errno
import os
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from tagger.clips import Clips
from tagger.distribution import num_cpu_cores
from tagger.hparams import SAMPLE_RATE, Hparams
from tagger.wav import BYTES_PER_SAMPLE, read_wav_header

INT16_SCALE = 1 / 32768  # int16 samples to [-1, 1), as tf.audio.decode_wav does.
# Examples in the buffer that mixes them across clips: 768 MB at 38.4 kB each.
EXAMPLE_SHUFFLE_BUFFER = 20000
PREFETCH_BATCHES = 4
# Examples in a batch of evaluation and inference, whatever training used.
SCORING_BATCH = 64
READ_AHEAD_CLIPS = 16  # files read at once
# One clip per core. tf.data.AUTOTUNE starts with a single one and adapts slowly.
PARALLEL_CLIPS = num_cpu_cores()
# Types of the FFT. In float32 it errs by 1e-7 of the largest bin, which can be 0.01 in
# the log mel of a quiet band beside a pure tone. Training, whose features must come
# fast, does not mind; scores are computed from exact ones, so that each way to compute
# them gives the same.
FAST_FFT, EXACT_FFT = tf.float32, tf.float64
COMPLEX_TYPES = {tf.float32: tf.complex64, tf.float64: tf.complex128}
CUT_OFF = "clip is cut off since its header was read:"
ENDLESS = np.iinfo(np.int64).max  # A stream from a data service has no end.
# Sets of features up to this size are kept in memory between passes (evaluation).
CACHE_BYTES = 2 * 2**30

# What is said of a clip that is cut off, vanishes, or is closed to the reader.
CLIP_COMPLAINTS = (CUT_OFF, os.strerror(errno.ENOENT), os.strerror(errno.EACCES))
# There is no Python control flow on tensors here, and to look for it takes a second.
without_autograph = tf.autograph.experimental.do_not_convert


@dataclasses.dataclass(frozen=True)
class DataService:
    """A tf.data service that computes features, and the job that trainers share there.

    Attributes:
      address: of its dispatcher, grpc://host:port.
      job: a name that is new for each start of a training, and alike on its workers.
    """

    address: str
    job: str


def clip_to_waveform(
    path: tf.Tensor, data_offset: tf.Tensor, num_samples: tf.Tensor
) -> tf.Tensor:
    """Reads the samples of a WAV file whose header has been read.

    Args:
      path: string, the WAV file.
      data_offset: int64, where its samples start, in bytes.
      num_samples: int64, S, how many there are, 16-bit.

    Returns:
      float32 [S], from -1.0 to 32767/32768.

    Raises:
      tf.errors.OpError: the file has vanished or become shorter; the message names it.
    """
    return _contents_to_waveform(tf.io.read_file(path), path, data_offset, num_samples)


def _contents_to_waveform(
    contents: tf.Tensor, path: tf.Tensor, data_offset: tf.Tensor, num_samples: tf.Tensor
) -> tf.Tensor:
    """As `clip_to_waveform`, from a file's bytes; the path is for the message."""
    num_bytes = BYTES_PER_SAMPLE * num_samples
    whole = tf.debugging.Assert(
        tf.cast(tf.strings.length(contents), tf.int64) >= data_offset + num_bytes,
        [CUT_OFF, path],
    )
    with tf.control_dependencies([] if whole is None else [whole]):
        samples = tf.strings.substr(contents, data_offset, num_bytes)
    waveform = tf.io.decode_raw(samples, tf.int16)
    return tf.cast(waveform, tf.float32) * INT16_SCALE


def waveform_to_log_mel_spectrogram(
    waveform: tf.Tensor, hparams: Hparams, *, fft_type: tf.DType = FAST_FFT
) -> tf.Tensor:
    """Computes the log mel spectrogram of a waveform at 44.1 kHz.

    The magnitude (not the power) of the STFT with a Hann window (periodic; symmetric
    where the window has an odd number of samples, as tf.signal.hann_window has it), no
    padding at the ends, mel bands as tf.signal.linear_to_mel_weight_matrix lays them,
    and the logarithm.

    Args:
      waveform: float32 [S] in [-1, 1]. Where it is shorter than one window, it is
        filled up with zeros to one (the baseline gives no frames at all, and then NaN
        scores).
      hparams: STFT and mel hyperparameters.
      fft_type: FAST_FFT or EXACT_FFT.

    Returns:
      float32 [T, F], natural logarithm of magnitude plus mel_log_offset.
    """
    missing = tf.maximum(hparams.stft_window_samples - tf.size(waveform), 0)
    waveform = tf.pad(waveform, [[0, missing]])
    # frames has shape [T, fft_length].
    frames = _windowed_frames(waveform, hparams)
    spectrum = tf.raw_ops.RFFT(
        input=tf.cast(frames, fft_type),
        fft_length=[hparams.fft_length],
        Tcomplex=COMPLEX_TYPES[fft_type],
    )
    spectrum = tf.cast(spectrum, tf.complex64)
    # magnitude has shape [T, bins]. tf.abs also minds overflow, and takes longer.
    magnitude = tf.sqrt(
        tf.square(tf.math.real(spectrum)) + tf.square(tf.math.imag(spectrum))
    )
    # mel has shape [T, F]. A few bins reach no band; to cut them off costs more.
    mel = tf.matmul(magnitude, _mel_matrix(hparams))
    return tf.math.log(mel + hparams.mel_log_offset)


def _windowed_frames(waveform: tf.Tensor, hparams: Hparams) -> tf.Tensor:
    """Frames of a waveform [S] times the window, filled up with zeros [T, fft_length].

    tf.signal.frame gathers sample by sample where window and hop share no factor, as
    1102 and 441 do. Rows of one hop, and the rows shifted by one, two, ... set side by
    side, are the same frames in contiguous copies.
    """
    window, hop = hparams.stft_window_samples, hparams.stft_hop_samples
    hann = tf.signal.hann_window(window)
    num_frames = 1 + (tf.size(waveform) - window) // hop
    rows_per_frame = -(-window // hop)
    num_rows = num_frames + rows_per_frame - 1
    size = num_rows * hop
    waveform = tf.pad(waveform, [[0, tf.maximum(size - tf.size(waveform), 0)]])
    rows = tf.reshape(waveform[:size], [num_rows, hop])
    parts = []
    for shift in range(rows_per_frame):
        start = shift * hop
        stop = min(start + hop, window)
        part = rows[shift : shift + num_frames, : stop - start]
        parts.append(part * hann[start:stop])
    parts.append(tf.zeros([num_frames, hparams.fft_length - window]))
    return tf.concat(parts, axis=1)


def _mel_matrix(hparams: Hparams) -> tf.Tensor:
    """TensorFlow's HTK mel matrix, float32 [bins, F]."""
    with tf.init_scope():  # Once, when the pipeline is built; not for every clip.
        return tf.signal.linear_to_mel_weight_matrix(
            num_mel_bins=hparams.mel_bands,
            num_spectrogram_bins=hparams.fft_length // 2 + 1,
            sample_rate=SAMPLE_RATE,
            lower_edge_hertz=hparams.mel_min_hz,
            upper_edge_hertz=hparams.mel_max_hz,
        )


def log_mel_spectrogram_to_examples(
    log_mel_spectrogram: tf.Tensor, hparams: Hparams
) -> tf.Tensor:
    """Cuts a log mel spectrogram [T, F] into E overlapping examples.

    As in the original: the last examples are filled up with 0.0, which is loud in the
    log domain (silence is log(0.001) = -6.9). E is T over the hop in frames, rounded
    up.

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
    """float32 [S] at 44.1 kHz to float32 [E, frames, F]: the two functions above."""
    return log_mel_spectrogram_to_examples(
        waveform_to_log_mel_spectrogram(waveform, hparams, fft_type=fft_type), hparams
    )


def wav_to_examples(path: str, hparams: Hparams) -> tf.Tensor:
    """A WAV file to log mel examples, float32 [E, frames, F], as scores use them.

    Raises:
      ValueError: the file is not 16-bit PCM, 44.1 kHz, mono; the message names it.
    """
    data_offset, num_samples = read_wav_header(path)
    waveform = clip_to_waveform(path, np.int64(data_offset), np.int64(num_samples))
    return waveform_to_examples(waveform, hparams, fft_type=EXACT_FFT)


def _examples_of(
    indices: tf.data.Dataset,
    clips: Clips,
    hparams: Hparams,
    *,
    deterministic: bool,
    parallel_clips: int = PARALLEL_CLIPS,
    fft_type: tf.DType = FAST_FFT,
) -> tf.data.Dataset:
    """From positions of clips to datasets of (position, float32 [E, frames, F]).

    Files are read ahead of their turn, more at once than cores, for disks that are slow
    to answer; the features are computed for one clip a core.
    """
    paths = tf.constant([os.fsencode(path) for path in clips.paths], tf.string)
    data_offsets = tf.constant(clips.data_offsets)
    num_samples = tf.constant(clips.num_samples)

    @without_autograph
    def read(index: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return index, tf.io.read_file(paths[index])

    @without_autograph
    def compute(index: tf.Tensor, contents: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        waveform = _contents_to_waveform(
            contents, paths[index], data_offsets[index], num_samples[index]
        )
        return index, waveform_to_examples(waveform, hparams, fft_type=fft_type)

    dataset = indices.map(
        read, num_parallel_calls=READ_AHEAD_CLIPS, deterministic=deterministic
    )
    return dataset.map(
        compute, num_parallel_calls=parallel_clips, deterministic=deterministic
    )


def clip_order(
    num_clips: int, *, seed: int, shard: int = 0, num_shards: int = 1
) -> tf.data.Dataset:
    """The positions of a shard's clips, int64, in an order that changes every epoch.

    All shards draw the same order, and each takes every num_shards-th clip of it.
    """
    positions = tf.data.Dataset.range(num_clips)
    return positions.shuffle(num_clips, seed=seed).shard(num_shards, shard)


def shuffle_buffer(
    clips: Clips, hparams: Hparams, *, num_shards: int = 1
) -> tuple[int, int]:
    """Examples in a shard's buffer that mixes those of clips, and its size in bytes."""
    num_examples = int(hparams.num_examples(clips.num_samples).sum())
    buffered = max(1, min(EXAMPLE_SHUFFLE_BUFFER, num_examples // num_shards))
    values = hparams.example_window_frames * hparams.mel_bands
    return buffered, buffered * values * np.float32().nbytes


def train_input(
    clips: Clips,
    hparams: Hparams,
    *,
    seed: int,
    deterministic: bool = False,
    shard: int = 0,
    num_shards: int = 1,
    data_service: DataService | None = None,
) -> tf.data.Dataset:
    """An endless dataset of training batches.

    As in the original, the list of clips is shuffled anew every epoch, their examples
    are shuffled across clips, and only then the epochs follow one another: every
    example comes once before any comes again. tf.data makes one operation of `shuffle`
    and `repeat`, which fills its buffer for the next epoch while this one ends.

    Args:
      clips: the N clips to train on, with labels.
      hparams: feature hyperparameters and batch_size.
      seed: of the order of clips and examples.
      deterministic: whether one seed always gives the same batches.
      shard: from 0; the part of each epoch's clips that this worker takes.
      num_shards: how many workers share an epoch; all have the same seed. They have
        the same number of clips, to within one, but not of examples, so that one may
        start its next epoch before another.
      data_service: where clips become examples, if not here. Its workers take the
        clips one by one, every epoch in the same order, and the shards take what comes
        first. Each clip comes once per epoch, but the buffer shuffles examples of two
        epochs at their border. An epoch lacks the clips that a data worker had when it
        died.

    Returns:
      Dataset of (features float32 [batch_size, frames, F], labels float32 [batch_size,
      C]). A batch may span two epochs.

    Raises:
      tf.errors.OpError: while it runs, where a clip cannot be read; the message names
      it.
    """
    labels = tf.constant(clips.labels)

    @without_autograph
    def label(clip: tf.Tensor, examples: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return examples, tf.tile(labels[clip][tf.newaxis], [tf.shape(examples)[0], 1])

    buffered, _ = shuffle_buffer(clips, hparams, num_shards=num_shards)
    if data_service is None:
        order = clip_order(len(clips), seed=seed, shard=shard, num_shards=num_shards)
        dataset = _examples_of(order, clips, hparams, deterministic=deterministic)
        dataset = dataset.map(label).unbatch().shuffle(buffered, seed=seed).repeat()
    else:
        dataset = _examples_of(
            _endless_clip_order(len(clips), seed=seed),
            clips,
            hparams,
            deterministic=False,
            parallel_clips=tf.data.AUTOTUNE,  # Its cores are not the cores here.
        )
        dataset = _served(dataset.map(label), data_service)
        dataset = dataset.unbatch().shuffle(buffered, seed=seed)
    dataset = dataset.batch(hparams.batch_size, drop_remainder=True)
    return dataset.prefetch(PREFETCH_BATCHES)


def _endless_clip_order(num_clips: int, *, seed: int) -> tf.data.Dataset:
    """All positions of clips, int64, again and again in one order.

    Made of numbers that a data service can deal out: its first worker would take all
    that a `shuffle` has buffered, and one that comes too late for an epoch would end.
    """
    order = tf.constant(np.random.default_rng(seed).permutation(num_clips))
    numbers = tf.data.Dataset.range(ENDLESS)
    return numbers.map(without_autograph(lambda number: order[number % num_clips]))


def _served(dataset: tf.data.Dataset, service: DataService) -> tf.data.Dataset:
    """The elements of a dataset, from the workers of a data service."""
    return dataset.apply(
        tf.data.experimental.service.distribute(
            processing_mode=tf.data.experimental.service.ShardingPolicy.DYNAMIC,
            service=service.address,
            job_name=service.job,
            compression=None,  # Log mel spectrograms hardly shrink.
        )
    )


def clip_input(
    clips: Clips, hparams: Hparams, *, skip_unreadable: bool = False
) -> tf.data.Dataset:
    """A dataset of the examples of clips in their order, in batches that span clips.

    Args:
      clips: the N clips.
      hparams: feature hyperparameters.
      skip_unreadable: whether a clip that cannot be read gives no examples, instead of
        an error that names it.

    Returns:
      Dataset of (features float32 [B, frames, F], int32 [B] the positions of the clips
      that the examples are from), B = SCORING_BATCH but in the last. Kept in memory
      between passes where it is smaller than CACHE_BYTES.
    """

    @without_autograph
    def tag(clip: tf.Tensor, examples: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return examples, tf.repeat(clip, tf.shape(examples)[0])

    positions = tf.data.Dataset.from_tensor_slices(tf.range(len(clips)))
    dataset = _examples_of(
        positions, clips, hparams, deterministic=True, fft_type=EXACT_FFT
    ).map(tag)
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
      ValueError: a clip can no longer be read; names the clip.
      OSError: something else failed, such as a data service.
    """
    iterator = iter(dataset)
    while True:
        try:
            batch = next(iterator)
        except StopIteration:
            return
        except tf.errors.OpError as error:
            lines = str(error.message).splitlines()
            for line in lines:
                if any(complaint in line for complaint in CLIP_COMPLAINTS):
                    message = f"a clip can no longer be read: {line}"
                    raise ValueError(message) from None
            raise OSError(
                f"the input pipeline failed (a data service whose dispatcher was "
                f"started again without --work_dir has lost the job): {lines[0]}"
            ) from None
        yield batch
