"""Exports a trained tagger for use with TensorFlow or LiteRT, without this project.

    python -m tools.export_model --checkpoint runs/first \\
        --thresholds runs/first/eval/thresholds.csv --export_dir shared/first

This writes the folder shared/first with a SavedModel for TensorFlow, a model for LiteRT
(formerly TensorFlow Lite), the names of the classes, the thresholds, and a README that
describes how to use them. The inputs of both models are waveforms. Both compute the
features themselves, as in training.

Letters for shapes: E examples, C classes, D values of an embedding, S samples.
"""

import json
import os
import pathlib
import string
import sys
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags

from recordings.thresholds import (
    order_thresholds,
    read_thresholds,
    write_thresholds,
)
from tagger import hparams as hparams_lib
from tagger.data.csv_files import write_csv
from tagger.errors import UserError
from tagger.hparams import SAMPLE_RATE
from tagger.runs.checkpoint_files import describe
from tagger.terminal import program
from tagger.terminal.files import make_folder, write_whole
from tagger.terminal.progress import print_result

FLAGS = flags.FLAGS
SAVED_MODEL = "saved_model"
LITERT_MODEL = "model.tflite"
CLASS_MAP = "class_map.csv"
MODEL_JSON = "model.json"  # sample rate and class names
README = "README.md"
README_TEMPLATE = pathlib.Path(__file__).with_name("exported_readme.md")


def define_flags() -> None:
    """Defines the flags of this program."""
    flags.DEFINE_string(
        "checkpoint",
        None,
        "model.ckpt-N, a train_dir for its newest one, or best:EVAL_DIR for the best "
        "one of an evaluation.",
    )
    flags.DEFINE_string("export_dir", None, "New folder to write to.")
    flags.DEFINE_string("class_map_path", "", "Class map, if there is no hparams.json.")
    flags.DEFINE_string(
        "thresholds",
        "",
        "CSV with the threshold of each class, as tools.report writes it, to export.",
    )
    flags.DEFINE_string(
        "hparams",
        "",
        "Hyperparameters as name=value,name=value, for a checkpoint that has no "
        "hparams.json beside it.",
    )


def define_tagger(network: Any, hparams: hparams_lib.Hparams, fft_type: Any) -> Any:
    """Defines a module that scores a waveform at 44.1 kHz, float32 [S] in [-1, 1].

    `tagger(waveform)` returns a dict: float32 scores in [0, 1], `example_scores` [E, C]
    and `clip_scores` [C], their mean over the examples; and `embeddings`, float32
    [E, D], the input of the last layer.

    Args:
      network: `keras.Model` with the weights to use.
      hparams: hyperparameters of the features.
      fft_type: `tf.DType` of the input of the FFT.

    Returns:
      A `tf.Module`.
    """
    import tensorflow as tf

    import inputs
    import model

    network_with_embeddings = model.add_embeddings(network)

    class Tagger(tf.Module):
        @tf.function(
            input_signature=[tf.TensorSpec([None], tf.float32, "waveform")],
            autograph=False,
        )
        def __call__(self, waveform: tf.Tensor) -> dict[str, tf.Tensor]:
            examples = inputs.waveform_to_examples(waveform, hparams, fft_type=fft_type)
            # Unlike inference, this is float32, because LiteRT lacks a float64 sigmoid.
            logits, embeddings = network_with_embeddings(examples, training=False)
            scores = tf.sigmoid(logits)
            return {
                "example_scores": scores,
                "clip_scores": tf.reduce_mean(scores, axis=0),
                "embeddings": embeddings,
            }

    tagger = Tagger()
    # Saving and converting find only tf.Variables, not Keras's own variables.
    tagger.weights = [variable.value for variable in network.weights]
    return tagger


def to_litert(network: Any, hparams: hparams_lib.Hparams) -> bytes | None:
    """Returns a LiteRT model of the features and the network.

    None if the installed TensorFlow has no converter. tf.lite is deprecated since 2.20.
    """
    import tensorflow as tf

    import inputs

    try:
        converter_class = tf.lite.TFLiteConverter
    except AttributeError:
        return None
    # LiteRT's FFT accepts only float32, but computes in float64, so it is exact.
    tagger = define_tagger(network, hparams, inputs.FAST_FFT)
    function = tagger.__call__.get_concrete_function()
    return converter_class.from_concrete_functions([function], tagger).convert()


