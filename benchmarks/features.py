"""Features on all cores: ours, the original's operations, and PyTorch.

    python benchmarks/features.py [--clips 200] [--rounds 10]

All read five-second WAV files and compute log mel examples in parallel. Each contender
is a process of its own, and they run in turns. The second table lists, for GPUs of some
step times, the audio per second that they need, and the number of cores like these that
deliver it.
"""

import pathlib
import statistics
import tempfile
from collections.abc import Sequence

import measure
from absl import flags

from tagger.terminal import program

program.start_tensorflow()

import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402
from original_way import original_examples  # noqa: E402

import inputs  # noqa: E402
from tagger.data import clips, wav  # noqa: E402
from tagger.hparams import SAMPLE_RATE, Hparams  # noqa: E402
from tools.make_demo_data import write_wav  # noqa: E402

SECONDS = 5
ORIGINAL_PARALLEL_CALLS = 4  # the original's constant
STEP_MILLISECONDS = (200, 100, 50, 20, 10)  # of the GPUs in the table
FLAGS = flags.FLAGS


def define_flags() -> None:
    """Defines the flags of this program."""
    flags.DEFINE_integer("clips", 200, "Number of clips.", lower_bound=1)
    measure.define_flags(10, ["ours", "original"])
    flags.DEFINE_string("folder", "", "Folder of the clips of a contender.")


def make_clips(folder: pathlib.Path, count: int) -> list[str]:
    """Writes noise clips and returns their paths."""
    rng = np.random.default_rng(0)
    paths = [folder / f"{index:05d}.wav" for index in range(count)]
    for path in paths:
        write_wav(
            path, rng.integers(-9000, 9000, SECONDS * SAMPLE_RATE).astype(np.int16)
        )
    return [str(path) for path in paths]


def ours(paths: list[str], hparams: Hparams) -> tf.data.Dataset:
    """Our pipeline; each element has the examples of one clip."""
    headers = [wav.read_wav_header(path) for path in paths]
    table = clips.make_clips(paths, headers, np.zeros([len(paths), 1], np.float32))
    clip_order = tf.data.Dataset.range(len(table))
    dataset = inputs.clip_examples(clip_order, table, hparams, deterministic=True)
    return dataset.map(lambda position, examples: examples).prefetch(4)


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


def mel_matrix(hparams: Hparams) -> np.ndarray:
    """The mel matrix, float32 [bins, F]."""
    return tf.signal.linear_to_mel_weight_matrix(
        hparams.mel_bands,
        hparams.fft_length // 2 + 1,
        SAMPLE_RATE,
        hparams.mel_min_hz,
        hparams.mel_max_hz,
    ).numpy()


def drain(dataset: tf.data.Dataset) -> int:
    """The number of elements of a dataset, which computes them."""
    return sum(1 for _ in dataset)


def main(argv: Sequence[str]) -> int:
    """Checks that all features agree, times all contenders and prints the tables."""
    program.check_no_arguments(argv)
    hparams = Hparams()
    datasets = {"ours": ours, "original": original}
    if FLAGS.contender:
        paths = sorted(map(str, pathlib.Path(FLAGS.folder).iterdir()))
        dataset = datasets[FLAGS.contender](paths, hparams)
        measure.serve(lambda: drain(dataset))
        return 0
    this = pathlib.Path(__file__).resolve()
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        (root / "clips").mkdir()
        paths = make_clips(root / "clips", FLAGS.clips)
        first = {k: next(iter(d(paths, hparams))).numpy() for k, d in datasets.items()}
        difference = np.abs(first["ours"] - first["original"]).max()
        if difference > measure.FEATURE_TOLERANCE:
            raise ValueError(f"features differ by {difference}")
        np.savez(root / "expected.npz", first=first["ours"], matrix=mel_matrix(hparams))
        mine = [this, f"--folder={root / 'clips'}", "--contender"]
        torch_peer = [
            this.parent / "torch_peer.py",
            "--task=features",
            f"--folder={root}",
        ]
        contenders = {
            "ours": measure.Contender([*mine, "ours"]),
            "the original's operations": measure.Contender([*mine, "original"]),
            "PyTorch": measure.Contender(torch_peer),
            "PyTorch, tuned": measure.Contender(torch_peer, measure.TUNED_ALLOCATOR),
        }
        seconds = measure.take_turns_apart(contenders, FLAGS.rounds)
    print(measure.machine("tensorflow", "torch"))
    title = f"Features, {FLAGS.clips} clips of {SECONDS} s; rates: s of audio"
    audio = FLAGS.clips * SECONDS
    measure.report(title, seconds, "ours", audio)
    report_need(audio / statistics.median(seconds["ours"]), hparams)
    return 0


if __name__ == "__main__":
    define_flags()
    program.run(main)
