"""Compares the moving averages of batch norm with the statistics of batches.

Early in training, the averages lag behind the weights, so evaluation gives low lwlrap.

Letters for shapes: E examples, T frames, F mel bands.
"""

import itertools
import sys
from collections.abc import Iterator, Mapping, Sequence

import keras
import numpy as np
import tensorflow as tf

from tagger.hparams import Hparams
from tagger.network.layers import BatchNorm

# Moving averages whose variances differ by a larger factor from those of some batches
# lag behind: in training, it was 1.9 and more before lwlrap rose, and then up to 1.2.
MAX_LAG = 1.5
LAG_BATCHES = 2
LAG_STEPS = 20  # time constants of the moving averages, in which they can lag


def report_lag(
    network: keras.Model, batches: Iterator[tf.Tensor], *, step: int, hparams: Hparams
) -> None:
    """Prints a note if the moving averages of batch norm lag behind the weights.

    Args:
      network: see `largest_lag`; no layer was frozen in its training.
      batches: see `largest_lag`.
      step: the number of steps that it was trained for.
      hparams: hyperparameters of its training.
    """
    # Later, they can only differ because the clips differ from those of training.
    if step == 0 or step * (1 - hparams.bndecay) > LAG_STEPS:
        return
    layer, factor = largest_lag(network, list(itertools.islice(batches, LAG_BATCHES)))
    if factor > MAX_LAG:
        remedy = "a lower bndecay" if hparams.bn_ramp else "bn_ramp=1"
        print(
            f"note: at step {step}, the moving averages of batch norm lag behind the "
            f"weights, so lwlrap is too low. With bndecay={hparams.bndecay:g}, the "
            f"variances of {layer} differ by a factor of {factor:.1f} from those of "
            f"the clips. Evaluate later checkpoints, or train with {remedy}",
            file=sys.stderr,
        )


def largest_lag(
    network: keras.Model, batches: Sequence[tf.Tensor]
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
