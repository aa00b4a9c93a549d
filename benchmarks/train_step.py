"""A training step on a CPU: ours, plain Keras 3, and PyTorch.

    python benchmarks/train_step.py [--rounds 5]

All use the same network, batches of 64 examples [100, 96], 10 classes and Adam. Each
contender is a process of its own, and they run in turns. "Plain Keras" is the network
in standard Keras layers, in a tf.function. It is also timed without oneDNN, which is
the default of TensorFlow on a CPU without AVX512.
"""

import pathlib
from collections.abc import Sequence

import measure
from absl import flags

from tagger.terminal import program

program.start_tensorflow()

import keras  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

import model  # noqa: E402
import train  # noqa: E402
from tagger.hparams import Hparams  # noqa: E402

FLAGS = flags.FLAGS


def define_flags() -> None:
    """Defines the flags of this program."""
    measure.define_flags(5, ["ours", "ours_bfloat16", "plain_keras"])


def ours(features: np.ndarray, labels: np.ndarray, mixed_precision: bool):
    """The training step of --mode train."""
    trainer = train.define_trainer(
        num_classes=measure.CLASSES,
        hparams=Hparams(),
        epoch_num_batches=1,
        mixed_precision=mixed_precision,
    )
    batch = tf.constant(features), tf.constant(labels)
    return lambda: float(trainer.train_step(*batch).loss)


def plain_keras(features: np.ndarray, labels: np.ndarray):
    """The network as a Keras 3 model, with a GradientTape in a tf.function."""
    layers = [keras.layers.Input([100, 96, 1])]

    def norm():
        layers.append(keras.layers.BatchNormalization(momentum=0.9997, epsilon=1e-3))
        layers.append(keras.layers.ReLU())

    for kind, depth, stride in model.MOBILENET_V1:
        kernel = 3
        if kind == "SC":
            layers.append(
                keras.layers.DepthwiseConv2D(3, stride, padding="same", use_bias=False)
            )
            norm()
            kernel, stride = 1, 1
        layers.append(
            keras.layers.Conv2D(depth, kernel, stride, padding="same", use_bias=False)
        )
        norm()
    layers += [
        keras.layers.GlobalAveragePooling2D(),
        keras.layers.Dense(measure.CLASSES),
    ]
    network = keras.Sequential(layers)
    optimizer = keras.optimizers.Adam(1e-4, epsilon=1e-8)
    optimizer.build(network.trainable_variables)

    @tf.function
    def step(x, y):
        with tf.GradientTape() as tape:
            losses = tf.nn.sigmoid_cross_entropy_with_logits(
                y, network(x, training=True)
            )
            loss = tf.reduce_mean(losses)
        variables = network.trainable_variables
        optimizer.apply(tape.gradient(loss, variables), variables)
        return loss

    batch = tf.constant(features[..., np.newaxis]), tf.constant(labels)
    return lambda: float(step(*batch))


def main(argv: Sequence[str]) -> int:
    """Times all contenders and prints the tables."""
    program.check_no_arguments(argv)
    if FLAGS.contender:
        batch = measure.random_batch()
        if FLAGS.contender == "plain_keras":
            step = plain_keras(*batch)
        else:
            step = ours(*batch, mixed_precision=FLAGS.contender == "ours_bfloat16")
        measure.serve(step)
        return 0
    print(measure.machine("tensorflow", "keras", "torch"))
    command = [pathlib.Path(__file__).resolve(), "--contender"]
    mine = measure.Contender([*command, "ours"])
    plain = [*command, "plain_keras"]
    without = measure.Contender(plain, {"TF_ENABLE_ONEDNN_OPTS": "0"})
    peers = measure.torch_contenders("train", model.MOBILENET_V1)
    # In groups, because each contender takes 3 to 4 GiB.
    for title, contenders in {
        "float32, Keras": {
            "ours": mine,
            "plain Keras 3": measure.Contender(plain),
            "plain Keras 3, without oneDNN": without,
        },
        "float32, PyTorch": {"ours": mine, **peers["float32"]},
        "bfloat16": {
            "ours, --mixed_precision": measure.Contender([*command, "ours_bfloat16"]),
            "ours, float32": mine,
            **peers["bfloat16"],
        },
    }.items():
        seconds = measure.take_turns_apart(contenders, FLAGS.rounds)
        title = f"Training step, {measure.BATCH} examples, {title}"
        measure.report(title, seconds, next(iter(contenders)), measure.BATCH)
    return 0


if __name__ == "__main__":
    define_flags()
    program.run(main)
