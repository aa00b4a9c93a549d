"""The network and the features in PyTorch, as a contender of other benchmarks.

    python benchmarks/torch_peer.py --task train|score|features [flags]

Only the padding at strides differs from ours. The tensors are in channels_last, which
is the faster layout for convolutions on a CPU.
"""

import concurrent.futures
import functools
import json
import os
import pathlib
import wave
from collections.abc import Callable, Sequence

import measure
import numpy as np
import torch
from absl import flags

from tagger.hparams import Hparams
from tagger.terminal import program

FLAGS = flags.FLAGS
LAYOUT = torch.channels_last


def define_flags() -> None:
    """Defines the flags of this program."""
    flags.DEFINE_enum("task", None, ["train", "score", "features"], "What to do.")
    flags.mark_flag_as_required("task")
    flags.DEFINE_string("table", None, "JSON of the rows of model.MOBILENET_V1.")
    flags.DEFINE_bool("bfloat16", False, "Use autocast to bfloat16.")
    flags.DEFINE_bool("relu_in_place", False, "Use ReLU in place, which saves a copy.")
    flags.DEFINE_bool("compiled", False, "Use torch.compile.")
    flags.DEFINE_string(
        "folder",
        None,
        "Folder with clips/, and the features expected.npz of the first.",
    )


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


def examples(path: pathlib.Path, matrix: torch.Tensor) -> torch.Tensor:
    """The log mel examples of a clip, float32 [E, T, F]."""
    hparams = Hparams()
    with wave.open(str(path)) as file:
        data = file.readframes(file.getnframes())
    waveform = torch.frombuffer(bytearray(data), dtype=torch.int16).float() / 32768
    window = hparams.stft_window_samples
    frames = waveform.unfold(0, window, hparams.stft_hop_samples)
    frames = frames * torch.hann_window(window, periodic=True)
    magnitude = torch.fft.rfft(frames, hparams.fft_length).abs()
    log_mel = torch.log(magnitude @ matrix + hparams.mel_log_offset)
    size, hop = hparams.example_window_frames, hparams.example_hop_frames
    count = -(-len(log_mel) // hop)
    padding = (count - 1) * hop + size - len(log_mel)
    log_mel = torch.nn.functional.pad(log_mel, (0, 0, 0, padding))
    return log_mel.unfold(0, size, hop).transpose(1, 2).contiguous()


def features_task(folder: pathlib.Path) -> Callable[[], object]:
    """The features of all clips of a folder, one clip per thread.

    Raises:
      ValueError: the features of the first clip are not as expected.
    """
    torch.set_num_threads(1)
    paths = sorted((folder / "clips").iterdir())
    expected = np.load(folder / "expected.npz")
    matrix = torch.from_numpy(expected["matrix"])
    difference = np.abs(examples(paths[0], matrix).numpy() - expected["first"]).max()
    if difference > measure.FEATURE_TOLERANCE:
        raise ValueError(f"features differ by {difference}")

    def run() -> list[torch.Tensor]:
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            return list(pool.map(lambda path: examples(path, matrix), paths))

    return run


def network_task(task: str) -> Callable[[], object]:
    """A training step, or scores."""
    model = network(json.loads(FLAGS.table))
    run = torch.compile(model) if FLAGS.compiled else model
    features, labels = map(torch.from_numpy, measure.random_batch())
    features = features[:, None].contiguous(memory_format=LAYOUT)
    autocast = functools.partial(
        torch.autocast, "cpu", dtype=torch.bfloat16, enabled=FLAGS.bfloat16
    )
    optimizer = torch.optim.Adam(model.parameters(), 1e-4, eps=1e-8)

    def train_step() -> float:
        optimizer.zero_grad(set_to_none=True)
        with autocast():
            logits = run(features).float()
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels)
        loss.backward()
        optimizer.step()
        return loss.item()

    def scores() -> np.ndarray:
        with torch.inference_mode(), autocast():
            return torch.sigmoid(run(features).float()).numpy()

    model.train(task == "train")
    return {"train": train_step, "score": scores}[task]


def main(argv: Sequence[str]) -> int:
    """Runs the task, once for each line of stdin."""
    program.check_no_arguments(argv)
    if FLAGS.task == "features":
        measure.serve(features_task(pathlib.Path(FLAGS.folder)))
    else:
        measure.serve(network_task(FLAGS.task))
    return 0


if __name__ == "__main__":
    define_flags()
    program.run(main)
