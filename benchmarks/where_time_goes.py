"""Measures the time of the operations of a training step, on a CPU.

    python benchmarks/where_time_goes.py [--bfloat16] [--rounds 5]

Each kind of operation is timed separately, for 64 examples and the shapes of each
layer, and summed over the layers. The program also times the complete step, and prints
a lower limit: the convolutions' multiplications at the rate of a large matrix product.
With --bfloat16, the gradients of the depthwise convolutions are TensorFlow's own, which
--mixed_precision does not use.
"""

import functools
import math
import statistics
from collections.abc import Sequence

import measure
from absl import flags
from measure import BATCH, CLASSES

from tagger.terminal import program

program.start_tensorflow()

import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

import model  # noqa: E402
import train  # noqa: E402
from tagger.hparams import Hparams  # noqa: E402
from tagger.network import layers  # noqa: E402

PRODUCT_SIZE = 4096  # of the square matrices of the plain product
GIGA = 1e9
FLAGS = flags.FLAGS


def define_flags() -> None:
    """Defines the flags of this program."""
    flags.DEFINE_integer("rounds", 5, "Timed runs of each operation.", lower_bound=1)
    flags.DEFINE_bool("bfloat16", False, "Measure mixed precision.")


def layer_operations(
    layer: layers.Convolution, size: tuple[int, int], dtype: tf.DType
) -> tuple[dict[str, tuple[functools.partial, float]], tuple[int, int]]:
    """The operations of a convolution layer in a training step.

    Returns:
      A call and its GFLOP (0 if it does not multiply matrices) for each kind, and the
      height and width of the layer's output.
    """
    stride, shape = layer.stride, layer.kernel.shape
    out_size = tuple(-(-n // stride) for n in size)
    depth = shape[2]
    out_depth = depth if layer.depthwise else shape[3]
    net = tf.cast(tf.random.normal([BATCH, *size, depth]), dtype)
    out = tf.cast(tf.random.normal([BATCH, *out_size, out_depth]), dtype)
    weights = tf.cast(tf.random.normal(shape), dtype)
    options = {"strides": [1, stride, stride, 1], "padding": "SAME"}
    raw = tf.raw_ops
    if layer.depthwise:
        kind = "depthwise"
        forward, by_input, by_filter = (
            raw.DepthwiseConv2dNative,
            raw.DepthwiseConv2dNativeBackpropInput,
            raw.DepthwiseConv2dNativeBackpropFilter,
        )
    else:
        kind = "3x3" if shape[0] > 1 else "pointwise"
        forward, by_input, by_filter = (
            raw.Conv2D,
            raw.Conv2DBackpropInput,
            raw.Conv2DBackpropFilter,
        )
    ones = tf.ones([out_depth])
    norm = functools.partial(
        raw.FusedBatchNormV3, x=out, scale=ones, offset=ones, mean=[], variance=[]
    )
    _, mean, variance, _, _, reserve = norm()
    gflop = 2 * BATCH * math.prod(out_size) * math.prod(shape) / GIGA
    operations = {
        f"{kind} convolutions, forward": (
            functools.partial(forward, input=net, filter=weights, **options),
            gflop,
        ),
        f"{kind} convolutions, gradient of weights": (
            functools.partial(
                by_filter,
                input=net,
                filter_sizes=shape,
                out_backprop=out,
                **options,
            ),
            gflop,
        ),
        "batch norm, forward": (norm, 0),
        "batch norm, gradient": (
            functools.partial(
                raw.FusedBatchNormGradV3,
                y_backprop=out,
                x=out,
                scale=ones,
                reserve_space_1=mean,
                reserve_space_2=variance,
                reserve_space_3=reserve,
            ),
            0,
        ),
        "ReLU, forward and gradient": (
            lambda: (raw.Relu(features=out), raw.ReluGrad(gradients=out, features=out)),
            0,
        ),
    }
    if depth > 1:  # The first layer's input has no gradient.
        operations[f"{kind} convolutions, gradient of input"] = (
            functools.partial(
                by_input,
                input_sizes=net.shape,
                filter=weights,
                out_backprop=out,
                **options,
            ),
            gflop,
        )
    return operations, out_size


def median_seconds(run, rounds: int) -> float:
    """The median time of a call, after a warm-up call."""
    return statistics.median(measure.take_turns({"": run}, rounds)[""])


def main(argv: Sequence[str]) -> int:
    """Times all operations and prints the tables."""
    program.check_no_arguments(argv)
    rounds = FLAGS.rounds
    dtype = tf.bfloat16 if FLAGS.bfloat16 else tf.float32
    square = tf.cast(tf.random.normal([PRODUCT_SIZE, PRODUCT_SIZE]), dtype)
    rate = 2 * PRODUCT_SIZE**3 / GIGA / median_seconds(lambda: square @ square, rounds)
    trainer = train.define_trainer(
        num_classes=CLASSES,
        hparams=Hparams(),
        epoch_num_batches=1,
        mixed_precision=FLAGS.bfloat16,
    )
    rng = np.random.default_rng(0)
    features = tf.constant(rng.normal(-3, 2, (BATCH, 100, 96)), tf.float32)
    labels = tf.constant(rng.random((BATCH, CLASSES)) < 0.1, tf.float32)
    step = median_seconds(
        lambda: float(trainer.train_step(features, labels)[0]), rounds
    )
    score = model.score_function(trainer.network)
    scoring = median_seconds(lambda: score(features).numpy(), rounds)
    seconds, gflops, size = {}, {}, (100, 96)
    for layer in trainer.network.layers:
        if not isinstance(layer, layers.Convolution):
            continue
        operations, size = layer_operations(layer, size, dtype)
        for kind, (run, gflop) in operations.items():
            seconds[kind] = seconds.get(kind, 0) + median_seconds(run, rounds)
            gflops[kind] = gflops.get(kind, 0) + gflop
    print(measure.machine("tensorflow"))
    print(f"\nOperations of a training step, {BATCH} examples, {dtype.name}\n")
    print("| operations of all layers | s | of the step | GFLOP/s |")
    print("|---|---|---|---|")
    for kind in sorted(seconds, key=seconds.get, reverse=True):
        speed = f"{gflops[kind] / seconds[kind]:.0f}" if gflops[kind] else ""
        share = seconds[kind] / step
        print(f"| {kind} | {seconds[kind]:.3f} | {share:.0%} | {speed} |")
    forward = sum(value for kind, value in gflops.items() if "forward" in kind)
    print(
        f"\nsum of these {sum(seconds.values()):.2f} s; the training step {step:.2f} s"
    )
    print(
        f"a plain matrix product runs at {rate:.0f} GFLOP/s; lower limit: "
        f"{3 * forward / rate:.2f} s for a step, {forward / rate:.2f} s for scoring, "
        f"which takes {scoring:.2f} s"
    )
    return 0


if __name__ == "__main__":
    define_flags()
    program.run(main)
