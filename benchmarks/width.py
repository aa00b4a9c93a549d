"""Measures what a network with fewer filters saves: sizes, steps, scores, and LiteRT.

    python benchmarks/width.py [--model yamnet] [--mixed_precision] [--rounds 10]

Prints the number of parameters, the multiplications for an example, the size of a
checkpoint with the state of Adam, and that of the LiteRT model for each width. Then it
times a training step and the scores of a batch of 64 examples, and LiteRT on a clip of
5 s with one thread, which includes the features. Each contender is a process of its
own, and they run in turns.
"""

import math
import pathlib
import tempfile
from collections.abc import Callable, Sequence

import measure
from absl import flags

from tagger.terminal import program

program.start_tensorflow()

import keras  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

import model  # noqa: E402
import train  # noqa: E402
from tagger.hparams import (  # noqa: E402
    MODEL_NAMES,
    SAMPLE_RATE,
    Hparams,
    model_hparams,
)
from tagger.network.layers import LAST_LAYER, Convolution  # noqa: E402
from tagger.runs.run import Run  # noqa: E402
from tagger.training.trainer import Trainer  # noqa: E402
from tools import export_model  # noqa: E402

WIDTHS = ("0.25", "0.5", "1")
STEP, SCORES, LITERT = "step", "scores", "litert"
TITLES = {
    STEP: f"Training step, {measure.BATCH} examples",
    SCORES: f"Scores, {measure.BATCH} examples",
    LITERT: "LiteRT, a clip of 5 s, one thread",
}
CLIP_SECONDS = 5
MIB = 2**20
FLAGS = flags.FLAGS


def define_flags() -> None:
    """Defines the flags of this program."""
    contenders = [f"{task}-{width}" for task in TITLES for width in WIDTHS]
    measure.define_flags(10, contenders)
    flags.DEFINE_enum("model", MODEL_NAMES[0], MODEL_NAMES, "Network.")
    flags.DEFINE_bool("mixed_precision", False, "See runner.py; not for LiteRT.")


def define_trainer(hparams: Hparams) -> Trainer:
    """A trainer of a network with random weights."""
    return train.define_trainer(
        model_name=FLAGS.model,
        num_classes=measure.CLASSES,
        hparams=hparams,
        epoch_num_batches=1,
        mixed_precision=FLAGS.mixed_precision,
    )


def define_network(hparams: Hparams, mixed_precision: bool) -> keras.Model:
    """A network with random weights."""
    return model.define_model(
        FLAGS.model,
        num_classes=measure.CLASSES,
        hparams=hparams,
        mixed_precision=mixed_precision,
    )


def task_of(task: str, hparams: Hparams) -> Callable[[], object]:
    """The function to time."""
    rng = np.random.default_rng(0)
    if task == LITERT:
        from ai_edge_litert.interpreter import Interpreter

        content = export_model.to_litert(define_network(hparams, False), hparams)
        runner = Interpreter(model_content=content, num_threads=1)
        score = runner.get_signature_runner()
        samples = rng.uniform(-0.1, 0.1, CLIP_SECONDS * SAMPLE_RATE).astype(np.float32)
        return lambda: score(waveform=samples)
    shape = measure.BATCH, hparams.example_window_frames, hparams.mel_bands
    features = tf.constant(rng.normal(-3, 2, shape), tf.float32)
    if task == SCORES:
        score = model.score_function(define_network(hparams, FLAGS.mixed_precision))
        return lambda: score(features).numpy()
    trainer = define_trainer(hparams)
    labels = rng.random((measure.BATCH, measure.CLASSES)) < 0.1
    labels = tf.constant(labels, tf.float32)
    return lambda: float(trainer.train_step(features, labels).loss)


def multiplications(network: keras.Model) -> int:
    """The multiplications by kernels for an example."""
    total = math.prod(network.get_layer(LAST_LAYER).kernel.shape)
    for layer in network.layers:
        if isinstance(layer, Convolution):
            _, height, width, _ = layer.output.shape
            total += math.prod(layer.kernel.shape) * height * width
    return total


def print_sizes() -> None:
    """Prints a table of sizes."""
    columns = "width", "parameters", "multiplications", "checkpoint", "LiteRT"
    print(f"\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for width in WIDTHS:
        hparams = model_hparams(FLAGS.model, {"width": float(width)})
        trainer = define_trainer(hparams)
        with tempfile.TemporaryDirectory() as folder:
            Run(folder).save(trainer.checkpoint_values(), 0)
            files = pathlib.Path(folder).glob("model.ckpt-0.*")
            size = sum(path.stat().st_size for path in files) / MIB
        network = define_network(hparams, False)
        litert = len(export_model.to_litert(network, hparams) or b"") / MIB
        cells = [
            width,
            f"{network.count_params():,}",
            f"{multiplications(network) / 1e6:.1f}M",
            f"{size:.1f} MiB",
            f"{litert:.1f} MiB",
        ]
        print(f"| {' | '.join(cells)} |", flush=True)


def main(argv: Sequence[str]) -> int:
    """Prints the sizes, times all contenders and prints the tables."""
    program.check_no_arguments(argv)
    if FLAGS.contender:
        task, width = FLAGS.contender.split("-")
        hparams = model_hparams(FLAGS.model, {"width": float(width)})
        measure.serve(task_of(task, hparams))
        return 0
    print(measure.machine("tensorflow", "keras", "ai-edge-litert"))
    print_sizes()
    command = [pathlib.Path(__file__).resolve(), f"--model={FLAGS.model}"]
    command.append(f"--mixed_precision={str(FLAGS.mixed_precision).lower()}")
    for task, title in TITLES.items():
        contenders = {
            width: measure.Contender([*command, f"--contender={task}-{width}"])
            for width in WIDTHS
        }
        seconds = measure.take_turns_apart(contenders, FLAGS.rounds)
        unit = 1 if task == LITERT else measure.BATCH
        measure.report(title, seconds, WIDTHS[-1], unit)
    return 0


if __name__ == "__main__":
    define_flags()
    program.run(main)
