"""The layers of the network, numerically equivalent to those of the original.

Layers and variables have the names of the scopes and variables of the original.

Letters for shapes: E examples, T frames, F mel bands, C classes.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

LAST_LAYER = "fully_connected"  # has a column for each class
KERNEL_SIZE = 3  # height and width of all convolutions except pointwise ones
serializable = keras.saving.register_keras_serializable(package="audio_tagger")


def _initializer(stddev: float) -> keras.Initializer:
    """Returns truncated normal, or Xavier uniform (Glorot & Bengio 2010) for 0."""
    if stddev > 0:
        return keras.initializers.TruncatedNormal(stddev=stddev)
    return keras.initializers.GlorotUniform()


@serializable
class Convolution(keras.layers.Layer):
    """A convolution, followed by batch norm or biases, and ReLU.

    These form one layer, so that its name is the scope of the original. In inference,
    batch norm is folded into the kernel, which saves 10 % of the time.

    Args:
      depth: output channels; a depthwise convolution keeps the channels of its input.
      depthwise: whether each channel is convolved separately.
      kernel_size: height and width.
      stride: stride in both directions.
      batch_norm: whether to use batch norm instead of biases.
      decay, epsilon, num_updates: see `BatchNorm`.
      init_stddev: standard deviation of the initial weights; 0: Xavier uniform.
    """

    def __init__(
        self,
        *,
        depth: int | None = None,
        depthwise: bool = False,
        kernel_size: int = KERNEL_SIZE,
        stride: int = 1,
        batch_norm: bool = True,
        decay: float,
        epsilon: float,
        init_stddev: float = 0.0,
        num_updates: Callable[[], tf.Tensor] | None = None,
        **kwargs,
    ):
        super().__init__(autocast=False, **kwargs)
        self.depth = depth
        self.depthwise = depthwise
        self.kernel_size = kernel_size
        self.stride = stride
        self.decay = decay
        self.epsilon = epsilon
        self.init_stddev = init_stddev
        self.batch_norm = None
        if batch_norm:
            self.batch_norm = BatchNorm(
                decay=decay,
                epsilon=epsilon,
                num_updates=num_updates,
                trainable=self.trainable,
                name="BatchNorm",
            )

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        own = "depth", "depthwise", "kernel_size", "stride", "decay", "epsilon"
        return {
            **super().get_config(),
            **{name: getattr(self, name) for name in (*own, "init_stddev")},
            "batch_norm": self.batch_norm is not None,
        }

    def build(self, input_shape: Sequence[int | None]) -> None:
        """Creates the variables for activations [E, T, F, channels]."""
        in_channels, size = input_shape[-1], self.kernel_size
        channels = self.depth or in_channels
        self.kernel = self.add_weight(
            name="depthwise_weights" if self.depthwise else "weights",
            shape=(size, size, in_channels, 1 if self.depthwise else channels),
            initializer=_initializer(self.init_stddev),
            autocast=False,  # Batch norm is folded into it in float32.
        )
        if self.batch_norm:
            self.batch_norm.build((*input_shape[:-1], channels))
        else:
            self.biases = self.add_weight(
                name="biases", shape=(channels,), initializer="zeros"
            )

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> tuple:
        """Returns [E, T/stride, F/stride, depth], rounded up."""
        examples, height, width, channels = input_shape
        height, width = -(-height // self.stride), -(-width // self.stride)
        return examples, height, width, self.depth or channels

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Applies the layer.

        Args:
          inputs: [E, T, F, channels].
          training: whether batch norm uses the statistics of the batch and updates its
            moving averages. A layer that is not trainable always uses the averages.

        Returns:
          [E, T/stride, F/stride, depth], rounded up.
        """
        net = tf.cast(inputs, self.compute_dtype)
        kernel = tf.convert_to_tensor(self.kernel)
        if not self.batch_norm:
            net = self._convolve(net, kernel)
            net = tf.nn.bias_add(net, tf.cast(self.biases, net.dtype))
        elif training and self.batch_norm.trainable:
            net = self.batch_norm(self._convolve(net, kernel))
        else:
            scale, shift = self.batch_norm.scale_and_shift()
            # A depthwise kernel has shape [height, width, channels, 1].
            scale = scale[:, tf.newaxis] if self.depthwise else scale
            net = self._convolve(net, kernel * scale)
            net = tf.nn.bias_add(net, tf.cast(shift, net.dtype))
        return tf.nn.relu(net)

    def _convolve(self, net: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        strides = [1, self.stride, self.stride, 1]
        if not self.depthwise:
            return tf.nn.conv2d(net, tf.cast(kernel, net.dtype), strides, "SAME")
        if net.dtype == tf.bfloat16 and not tf.config.get_visible_devices("GPU"):
            return _depthwise_bfloat16(net, kernel, stride=self.stride)
        return tf.nn.depthwise_conv2d(net, tf.cast(kernel, net.dtype), strides, "SAME")


def _depthwise_bfloat16(net: tf.Tensor, kernel: tf.Tensor, *, stride: int) -> tf.Tensor:
    """A depthwise convolution in bfloat16 with a faster input gradient.

    On a CPU, oneDNN has no fast kernel for this gradient in bfloat16: it takes eight
    times as long as in float32 (benchmarks/where_time_goes.py).

    Args:
      net: bfloat16 [E, T, F, channels].
      kernel: float32 [height, width, channels, 1], with odd height and width.
      stride: stride in both directions.
    """
    options = {"strides": [1, stride, stride, 1], "padding": "SAME"}

    @tf.custom_gradient
    def convolve(net: tf.Tensor, kernel: tf.Tensor) -> tuple[tf.Tensor, Callable]:
        """Returns the convolution, and the function of its gradients."""
        narrow_kernel = tf.cast(kernel, net.dtype)

        def gradients(output_gradient: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            """Returns the gradients of the input and of the kernel."""
            if stride == 1:  # It is a convolution with the reversed kernel.
                input_gradient = tf.nn.depthwise_conv2d(
                    output_gradient, narrow_kernel[::-1, ::-1], **options
                )
            else:
                input_gradient = tf.nn.depthwise_conv2d_backprop_input(
                    tf.shape(net),
                    kernel,
                    tf.cast(output_gradient, tf.float32),
                    **options,
                )
            kernel_gradient = tf.nn.depthwise_conv2d_backprop_filter(
                net, kernel.shape, output_gradient, **options
            )
            return (
                tf.cast(input_gradient, net.dtype),
                tf.cast(kernel_gradient, kernel.dtype),
            )

        return tf.nn.depthwise_conv2d(net, narrow_kernel, **options), gradients

    return convolve(net, kernel)


class BatchNorm(keras.layers.Layer):
    """Batch norm (Ioffe & Szegedy 2015) with TensorFlow's fused operation.

    keras.layers.BatchNormalization averages the biased variances of the batches, and
    does not use this operation, which is faster on a CPU. As in the original, this
    layer averages the unbiased variances, which the operation returns.

    Args:
      decay: decay of the moving averages, per step.
      epsilon: added to the variance.
      num_updates: returns the number of finished steps t. The decay of a step is then
        at most (1+t)/(10+t), as with num_updates in tf.train.ExponentialMovingAverage.
    """

    def __init__(
        self,
        *,
        decay: float,
        epsilon: float,
        num_updates: Callable[[], tf.Tensor] | None = None,
        **kwargs,
    ):
        # The variables stay float32 if the activations are bfloat16.
        super().__init__(autocast=False, **kwargs)
        self.decay = decay
        self.epsilon = epsilon
        self.num_updates = num_updates

    def build(self, input_shape: Sequence[int | None]) -> None:
        """Creates the variables for activations [E, T, F, channels]."""
        add = functools.partial(
            self.add_weight, shape=(input_shape[-1],), autocast=False
        )
        self.gamma = add(name="gamma", initializer="ones")
        self.beta = add(name="beta", initializer="zeros")
        # Each replica of a tf.distribute strategy has its own averages.
        add = functools.partial(add, trainable=False)
        self.moving_mean = add(name="moving_mean", initializer="zeros")
        self.moving_variance = add(name="moving_variance", initializer="ones")

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Normalises by the statistics of the batch and updates the moving averages."""
        outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=inputs,
            scale=tf.convert_to_tensor(self.gamma),
            offset=tf.convert_to_tensor(self.beta),
            mean=[],
            variance=[],
            epsilon=self.epsilon,
            is_training=True,
        )
        averages = (self.moving_mean, self.moving_variance)
        decay = self.decay
        if self.num_updates:
            step = tf.cast(self.num_updates(), tf.float32)
            decay = tf.minimum(decay, (1 + step) / (10 + step))
        for moving, value in zip(averages, (mean, variance), strict=True):
            moving.assign_sub((moving - value) * (1 - decay))
        return outputs

    def scale_and_shift(self) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns scale and shift of each channel, from the moving averages."""
        scale = self.gamma * tf.math.rsqrt(self.moving_variance + self.epsilon)
        return scale, self.beta - self.moving_mean * scale


@serializable
class FullyConnected(keras.layers.Layer):
    """Equivalent to keras.layers.Dense, with variables named weights and biases.

    Args:
      units: number of outputs, C.
      init_stddev: standard deviation of the initial weights; 0: Xavier uniform.
    """

    def __init__(self, units: int, *, init_stddev: float = 0.0, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.init_stddev = init_stddev

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        own = {"units": self.units, "init_stddev": self.init_stddev}
        return {**super().get_config(), **own}

    def build(self, input_shape: Sequence[int | None]) -> None:
        """Creates the variables for inputs [E, features]."""
        self.kernel = self.add_weight(
            name="weights",
            shape=(input_shape[-1], self.units),
            initializer=_initializer(self.init_stddev),
        )
        self.biases = self.add_weight(
            name="biases", shape=(self.units,), initializer="zeros"
        )

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Maps [E, features] to [E, C]."""
        return tf.nn.bias_add(tf.matmul(inputs, self.kernel), self.biases)
