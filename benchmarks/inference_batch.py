"""Scores for a batch on a CPU: ours, ONNX Runtime, and PyTorch.

    python benchmarks/inference_batch.py [--rounds 15]

All use the same network, a batch of 64 examples [100, 96] and 10 classes. Each
contender is a process of its own, and they run in turns. In ONNX, batch norm is folded
into the convolutions.
"""

import functools
import pathlib
import tempfile
from collections.abc import Callable, Sequence

import measure
from absl import flags

from tagger.terminal import program

program.start_tensorflow()

import keras  # noqa: E402
import numpy as np  # noqa: E402
import onnx  # noqa: E402
import onnxruntime  # noqa: E402
import tensorflow as tf  # noqa: E402
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

import model  # noqa: E402
from tagger.hparams import Hparams  # noqa: E402
from tagger.network import layers  # noqa: E402

ONNX_OPSET, ONNX_IR = 17, 8
TOLERANCE = 1e-5  # between our scores and ONNX Runtime's
FLAGS = flags.FLAGS


def define_flags() -> None:
    """Defines the flags of this program."""
    measure.define_flags(15, ["ours", "ours_bfloat16", "onnx"])
    flags.DEFINE_string("onnx", "", "File of the ONNX graph.")


def onnx_graph(network: keras.Model) -> onnx.ModelProto:
    """The network with its weights as an ONNX graph, [64, 1, 100, 96] to scores."""
    nodes, weights = [], []

    def constant(name: str, value: np.ndarray) -> str:
        weights.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    value = "features"
    size = [100, 96]
    for layer in network.layers:
        if not isinstance(layer, layers.Convolution):
            continue
        scope, stride = layer.name, layer.stride
        scale, shift = (part.numpy() for part in layer.batch_norm.scale_and_shift())
        scale = scale[:, np.newaxis] if layer.depthwise else scale
        # [height, width, in, out] to [out, in of the group, height, width].
        order = (2, 3, 0, 1) if layer.depthwise else (3, 2, 0, 1)
        kernel = (layer.kernel.numpy() * scale).transpose(order)
        reach = [
            max((-(-n // stride) - 1) * stride + kernel.shape[2] - n, 0) for n in size
        ]
        size = [-(-n // stride) for n in size]
        before = [n // 2 for n in reach]
        after = [n - b for n, b in zip(reach, before, strict=True)]
        nodes.append(
            helper.make_node(
                "Conv",
                [value, constant(f"{scope}/w", kernel), constant(f"{scope}/b", shift)],
                [f"{scope}/conv"],
                strides=[stride, stride],
                pads=[*before, *after],
                group=kernel.shape[0] if layer.depthwise else 1,
            )
        )
        nodes.append(helper.make_node("Relu", [f"{scope}/conv"], [f"{scope}/relu"]))
        value = f"{scope}/relu"
    last = network.get_layer("fully_connected").get_weights()
    nodes += [
        helper.make_node("GlobalAveragePool", [value], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node(
            "Gemm", ["flat", constant("w", last[0]), constant("b", last[1])], ["z"]
        ),
        helper.make_node("Sigmoid", ["z"], ["scores"]),
    ]
    graph = helper.make_graph(
        nodes,
        "mobilenet",
        [
            helper.make_tensor_value_info(
                "features", TensorProto.FLOAT, [measure.BATCH, 1, 100, 96]
            )
        ],
        [
            helper.make_tensor_value_info(
                "scores", TensorProto.FLOAT, [measure.BATCH, measure.CLASSES]
            )
        ],
        weights,
    )
    proto = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", ONNX_OPSET)]
    )
    proto.ir_version = ONNX_IR
    onnx.checker.check_model(proto)
    return proto


def onnx_scores(path: str, features: np.ndarray) -> Callable[[], np.ndarray]:
    """Returns a function that scores the features with an ONNX graph."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    inputs = {"features": features[:, np.newaxis]}
    return lambda: session.run(None, inputs)[0]


def our_scores(network: keras.Model, features: np.ndarray) -> Callable[[], np.ndarray]:
    """Returns a function that scores the features as --mode inference does."""
    score = model.score_function(network)
    batch = tf.constant(features)
    return lambda: score(batch).numpy()


def main(argv: Sequence[str]) -> int:
    """Checks that the scores agree, times all contenders and prints the tables."""
    program.check_no_arguments(argv)
    features, _ = measure.random_batch()
    network = functools.partial(
        model.define_model,
        "mobilenet-v1",
        num_classes=measure.CLASSES,
        hparams=Hparams(),
    )
    if FLAGS.contender == "onnx":
        measure.serve(onnx_scores(FLAGS.onnx, features))
        return 0
    if FLAGS.contender:
        mixed_precision = FLAGS.contender == "ours_bfloat16"
        measure.serve(our_scores(network(mixed_precision=mixed_precision), features))
        return 0
    command = [pathlib.Path(__file__).resolve(), "--contender"]
    peers = measure.torch_contenders("score", model.MOBILENET_V1)
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/network.onnx"
        float32 = network()
        onnx.save(onnx_graph(float32), path)
        scores = our_scores(float32, features)(), onnx_scores(path, features)()
        difference = np.abs(scores[0] - scores[1]).max()
        if difference > TOLERANCE:
            raise ValueError(f"scores differ by {difference}, more than {TOLERANCE}")
        seconds = measure.take_turns_apart(
            {
                "ours": measure.Contender([*command, "ours"]),
                "ours, --mixed_precision": measure.Contender(
                    [*command, "ours_bfloat16"]
                ),
                "ONNX Runtime": measure.Contender([*command, "onnx", "--onnx", path]),
                **peers["float32"],
                **{f"{k}, bfloat16": peer for k, peer in peers["bfloat16"].items()},
            },
            FLAGS.rounds,
        )
    print(measure.machine("tensorflow", "onnxruntime", "torch"))
    for reference in ("ours", "ours, --mixed_precision"):
        title = f"Scores, {measure.BATCH} examples"
        measure.report(title, seconds, reference, measure.BATCH)
    return 0


if __name__ == "__main__":
    define_flags()
    program.run(main)
