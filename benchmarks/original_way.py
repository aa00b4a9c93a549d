"""Scores clips with the method of the original, to compare with our programs.

    python benchmarks/original_way.py CLIP_DIR CHECKPOINT[,CHECKPOINT...] [CSV]

This is a TensorFlow 1 graph in tf.compat.v1. It uses the original's operations for the
features, and does not fold batch norm. Each clip and checkpoint needs a session run. It
also runs on TensorFlow 2.13, which is closer to the original's version.
"""

import csv
import os
import pathlib
import sys
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from tagger.hparams import SAMPLE_RATE, Hparams  # noqa: E402

# The strides of the network's depthwise convolutions.
SEPARABLE_STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)


def original_examples(path: tf.Tensor, hparams: Hparams) -> tf.Tensor:
    """The examples [E, frames, F] of a WAV file, by decode_wav and tf.signal.stft."""
    waveform, _ = tf.audio.decode_wav(tf.io.read_file(path))
    spectrogram = tf.abs(
        tf.signal.stft(
            tf.squeeze(waveform, axis=-1),
            hparams.stft_window_samples,
            hparams.stft_hop_samples,
            hparams.fft_length,
        )
    )
    matrix = tf.signal.linear_to_mel_weight_matrix(
        hparams.mel_bands,
        hparams.fft_length // 2 + 1,
        SAMPLE_RATE,
        hparams.mel_min_hz,
        hparams.mel_max_hz,
    )
    log_mel = tf.math.log(tf.matmul(spectrogram, matrix) + hparams.mel_log_offset)
    return tf.signal.frame(
        log_mel,
        hparams.example_window_frames,
        hparams.example_hop_frames,
        pad_end=True,
        axis=0,
    )


def convolutions() -> Iterator[tuple[str, bool, int]]:
    """Yields the scope, whether it is depthwise, and the stride of each convolution."""
    yield "Conv", False, 1
    for number, stride in enumerate(SEPARABLE_STRIDES):
        yield "SeparableConv2d" + (f"_{number}" if number else ""), True, stride
        yield f"Conv_{number + 1}", False, 1


def score_clips(paths: list[str], prefixes: list[str]) -> None:
    """Scores clips with checkpoints, one clip per session run."""
    v1 = tf.compat.v1
    shapes = tf.train.load_checkpoint(prefixes[0]).get_variable_to_shape_map()

    def variable(name: str) -> tf.Variable:
        return v1.get_variable(name, shapes[name], use_resource=False)

    with tf.Graph().as_default(), v1.Session() as session:
        path = v1.placeholder(tf.string, [])
        net = original_examples(path, Hparams())[..., tf.newaxis]
        for scope, depthwise, stride in convolutions():
            strides = [1, stride, stride, 1]
            if depthwise:
                kernel = variable(f"{scope}/depthwise_weights")
                net = tf.nn.depthwise_conv2d(net, kernel, strides, "SAME")
            else:
                net = tf.nn.conv2d(net, variable(f"{scope}/weights"), strides, "SAME")
            gamma, beta, mean, variance = (
                variable(f"{scope}/BatchNorm/{part}")
                for part in ("gamma", "beta", "moving_mean", "moving_variance")
            )
            net, _, _ = v1.nn.fused_batch_norm(
                net, gamma, beta, mean, variance, Hparams().bneps, is_training=False
            )
            net = tf.nn.relu(net)
        net = tf.reduce_mean(net, [1, 2])
        logits = tf.matmul(net, variable("fully_connected/weights"))
        scores = tf.sigmoid(logits + variable("fully_connected/biases"))
        saver = v1.train.Saver()
        for prefix in prefixes:
            saver.restore(session, prefix)
            for clip in paths:
                np.mean(session.run(scores, {path: clip}), axis=0)


def main() -> None:
    """Scores the clips of a folder, or those that a CSV lists."""
    clip_dir, prefixes, *csv_path = sys.argv[1:]
    names = sorted(os.listdir(clip_dir))
    if csv_path:
        with open(csv_path[0], newline="") as file:
            names = [row["fname"] for row in csv.DictReader(file)]
    paths = [os.path.join(clip_dir, name) for name in names]
    score_clips(paths, prefixes.split(","))


if __name__ == "__main__":
    main()