def write_models(
    folder: pathlib.Path, network: Any, hparams: hparams_lib.Hparams
) -> None:
    """Writes the SavedModel and the LiteRT model of the features and a network.

    Without a converter to LiteRT, there is only the SavedModel, and a warning.
    """
    import tensorflow as tf

    import inputs

    tagger = define_tagger(network, hparams, inputs.EXACT_FFT)
    function = tagger.__call__.get_concrete_function()
    tf.saved_model.save(tagger, str(folder / SAVED_MODEL), signatures=function)
    litert = to_litert(network, hparams)
    if litert is None:
        print(
            f"warning: TensorFlow {tf.__version__} has no converter to LiteRT; "
            f"{LITERT_MODEL} is not exported",
            file=sys.stderr,
        )
    else:
        (folder / LITERT_MODEL).write_bytes(litert)


def write_description(
    folder: pathlib.Path,
    prefix: str,
    network: Any,
    hparams: hparams_lib.Hparams,
    class_names: Sequence[str],
) -> None:
    """Writes the files of an exported folder that describe its models."""
    write_csv(folder / CLASS_MAP, enumerate(class_names))
    contents = {"sample_rate": SAMPLE_RATE, "class_names": class_names}
    write_whole(folder / MODEL_JSON, json.dumps(contents, indent=2) + "\n")
    template = string.Template(README_TEMPLATE.read_text(encoding="utf-8"))
    text = template.substitute(
        num_classes=len(class_names),
        checkpoint=os.path.basename(prefix),
        model=f"{network.name}, hyperparameters: {hparams}",
        embedding_size=network.get_layer("embedding").output.shape[1],
        sample_rate=SAMPLE_RATE,
        hop_seconds=f"{hparams.example_hop_seconds:g}",
    )
    write_whole(folder / README, text)


def export(
    *,
    checkpoint: str,
    export_dir: str,
    class_map_path: str = "",
    thresholds_path: str = "",
    hparam_overrides: Mapping[str, Any],
) -> None:
    """Exports a checkpoint to a folder, which appears complete or not at all.

    Args:
      checkpoint: see `Run.find`.
      export_dir: a folder that does not exist yet.
      class_map_path: class map of the C classes; empty: those in hparams.json.
      thresholds_path: CSV of the thresholds to export; empty: none.
      hparam_overrides: hyperparameters for a checkpoint without hparams.json beside it.

    Raises:
      UserError: an argument cannot be used, or export_dir cannot be written.
    """
    import tensorflow as tf

    import model
    from tagger.runs.run import Run

    found = Run.find(checkpoint, "--checkpoint")
    class_names = found.run.class_names(class_map_path)
    rules = {}
    if thresholds_path:
        rules = read_thresholds(thresholds_path, "--thresholds")
        rules.report_other_checkpoint(describe(found.prefix))
        order_thresholds(rules, class_names, "--thresholds")
    target = pathlib.Path(export_dir).resolve()
    make_folder(str(target.parent), "--export_dir")
    if target.exists():
        raise UserError(f"--export_dir: {export_dir} already exists")
    network, hparams = model.load_network(
        found, class_names, hparam_overrides=hparam_overrides
    )
    try:
        # A process that is killed leaves the folder.
        with tempfile.TemporaryDirectory(
            prefix=f".{target.name}.", dir=target.parent
        ) as temporary:
            folder = pathlib.Path(temporary) / target.name
            folder.mkdir()
            write_models(folder, network, hparams)
            write_description(folder, found.prefix, network, hparams, class_names)
            if rules:
                ordered = {name: rules[name] for name in class_names}
                write_thresholds(str(folder), ordered, describe(found.prefix))
            folder.rename(target)
    except (tf.errors.OpError, OSError) as error:
        reason = program.tensorflow_reason(error)
        raise UserError(f"cannot write {export_dir}: {reason}") from None
    print_result(f"{found.prefix} exported to {export_dir}")


def main(argv: Sequence[str]) -> int:
    """Runs the program; returns the exit status."""
    program.check_no_arguments(argv)
    hparam_overrides = hparams_lib.parse_overrides(FLAGS.hparams)
    program.start_tensorflow()
    export(
        checkpoint=FLAGS.checkpoint,
        export_dir=FLAGS.export_dir,
        class_map_path=FLAGS.class_map_path,
        thresholds_path=FLAGS.thresholds,
        hparam_overrides=hparam_overrides,
    )
    return 0


if __name__ == "__main__":
    define_flags()
    program.run(main, required=["checkpoint", "export_dir"])
