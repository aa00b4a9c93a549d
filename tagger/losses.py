"""The losses. Labels and logits are float32 [E, C], E examples, C classes.

Each loss is a function of labels and logits that returns float32 [E].
"""

from collections.abc import Callable

import keras
import tensorflow as tf

from tagger.hparams import Hparams

Loss = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


def define_example_loss(hparams: Hparams) -> Loss:
    """The loss that the hyperparameter `loss` selects, for each example.

    Labels y are smoothed towards 0.5 (Szegedy et al. 2016): y(1-lsmooth) + 0.5 lsmooth.
    """
    if hparams.loss == "lsep":
        return lsep
    if hparams.loss == "lq":
        return lambda labels, logits: lq(
            labels * (1 - hparams.lsmooth) + 0.5 * hparams.lsmooth, logits, hparams.lq_q
        )
    # In some versions, Keras's own mean is divided by the number of replicas.
    return keras.losses.BinaryCrossentropy(
        from_logits=True, label_smoothing=hparams.lsmooth, reduction=None
    )


def lq(labels: tf.Tensor, logits: tf.Tensor, q: float) -> tf.Tensor:
    """Generalised cross-entropy (Zhang & Sabuncu 2018) of each class, averaged.

    With p, the sigmoid of a logit: (1 - p^q) / q for a label 1, (1 - (1-p)^q) / q for
    a label 0. It approaches cross-entropy for q to 0, and is 1 - p for q = 1.

    Args:
      labels: in [0, 1]; in between, both terms are weighted.
      logits: any values.
      q: above 0, at most 1.
    """
    positive = -tf.math.expm1(q * tf.math.log_sigmoid(logits))
    negative = -tf.math.expm1(q * tf.math.log_sigmoid(-logits))
    return tf.reduce_mean(labels * positive + (1 - labels) * negative, axis=1) / q


def lsep(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Log-sum-exp pairwise loss (Li, Song & Luo 2017).

    For logits f it is log(1 + sum of exp(f_n - f_p)) over all pairs of a class n
    without the label and a class p with it. It is 0 if there is no pair.

    Args:
      labels: 0 or 1.
      logits: any values.
    """
    has_label = labels > 0.5
    never = tf.constant(-1e9, logits.dtype)
    without = tf.reduce_logsumexp(tf.where(has_label, never, logits), axis=1)
    with_label = tf.reduce_logsumexp(tf.where(has_label, -logits, never), axis=1)
    return tf.math.softplus(without + with_label)


def mean_without_highest(losses: tf.Tensor, fraction: float) -> tf.Tensor:
    """The mean of losses [E] without the highest: fraction * E, rounded down."""
    size = losses.shape[0]
    return tf.reduce_mean(tf.sort(losses)[: size - int(fraction * size)])
