"""Trains the model on labelled clips. Called by runner.py in --mode train.

Read from top to bottom: what is asked for (Options), the training step (Trainer), the
start (train), the loop (_loop).

Letters for shapes: E examples, T frames, F mel bands, C classes.
"""

import contextlib
import dataclasses
import os
import random
import signal
import socket
import sys
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

import inputs
import model
from tagger import (
    checkpoints,
    distribution,
    files,
    plots,
    run_record,
    signals,
    summaries,
)
from tagger import hparams as hparams_lib
from tagger.clips import Clips, read_clips
from tagger.hparams import Hparams
from tagger.progress import print_result, progress_bar

MEAN = tf.distribute.ReduceOp.MEAN
DEFAULT_PASSES = 1000  # over the data, where --max_steps is 0
CONNECT_SECONDS = 10  # to wait for the answer of a data service
PICTURE_EXAMPLES = 8  # of the first batch, for TensorBoard


@dataclasses.dataclass(frozen=True)
class Options:
    """What `train` is asked to do: the flags of these names, which runner.py explains.

    `hparams` has the values that were given, by name, each of its own type.
    """

    class_map_path: str
    train_clip_dir: str
    train_csv_path: str
    train_dir: str
    model: str = hparams_lib.MODEL_NAMES[0]
    hparams: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    mixed_precision: bool = False
    epoch_num_batches: int = 0
    max_steps: int = 0
    checkpoint_steps: int = 100
    summary_steps: int = 10
    seed: int | None = None
    warmstart_checkpoint: str = ""
    warmstart_include_scopes: Sequence[str] = ()
    warmstart_exclude_scopes: Sequence[str] = ()
    devices: Sequence[str] = ()
    data_service: str = ""


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
    """The network, its optimizer, and the training step.

    Each replica of the strategy has its own copy of the variables. A step takes the
    mean of their gradients, so that the copies stay equal; only the moving averages of
    batch norm follow each replica's own part of the batch.

    Args:
      model_name: as of --model.
      num_classes: C.
      hparams: of model and training.
      epoch_num_batches: batches in an epoch; only lrdecay needs it.
      mixed_precision: see `model.define_model`.
      strategy: of the devices; the default one has a single replica.
    """

    def __init__(
        self,
        *,
        model_name: str,
        num_classes: int,
        hparams: Hparams,
        epoch_num_batches: int,
        mixed_precision: bool = False,
        strategy: tf.distribute.Strategy | None = None,
    ):
        self.hparams = hparams
        self.strategy = strategy or tf.distribute.get_strategy()
        with self.strategy.scope():
            self.network = model.define_model(
                model_name,
                num_classes=num_classes,
                hparams=hparams,
                mixed_precision=mixed_precision,
            )
            self.optimizer = model.define_optimizer(
                hparams, epoch_num_batches=epoch_num_batches
            )
            self.optimizer.build(self.network.trainable_weights)
        self._loss = model.define_loss(hparams)
        self._dropout_seed = random.randrange(hparams_lib.MAX_SEED)
        self._seed_dropout()
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

    def restore(self, prefix: str) -> list[str]:
        """Restores a checkpoint; returns the optimizer's variables that it lacks.

        Raises:
          CheckpointError: it cannot be read, or does not fit the network.
        """
        missing = checkpoints.restore_training(prefix, self.network, self.optimizer)
        self._seed_dropout()
        return missing

    def _seed_dropout(self) -> None:
        """Gives each replica's dropout a seed of its own, and one draw per step.

        Keras keeps both in a variable, which the original's checkpoints do not have.
        """
        if not 0 < self.hparams.dropout < 1:
            return
        state = self.network.get_layer("dropout").seed_generator.state
        num_draws = self.steps_done

        def assign() -> None:
            """What a replica does for it."""
            replica = tf.distribute.get_replica_context().replica_id_in_sync_group
            state.assign([self._dropout_seed + replica, num_draws])

        tf.function(lambda: self.strategy.run(assign), autograph=False)()

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


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a run consists of, once its inputs have been read.

    Attributes:
      options: as given.
      hparams: those of the run.
      class_names: C names.
      clips: the table of clips.
      epoch_num_batches: batches in an epoch.
      max_steps: the step to stop at.
    """

    options: Options
    hparams: Hparams
    class_names: Sequence[str]
    clips: Clips
    epoch_num_batches: int
    max_steps: int


def train(options: Options) -> int:
    """Trains until max_steps, or until a signal.

    Returns:
      The number of the signal that stopped it, or 0.

    Raises:
      ValueError, OSError: inputs or checkpoints that cannot be used; what to do about
        it.
      FloatingPointError: the loss or a weight is no longer finite.
    """
    if options.data_service:
        _check_reachable(options.data_service)
    workers = distribution.Distribution(options.devices)
    class_names, clips = read_clips(
        csv_path=options.train_csv_path,
        clip_dir=options.train_clip_dir,
        class_map_path=options.class_map_path,
        train_dir=options.train_dir,
        flag_prefix="train",
    )
    files.make_folder(options.train_dir, "--train_dir")
    with _locked(options.train_dir, workers):
        plan = _plan(options, class_names, clips)
        _check_workers(plan, workers)
        seed = _set_seed(options.seed, workers)
        trainer = Trainer(
            model_name=options.model,
            num_classes=len(class_names),
            hparams=plan.hparams,
            epoch_num_batches=plan.epoch_num_batches,
            mixed_precision=options.mixed_precision,
            strategy=workers.strategy,
        )
        _start(trainer, options)
        _check_same_weights(trainer, options, workers)
        if workers.is_chief:
            _write_record(plan, resumed=trainer.steps_done > 0)
        return _loop(trainer, plan, workers, _batches(trainer, plan, workers, seed))


def _check_reachable(data_service: str) -> None:
    """Checks that a data service answers; TensorFlow would wait for it without end."""
    host, port = data_service.removeprefix("grpc://").rsplit(":", 1)
    try:
        socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise OSError(
            f"--data_service: cannot reach {host}:{port} ({error}); is its dispatcher "
            f"running?"
        ) from None


@contextlib.contextmanager
def _locked(train_dir: str, workers: distribution.Distribution) -> Iterator[None]:
    """Locks train_dir on the chief, which alone writes."""
    if not workers.is_chief:
        yield
        return
    with checkpoints.locked(train_dir):
        checkpoints.delete_unfinished(train_dir)
        yield


def _plan(options: Options, class_names: Sequence[str], clips: Clips) -> Plan:
    """Finds the hyperparameters, counts the steps where 0, and prints the plan."""
    hparams = Hparams(**options.hparams)
    if checkpoints.list_checkpoints(options.train_dir):
        hparams = run_record.resumed_hparams(
            options.train_dir,
            model_name=options.model,
            overrides=options.hparams,
            class_names=class_names,
        )
    num_examples = int(hparams.num_examples(clips.num_samples).sum())
    epoch_num_batches = max(1, num_examples // hparams.batch_size)
    max_steps = max(1, DEFAULT_PASSES * num_examples // hparams.batch_size)
    plan = Plan(
        options=options,
        hparams=hparams,
        class_names=class_names,
        clips=clips,
        epoch_num_batches=options.epoch_num_batches or epoch_num_batches,
        max_steps=options.max_steps or max_steps,
    )
    changed = hparams_lib.non_defaults(hparams).items()
    print(
        distribution.describe_platform(),
        f"{clips}, {num_examples} examples; {plan.epoch_num_batches} batches of "
        f"{hparams.batch_size} per epoch; training to step {plan.max_steps}",
        f"hyperparameters: {', '.join(f'{n}={v}' for n, v in changed) or 'defaults'}",
        sep="\n",
        file=sys.stderr,
    )
    return plan


def _check_workers(plan: Plan, workers: distribution.Distribution) -> None:
    """Checks that the work can be shared, and that all workers were given the same.

    Raises:
      ValueError: it cannot, or they were not.
    """
    batch_size, num_replicas = plan.hparams.batch_size, workers.num_replicas
    if batch_size % num_replicas:
        raise ValueError(
            f"batch_size must be a multiple of the {num_replicas} devices that train "
            f"together, but got {batch_size}"
        )
    if len(plan.clips) < workers.num_workers:
        raise ValueError(
            f"there must be a clip for each of the {workers.num_workers} workers, but "
            f"got {len(plan.clips)}"
        )
    # Only the places of files may differ.
    options = dataclasses.replace(
        plan.options, class_map_path="", train_clip_dir="", train_csv_path=""
    )
    facts = [options, plan.hparams, plan.class_names]
    facts += [plan.clips.num_samples.tobytes(), plan.clips.labels.tobytes()]
    workers.check_equal(
        facts,
        "the workers were not given the same flags and clips; all that train together "
        "must be",
    )


def _set_seed(seed: int | None, workers: distribution.Distribution) -> int:
    """Seeds all random numbers, on all workers with the same seed; returns the seed.

    With a seed that is given, TensorFlow also has to use deterministic operations.
    """
    if seed is None:
        seed = random.randrange(hparams_lib.MAX_SEED)
    else:
        tf.config.experimental.enable_op_determinism()
    seed = workers.chief_value(seed)
    keras.utils.set_random_seed(seed)
    return seed


def _start(trainer: Trainer, options: Options) -> None:
    """Gives the variables the values to start from, and says which.

    In this order:
    1. Resume from the newest whole checkpoint in train_dir.
    2. Else warm-start from another run's weights.
    3. Else start from scratch.
    """
    if checkpoints.list_checkpoints(options.train_dir):
        _resume(trainer, options.train_dir)
    elif trainer.hparams.warmstart:
        _warm_start(trainer, options)
    else:
        print("starting from scratch", file=sys.stderr)


def _resume(trainer: Trainer, train_dir: str) -> None:
    """Restores the newest checkpoint that can be read."""
    prefixes = checkpoints.list_checkpoints(train_dir)
    for prefix in reversed(prefixes):
        try:
            missing = trainer.restore(prefix)
        except checkpoints.UnreadableError as error:
            if prefix == prefixes[0]:
                raise
            print(f"warning: {error}; trying the one before", file=sys.stderr)
            continue
        print(f"resuming from {prefix}", file=sys.stderr)
        if missing:
            print(
                f"warning: {prefix} lacks {len(missing)} variables of the optimizer, "
                f"which start at 0; the first steps may be larger than lr says",
                file=sys.stderr,
            )
        return


def _warm_start(trainer: Trainer, options: Options) -> None:
    """Takes the trainable variables that the scopes choose, and prints which."""
    prefix = checkpoints.find_checkpoint(
        options.warmstart_checkpoint, "--warmstart_checkpoint"
    )
    trainable = {v.path: v for v in trainer.network.trainable_weights}
    plan = checkpoints.plan_warm_start(
        {name: tuple(variable.shape) for name, variable in trainable.items()},
        checkpoints.shapes(prefix),
        include_scopes=options.warmstart_include_scopes,
        exclude_scopes=options.warmstart_exclude_scopes,
    )
    checkpoints.restore(prefix, {name: trainable[name] for name in plan.restored})
    print(plan.report(prefix), file=sys.stderr)
    run_record.warn_of_other_model(os.path.dirname(prefix), trainer.hparams)


def _check_same_weights(
    trainer: Trainer, options: Options, workers: distribution.Distribution
) -> None:
    """Checks that all workers start with the same weights, as training assumes."""
    if workers.num_workers > 1:
        workers.check_equal(
            [zlib.crc32(v.numpy().tobytes()) for v in trainer.variables.values()],
            f"the workers start from different weights; --train_dir "
            f"({options.train_dir}) and --warmstart_checkpoint must be on a drive that "
            f"all of them share",
        )


def _write_record(plan: Plan, *, resumed: bool) -> None:
    """Writes hparams.json; warns where a run that resumes has other clips."""
    train_dir = plan.options.train_dir
    checksum = plan.clips.checksum(plan.class_names)
    if resumed:
        run_record.warn_of_other_clips(train_dir, checksum)
    run_record.write_hparams(
        train_dir,
        model_name=plan.options.model,
        hparams=plan.hparams,
        class_names=plan.class_names,
        clips_crc32=checksum,
    )


def _batches(
    trainer: Trainer, plan: Plan, workers: distribution.Distribution, seed: int
) -> Iterator[tuple[tf.Tensor, tf.Tensor]]:
    """The stream of what a step runs on; a run that resumes starts a new epoch."""
    service = None
    if plan.options.data_service:
        # A new name per start, also with one --seed: each job is used up once.
        job = workers.chief_value(random.SystemRandom().randrange(hparams_lib.MAX_SEED))
        service = inputs.DataService(plan.options.data_service, f"train-{job}")
    batch_size = plan.hparams.batch_size // workers.num_replicas
    dataset = inputs.train_input(
        plan.clips,
        dataclasses.replace(plan.hparams, batch_size=batch_size),
        # Not the order that it had before it stopped.
        seed=(seed + trainer.steps_done) % hparams_lib.MAX_SEED,
        deterministic=plan.options.seed is not None,
        shard=workers.worker,
        num_shards=workers.num_workers,
        data_service=service,
    )
    return workers.batches(inputs.read_batches(dataset))


def _loop(
    trainer: Trainer,
    plan: Plan,
    workers: distribution.Distribution,
    batches: Iterator[tuple[tf.Tensor, tf.Tensor]],
) -> int:
    """Steps, prints, summarises and saves; returns the signal that stopped it, or 0."""
    options, step = plan.options, trainer.steps_done
    if step >= plan.max_steps:
        print(f"already at step {step} of {plan.max_steps}", file=sys.stderr)
        return 0
    if step == 0:
        _save(trainer, plan, workers)
    print("filling the shuffle buffer", file=sys.stderr)
    with signals.end_at_once():
        batch = next(batches)
    with (
        signals.StopRequest() as stop,
        _summary_writer(plan, workers).as_default(),
        progress_bar(
            plan.max_steps, what="training", unit="step", done=step, keep=True
        ) as bar,
    ):
        if workers.is_chief:
            _write_start(plan, workers.first_of(batch), step)
        timed_step, timed_at = step, time.monotonic()
        last = False
        while not last:
            requested = tf.constant(float(stop.received is not None))
            result = trainer.train_step(*batch, requested)
            step += 1
            loss = _finite_loss(result, step)
            line = f"step {step}: loss {loss:.6f}"
            bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
            bar.update()
            if step % options.summary_steps == 0:
                seconds = time.monotonic() - timed_at
                rate = (step - timed_step) * plan.hparams.batch_size / seconds
                timed_step, timed_at = step, timed_at + seconds
                _write_summary(result, rate, step)
                print_result(f"{line}, {rate:.1f} examples/s")
            elif bar.disable:
                print_result(line)
            # A stop that one worker is asked for is a stop of all.
            last = step == plan.max_steps or float(result.stop_requests) > 0
            if last or step % options.checkpoint_steps == 0:
                _save(trainer, plan, workers)
            if not last:
                batch = next(batches)
    workers.wait_for_all()  # No worker exits before the checkpoint is whole.
    return _finish(plan, step, stop.received)


def _summary_writer(
    plan: Plan, workers: distribution.Distribution
) -> tf.summary.SummaryWriter:
    """Of the chief into train_dir; of other workers to nowhere."""
    if not workers.is_chief:
        return tf.summary.create_noop_writer()
    return tf.summary.create_file_writer(plan.options.train_dir)


def _write_start(plan: Plan, batch: tuple[tf.Tensor, tf.Tensor], step: int) -> None:
    """Writes to TensorBoard what a run starts with: values, and some examples."""
    summaries.write_hparams(plan.hparams, plan.options.train_dir)
    features, labels = (part[:PICTURE_EXAMPLES].numpy() for part in batch)
    picture = plots.examples_picture(
        features, labels, class_names=plan.class_names, hparams=plan.hparams
    )
    summaries.write_picture("first_batch", picture, step=step)


def _write_summary(result: StepResult, rate: float, step: int) -> None:
    tf.summary.scalar("loss", result.loss, step=step)
    tf.summary.scalar("learning_rate", result.learning_rate, step=step)
    tf.summary.scalar("examples_per_second", rate, step=step)


def _finite_loss(result: StepResult, step: int) -> float:
    """The loss of a step.

    Raises:
      FloatingPointError: it is not finite.
    """
    loss = float(result.loss)
    if not np.isfinite(loss):
        raise FloatingPointError(
            f"step {step}: the loss is {loss}; training stops, and the last checkpoint "
            f"is kept; a lower lr may help"
        )
    return loss


def _save(trainer: Trainer, plan: Plan, workers: distribution.Distribution) -> None:
    """Saves a checkpoint, on the chief.

    Raises:
      FloatingPointError: a weight is not finite.
    """
    if workers.num_replicas > 1:
        trainer.average_moving()
    if name := checkpoints.first_not_finite(trainer.variables):
        raise FloatingPointError(
            f"step {trainer.steps_done}: {name} is no longer finite; training stops, "
            f"and the last checkpoint is kept; a lower lr may help"
        )
    if workers.is_chief:
        checkpoints.save_training(
            plan.options.train_dir, trainer.network, trainer.optimizer
        )


def _finish(plan: Plan, step: int, received: int | None) -> int:
    """Says why training ended; returns the signal that stopped it, or 0."""
    train_dir = plan.options.train_dir
    done = step == plan.max_steps
    reason = "done"
    if not done:
        name = signal.Signals(received).name if received else "another worker"
        reason = f"stopped by {name}"
    print(
        f"{reason} at step {step}; checkpoint {checkpoints.NAME}-{step} is in "
        f"{train_dir}",
        f"next: --mode eval --train_dir {train_dir} evaluates the checkpoints"
        if done
        else "next: the same command resumes the training",
        sep="\n",
        file=sys.stderr,
    )
    return 0 if done else received or signal.SIGTERM
