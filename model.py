"""The network, its loss, learning rate and optimizers.

MobileNet v1 (Howard et al. 2017, https://arxiv.org/abs/1704.04861) as the DCASE 2019
Task 2 baseline has it: the first convolution has 16 channels and stride 1. Written on
TensorFlow's own operations, with variables named as the original's scopes name them,
because people type those names in the warm-start flags and checkpoints carry them.

Letters for shapes: E examples, T frames, F mel bands, C classes.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from hparams import MODEL_NAMES, Hparams, parse_hparams, trained_hparams

__all__ = [
    "Adam",
    "ConvLayer",
    "MOBILENET_V1",
    "MobileNet",
    "Sgd",
    "clip_scores",
    "define_model",
    "define_optimizer",
    "learning_rate",
    "max_batch",
    "parse_hparams",
    "smoothed_cross_entropy",
    "trained_network",
]

KERNEL = 3  # Height and width of every convolution but the pointwise ones.
ADAM_BETA1 = 0.9
ADAM_BETA2 = 0.999
MAX_VALUES = 2**31 - 1  # of a tensor; convolutions on a CPU crash beyond.


class ConvLayer(NamedTuple):
    """A row of the table: C(3x3, depth, stride), or SC(...) if separable."""

    separable: bool
    depth: int
    stride: int


MOBILENET_V1 = (
    ConvLayer(separable=False, depth=16, stride=1),
    ConvLayer(separable=True, depth=64, stride=1),
    ConvLayer(separable=True, depth=128, stride=2),
    ConvLayer(separable=True, depth=128, stride=1),
    ConvLayer(separable=True, depth=256, stride=2),
    ConvLayer(separable=True, depth=256, stride=1),
    ConvLayer(separable=True, depth=512, stride=2),
    ConvLayer(separable=True, depth=512, stride=1),
    ConvLayer(separable=True, depth=512, stride=1),
    ConvLayer(separable=True, depth=512, stride=1),
    ConvLayer(separable=True, depth=512, stride=1),
    ConvLayer(separable=True, depth=512, stride=1),
    ConvLayer(separable=True, depth=1024, stride=2),
    ConvLayer(separable=True, depth=1024, stride=1),
)


class _Convolution(NamedTuple):
    """One convolution: a row of the table has one, or two if separable."""

    scope: str
    depthwise: bool
    shape: tuple[int, int, int, int]  # of its weights
    stride: int

    @property
    def weights(self) -> str:
        return f"{self.scope}/{'depthwise_weights' if self.depthwise else 'weights'}"


def _convolutions(layers: Sequence[ConvLayer]) -> list[_Convolution]:
    """Unrolls the table into convolutions, with the original's scope of each."""

    def scope(name: str, number: int) -> str:
        return f"{name}_{number}" if number else name

    convolutions, depth, depthwise = [], 1, 0
    for row, layer in enumerate(layers):
        if layer.separable:
            convolutions.append(
                _Convolution(
                    scope=scope("SeparableConv2d", depthwise),
                    depthwise=True,
                    shape=(KERNEL, KERNEL, depth, 1),
                    stride=layer.stride,
                )
            )
            depthwise += 1
        kernel = 1 if layer.separable else KERNEL
        convolutions.append(
            _Convolution(
                scope=scope("Conv", row),
                depthwise=False,
                shape=(kernel, kernel, depth, layer.depth),
                stride=1 if layer.separable else layer.stride,
            )
        )
        depth = layer.depth
    return convolutions


