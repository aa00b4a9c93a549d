"""Exports a trained tagger for use with TensorFlow or LiteRT, without this project.

    python -m tools.export_model --checkpoint runs/first \\
        --class_map_path my_class_map.csv --export_dir shared/first

This writes the folder shared/first with a SavedModel for TensorFlow, a model for LiteRT
(formerly TensorFlow Lite), the class map, and model.json with the sample rate and the
names of the classes. The inputs of both models are waveforms. Both compute the features
themselves, as in training.

Letters for shapes: E examples, C classes, S samples.
"""

import json
import pathlib
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags

from tagger import hparams as hparams_lib
from tagger.data.clips import read_class_map, write_csv
from tagger.errors import UserError
from tagger.hparams import SAMPLE_RATE
from tagger.terminal import program
from tagger.terminal.files import make_folder
from tagger.terminal.progress import print_result

FLAGS = flags.FLAGS
SAVED_MODEL = "saved_model"
LITERT_MODEL = "model.tflite"
CLASS_MAP = "class_map.csv"
MODEL_JSON = "model.json"  # sample rate and class names


def define_flags() -> None:
    """Defines the flags of this program."""
    flags.DEFINE_string(
        "checkpoint",
        None,
        "model.ckpt-N, a train_dir for its newest one, or best:EVAL_DIR for the best "
        "one of an evaluation.",
    )
    flags.DEFINE_string(
        "class_map_path", None, "CSV of index,name lines, one for each class."
    )
    flags.DEFINE_string("export_dir", None, "New folder to write to.")
    flags.DEFINE_string(
        "hparams",
        "",
        "Hyperparameters as name=value,name=value, for a checkpoint that has no "
        "hparams.json beside it.",
    )
    flags.mark_flags_as_required(["checkpoint", "class_map_path", "export_dir"])


def define_tagger(network: Any, hparams: hparams_lib.Hparams, fft_type: Any) -> Any:
    """Defines a module that scores a waveform at 44.1 kHz, float32 [S] in [-1, 1].

    `tagger(waveform)` returns a dict: float32 scores in [0, 1], `example_scores` [E, C]
    and `clip_scores` [C], their mean over the examples; and `embeddings`, float32
    [E, 1024], the input of the last layer.

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


def to_litert(network: Any, hparams: hparams_lib.Hparams) -> bytes:
    """Returns a LiteRT model of the features and the network."""
    import tensorflow as tf

    import inputs

    # LiteRT's FFT accepts only float32, but computes in float64, so it is exact.
    tagger = define_tagger(network, hparams, inputs.FAST_FFT)
    function = tagger.__call__.get_concrete_function()
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function], tagger)
    return converter.convert()


def export(
    *,
    checkpoint: str,
    class_map_path: str,
    export_dir: str,
    hparam_overrides: Mapping[str, Any],
) -> None:
    """Exports a checkpoint to a folder, which appears complete or not at all.

    Args:
      checkpoint: see `Run.find`.
      class_map_path: class map of the C classes.
      export_dir: a folder that does not exist yet.
      hparam_overrides: hyperparameters for a checkpoint without hparams.json beside it.

    Raises:
      UserError: an argument cannot be used, or export_dir cannot be written.
    """
    import tensorflow as tf

    import inputs
    import model
    from tagger.runs.run import Run

    class_names = read_class_map(class_map_path)
    found = Run.find(checkpoint, "--checkpoint")
    target = pathlib.Path(export_dir).resolve()
    make_folder(str(target.parent), "--export_dir")
    if target.exists():
        raise UserError(f"--export_dir: {export_dir} already exists")
    network, hparams = model.load_network(
        found, class_names, hparam_overrides=hparam_overrides
    )
    tagger = define_tagger(network, hparams, inputs.EXACT_FFT)
    try:
        # A process that is killed leaves the folder.
        with tempfile.TemporaryDirectory(
            prefix=f".{target.name}.", dir=target.parent
        ) as temporary:
            folder = pathlib.Path(temporary) / target.name
            folder.mkdir()
            tf.saved_model.save(
                tagger,
                str(folder / SAVED_MODEL),
                signatures=tagger.__call__.get_concrete_function(),
            )
            (folder / LITERT_MODEL).write_bytes(to_litert(network, hparams))
            write_csv(folder / CLASS_MAP, enumerate(class_names))
            contents = {"sample_rate": SAMPLE_RATE, "class_names": class_names}
            (folder / MODEL_JSON).write_text(
                json.dumps(contents, indent=2) + "\n", encoding="utf-8"
            )
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
        class_map_path=FLAGS.class_map_path,
        export_dir=FLAGS.export_dir,
        hparam_overrides=hparam_overrides,
    )
    return 0


if __name__ == "__main__":
    define_flags()
    program.run(main)
