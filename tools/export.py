"""Writes a trained tagger as models that work without this program. Called by
tools.export_model.

A SavedModel for TensorFlow and a model for LiteRT (formerly TensorFlow Lite). Both take
waveforms and hold the features as well as the network, so that nobody need compute a
log mel spectrogram just as training did.

Letters for shapes: N waveforms, E examples, C classes, S samples.
"""

import csv
import os
import pathlib
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

import inputs
import model
from tagger import checkpoints
from tagger.clips import read_class_map
from tagger.files import make_folder
from tagger.hparams import Hparams

SAVED_MODEL = "saved_model"
LITERT_MODEL = "model.tflite"
CLASS_MAP = "class_map.csv"
EXPORTING_PREFIX = ".exporting-"  # of folders that are being written


class Tagger(tf.Module):
    """From waveforms at 44.1 kHz to scores, as one graph.

    Scores are float32, and a little less fine than inference's: LiteRT has no float64
    sigmoid, and other programs no use for it.

    Args:
      network: with the weights to use.
      hparams: of its features.
    """

    def __init__(self, network: keras.Model, hparams: Hparams):
        super().__init__()
        self._network = network
        self._hparams = hparams
        # The LiteRT converter finds the values of tf.Variables, not of Keras's own.
        self._weights = [variable.value for variable in network.weights]

    @tf.function(
        input_signature=[tf.TensorSpec([None, None], tf.float32, "waveforms")],
        autograph=False,
    )
    def __call__(self, waveforms: tf.Tensor) -> dict[str, tf.Tensor]:
        """Scores N waveforms of one length.

        Args:
          waveforms: float32 [N, S] in [-1, 1]; S may be anything.

        Returns:
          example_scores: float32 [N, E, C] in [0, 1].
          clip_scores: float32 [N, C], their mean over the examples.
        """
        return _with_clip_scores(
            tf.map_fn(
                lambda waveform: self._example_scores(waveform, inputs.EXACT_FFT),
                waveforms,
                fn_output_signature=tf.TensorSpec(
                    [None, self._network.output.shape[-1]]
                ),
            )
        )

    @tf.function(
        input_signature=[tf.TensorSpec([None], tf.float32, "waveform")],
        autograph=False,
    )
    def score_waveform(self, waveform: tf.Tensor) -> dict[str, tf.Tensor]:
        """As `__call__` for one waveform: float32 [S] to [E, C] and [C].

        For LiteRT, whose FFT takes float32 alone, and is exact all the same: inside it
        computes in float64.
        """
        return _with_clip_scores(self._example_scores(waveform, inputs.FAST_FFT))

    def _example_scores(self, waveform: tf.Tensor, fft_type: tf.DType) -> tf.Tensor:
        examples = inputs.waveform_to_examples(
            waveform, self._hparams, fft_type=fft_type
        )
        return tf.sigmoid(self._network(examples, training=False))


def _with_clip_scores(example_scores: tf.Tensor) -> dict[str, tf.Tensor]:
    return {
        "example_scores": example_scores,
        "clip_scores": tf.reduce_mean(example_scores, axis=-2),
    }


def to_litert(tagger: Tagger) -> bytes:
    """Converts a tagger of one waveform of any length to LiteRT's own operations."""
    function = tagger.score_waveform.get_concrete_function()
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function], tagger)
    return converter.convert()


def export(
    *,
    model_name: str,
    hparam_overrides: Mapping[str, Any],
    class_map_path: str,
    checkpoint: str,
    export_dir: str,
) -> None:
    """Writes the SavedModel, the LiteRT model and the class map of a checkpoint.

    The folder appears whole or not at all.

    Args:
      checkpoint: `model.ckpt-N`, or a folder whose newest is meant.
      export_dir: a folder that is empty or not there yet.

    Raises:
      ValueError, OSError: something cannot be used or written; what to do about it.
      FloatingPointError: a weight is not finite.
    """
    class_names = read_class_map(class_map_path)
    prefix = checkpoints.find_checkpoint(checkpoint, "--checkpoint")
    target = _new_folder(export_dir)
    network, hparams = model.load_network(
        prefix,
        class_names,
        model_name=model_name,
        hparam_overrides=hparam_overrides,
    )
    variables = checkpoints.network_variables(network)
    if name := checkpoints.first_not_finite(variables):
        raise FloatingPointError(f"{name} is not finite; checkpoint {prefix} is broken")
    temporary = target.with_name(f"{EXPORTING_PREFIX}{target.name}-{os.getpid()}")
    try:
        _write(temporary, Tagger(network, hparams), class_names)
        temporary.rename(target)
    except (tf.errors.OpError, OSError) as error:
        reason = getattr(error, "strerror", None) or getattr(error, "message", error)
        raise OSError(f"--export_dir: cannot write {export_dir}: {reason}") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    print(f"{prefix} exported to {export_dir}")


def _new_folder(export_dir: str) -> pathlib.Path:
    """The folder to write, once it is known that it can be.

    Raises:
      OSError: it cannot, or it holds something already.
    """
    target = pathlib.Path(export_dir).resolve()
    make_folder(str(target.parent), "--export_dir")
    if target.exists() and not target.is_dir():
        raise NotADirectoryError(f"--export_dir: {export_dir} is a file, not a folder")
    if target.exists() and any(target.iterdir()):
        raise FileExistsError(
            f"--export_dir: {export_dir} is not empty; name a new folder"
        )
    return target


def _write(directory: pathlib.Path, tagger: Tagger, class_names: Sequence[str]) -> None:
    directory.mkdir()
    tf.saved_model.save(
        tagger,
        str(directory / SAVED_MODEL),
        signatures=tagger.__call__.get_concrete_function(),
    )
    (directory / LITERT_MODEL).write_bytes(to_litert(tagger))
    with (directory / CLASS_MAP).open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(enumerate(class_names))