class MobileNet:
    """The network and its variables.

    Args:
      num_classes: C.
      hparams: of the model.
      seed: of the initial weights.
      mixed_precision: whether convolutions and activations are bfloat16. Variables,
        statistics and the last layer are float32 all the same.

    Attributes:
      variables: all float32 variables by name, such as `Conv_1/BatchNorm/gamma`.
      trainable_variables: those of them that training changes by gradients.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        hparams: Hparams,
        seed: int,
        mixed_precision: bool = False,
    ):
        self._dtype = tf.bfloat16 if mixed_precision else tf.float32
        self.num_classes = num_classes
        self.hparams = hparams
        self.variables: dict[str, tf.Variable] = {}
        self._convolutions = _convolutions(MOBILENET_V1)
        self._initializer_seeds = iter(range(len(self._convolutions) + 1))
        self._seed = seed
        for convolution in self._convolutions:
            channels = convolution.shape[2 if convolution.depthwise else 3]
            self._add_weights(convolution.weights, convolution.shape)
            if hparams.bn:
                norm = f"{convolution.scope}/BatchNorm"
                self._add(f"{norm}/gamma", tf.ones([channels]))
                self._add(f"{norm}/beta", tf.zeros([channels]))
                self._add(f"{norm}/moving_mean", tf.zeros([channels]), False)
                self._add(f"{norm}/moving_variance", tf.ones([channels]), False)
            else:
                self._add(f"{convolution.scope}/biases", tf.zeros([channels]))
        self._add_weights(
            "fully_connected/weights", (MOBILENET_V1[-1].depth, num_classes)
        )
        self._add("fully_connected/biases", tf.zeros([num_classes]))

    @property
    def trainable_variables(self) -> dict[str, tf.Variable]:
        """The variables that training changes by gradients, by name."""
        return {name: v for name, v in self.variables.items() if v.trainable}

    @property
    def moving_averages(self) -> dict[str, tf.Variable]:
        """Batch norm's moving means and variances, by name."""
        return {name: v for name, v in self.variables.items() if not v.trainable}

    def _add(self, name: str, value: tf.Tensor, trainable: bool = True) -> None:
        self.variables[name] = tf.Variable(value, trainable=trainable, name=name)

    def _add_weights(self, name: str, shape: tuple[int, ...]) -> None:
        seed = [self._seed, next(self._initializer_seeds)]
        stddev = self.hparams.weights_init_stddev
        if stddev > 0:
            value = tf.random.stateless_truncated_normal(shape, seed, stddev=stddev)
        else:
            # Xavier: Glorot & Bengio 2010, with the fans of a convolution as in
            # TF-Slim.
            receptive_field = math.prod(shape[:-2])
            fans = (shape[-2] + shape[-1]) * receptive_field
            limit = math.sqrt(6 / fans)
            value = tf.random.stateless_uniform(shape, seed, -limit, limit)
        self._add(name, value)

    def logits(
        self,
        features: tf.Tensor,
        *,
        training: bool = False,
        dropout_seed: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """Applies the network.

        Args:
          features: float32 [E, T, F], log mel examples.
          training: whether batch norm uses the batch's statistics, and moves its
            averages, and dropout drops; else the moving averages are folded into the
            convolutions.
          dropout_seed: int [2], where training with dropout.

        Returns:
          float32 [E, C].
        """
        # net has shape [E, T, F, 1].
        net = tf.cast(features[..., tf.newaxis], self._dtype)
        for convolution in self._convolutions:
            net = self._convolve(convolution, net, training)
        # net has shape [E, T/16, F/16, 1024], rounded up at every stride.
        pool = tf.reduce_max if self.hparams.global_pool == "max" else tf.reduce_mean
        net = pool(tf.cast(net, tf.float32), axis=[1, 2])
        # net has shape [E, 1024].
        if training and self.hparams.dropout > 0:
            rate = 1 - self.hparams.dropout
            net = tf.nn.experimental.stateless_dropout(net, rate, seed=dropout_seed)
        return tf.nn.bias_add(
            tf.matmul(net, self.variables["fully_connected/weights"]),
            self.variables["fully_connected/biases"],
        )

    @tf.function(reduce_retracing=True, autograph=False)
    def scores(self, features: tf.Tensor) -> tf.Tensor:
        """Applies the network, without training, and a sigmoid.

        In float64, because the sigmoid of a float32 is exactly 1 from 16.6 on, and
        clips that tie there lose their ranking.

        Args:
          features: float32 [E, T, F], log mel examples.

        Returns:
          float64 [E, C] in [0, 1].
        """
        return tf.sigmoid(tf.cast(self.logits(features), tf.float64))

    def _convolve(
        self, convolution: _Convolution, net: tf.Tensor, training: bool
    ) -> tf.Tensor:
        """A convolution, then batch norm or biases, then ReLU."""
        weights = self.variables[convolution.weights]
        if not self.hparams.bn:
            net = _apply_kernel(convolution, net, weights)
            biases = self.variables[f"{convolution.scope}/biases"]
            net = tf.nn.bias_add(net, tf.cast(biases, net.dtype))
        elif training:
            net = _apply_kernel(convolution, net, weights)
            net = self._batch_norm(f"{convolution.scope}/BatchNorm", net)
        else:
            scale, shift = self._folded_batch_norm(f"{convolution.scope}/BatchNorm")
            if convolution.depthwise:
                scale = scale[:, tf.newaxis]
            net = _apply_kernel(convolution, net, weights * scale)
            net = tf.nn.bias_add(net, tf.cast(shift, net.dtype))
        return tf.nn.relu(net)

    def _batch_norm(self, scope: str, net: tf.Tensor) -> tf.Tensor:
        """Batch norm by the batch's statistics, through the fused operation.

        As in the original: the moving variance takes the unbiased variance of the
        batch, which is what the fused operation reports.
        """
        net, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=net,
            scale=self.variables[f"{scope}/gamma"],
            offset=self.variables[f"{scope}/beta"],
            mean=[],
            variance=[],
            epsilon=self.hparams.bneps,
            is_training=True,
        )
        for name, value in (("moving_mean", mean), ("moving_variance", variance)):
            moving = self.variables[f"{scope}/{name}"]
            moving.assign_sub((moving - value) * (1 - self.hparams.bndecay))
        return net

    def _folded_batch_norm(self, scope: str) -> tuple[tf.Tensor, tf.Tensor]:
        """Batch norm by the moving averages, as a scale and a shift of each channel."""
        variance = self.variables[f"{scope}/moving_variance"]
        scale = self.variables[f"{scope}/gamma"] * tf.math.rsqrt(
            variance + self.hparams.bneps
        )
        mean = self.variables[f"{scope}/moving_mean"]
        return scale, self.variables[f"{scope}/beta"] - mean * scale


