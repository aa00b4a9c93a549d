"""The network, its loss, learning rate and optimizer.

MobileNet v1 (Howard et al. 2017, https://arxiv.org/abs/1704.04861) as in the DCASE 2019
Task 2 baseline: the first convolution has 16 channels and stride 1. Layers and
variables have the names of the original's scopes. Checkpoints contain these names, and
the warm-start flags match them.

Letters for shapes: E examples, T frames, F mel bands, C classes, D values of an
embedding (1024 with width=1).
"""

import functools
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tagger.errors import UserError
from tagger.hparams import MODEL_NAMES, Hparams
from tagger.network.layers import LAST_LAYER, Convolution, FullyConnected
from tagger.runs import checkpoints
from tagger.runs.run import Checkpoint, Run

# (kind, depth, stride): C is a 3x3 convolution, SC a 3x3 separable convolution.
MOBILENET_V1 = (
    ("C", 16, 1),
    ("SC", 64, 1),
    ("SC", 128, 2),
    ("SC", 128, 1),
    ("SC", 256, 2),
    ("SC", 256, 1),
    ("SC", 512, 2),
    ("SC", 512, 1),
    ("SC", 512, 1),
    ("SC", 512, 1),
    ("SC", 512, 1),
    ("SC", 512, 1),
    ("SC", 1024, 2),
    ("SC", 1024, 1),
)
# YAMNet (Plakal & Ellis 2019) differs from it only in the first row.
YAMNET_FIRST_ROW = ("C", 32, 2)


def define_model(
    model_name: str,
    *,
    num_classes: int,
    hparams: Hparams,
    mixed_precision: bool = False,
    num_updates: Callable[[], tf.Tensor] | None = None,
) -> keras.Model:
    """Builds the network with random weights.

    Args:
      model_name: a name that --model allows.
      num_classes: C.
      hparams: hyperparameters of features and model.
      mixed_precision: whether convolutions and activations are bfloat16. Variables,
        statistics, pooling and the last layer stay float32.
      num_updates: see `layers.BatchNorm`.

    Returns:
      A functional model from log mel examples, float32 [E, T, F], to logits, float32
      [E, C]. The output of its layer "embedding" is float32 [E, D].

    Raises:
      UserError: there is no such model.
    """
    convolution = functools.partial(
        Convolution,
        batch_norm=bool(hparams.bn),
        decay=hparams.bndecay,
        epsilon=hparams.bneps,
        init_stddev=hparams.weights_init_stddev,
        num_updates=num_updates,
        dtype="mixed_bfloat16" if mixed_precision else "float32",
    )
    frames, bands = hparams.example_window_frames, hparams.mel_bands
    examples = keras.Input([frames, bands], name="log_mel_examples")
    net = keras.layers.Reshape([frames, bands, 1], name="channel")(examples)
    net = _convolutions(net, convolution, table_of(model_name, hparams.width))
    # net has shape [E, T/16, F/16, D], rounded up at every stride (YAMNet: 32).
    if hparams.global_pool == "max":
        pool = keras.layers.GlobalMaxPooling2D
    else:
        pool = keras.layers.GlobalAveragePooling2D
    net = pool(data_format="channels_last", name="embedding", dtype="float32")(net)
    # net has shape [E, D].
    if 0 < hparams.dropout < 1:
        rate = 1 - hparams.dropout
        net = keras.layers.Dropout(rate, name="dropout", dtype="float32")(net)
    logits = FullyConnected(
        num_classes,
        init_stddev=hparams.weights_init_stddev,
        name=LAST_LAYER,
        dtype="float32",
    )(net)
    return keras.Model(examples, logits, name=model_name)


def table_of(model_name: str, width: float) -> Sequence[tuple[str, int, int]]:
    """The rows of a model's table; see MOBILENET_V1.

    Args:
      model_name: a name that --model allows.
      width: factor applied to the depths, which are rounded to whole numbers.

    Raises:
      UserError: there is no such model.
    """
    if model_name not in MODEL_NAMES:
        raise UserError(
            f"model_name must be one of {', '.join(MODEL_NAMES)}, but got "
            f"'{model_name}'"
        )
    first_row = YAMNET_FIRST_ROW if model_name == "yamnet" else MOBILENET_V1[0]
    return [
        (kind, round(depth * width), stride)
        for kind, depth, stride in (first_row, *MOBILENET_V1[1:])
    ]


