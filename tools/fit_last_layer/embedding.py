"""The network without its last layer, and the embeddings of examples."""

import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from tagger.data.clips import Clips
from tagger.errors import UserError
from tagger.terminal.progress import progress_bar


def load_layers(
    checkpoint: str,
    *,
    num_classes: int,
    hparam_overrides: Mapping[str, Any],
    mixed_precision: bool,
) -> tuple[Any, Any]:
    """Builds a network for other classes from a checkpoint.

    Returns:
      `keras.Model` with the weights of the checkpoint, except for the last layer, and
      its `Hparams`.

    Raises:
      UserError: there is no such checkpoint, or it cannot be read.
    """
    import model
    from tagger.network.layers import LAST_LAYER
    from tagger.runs import checkpoints
    from tagger.runs.run import Run

    run, prefix = Run.find(checkpoint, "--checkpoint")
    model_name, hparams = run.settings(
        model_name=None,
        overrides=hparam_overrides,
        class_names=run.record.class_names if run.record else [],
    )
    print(f"{prefix}: {model_name}, hyperparameters: {hparams}", file=sys.stderr)
    network = model.define_model(
        model_name,
        num_classes=num_classes,
        hparams=hparams,
        mixed_precision=mixed_precision,
    )
    variables = checkpoints.network_variables(network)
    kept = {n: v for n, v in variables.items() if not n.startswith(f"{LAST_LAYER}/")}
    checkpoints.restore(prefix, kept)
    return network, hparams


def define_embedder(network: Any) -> Callable[[Any], np.ndarray]:
    """A function from examples, float32 [E, T, F], to embeddings, float32 [E, D]."""
    import tensorflow as tf

    import inputs
    import model

    with_embeddings = model.add_embeddings(network)

    @tf.function(reduce_retracing=True, autograph=False)
    def embed_batch(features: tf.Tensor) -> tf.Tensor:
        return with_embeddings(features, training=False)[1]

    def embed_examples(features: Any) -> np.ndarray:
        batches = range(0, len(features), inputs.SCORING_BATCH)
        parts = [features[start:][: inputs.SCORING_BATCH] for start in batches]
        return np.concatenate([embed_batch(part).numpy() for part in parts])

    return embed_examples


def embed(
    embedder: Callable[[Any], np.ndarray], clips: Clips, hparams: Any
) -> tuple[np.ndarray, np.ndarray]:
    """The embeddings of all examples of N clips.

    Returns:
      float32 [E, D], and int [E], the positions of their clips.

    Raises:
      UserError: a clip can no longer be read, or its embeddings are not finite.
    """
    import inputs

    batches = inputs.read_batches(inputs.clip_input(clips, hparams))
    total = int(hparams.num_examples(clips.num_samples).sum())
    embeddings, positions = [], []
    with progress_bar(total, what="embeddings", unit="example") as bar:
        for features, rows in batches:
            values, indices = embedder(features), rows.numpy()
            if not np.isfinite(values).all():
                row = np.flatnonzero(~np.isfinite(values).all(axis=1))[0]
                raise UserError(
                    f"--checkpoint: the embeddings of {clips.paths[indices[row]]} are "
                    f"not finite"
                )
            embeddings.append(values)
            positions.append(indices)
            bar.update(len(values))
    return np.concatenate(embeddings), np.concatenate(positions)


def embed_mixtures(
    embedder: Callable[[Any], np.ndarray],
    mixtures: Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]],
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """The embeddings, float32 [E, D], labels and folds of `mixture_examples`."""
    found = []
    with progress_bar(None, what="mixtures", unit="example") as bar:
        for features, labels, folds in mixtures:
            found.append((embedder(features), labels, folds))
            bar.update(len(features))
    return found