def _apply_kernel(
    convolution: _Convolution, net: tf.Tensor, weights: tf.Tensor
) -> tf.Tensor:
    strides = [1, convolution.stride, convolution.stride, 1]
    weights = tf.cast(weights, net.dtype)
    apply = tf.nn.depthwise_conv2d if convolution.depthwise else tf.nn.conv2d
    return apply(net, weights, strides=strides, padding="SAME")


def max_batch(hparams: Hparams) -> int:
    """The most examples whose values in each layer TensorFlow can count in int32."""
    height, width = hparams.example_window_frames, hparams.mel_bands
    largest = 1
    for layer in MOBILENET_V1:
        height, width = -(-height // layer.stride), -(-width // layer.stride)
        largest = max(largest, height * width * layer.depth)
    return MAX_VALUES // largest


def clip_scores(
    network: MobileNet,
    batches: Iterable[tuple[tf.Tensor, tf.Tensor]],
) -> Iterator[tuple[int, np.ndarray]]:
    """Scores clips: the mean over the scores of their examples.

    Args:
      network: with the weights to use.
      batches: (features float32 [E, T, F], int [E] positions of the clips that the
        examples are from); the examples of a clip follow one another, across batches
        too.

    Yields:
      The position of each clip, in order, and its scores, float64 [C] in [0, 1]. Not
      finite where the weights are not.
    """
    current, total, count = None, None, 0
    for features, positions in batches:
        scores = network.scores(features).numpy()
        for position, score in zip(positions.numpy(), scores, strict=True):
            if position != current:
                if count:
                    yield current, total / count
                current, total, count = int(position), np.zeros_like(score), 0
            total += score
            count += 1
    if count:
        yield current, total / count


def define_model(
    model_name: str,
    *,
    num_classes: int,
    hparams: Hparams,
    seed: int,
    mixed_precision: bool = False,
) -> MobileNet:
    """Makes the network of that name with weights drawn anew; see `MobileNet`.

    Raises:
      ValueError: there is no such model.
    """
    if model_name not in MODEL_NAMES:
        raise ValueError(
            f"--model must be one of {', '.join(MODEL_NAMES)}, but got '{model_name}'"
        )
    return MobileNet(
        num_classes=num_classes,
        hparams=hparams,
        seed=seed,
        mixed_precision=mixed_precision,
    )


def trained_network(
    directory: str,
    *,
    model_name: str,
    hparam_overrides: Mapping[str, Any],
    class_names: Sequence[str],
    mixed_precision: bool = False,
) -> MobileNet:
    """The network of the checkpoints in a folder, whose weights are still to restore.

    Args:
      directory: of the checkpoints.
      model_name: as of --model.
      hparam_overrides: what wins over the hyperparameters that it was trained with.
      class_names: C names, those that were trained.
      mixed_precision: see `MobileNet`.

    Raises:
      ValueError: it was trained with other classes, or there is no such model.
    """
    hparams = trained_hparams(
        directory,
        model_name=model_name,
        overrides=hparam_overrides,
        class_names=class_names,
    )
    return define_model(
        model_name,
        num_classes=len(class_names),
        hparams=hparams,
        seed=0,
        mixed_precision=mixed_precision,
    )


def smoothed_cross_entropy(
    labels: tf.Tensor, logits: tf.Tensor, hparams: Hparams
) -> tf.Tensor:
    """Sigmoid cross-entropy against smoothed labels.

    Label smoothing (Szegedy et al. 2016) moves labels towards 0.5: y(1-a) + a/2.

    Args:
      labels: float32 [E, C], 0 or 1.
      logits: float32 [E, C].
      hparams: lsmooth is a.

    Returns:
      float32 scalar, the mean over examples and classes.
    """
    labels = labels * (1 - hparams.lsmooth) + 0.5 * hparams.lsmooth
    return tf.reduce_mean(
        tf.nn.sigmoid_cross_entropy_with_logits(labels=labels, logits=logits)
    )


def learning_rate(
    step: tf.Tensor, hparams: Hparams, *, epoch_num_batches: int
) -> tf.Tensor:
    """The learning rate of a step, decayed in stairs.

    Args:
      step: int64 scalar, steps done before this one.
      hparams: lr, lrdecay and decay_epochs.
      epoch_num_batches: batches in a pass over the data; only lrdecay needs it.

    Returns:
      float32 scalar: lr * lrdecay ** (step // int(epoch_num_batches * decay_epochs)).
    """
    rate = tf.constant(hparams.lr, tf.float32)
    if hparams.lrdecay > 0:
        decay_steps = max(1, int(epoch_num_batches * hparams.decay_epochs))
        stairs = tf.cast(step // decay_steps, tf.float32)
        rate *= tf.pow(tf.constant(hparams.lrdecay, tf.float32), stairs)
    return rate


class Adam:
    """Adam (Kingma & Ba 2015) as TensorFlow 1 has it, epsilon outside of the bias
    correction.

    Attributes:
      variables: its state by the original's names: `X/Adam` and `X/Adam_1`, the first
        and second moments of variable X, `beta1_power` and `beta2_power`.
    """

    def __init__(self, trainable_variables: dict[str, tf.Variable], epsilon: float):
        self._trainable = trainable_variables
        self._epsilon = epsilon
        self.variables = {
            "beta1_power": tf.Variable(ADAM_BETA1, trainable=False),
            "beta2_power": tf.Variable(ADAM_BETA2, trainable=False),
        }
        for name, variable in trainable_variables.items():
            for slot in ("Adam", "Adam_1"):
                zeros = tf.zeros_like(variable)
                self.variables[f"{name}/{slot}"] = tf.Variable(zeros, trainable=False)

    def apply(self, gradients: dict[str, tf.Tensor], rate: tf.Tensor) -> None:
        """Takes a step against gradients, by name of variable, at a learning rate."""
        powers = self.variables["beta1_power"], self.variables["beta2_power"]
        for name, gradient in gradients.items():
            tf.raw_ops.ResourceApplyAdam(
                var=self._trainable[name].handle,
                m=self.variables[f"{name}/Adam"].handle,
                v=self.variables[f"{name}/Adam_1"].handle,
                beta1_power=powers[0],
                beta2_power=powers[1],
                lr=rate,
                beta1=ADAM_BETA1,
                beta2=ADAM_BETA2,
                epsilon=self._epsilon,
                grad=gradient,
            )
        powers[0].assign(powers[0] * ADAM_BETA1)
        powers[1].assign(powers[1] * ADAM_BETA2)


class Sgd:
    """Plain stochastic gradient descent; it has no state."""

    def __init__(self, trainable_variables: dict[str, tf.Variable]):
        self._trainable = trainable_variables
        self.variables: dict[str, tf.Variable] = {}

    def apply(self, gradients: dict[str, tf.Tensor], rate: tf.Tensor) -> None:
        """Takes a step against gradients, by name of variable, at a learning rate."""
        for name, gradient in gradients.items():
            self._trainable[name].assign_sub(rate * gradient)


def define_optimizer(network: MobileNet, hparams: Hparams) -> Adam | Sgd:
    """Makes the optimizer that the hyperparameter opt names."""
    if hparams.opt == "sgd":
        return Sgd(network.trainable_variables)
    return Adam(network.trainable_variables, hparams.adam_eps)
