"""Compares the moving averages of batch norm with the statistics of batches.

Early in training, the averages lag behind the weights, so evaluation gives low lwlrap.

Letters for shapes: E examples, T frames, F mel bands.
"""

import sys
from collections.abc import Iterable, Mapping

import keras
import numpy as np
import tensorflow as tf

from tagger.hparams import Hparams
from tagger.network.layers import BatchNorm

# The averages lag behind if their variances differ by a larger factor from those of
# some batches. On ESC-10, with three seeds and four batches of 64, it was at least 1.9
# while lwlrap was near chance, and then at most 1.3.
MAX_LAG = 1.6
# Time constants of the averages in which they can lag behind. Later, they differ only
# if the clips differ from those of training.
LAG_STEPS = 20


def largest_lag(
    network: keras.Model, batches: Iterable[tf.Tensor]
) -> tuple[str, float]:
    """Finds the layer whose moving variances differ most from those of batches.

    Args:
      network: from `model.define_model`; it is unchanged at the end.
      batches: examples, float32 [E, T, F] each.

    Returns:
      The name of the layer, and the factor by which its moving variances differ from
      the mean variances of the batches, at least 1: the geometric mean over channels.
      Without batch norm, "" and 1.
    """
    layers = [layer for layer in network.layers if getattr(layer, "batch_norm", None)]
    norms = {layer.name: layer.batch_norm for layer in layers}
    weights = network.get_weights()
    decays = [norm.decay for norm in norms.values()]
    moving, found = _variances(norms), []
    for norm in norms.values():
        norm.decay = 0.0  # Its averages become the statistics of a batch.
    for features in batches:
        network(features, training=True)
        found.append(_variances(norms))
    for norm, decay in zip(norms.values(), decays, strict=True):
        norm.decay = decay
    network.set_weights(weights)
    factors = {}
    for name, variances in moving.items():
        mean = np.mean([values[name] for values in found], axis=0)
        factors[name] = float(np.exp(np.abs(np.log(variances / mean)).mean()))
    return max(factors.items(), key=lambda item: item[1], default=("", 1.0))


def _variances(norms: Mapping[str, BatchNorm]) -> dict[str, np.ndarray]:
    """The moving variances with epsilon, float32 [channels] each."""
    return {n: norm.moving_variance.numpy() + norm.epsilon for n, norm in norms.items()}


def report_lag(
    step: int, network: keras.Model, hparams: Hparams, batches: Iterable[tf.Tensor]
) -> None:
    """Prints a note if the moving averages lag behind the weights.

    Args:
      step: the number of steps that the network was trained for.
      network, batches: see `largest_lag`.
      hparams: bndecay and bn_ramp of the training.
    """
    if step * (1 - hparams.bndecay) > LAG_STEPS:
        return
    layer, factor = largest_lag(network, batches)
    if factor > MAX_LAG:
        remedy = "a lower bndecay" if hparams.bn_ramp else "bn_ramp=1"
        print(
            f"note: at step {step}, the moving averages of batch norm lag behind the "
            f"weights, so lwlrap may be too low. With bndecay={hparams.bndecay:g}, the "
            f"variances of {layer} differ by a factor of {factor:.1f} from those of "
            f"the clips. Evaluate later checkpoints, or train with {remedy}",
            file=sys.stderr,
        )