def _convolutions(
    net: tf.Tensor, convolution: Callable, table: Sequence[tuple[str, int, int]]
) -> tf.Tensor:
    """Applies the rows of a table, with the names of the original."""
    for number, (kind, depth, stride) in enumerate(table):
        name = f"Conv_{number}" if number else "Conv"
        if kind == "C":
            net = convolution(depth=depth, stride=stride, name=name)(net)
            continue
        scope = f"SeparableConv2d_{number - 1}" if number > 1 else "SeparableConv2d"
        net = convolution(depthwise=True, stride=stride, name=scope)(net)
        net = convolution(depth=depth, kernel_size=1, name=name)(net)
    return net


def load_network(
    checkpoint: str | Checkpoint,
    class_names: Sequence[str],
    *,
    model_name: str | None = None,
    hparam_overrides: Mapping[str, Any] | None = None,
    mixed_precision: bool = False,
) -> tuple[keras.Model, Hparams]:
    """Builds a network and restores its weights from a checkpoint.

    Prints the model and its hyperparameters to stderr.

    Args:
      checkpoint: `model.ckpt-N`, of this program or of the original, a folder or
        `best:EVAL_DIR`; see `Run.find`.
      class_names: the C class names that it was trained with.
      model_name: a name that --model allows; None: that of the `hparams.json` beside
        the checkpoint, or the default.
      hparam_overrides: values that override those of the `hparams.json` beside the
        checkpoint, or the defaults if there is no such file.
      mixed_precision: see `define_model`.

    Returns:
      The model, and the hyperparameters of the model and its features.

    Raises:
      CheckpointError: there is no such checkpoint, it cannot be read, or it does not
        fit the network.
      UserError: the checkpoint has other classes, or there is no such model.
    """
    run, prefix = Run.find(checkpoint, "checkpoint")
    model_name, hparams = run.settings(
        model_name=model_name,
        overrides=hparam_overrides or {},
        class_names=class_names,
    )
    print(f"{prefix}: {model_name}, hyperparameters: {hparams}", file=sys.stderr)
    network = define_model(
        model_name,
        num_classes=len(class_names),
        hparams=hparams,
        mixed_precision=mixed_precision,
    )
    checkpoints.restore(prefix, checkpoints.network_variables(network))
    return network, hparams


def score_function(network: keras.Model) -> Callable[[tf.Tensor], tf.Tensor]:
    """Makes a function that applies the network and a sigmoid.

    The sigmoid is in float64. In float32, it is exactly 1 for logits above 16.6, and
    such scores would tie.

    Returns:
      A function from log mel examples, float32 [E, T, F], to scores, float64 [E, C] in
      [0, 1].
    """

    @tf.function(reduce_retracing=True, autograph=False)
    def scores(features: tf.Tensor) -> tf.Tensor:
        return tf.sigmoid(tf.cast(network(features, training=False), tf.float64))

    return scores


def add_embeddings(network: keras.Model) -> keras.Model:
    """A model with two outputs: the logits and the embeddings, float32 [E, D]."""
    embeddings = network.get_layer("embedding").output
    return keras.Model(network.input, [network.output, embeddings])


def group_by_features(
    networks: Iterable[tuple[str, keras.Model, Hparams]],
) -> list[tuple[Hparams, list[tuple[str, Callable[[tf.Tensor], tf.Tensor]]]]]:
    """Groups networks with the same features, which can share a pass over the clips.

    Args:
      networks: the name of each network, the network and its hyperparameters.

    Returns:
      For each group, the hyperparameters of its features, and for each network, its
      name and `score_function`.
    """
    groups = {}
    for name, network, hparams in networks:
        _, functions = groups.setdefault(hparams.features(), (hparams, []))
        functions.append((name, score_function(network)))
    return list(groups.values())


