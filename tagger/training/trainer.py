"""The training step, on one or several devices.

Letters for shapes: E examples, T frames, F mel bands, C classes.
"""

import contextlib
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from tagger.errors import UserError
from tagger.runs import checkpoints
from tagger.runs.warm_start import matching
from tagger.terminal import program

MEAN = tf.distribute.ReduceOp.MEAN
ADVICE = "earlier checkpoints are unchanged; a lower lr may help"


class LostWorkerError(UserError):
    """Another worker has failed."""


@contextlib.contextmanager
def reported_lost_worker() -> Iterator[None]:
    """Raises a LostWorkerError if another worker fails within the block."""
    try:
        yield
    except tf.errors.UnavailableError as error:
        reason = program.tensorflow_reason(error)
        raise LostWorkerError(f"another worker has failed: {reason}") from None


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
      train_scopes: see `freeze`.
    """

    def __init__(
        self,
        network: keras.Model,
        optimizer: keras.optimizers.Optimizer,
        loss: Callable[[tf.Tensor, tf.Tensor], tf.Tensor],
        strategy: tf.distribute.Strategy,
        *,
        train_scopes: Sequence[str] = (),
    ):
        freeze(network, train_scopes)
        self.network = network
        self.optimizer = optimizer
        self.strategy = strategy
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

    def check_finite(self) -> None:
        """Raises a UserError if a variable has a value that is not finite."""
        for name, variable in self.variables.items():
            if not np.isfinite(variable.numpy()).all():
                raise UserError(
                    f"step {self.steps_done}: {name} is not finite; {ADVICE}"
                )

    def checkpoint_values(self) -> dict[str, Any]:
        """All values of a checkpoint, by name. All workers must call this together.

        Raises:
          LostWorkerError: another worker has failed.
          UserError: a variable has a value that is not finite.
        """
        if self.strategy.num_replicas_in_sync > 1:
            with reported_lost_worker():
                self.sync_averages()
        self.check_finite()
        return checkpoints.training_values(self.network, self.optimizer)

    def steps(
        self, batches: Iterator[tuple[tf.Tensor, tf.Tensor]], last: int, stop: Any
    ) -> Iterator[tuple[int, StepResult, bool]]:
        """Runs the steps up to the last one, or until a worker was asked to stop.

        Args:
          batches: see `train_step`.
          last: the number of the last step.
          stop: true as soon as this worker is asked to stop.

        Yields:
          The number of each step, its result, and whether it is the last one.

        Raises:
          LostWorkerError: another worker has failed.
          UserError: the loss is not finite.
        """
        for step in range(self.steps_done + 1, last + 1):
            # Each step also averages the stop requests of all workers.
            request = tf.constant(float(bool(stop)))
            batch = next(batches)
            with reported_lost_worker():
                result = self.train_step(*batch, request)
            if not np.isfinite(loss := float(result.loss)):
                raise UserError(f"step {step}: the loss is {loss}; {ADVICE}")
            is_stopped = float(result.stop_requests) > 0
            yield step, result, is_stopped or step == last
            if is_stopped:
                return

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


def freeze(network: keras.Model, train_scopes: Sequence[str]) -> None:
    """Freezes all layers, and all batch norms, of which the scopes match no variable.

    Args:
      network: from `model.define_model`.
      train_scopes: regular expressions that match from the start of the names of
        variables; empty: nothing is frozen.

    Raises:
      UserError: a scope matches no variable.
    """
    if not train_scopes:
        return
    paths = [variable.path for variable in network.weights]
    names = [path for path in paths if not checkpoints.is_moving_average(path)]
    trained = matching(names, train_scopes, "--train_scopes")
    for layer in network.layers:
        # A batch norm is a part of its layer, and can be frozen alone.
        for part in (layer, getattr(layer, "batch_norm", None)):
            if part is not None:
                part.trainable = any(v.path in trained for v in part.weights)
