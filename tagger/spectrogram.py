"""The parts of a spectrogram: frames and mel bands."""

import tensorflow as tf

from tagger.hparams import SAMPLE_RATE, Hparams


def windowed_frames(waveform: tf.Tensor, hparams: Hparams) -> tf.Tensor:
    """Frames of a waveform [S] times the window, padded with zeros: [T, fft_length].

    tf.signal.frame is slow if window and hop have no common factor, such as 1102 and
    441. This function cuts the waveform into rows of one hop. A frame consists of
    consecutive rows, and the last row may be cut off.
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
    """TensorFlow's HTK mel matrix times mel_gain, float32 [bins, F]."""
    with tf.init_scope():  # once, when the pipeline is built
        return hparams.mel_gain * tf.signal.linear_to_mel_weight_matrix(
            num_mel_bins=hparams.mel_bands,
            num_spectrogram_bins=hparams.fft_length // 2 + 1,
            sample_rate=SAMPLE_RATE,
            lower_edge_hertz=hparams.mel_min_hz,
            upper_edge_hertz=hparams.mel_max_hz,
        )
