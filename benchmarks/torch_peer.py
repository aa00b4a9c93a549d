"""The network in PyTorch, as a contender of other benchmarks.

    python benchmarks/torch_peer.py train|score [flags]

Only the padding at strides differs from ours. The tensors are in channels_last, which
is the faster layout for convolutions on a CPU.
"""

import contextlib
import json
from collections.abc import Sequence

import measure
import torch
from absl import flags

from tagger import program

FLAGS = flags.FLAGS
LAYOUT = torch.channels_last


def define_flags() -> None:
    """Defines the flags of this program."""
    flags.DEFINE_string("table", None, "JSON of the rows of model.MOBILENET_V1.")
    flags.DEFINE_bool("bfloat16", False, "Use autocast to bfloat16.")
    flags.DEFINE_bool("relu_in_place", False, "Use ReLU in place, which saves a copy.")
    flags.DEFINE_bool("compiled", False, "Use torch.compile.")
    flags.mark_flag_as_required("table")


def network(table: Sequence[tuple[str, int, int]]) -> torch.nn.Module:
    """The network with random weights, from [E, 1, 100, 96] to logits [E, C]."""
    layers: list[torch.nn.Module] = []
    last = 1  # channels

    def norm(channels: int) -> None:
        layers.append(torch.nn.BatchNorm2d(channels, eps=1e-3, momentum=3e-4))
        layers.append(torch.nn.ReLU(inplace=FLAGS.relu_in_place))

    for kind, depth, stride in table:
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
    layers.append(torch.nn.Linear(last, measure.CLASSES))
    return torch.nn.Sequential(*layers).to(memory_format=LAYOUT)


def main(argv: Sequence[str]) -> int:
    """Runs the task, once for each line of stdin."""
    task = argv[1]
    model = network(json.loads(FLAGS.table))
    run = torch.compile(model) if FLAGS.compiled else model
    features, labels = map(torch.from_numpy, measure.random_batch())
    features = features[:, None].contiguous(memory_format=LAYOUT)
    autocast = contextlib.nullcontext
    if FLAGS.bfloat16:

        def autocast():
            return torch.autocast("cpu", dtype=torch.bfloat16)

    optimizer = torch.optim.Adam(model.parameters(), 1e-4, eps=1e-8)

    def train_step() -> float:
        optimizer.zero_grad(set_to_none=True)
        with autocast():
            logits = run(features)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(
            logits.float(), labels
        )
        loss.backward()
        optimizer.step()
        return loss.item()

    def scores() -> object:
        with torch.inference_mode(), autocast():
            return torch.sigmoid(run(features).float()).numpy()

    model.train(task == "train")
    measure.serve({"train": train_step, "score": scores}[task])
    return 0


if __name__ == "__main__":
    define_flags()
    program.run(main)
