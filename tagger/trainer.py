"""The training step, on one device or on all that train together.

Letters for shapes: E examples, T frames, F mel bands, C classes.
"""

import sys
import zlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import keras
import tensorflow as tf

from tagger import checkpoints

MEAN = tf.distribute.ReduceOp.MEAN


class StepResult(NamedTuple):
    """What a training step returns, float32 scalars.

    Attributes:
      loss: before the step, the mean over all replicas.
      learning_rate: of the step.
      stop_requests: the share of replicas that were asked to stop.
    """

    loss: tf.Tensor
    learning_rate: tf.Tensor
    stop_requests: tf.Tensor


class Trainer:
    """A network, its optimizer, and the training step.

    Each replica of the strategy has its own copy of the variables. A step takes the
    mean of their gradients, so that the copies stay equal. Only the moving averages of
    batch norm follow each replica's own part of the batch.

    Args:
      network: from log mel examples [E, T, F] to logits [E, C], created in the scope of
        the strategy.
      optimizer: likewise; it is built here.
      loss: of labels [E, C] and logits [E, C].
      strategy: of the devices; the default one has a single replica.
    """

    def __init__(
        self,
        network: keras.Model,
        optimizer: keras.optimizers.Optimizer,
        loss: Callable[[tf.Tensor, tf.Tensor], tf.Tensor],
        strategy: tf.distribute.Strategy,
    ):
        self.network = network
        self.optimizer = optimizer
        self.strategy = strategy
        self._loss = loss
        with strategy.scope():
            optimizer.build(network.trainable_weights)
        self.train_step = tf.function(
            self._train_step, reduce_retracing=True, autograph=False
        )
        self.average_moving = tf.function(self._average_moving, autograph=False)

    @property
    def steps_done(self) -> int:
        """The step that the weights are of."""
        return int(self.optimizer.iterations.numpy())

    @property
    def variables(self) -> dict[str, keras.Variable]:
        """All float32 variables by their names in a checkpoint."""
        return {
            **checkpoints.network_variables(self.network),
            **checkpoints.optimizer_variables(self.network, self.optimizer),
        }

    def checksums(self) -> list[int]:
        """CRC-32 of each variable, which are the same on workers that start alike."""
        return [zlib.crc32(v.numpy().tobytes()) for v in self.variables.values()]

    def resume(self, train_dir: str) -> str:
        """Restores the newest checkpoint that can be read; returns its prefix.

        Each damaged one before it is reported on stderr.

        Raises:
          CheckpointError: none can be read, or one does not fit the network.
        """
        prefixes = checkpoints.list_checkpoints(train_dir)
        for prefix in reversed(prefixes):
            try:
                missing = checkpoints.restore_training(
                    prefix, self.network, self.optimizer
                )
            except checkpoints.UnreadableError as error:
                if prefix == prefixes[0]:
                    raise
                print(f"warning: {error}; trying the one before", file=sys.stderr)
                continue
            if missing:
                print(
                    f"warning: {prefix} lacks {len(missing)} variables of the "
                    f"optimizer, which start at 0; the first steps may be larger than "
                    f"lr says",
                    file=sys.stderr,
                )
            return prefix
        raise checkpoints.CheckpointError(f"there is no checkpoint in {train_dir}")

    def warm_start(
        self,
        prefix: str,
        *,
        include_scopes: Sequence[str] = (),
        exclude_scopes: Sequence[str] = (),
    ) -> checkpoints.WarmStart:
        """Takes the trainable variables that the scopes choose from a checkpoint.

        Args:
          prefix: the checkpoint.
          include_scopes, exclude_scopes: see `checkpoints.plan_warm_start`.

        Returns:
          What was restored, and why the rest was not.

        Raises:
          ValueError: the checkpoint or a scope cannot be used.
        """
        trainable = {v.path: v for v in self.network.trainable_weights}
        plan = checkpoints.plan_warm_start(
            {name: tuple(variable.shape) for name, variable in trainable.items()},
            checkpoints.shapes(prefix),
            include_scopes=include_scopes,
            exclude_scopes=exclude_scopes,
        )
        checkpoints.restore(prefix, {name: trainable[name] for name in plan.restored})
        return plan

    def _train_step(
        self,
        features: tf.Tensor,
        labels: tf.Tensor,
        stop_request: tf.Tensor | float = 0.0,
    ) -> StepResult:
        """Takes a step on a batch per replica.

        Args:
          features: float32 [E, T, F], per replica.
          labels: float32 [E, C], per replica.
          stop_request: float32, 1 where this worker was asked to stop, else 0.
        """
        results = self.strategy.run(
            self._replica_step, args=(features, labels, stop_request)
        )
        # They are the same on every replica.
        return StepResult(
            *(self.strategy.experimental_local_results(r)[0] for r in results)
        )

    def _replica_step(
        self, features: tf.Tensor, labels: tf.Tensor, stop_request: tf.Tensor | float
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """What a replica does in a step, on its part of the batch."""
        replica = tf.distribute.get_replica_context()
        trainable = self.network.trainable_weights
        with tf.GradientTape() as tape:
            loss = self._loss(labels, self.network(features, training=True))
            share = loss / replica.num_replicas_in_sync
        gradients = tape.gradient(share, trainable)
        rate = tf.identity(self.optimizer.learning_rate)
        self.optimizer.apply(gradients, trainable)  # Keras adds up the replicas'.
        # One exchange for both.
        means = replica.all_reduce(MEAN, tf.stack([loss, stop_request]))
        return means[0], rate, means[1]

    def _average_moving(self) -> None:
        """Gives every replica the mean of all replicas' moving averages."""

        def average() -> None:
            """What a replica does for it."""
            replica = tf.distribute.get_replica_context()
            means = replica.all_reduce(MEAN, [tf.identity(v) for v in moving])
            for variable, mean in zip(moving, means, strict=True):
                variable.assign(mean)

        if moving := self.network.non_trainable_weights:
            self.strategy.run(average)
