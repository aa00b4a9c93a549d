"""Random changes of the training examples. All are off by default.

Letters for shapes: E examples, T frames, F mel bands, C classes.
"""

import functools
import math

import tensorflow as tf

from tagger.hparams import Hparams

SMALLEST = 1e-37  # above 0, so that its logarithm is finite
# The hyperparameters that turn an augmentation on.
SELECTORS = "gain_db", "mixup", "freq_masks", "time_masks"


def augment_batches(
    dataset: tf.data.Dataset, hparams: Hparams, *, seed: tuple[int, int]
) -> tf.data.Dataset:
    """Applies `augment` to each batch, with seeds from `seed` and its number."""
    if not any(getattr(hparams, name) for name in SELECTORS):
        return dataset

    @tf.autograph.experimental.do_not_convert
    def change(number: tf.Tensor, batch: tuple) -> tuple[tf.Tensor, tf.Tensor]:
        return augment(*batch, hparams, tf.random.fold_in(list(seed), number))

    return dataset.enumerate().map(change)


def augment(
    features: tf.Tensor, labels: tf.Tensor, hparams: Hparams, seed: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Applies the augmentations that the hyperparameters select to a batch.

    Args:
      features: float32 [E, T, F].
      labels: float32 [E, C].
      hparams: gain_db, mixup, freq_masks, time_masks and their widths.
      seed: integer [2]; the same seed gives the same result.

    Returns:
      Features and labels of the same shapes.
    """
    gain_seed, mixup_seed, freq_seed, time_seed = tf.unstack(tf.random.split(seed, 4))
    if hparams.gain_db:
        features = change_gain(features, hparams, gain_seed)
    if hparams.mixup:
        features, labels = mix_up(features, labels, hparams, mixup_seed)
    mask = functools.partial(mask_stripes, fill=silence(hparams))
    for number in range(hparams.freq_masks):
        one_seed = tf.random.fold_in(freq_seed, number)
        features = mask(features, axis=2, width=hparams.freq_mask_bands, seed=one_seed)
    for number in range(hparams.time_masks):
        one_seed = tf.random.fold_in(time_seed, number)
        features = mask(features, axis=1, width=hparams.time_mask_frames, seed=one_seed)
    return features, labels


def silence(hparams: Hparams) -> float:
    """The feature value of silence. (Padding, 0.0, is loud with the logarithm.)"""
    return 0.0 if hparams.frontend == "pcen" else math.log(hparams.mel_log_offset)


def change_gain(features: tf.Tensor, hparams: Hparams, seed: tf.Tensor) -> tf.Tensor:
    """Multiplies each example by a random gain, uniform in +-gain_db decibels.

    The values are those of the mel spectrogram times the gain. The padding at the end
    of a clip (exactly 0.0) is unchanged.

    Args:
      features: log mel examples, float32 [E, T, F].
      hparams: gain_db and mel_log_offset.
      seed: integer [2].
    """
    decibels = tf.random.stateless_uniform(
        [tf.shape(features)[0], 1, 1], seed, -hparams.gain_db, hparams.gain_db
    )
    offset = hparams.mel_log_offset
    mel = tf.maximum(tf.exp(features) - offset, 0.0) * 10 ** (decibels / 20)
    return tf.where(features == 0.0, features, tf.math.log(mel + offset))


def mix_up(
    features: tf.Tensor, labels: tf.Tensor, hparams: Hparams, seed: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Mixes each example with the previous one of the batch (Zhang et al. 2018).

    The share of the example is drawn from Beta(mixup, mixup). Mel spectrograms are
    mixed, not their logarithms. PCEN features are mixed as they are.

    Args:
      features: float32 [E, T, F].
      labels: float32 [E, C].
      hparams: mixup, the parameter of the Beta distribution, and frontend.
      seed: integer [2].

    Returns:
      The mixed features and labels.
    """
    # With two gamma variables g of the same parameter, g[0] / (g[0] + g[1]) is Beta.
    # The logarithm of a gamma variable is that of one with a parameter that is larger
    # by 1, plus log(uniform) / parameter. It does not underflow for small parameters.
    alpha, shape = hparams.mixup, [2, tf.shape(features)[0]]
    gamma_seed, uniform_seed = tf.unstack(tf.random.split(seed))
    log_gamma = tf.math.log(tf.random.stateless_gamma(shape, gamma_seed, alpha + 1))
    uniform = tf.random.stateless_uniform(shape, uniform_seed, SMALLEST, 1.0)
    log_gamma += tf.math.log(uniform) / alpha
    share = tf.sigmoid(log_gamma[0] - log_gamma[1])[:, tf.newaxis]

    def mix(values: tf.Tensor, share: tf.Tensor) -> tf.Tensor:
        return share * values + (1 - share) * tf.roll(values, 1, axis=0)

    labels, share = mix(labels, share), share[:, tf.newaxis]
    if hparams.frontend == "pcen":
        return mix(features, share), labels
    # Mixing keeps the offset, which is in both.
    return tf.math.log(mix(tf.exp(features), share)), labels


def mask_stripes(
    features: tf.Tensor, *, axis: int, width: int, fill: float, seed: tf.Tensor
) -> tf.Tensor:
    """Masks a stripe of each example (SpecAugment, Park et al. 2019).

    Args:
      features: float32 [E, T, F].
      axis: 1 for a stripe of frames, 2 for a stripe of bands.
      width: the largest width. The width is uniform from 0 to it, the position uniform.
      fill: the value of the masked stripe.
      seed: integer [2].
    """
    num_examples, size = tf.shape(features)[0], tf.shape(features)[axis]
    random = tf.random.stateless_uniform([2, num_examples], seed)
    widths = tf.floor(random[0] * (width + 1))
    starts = tf.floor(random[1] * (tf.cast(size, tf.float32) - widths + 1))
    positions = tf.range(tf.cast(size, tf.float32))
    masked = (positions >= starts[:, tf.newaxis]) & (
        positions < (starts + widths)[:, tf.newaxis]
    )
    return tf.where(tf.expand_dims(masked, 3 - axis), fill, features)