def score_clips(
    score_functions: Sequence[tuple[str, Callable[[tf.Tensor], tf.Tensor]]],
    batches: Iterable[tuple[tf.Tensor, tf.Tensor]],
    paths: Sequence[str],
) -> Iterator[tuple[int, np.ndarray]]:
    """Yields the scores of clips: the means over their examples, then over networks.

    Args:
      score_functions: the name of each network, and its `score_function`. A network
        that is given twice counts twice.
      batches: (features float32 [E, T, F], int [E] positions of the clips that the
        examples are from). The examples of a clip are consecutive, also across batches.
      paths: N paths of clips, for messages.

    Yields:
      The position of each clip, in order, and its scores, float64 [C] in [0, 1].

    Raises:
      UserError: a score is not finite; the message names the network and the clip.
    """
    current, totals, count = None, [], 0

    def scores() -> tuple[int, np.ndarray]:
        """The position and the scores of the clip whose examples have all come."""
        for (name, _), total in zip(score_functions, totals):
            if not np.isfinite(total).all():
                raise UserError(
                    f"{name}: the scores of {paths[current]} are not finite"
                )
        return current, sum(total / count / len(totals) for total in totals)

    for features, positions in batches:
        results = [function(features).numpy() for _, function in score_functions]
        for row, position in enumerate(positions.numpy().tolist()):
            if position != current:
                if count:
                    yield scores()
                current, count = position, 0
                totals = [np.zeros_like(result[row]) for result in results]
            for total, result in zip(totals, results):
                total += result[row]
            count += 1
    if count:
        yield scores()


def define_loss(hparams: Hparams) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    """The loss: sigmoid cross-entropy, averaged over examples and classes.

    Labels y are smoothed towards 0.5 (Szegedy et al. 2016): y(1-lsmooth) + 0.5 lsmooth.

    Args:
      hparams: lsmooth.

    Returns:
      A function of labels, float32 [E, C] in {0, 1}, and logits, float32 [E, C], that
      gives a float32 scalar.
    """
    # In some versions, Keras's own mean is divided by the number of replicas.
    per_example = keras.losses.BinaryCrossentropy(
        from_logits=True, label_smoothing=hparams.lsmooth, reduction=None
    )
    return lambda labels, logits: tf.reduce_mean(per_example(labels, logits))


def define_optimizer(
    hparams: Hparams, *, epoch_num_batches: int, max_steps: int | None = None
) -> keras.optimizers.Optimizer:
    """The optimizer: Adam (Kingma & Ba 2015), or plain SGD if opt is sgd.

    Keras's Adam places epsilon where TensorFlow 1 does, outside the bias correction.

    Args:
      hparams: opt, lr, adam_eps, lrdecay, decay_epochs, cosine and warmup_steps. By
        default, the learning rate of a step is lr * lrdecay ** (step //
        int(epoch_num_batches * decay_epochs)).
      epoch_num_batches: batches per epoch; only lrdecay needs it.
      max_steps: the last step; only cosine needs it.

    Raises:
      UserError: cosine without max_steps, or with a warm-up that is not shorter.
    """
    rate = hparams.lr
    if hparams.lrdecay > 0:
        rate = keras.optimizers.schedules.ExponentialDecay(
            hparams.lr,
            decay_steps=max(1, int(epoch_num_batches * hparams.decay_epochs)),
            decay_rate=hparams.lrdecay,
            staircase=True,
        )
    if hparams.cosine:
        if max_steps is None:
            raise UserError("cosine needs max_steps")
        if (warmup := hparams.warmup_steps) >= max_steps:
            raise UserError(
                f"hyperparameter warmup_steps must be below the last step, "
                f"{max_steps}, but got {warmup}"
            )
        rate = keras.optimizers.schedules.CosineDecay(
            0.0 if warmup else hparams.lr,
            decay_steps=max_steps - warmup,
            warmup_target=hparams.lr if warmup else None,
            warmup_steps=warmup,
        )
    if hparams.opt == "sgd":
        return keras.optimizers.SGD(rate)
    return keras.optimizers.Adam(rate, epsilon=hparams.adam_eps)
