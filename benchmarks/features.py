"""Features on all cores: ours, the original's operations, and PyTorch.

    python benchmarks/features.py [--clips 200] [--rounds 10]

All read five-second WAV files and compute log mel examples in parallel. They run
alternately in one process. The second table lists, for GPUs of some step times, the
audio per second that they need, and the number of cores like these that deliver it.
"""

import concurrent.futures
import os
import pathlib
import statistics
import tempfile
import wave
from collections.abc import Sequence

import measure
from absl import flags

from tagger import program

program.start_tensorflow()

import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402
import torch  # noqa: E402
from original_way import original_examples  # noqa: E402

import inputs  # noqa: E402
from tagger import (  # noqa: E402
    clips,  # noqa: E402
    wav,
)
from tagger.hparams import Hparams  # noqa: E402
from tools.make_demo_data import write_wav  # noqa: E402

SECONDS = 5
ORIGINAL_PARALLEL_CALLS = 4  # the original's constant
STEP_MILLISECONDS = (200, 100, 50, 20, 10)  # of the GPUs in the table
TOLERANCE = 2e-2  # Quiet bands differ most in the logarithm.
FLAGS = flags.FLAGS


def define_flags() -> None:
    """Defines the flags of this program."""
    flags.DEFINE_integer("clips", 200, "Number of clips.", lower_bound=1)
    flags.DEFINE_integer("rounds", 10, "Timed runs of each contender.", lower_bound=1)


def make_clips(folder: pathlib.Path, count: int) -> list[str]:
    """Writes noise clips and returns their paths."""
    rng = np.random.default_rng(0)
    paths = [folder / f"{index:05d}.wav" for index in range(count)]
    for path in paths:
        write_wav(path, rng.integers(-9000, 9000, SECONDS * 44100).astype(np.int16))
    return [str(path) for path in paths]


def ours(paths: list[str], hparams: Hparams) -> tf.data.Dataset:
    """Our pipeline; each element has the examples of one clip."""
    headers = [wav.read_wav_header(path) for path in paths]
    table = clips.make_clips(paths, headers, np.zeros([len(paths), 1], np.float32))
    dataset = tf.data.Dataset.from_tensor_slices(
        (table.paths, table.data_offsets, table.num_samples)
    )
    return dataset.map(
        lambda *clip: inputs.waveform_to_examples(
            inputs.clip_to_waveform(*clip), hparams
        ),
        num_parallel_calls=inputs.PARALLEL_CLIPS,
    ).prefetch(4)


def original(paths: list[str], hparams: Hparams) -> tf.data.Dataset:
    """The original's pipeline."""
    return (
        tf.data.Dataset.from_tensor_slices(paths)
        .map(
            lambda path: original_examples(path, hparams),
            num_parallel_calls=ORIGINAL_PARALLEL_CALLS,
        )
        .prefetch(4)
    )


def pytorch_examples(path: str, matrix: torch.Tensor, hparams: Hparams) -> torch.Tensor:
    """The examples of a clip, computed in PyTorch."""
    with wave.open(path) as file:
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


def report_need(audio_per_second: float, hparams: Hparams) -> None:
    """Prints how much audio and how many cores GPUs need, for some times per step."""
    per_core = audio_per_second / inputs.PARALLEL_CLIPS
    per_step = hparams.batch_size * hparams.example_hop_seconds
    print(f"\nAudio for a GPU; one core here delivers {per_core:.0f} s per second\n")
    print(f"| step of {hparams.batch_size} examples | audio per second | cores |")
    print("|---|---|---|")
    for milliseconds in STEP_MILLISECONDS:
        need = per_step / milliseconds * 1000
        print(f"| {milliseconds} ms | {need:.0f} s | {need / per_core:.1f} |")


def main(argv: Sequence[str]) -> int:
    """Checks that all features agree, times all contenders and prints the tables."""
    program.check_no_arguments(argv)
    hparams = Hparams()
    torch.set_num_threads(1)  # One clip per thread, one thread per core.
    matrix = torch.from_numpy(
        tf.signal.linear_to_mel_weight_matrix(
            hparams.mel_bands,
            hparams.fft_length // 2 + 1,
            44100,
            hparams.mel_min_hz,
            hparams.mel_max_hz,
        ).numpy()
    )
    with tempfile.TemporaryDirectory() as folder:
        paths = make_clips(pathlib.Path(folder), FLAGS.clips)
        datasets = {
            "ours": ours(paths, hparams),
            "the original's operations": original(paths, hparams),
        }

        def run_torch() -> list[torch.Tensor]:
            with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
                return list(
                    pool.map(
                        lambda path: pytorch_examples(path, matrix, hparams), paths
                    )
                )

        expected = next(iter(datasets["ours"])).numpy()
        others = [next(iter(datasets["the original's operations"])), run_torch()[0]]
        for other in others:
            difference = np.abs(expected - other.numpy()).max()
            if difference > TOLERANCE:
                raise ValueError(f"features differ by {difference}")

        def drain(dataset: tf.data.Dataset) -> int:
            return sum(1 for _ in dataset)

        contenders = {name: lambda d=d: drain(d) for name, d in datasets.items()}
        contenders["PyTorch"] = run_torch
        seconds = measure.take_turns(contenders, FLAGS.rounds)
    print(measure.machine("tensorflow", "torch"))
    title = f"Features, {FLAGS.clips} clips of {SECONDS} s; rates: s of audio"
    audio = FLAGS.clips * SECONDS
    measure.report(title, seconds, "ours", audio)
    report_need(audio / statistics.median(seconds["ours"]), hparams)
    return 0


if __name__ == "__main__":
    define_flags()
    program.run(main)
