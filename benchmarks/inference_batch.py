"""Scores for a batch on a CPU: ours, ONNX Runtime, and PyTorch.

    python benchmarks/inference_batch.py [--rounds 10]

All use the same network, a batch of 64 examples [100, 96] and 10 classes. They run
alternately in one process. In ONNX, batch norm is folded into the convolutions.
"""

from collections.abc import Sequence

import measure
from absl import flags

from tagger import program

program.start_tensorflow()

import keras  # noqa: E402
import numpy as np  # noqa: E402
import onnx  # noqa: E402
import onnxruntime  # noqa: E402
import tensorflow as tf  # noqa: E402
import torch  # noqa: E402
from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from train_step import torch_network  # noqa: E402

import model  # noqa: E402
from tagger import layers  # noqa: E402
from tagger.hparams import Hparams  # noqa: E402

BATCH, CLASSES = 64, 10
ONNX_OPSET, ONNX_IR = 17, 8
TOLERANCE = 1e-5  # between our scores and ONNX Runtime's
FLAGS = flags.FLAGS


def define_flags() -> None:
    """Defines the flags of this program."""
    flags.DEFINE_integer("rounds", 10, "Timed runs of each contender.", lower_bound=1)


def onnx_session(network: keras.Model) -> onnxruntime.InferenceSession:
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
                "features", TensorProto.FLOAT, [BATCH, 1, 100, 96]
            )
        ],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [BATCH, CLASSES])],
        weights,
    )
    proto = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", ONNX_OPSET)]
    )
    proto.ir_version = ONNX_IR
    onnx.checker.check_model(proto)
    return onnxruntime.InferenceSession(
        proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )


def main(argv: Sequence[str]) -> int:
    """Checks that the scores agree, times all contenders and prints the table."""
    program.check_no_arguments(argv)
    rng = np.random.default_rng(0)
    features = rng.normal(-3, 2, (BATCH, 100, 96)).astype(np.float32)
    network = model.define_model("mobilenet-v1", num_classes=CLASSES, hparams=Hparams())
    score = model.score_function(network)
    batch = tf.constant(features)
    session = onnx_session(network)
    channels_first = features[:, np.newaxis]
    peer = torch_network().eval().to(memory_format=torch.channels_last)
    torch_batch = torch.from_numpy(channels_first).contiguous(
        memory_format=torch.channels_last
    )

    def run_torch() -> np.ndarray:
        with torch.inference_mode():
            return torch.sigmoid(peer(torch_batch)).numpy()

    contenders = {
        "ours": lambda: score(batch).numpy(),
        "ONNX Runtime": lambda: session.run(None, {"features": channels_first})[0],
        "PyTorch, channels_last": run_torch,
    }
    difference = np.abs(contenders["ours"]() - contenders["ONNX Runtime"]()).max()
    if difference > TOLERANCE:
        raise ValueError(f"scores differ by {difference}, more than {TOLERANCE}")
    seconds = measure.take_turns(contenders, FLAGS.rounds, warm_ups=2)
    print(measure.machine("tensorflow", "onnxruntime", "torch"))
    measure.report("Scores, 64 examples", seconds, "ours", BATCH)
    return 0


if __name__ == "__main__":
    define_flags()
    program.run(main)
