"""A training step on a CPU: ours, plain Keras 3, and PyTorch.

    python benchmarks/train_step.py [--rounds 3]

All use the same network, batches of 64 examples [100, 96], 10 classes and Adam. They
run alternately in one process. "Plain Keras" is the network in standard Keras layers,
in a tf.function. It is also timed in a separate process without oneDNN, which is the
default of TensorFlow on a CPU without AVX512.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence

import measure
from absl import flags

from tagger import program

program.start_tensorflow()

import keras  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402
import torch  # noqa: E402

import model  # noqa: E402
import train  # noqa: E402
from tagger.hparams import Hparams  # noqa: E402

BATCH, CLASSES = 64, 10
FLAGS = flags.FLAGS


def define_flags() -> None:
    """Defines the flags of this program."""
    flags.DEFINE_integer("rounds", 3, "Timed runs of each contender.", lower_bound=1)
    flags.DEFINE_bool("plain_keras_alone", False, "Only time plain Keras.")


def ours(features: np.ndarray, labels: np.ndarray):
    """The training step of --mode train."""
    trainer = train.define_trainer(
        num_classes=CLASSES,
        hparams=Hparams(),
        epoch_num_batches=1,
    )
    batch = tf.constant(features), tf.constant(labels)
    return lambda: float(trainer.train_step(*batch)[0])


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
    layers += [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(CLASSES)]
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


def torch_network() -> torch.nn.Sequential:
    """The network in PyTorch; only the padding at strides differs."""
    layers: list[torch.nn.Module] = []
    last = 1  # channels

    def norm(channels: int) -> None:
        layers.append(torch.nn.BatchNorm2d(channels, eps=1e-3, momentum=3e-4))
        layers.append(torch.nn.ReLU())

    for kind, depth, stride in model.MOBILENET_V1:
        kernel, pad = 3, 1
        if kind == "SC":
            layers.append(
                torch.nn.Conv2d(last, last, 3, stride, 1, groups=last, bias=False)
            )
            norm(last)
            kernel, stride, pad = 1, 1, 0
        layers.append(torch.nn.Conv2d(last, depth, kernel, stride, pad, bias=False))
        norm(depth)
        last = depth
    layers += [torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()]
    return torch.nn.Sequential(*layers, torch.nn.Linear(last, CLASSES))


def pytorch(features: np.ndarray, labels: np.ndarray):
    """A PyTorch training step in eager mode, in its faster memory layout."""
    layout = torch.channels_last
    network = torch_network().to(memory_format=layout)
    optimizer = torch.optim.Adam(network.parameters(), 1e-4, eps=1e-8)
    x = torch.from_numpy(features[:, np.newaxis]).contiguous(memory_format=layout)
    y = torch.from_numpy(labels)

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(network(x), y)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def main(argv: Sequence[str]) -> int:
    """Times all contenders and prints the table."""
    program.check_no_arguments(argv)
    rounds = FLAGS.rounds
    rng = np.random.default_rng(0)
    features = rng.normal(-3, 2, (BATCH, 100, 96)).astype(np.float32)
    labels = (rng.random((BATCH, CLASSES)) < 0.1).astype(np.float32)
    if FLAGS.plain_keras_alone:
        contenders = {"plain": plain_keras(features, labels)}
        print(json.dumps(measure.take_turns(contenders, rounds, warm_ups=1)["plain"]))
        return 0
    contenders = {
        "ours": ours(features, labels),
        "plain Keras 3": plain_keras(features, labels),
        "PyTorch, channels_last": pytorch(features, labels),
    }
    seconds = measure.take_turns(contenders, rounds, warm_ups=1)
    alone = subprocess.run(
        [sys.executable, __file__, "--plain_keras_alone", f"--rounds={rounds}"],
        env=os.environ | {"TF_ENABLE_ONEDNN_OPTS": "0"},
        check=True,
        capture_output=True,
        text=True,
    )
    seconds["plain Keras 3, without oneDNN"] = json.loads(alone.stdout)
    print(measure.machine("tensorflow", "keras", "torch"))
    measure.report("Training step, 64 examples", seconds, "ours", BATCH)
    return 0


if __name__ == "__main__":
    define_flags()
    program.run(main)
