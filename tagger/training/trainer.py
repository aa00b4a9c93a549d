"""The training step, on one or several devices.

Letters for shapes: E examples, T frames, F mel bands, C classes.
"""

import sys
import zlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from tagger.runs import checkpoints
from tagger.runs.warm_start import WarmStart, plan_warm_start

MEAN = tf.distribute.ReduceOp.MEAN


class StepResult(NamedTuple):
    """The result of a training step, as float32 scalars.

    Attributes:
      loss: the loss before the step, averaged over all replicas.
      learning_rate: the learning rate of the step.
      stop_requests: the fraction of replicas that were asked to stop.
    """

    loss: tf.Tensor
    learning_rate: tf.Tensor
    stop_requests: tf.Tensor


class Trainer:
    """A network, its optimizer, and the training step.

    Each replica of the strategy has its own copy of the variables. A step averages the
    gradients of all replicas, so the copies stay equal. Only the moving averages of
    batch norm differ: each replica computes them from its own part of the batch.

    Args:
      network: maps log mel examples [E, T, F] to logits [E, C]; created in the scope of
        the strategy.
      optimizer: created in the same scope; it is built here.
      loss: a function of labels [E, C] and logits [E, C].
      strategy: has one or several replicas; the default strategy has one.

    Attributes:
      resumed_from: prefix of the checkpoint that `resume` restored, or "".
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
        self.resumed_from = ""
        self._loss = loss
        with strategy.scope():
            optimizer.build(network.trainable_weights)
        self.train_step = tf.function(
            self._train_step, reduce_retracing=True, autograph=False
        )
        self.sync_averages = tf.function(self._sync_averages, autograph=False)

    @property
    def steps_done(self) -> int:
        """The number of steps that the weights were trained for."""
        return int(self.optimizer.iterations.numpy())

    @property
    def variables(self) -> dict[str, keras.Variable]:
        """All float32 variables by their names in a checkpoint."""
        return {
            **checkpoints.network_variables(self.network),
            **checkpoints.optimizer_variables(self.network, self.optimizer),
        }

    def checksums(self) -> list[int]:
        """The CRC-32 of each variable. Workers with equal variables have equal ones."""
        return [zlib.crc32(v.numpy().tobytes()) for v in self.variables.values()]

    def first_not_finite(self) -> str:
        """The name of the first variable with a value that is not finite; else ""."""
        for name, variable in self.variables.items():
            if not np.isfinite(variable.numpy()).all():
                return name
        return ""

    def resume(self, train_dir: str) -> str:
        """Restores the newest checkpoint that can be read; returns its prefix.

        Newer checkpoints that are damaged are reported on stderr.

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
                print(f"warning: {error}; trying the previous one", file=sys.stderr)
                continue
            if missing:
                print(
                    f"warning: {prefix} lacks {len(missing)} variables of the "
                    f"optimizer, which start at 0; the first steps may be too large",
                    file=sys.stderr,
                )
            self.resumed_from = prefix
            return prefix
        raise checkpoints.CheckpointError(f"there is no checkpoint in {train_dir}")

    def warm_start(
        self,
        prefix: str,
        *,
        include_scopes: Sequence[str] = (),
        exclude_scopes: Sequence[str] = (),
        moving_averages: bool = False,
    ) -> WarmStart:
        """Restores the variables that the scopes select from a checkpoint.

        Args:
          prefix: the checkpoint.
          moving_averages: whether the moving averages of batch norm are restored, too.
            As in the original, they are not by default.
          include_scopes, exclude_scopes: see `warm_start.plan_warm_start`.

        Returns:
          The names of the restored variables, and of the others with the reason.

        Raises:
          UserError: the checkpoint or a scope cannot be used.
        """
        variables = {
            name: variable
            for name, variable in checkpoints.network_variables(self.network).items()
            if moving_averages or not checkpoints.is_moving_average(name)
        }
        plan = plan_warm_start(
            {name: tuple(variable.shape) for name, variable in variables.items()},
            checkpoints.shapes(prefix),
            include_scopes=include_scopes,
            exclude_scopes=exclude_scopes,
        )
        checkpoints.restore(prefix, {name: variables[name] for name in plan.restored})
        return plan

    def _train_step(
        self,
        features: tf.Tensor,
        labels: tf.Tensor,
        stop_request: tf.Tensor | float = 0.0,
    ) -> StepResult:
        """Runs one step, with one batch for each replica.

        Args:
          features: float32 [E, T, F], for each replica.
          labels: float32 [E, C], for each replica.
          stop_request: float32, 1 if this worker was asked to stop, else 0.
        """
        results = self.strategy.run(
            self._replica_step, args=(features, labels, stop_request)
        )
        # The results are equal on all replicas.
        return StepResult(
            *(self.strategy.experimental_local_results(r)[0] for r in results)
        )

    def _replica_step(
        self, features: tf.Tensor, labels: tf.Tensor, stop_request: tf.Tensor | float
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Runs a step of one replica; returns loss, learning rate and stop requests."""
        replica = tf.distribute.get_replica_context()
        trainable = self.network.trainable_weights
        with tf.GradientTape() as tape:
            loss = self._loss(labels, self.network(features, training=True))
            share = loss / replica.num_replicas_in_sync
        gradients = tape.gradient(share, trainable)
        rate = tf.identity(self.optimizer.learning_rate)
        self.optimizer.apply(gradients, trainable)  # Keras sums over replicas.
        # A single exchange averages both values.
        means = replica.all_reduce(MEAN, tf.stack([loss, stop_request]))
        return means[0], rate, means[1]

    def _sync_averages(self) -> None:
        """Sets the moving averages of each replica to their mean over all replicas."""

        def average() -> None:
            """Runs on each replica."""
            replica = tf.distribute.get_replica_context()
            means = replica.all_reduce(MEAN, [tf.identity(v) for v in moving])
            for variable, mean in zip(moving, means, strict=True):
                variable.assign(mean)

        if moving := self.network.non_trainable_weights:
            self.strategy.run(average)
