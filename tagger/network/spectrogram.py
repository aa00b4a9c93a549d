"""Steps of the mel spectrogram: STFT, mel matrix, and PCEN.

Letters for shapes: S samples, T frames, F mel bands.
"""

import math

import tensorflow as tf

from tagger.data import blocks
from tagger.hparams import SAMPLE_RATE, Hparams

# Types of the FFT. A float32 FFT has errors of 1e-7 of its largest bin. They can change
# the log mel of a quiet band by 0.01 if the clip is a pure tone. Training uses float32
# for speed. Scoring uses float64, so that the scores of all programs agree.
FAST_FFT, EXACT_FFT = tf.float32, tf.float64
BLOCK_FRAMES = 256  # of `smooth`


def stft_magnitude(
    waveform: tf.Tensor, hparams: Hparams, fft_type: tf.DType
) -> tf.Tensor:
    """The magnitude of the STFT of a waveform [S], float32 [T, fft_length/2 + 1]."""
    missing = tf.maximum(hparams.stft_window_samples - tf.size(waveform), 0)
    frames = windowed_frames(tf.pad(waveform, [[0, missing]]), hparams)
    spectrum = tf.cast(tf.signal.rfft(tf.cast(frames, fft_type)), tf.complex64)
    # tf.abs is slower, because it avoids overflow.
    real, imaginary = tf.math.real(spectrum), tf.math.imag(spectrum)
    return tf.sqrt(tf.square(real) + tf.square(imaginary))


def mel_spectrogram(
    waveform: tf.Tensor, hparams: Hparams, fft_type: tf.DType
) -> tf.Tensor:
    """The mel spectrogram of a waveform [S]: magnitudes, float32 [T, F]."""
    return tf.matmul(stft_magnitude(waveform, hparams, fft_type), mel_matrix(hparams))


def windowed_frames(waveform: tf.Tensor, hparams: Hparams) -> tf.Tensor:
    """Cuts a waveform [S] into windowed frames, padded with zeros: [T, fft_length].

    tf.signal.frame is slow if window and hop have no common factor, such as 1102 and
    441. This function cuts the waveform into rows of one hop. A frame consists of
    consecutive rows, of which the last may be truncated.
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


def mel_matrix(hparams: Hparams) -> tf.Tensor:
    """Returns TensorFlow's HTK mel matrix times mel_gain, float32 [bins, F]."""
    with tf.init_scope():  # once, when the pipeline is built
        return hparams.mel_gain * tf.signal.linear_to_mel_weight_matrix(
            num_mel_bins=hparams.mel_bands,
            num_spectrogram_bins=hparams.fft_length // 2 + 1,
            sample_rate=SAMPLE_RATE,
            lower_edge_hertz=hparams.mel_min_hz,
            upper_edge_hertz=hparams.mel_max_hz,
        )


def compress(
    mel: tf.Tensor, hparams: Hparams, before: tf.Tensor | None = None
) -> tuple[tf.Tensor, tf.Tensor | None]:
    """Computes the log mel spectrogram, or PCEN, also block by block (see `blocks.py`).

    Args:
      mel: mel spectrogram of a clip or a block of it, float32 [T, F].
      hparams: frontend; mel_log_offset, or the hyperparameters of PCEN.
      before: what this function returned for the previous block, float32 [F]; NaN
        before the first block. None: `mel` is of a whole clip.

    Returns:
      float32 [T, F], the same values as of the whole clip; and `before` of the next
      block.
    """
    if hparams.frontend == "log":
        return tf.math.log(mel + hparams.mel_log_offset), before
    values, smoothed = pcen(mel, hparams, before)
    step_frames = blocks.BLOCK_EXAMPLES * hparams.example_hop_frames
    return values, smoothed[tf.minimum(step_frames, tf.shape(mel)[0]) - 1]


def pcen(
    mel: tf.Tensor, hparams: Hparams, before: tf.Tensor | None = None
) -> tuple[tf.Tensor, tf.Tensor]:
    """Computes PCEN: divides each band by a power of its smoothed value; compresses it.

    With the smoothed M of `smooth`: (E / (eps + M)^alpha + delta)^r - delta^r.

    Args:
      mel: mel spectrogram E of a clip or a block of it, float32 [T, F], 0 or more.
      hparams: pcen_alpha, pcen_delta, pcen_r, pcen_eps, pcen_seconds.
      before: see `smooth`.

    Returns:
      PCEN, float32 [T, F], 0 or more; 0 for silence. And M, float32 [T, F].
    """
    frames = hparams.pcen_seconds * SAMPLE_RATE / hparams.stft_hop_samples
    # As in librosa.pcen, (sqrt(1 + 4 frames^2) - 1) / (2 frames^2).
    rate = 2 / (1 + math.sqrt(1 + 4 * frames**2))
    smoothed = smooth(mel, rate, before)
    normalised = mel / (hparams.pcen_eps + smoothed) ** hparams.pcen_alpha
    delta, power = hparams.pcen_delta, hparams.pcen_r
    return (normalised + delta) ** power - delta**power, smoothed


def smooth(
    values: tf.Tensor, rate: float, before: tf.Tensor | None = None
) -> tf.Tensor:
    """Exponential smoothing: M[0] = E[0], M[t] = (1-rate) M[t-1] + rate E[t].

    A product with a triangular matrix smooths each block of frames. A second product
    propagates the last value of each block to the next blocks.

    Args:
      values: E, float32 [T, F]; T of at least 1.
      rate: above 0, below 1.
      before: M of the frame before these values, float32 [F]; NaN or None: these
        values are the first.

    Returns:
      M, float32 [T, F].
    """
    frames, bands = tf.shape(values)[0], values.shape[1]
    num_blocks = -(-frames // BLOCK_FRAMES)
    padded = tf.pad(values, [[0, num_blocks * BLOCK_FRAMES - frames], [0, 0]])
    padded = tf.reshape(padded, [num_blocks, BLOCK_FRAMES, bands])
    within = rate * tf.matmul(_decays(BLOCK_FRAMES, 1 - rate), padded)
    first = values[0]
    if before is not None:
        first = tf.where(tf.math.is_nan(before), first, before)
    # The state before block b: M[-1] = E[0], and what the blocks before b add.
    decay = (1 - rate) ** BLOCK_FRAMES
    states = tf.concat([first[tf.newaxis], within[:-1, -1]], axis=0)
    states = tf.matmul(_decays(num_blocks, decay), states)
    fade = (1 - rate) ** tf.range(1, BLOCK_FRAMES + 1, dtype=tf.float32)
    smoothed = within + fade[:, tf.newaxis] * states[:, tf.newaxis]
    return tf.reshape(smoothed, [-1, bands])[:frames]


def _decays(size: tf.Tensor | int, decay: float) -> tf.Tensor:
    """Returns the lower triangular matrix [size, size] of decay^(row - column)."""
    numbers = tf.range(size, dtype=tf.float32)
    distance = numbers[:, tf.newaxis] - numbers
    return tf.where(distance >= 0, decay ** tf.maximum(distance, 0.0), 0.0)
