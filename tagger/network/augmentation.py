"""Random augmentation of training examples, off by default.

Letters for shapes: E examples, T frames, F mel bands.
"""

import functools
import math

import tensorflow as tf

from tagger.hparams import Hparams

# The hyperparameters that enable an augmentation.
SELECTORS = "gain_db", "freq_masks", "time_masks"


def augment_batches(
    dataset: tf.data.Dataset, hparams: Hparams, *, seed: tuple[int, int]
) -> tf.data.Dataset:
    """Applies `augment` to each batch, with a seed from `seed` and its number."""
    if not any(getattr(hparams, name) for name in SELECTORS):
        return dataset

    @tf.autograph.experimental.do_not_convert
    def change(number: tf.Tensor, batch: tuple) -> tuple[tf.Tensor, tf.Tensor]:
        features, labels = batch
        return augment(features, hparams, tf.random.fold_in(list(seed), number)), labels

    return dataset.enumerate().map(change)


def augment(features: tf.Tensor, hparams: Hparams, seed: tf.Tensor) -> tf.Tensor:
    """Applies the augmentations that are enabled by the hyperparameters to a batch.

    Args:
      features: float32 [E, T, F].
      hparams: gain_db, freq_masks, time_masks and their widths.
      seed: integer [2]; the same seed gives the same result.

    Returns:
      Features of the same shape.
    """
    gain_seed, freq_seed, time_seed = tf.unstack(tf.random.split(seed, 3))
    if hparams.gain_db:
        features = change_gain(features, hparams, gain_seed)
    mask = functools.partial(mask_stripes, fill=silence(hparams))
    for number in range(hparams.freq_masks):
        one_seed = tf.random.fold_in(freq_seed, number)
        features = mask(features, axis=2, width=hparams.freq_mask_bands, seed=one_seed)
    for number in range(hparams.time_masks):
        one_seed = tf.random.fold_in(time_seed, number)
        features = mask(features, axis=1, width=hparams.time_mask_frames, seed=one_seed)
    return features


def silence(hparams: Hparams) -> float:
    """Returns the feature value of silence. (0.0, the padding, is loud in log mel.)"""
    return 0.0 if hparams.frontend == "pcen" else math.log(hparams.mel_log_offset)


def change_gain(features: tf.Tensor, hparams: Hparams, seed: tf.Tensor) -> tf.Tensor:
    """Multiplies each example by a random gain, uniform in +-gain_db decibels.

    The gain is applied to the mel spectrogram, before the logarithm. The padding at the
    end of a clip (exactly 0.0) is unchanged.

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


def mask_stripes(
    features: tf.Tensor, *, axis: int, width: int, fill: float, seed: tf.Tensor
) -> tf.Tensor:
    """Masks a stripe of each example (SpecAugment, Park et al. 2019).

    Args:
      features: float32 [E, T, F].
      axis: 1 for a stripe of frames, 2 for a stripe of bands.
      width: maximum width. Widths are uniform from 0 to `width`; positions are uniform.
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
