"""Trains the model on labelled clips. Called by runner.py in --mode train."""

import collections
import contextlib
import dataclasses
import datetime
import functools
import os
import random
import signal
import socket
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
import tqdm

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
from tagger.progress import counted, leave_out, print_result, progress_bar

MEAN = tf.distribute.ReduceOp.MEAN
DEFAULT_PASSES = 1000  # over the data, where --max_steps is 0
CONNECT_SECONDS = 10  # to wait for the answer of a data service
RATE_STEPS = 10  # The throughput is printed every so many steps.
MEAN_LOSS_STEPS = 100  # The closing line has the mean loss of so many steps.
PICTURE_EXAMPLES = 8  # of the first batch, for TensorBoard


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


def train(
    *,
    model_name: str,
    hparam_overrides: Mapping[str, Any],
    class_map_path: str,
    train_clip_dir: str,
    train_csv_path: str,
    train_dir: str,
    epoch_num_batches: int,
    warmstart_checkpoint: str,
    warmstart_include_scopes: Sequence[str],
    warmstart_exclude_scopes: Sequence[str],
    max_steps: int,
    checkpoint_steps: int,
    summary_steps: int,
    seed: int | None,
    mixed_precision: bool = False,
    devices: Sequence[str] = (),
    data_service: tuple[str, int] | None = None,
) -> int:
    """Trains until max_steps, or a signal; see runner.py for the flags of these names.

    Returns:
      The number of the signal that stopped it, or 0.

    Raises:
      ValueError, OSError: inputs or checkpoints that cannot be used; what to do about
        it.
      FloatingPointError: the loss or a weight is no longer finite.
    """
    cluster = distribution.read_cluster()
    if data_service:
        _check_reachable(*data_service)
    workers = distribution.Distribution(devices, cluster)
    class_names, clips = read_clips(
        csv_path=train_csv_path,
        clip_dir=train_clip_dir,
        class_map_path=class_map_path,
        train_dir=train_dir,
        flag_prefix="train",
    )
    files.make_folder(train_dir, "--train_dir")
    with _writing(train_dir, workers), workers.lost_peer_reported():
        hparams = _resolve_hparams(train_dir, model_name, hparam_overrides, class_names)
        epoch_num_batches, max_steps = _plan(
            clips, hparams, epoch_num_batches, max_steps, cluster.num_workers
        )
        _check_sizes(hparams, len(clips), workers)
        facts = [model_name, class_names, hparams, epoch_num_batches, max_steps]
        facts += [clips.num_samples.tobytes(), clips.labels.tobytes()]
        facts += [checkpoint_steps, mixed_precision, seed, data_service]
        facts += clips.paths if data_service else []
        workers.check_alike(
            facts,
            "the workers were not given the same flags, clips or train_dir; all that "
            "train together must be",
        )
        deterministic = seed is not None
        seed = _set_seed(seed, workers)
        trainer = Trainer(
            model_name=model_name,
            num_classes=len(class_names),
            hparams=hparams,
            epoch_num_batches=epoch_num_batches,
            mixed_precision=mixed_precision,
            strategy=workers.strategy,
        )
        warm_start = functools.partial(
            _warm_start,
            trainer,
            warmstart_checkpoint,
            warmstart_include_scopes,
            warmstart_exclude_scopes,
        )
        _start(trainer, train_dir, warm_start)
        _check_same_weights(trainer, train_dir, workers)
        if workers.is_chief:
            checksum = clips.checksum(class_names)
            if trainer.steps_done:
                run_record.warn_of_other_clips(train_dir, checksum)
            run_record.write_hparams(
                train_dir,
                model_name=model_name,
                hparams=hparams,
                class_names=class_names,
                clips_crc32=checksum,
            )
        return _loop(
            trainer,
            _batches(
                trainer,
                clips,
                workers,
                seed=seed,
                deterministic=deterministic,
                data_service=data_service,
            ),
            workers,
            class_names=class_names,
            train_dir=train_dir,
            max_steps=max_steps,
            checkpoint_steps=checkpoint_steps,
            summary_steps=summary_steps,
        )


@contextlib.contextmanager
def _writing(train_dir: str, workers: distribution.Distribution) -> Iterator[None]:
    """Holds train_dir, on the chief, which alone writes."""
    if not workers.is_chief:
        yield
        return
    with checkpoints.locked(train_dir):
        checkpoints.delete_unfinished(train_dir)
        yield


def _check_reachable(host: str, port: int) -> None:
    """Finds out now that there is no data service, for which TensorFlow would wait."""
    try:
        socket.create_connection((host, port), CONNECT_SECONDS).close()
    except OSError as error:
        raise OSError(
            f"--data_service: cannot reach {host}:{port} ({error}); is its dispatcher "
            f"running?"
        ) from None


def _check_sizes(
    hparams: Hparams, num_clips: int, workers: distribution.Distribution
) -> None:
    """Checks that there are clips for every worker, and the size of the batch."""
    num_replicas, num_workers = workers.num_replicas, workers.cluster.num_workers
    batch_size = hparams.batch_size
    if num_clips < num_workers:
        raise ValueError(
            f"there must be a clip for each of the {num_workers} workers, but got "
            f"{num_clips}"
        )
    if batch_size % num_replicas:
        raise ValueError(
            f"batch_size must be a multiple of the {num_replicas} devices that train "
            f"together, such as {-(-batch_size // num_replicas) * num_replicas}, but "
            f"got {batch_size}"
        )


def _check_same_weights(
    trainer: Trainer, train_dir: str, workers: distribution.Distribution
) -> None:
    """Checks that all workers start alike; nothing would bring them together later."""
    if workers.cluster.num_workers == 1:
        return
    workers.check_alike(
        [zlib.crc32(v.numpy().tobytes()) for v in trainer.variables.values()],
        f"the workers start from different weights; --train_dir ({train_dir}) and "
        f"--warmstart_checkpoint must be the same for all, on a drive that all of them "
        f"see",
    )


def _set_seed(seed: int | None, workers: distribution.Distribution) -> int:
    """Seeds all random numbers alike on all workers; returns the seed.

    With a seed that is given, TensorFlow also has to use deterministic operations.
    """
    if seed is None:
        seed = random.randrange(hparams_lib.MAX_SEED)
    else:
        tf.config.experimental.enable_op_determinism()
    seed = workers.chief_value(seed)
    keras.utils.set_random_seed(seed)
    return seed


def _resolve_hparams(
    train_dir: str,
    model_name: str,
    overrides: Mapping[str, Any],
    class_names: Sequence[str],
) -> Hparams:
    """Those given; where training resumes, over those that it began with."""
    if not checkpoints.list_checkpoints(train_dir):
        return Hparams(**overrides)
    return run_record.trained_hparams(
        train_dir,
        model_name=model_name,
        overrides=overrides,
        class_names=class_names,
        resuming=True,
    )


def _plan(
    clips: Clips,
    hparams: Hparams,
    epoch_num_batches: int,
    max_steps: int,
    num_workers: int,
) -> tuple[int, int]:
    """Batches in an epoch and steps in all, counted where 0; prints the facts."""
    num_examples = int(hparams.num_examples(clips.num_samples).sum())
    if not epoch_num_batches:
        epoch_num_batches = max(1, num_examples // hparams.batch_size)
    if not max_steps:
        max_steps = max(1, DEFAULT_PASSES * num_examples // hparams.batch_size)
    values = hparams_lib.non_defaults(hparams)
    listed = ", ".join(f"{name}={value}" for name, value in values.items())
    buffered, size = inputs.shuffle_buffer(clips, hparams, num_shards=num_workers)
    print(
        distribution.describe_platform(),
        f"{clips}, {num_examples} examples; {epoch_num_batches} batches of "
        f"{hparams.batch_size} an epoch; training to step {max_steps}",
        f"shuffle buffer: {buffered} examples, {size / 1e6:.3g} MB, filled before the "
        f"first step",
        f"hyperparameters: {listed or 'all at their defaults'}",
        sep="\n",
        file=sys.stderr,
    )
    return epoch_num_batches, max_steps


def _start(trainer: Trainer, train_dir: str, warm_start: Callable[[], None]) -> None:
    """Gives the variables the values to start from, and says which.

    In this order:
    1. Resume from the newest whole checkpoint in train_dir.
    2. Else warm-start from another run's weights.
    3. Else start from scratch.
    """
    if checkpoints.list_checkpoints(train_dir):
        _resume(trainer, train_dir)
    elif trainer.hparams.warmstart:
        warm_start()
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


def _warm_start(
    trainer: Trainer,
    checkpoint: str,
    include_scopes: Sequence[str],
    exclude_scopes: Sequence[str],
) -> None:
    """Takes the trainable variables that the scopes choose, and prints which."""
    prefix = checkpoints.find_checkpoint(checkpoint, "--warmstart_checkpoint")
    trainable = {v.path: v for v in trainer.network.trainable_weights}
    plan = checkpoints.plan_warm_start(
        {name: tuple(variable.shape) for name, variable in trainable.items()},
        checkpoints.shapes(prefix),
        include_scopes=include_scopes,
        exclude_scopes=exclude_scopes,
    )
    checkpoints.restore(prefix, {name: trainable[name] for name in plan.restored})
    print(plan.report(prefix), file=sys.stderr)
    run_record.warn_of_other_model(os.path.dirname(prefix), trainer.hparams)


def _batches(
    trainer: Trainer,
    clips: Clips,
    workers: distribution.Distribution,
    *,
    seed: int,
    deterministic: bool,
    data_service: tuple[str, int] | None,
) -> tf.data.Dataset:
    """The stream of each replica's batches; a run that resumes starts a new epoch."""
    batch_size = trainer.hparams.batch_size
    service = None
    if data_service:
        host, port = data_service
        # A new name per start, also with one --seed: each job is used up once.
        job = workers.chief_value(random.SystemRandom().randrange(hparams_lib.MAX_SEED))
        service = inputs.DataService(f"grpc://{host}:{port}", f"train-{job}")
    return inputs.train_input(
        clips,
        dataclasses.replace(
            trainer.hparams, batch_size=batch_size // workers.num_replicas
        ),
        # Not the order that it had before it stopped.
        seed=(seed + trainer.steps_done) % hparams_lib.MAX_SEED,
        deterministic=deterministic,
        shard=workers.cluster.worker,
        num_shards=workers.cluster.num_workers,
        data_service=service,
    )


def _loop(
    trainer: Trainer,
    batches: tf.data.Dataset,
    workers: distribution.Distribution,
    *,
    class_names: Sequence[str],
    train_dir: str,
    max_steps: int,
    checkpoint_steps: int,
    summary_steps: int,
) -> int:
    """Steps, prints, summarises and saves; returns the signal that stopped it, or 0."""
    step = trainer.steps_done
    if step >= max_steps:
        print(f"already at step {step}, --max_steps is {max_steps}", file=sys.stderr)
        return 0
    saved_step = step
    if step == 0:
        _save(trainer, train_dir, workers)
        workers.wait_for_all()
        _warn_if_none_seen(train_dir)
    writer = (
        tf.summary.create_file_writer(train_dir)
        if workers.is_chief
        else tf.summary.create_noop_writer()
    )
    stream = workers.batches(inputs.read_batches(batches))
    print("filling the shuffle buffer", file=sys.stderr)
    with signals.end_at_once():
        batch = next(stream)
    print("first batch is ready", file=sys.stderr)
    with (
        signals.StopRequest() as stop,
        writer.as_default(),
        progress_bar(
            max_steps, what="training", unit="step", done=step, keep=True
        ) as bar,
    ):
        if workers.is_chief:
            own = workers.first_of(batch)
            _write_start(trainer.hparams, own, class_names, train_dir, step)
        report = _Report(bar, step, trainer.hparams.batch_size)
        requests = 0.0  # to stop, as the last step has summed them
        while True:
            previous_requests = requests
            requested = tf.constant(float(stop.received is not None))
            loss, rate, requests = trainer.train_step(*batch, requested)
            step += 1
            report.print_previous(loss)
            if step % summary_steps == 0:
                report.print_last()
                tf.summary.scalar("loss", loss, step=step)
                tf.summary.scalar("learning_rate", rate, step=step)
                report.write_speed()
            stopped = stop.received is not None
            if workers.cluster.num_workers > 1:
                # One step late, when all workers have it without waiting.
                stopped = float(previous_requests) > 0
            stopped = stopped and step < max_steps
            last = stopped or step >= max_steps
            if last or step % checkpoint_steps == 0:
                report.print_last()
                closing = report.closing() if last else ""
                _save(trainer, train_dir, workers)
                saved_step = step
                writer.flush()
            if last:
                break
            batch = next(stream)
    workers.wait_for_all()  # None leaves before the checkpoint is whole.
    reason = "done"
    if stopped:
        name = stop.received and signal.Signals(stop.received).name
        reason = f"stopped by {name}" if name else "stopped with the other workers"
    print(
        closing,
        f"{reason} at step {step}; checkpoint {checkpoints.NAME}-{saved_step} is in "
        f"{train_dir}",
        "next: the same command goes on from there"
        if stopped
        else f"next: --mode eval --train_dir {train_dir} evaluates the checkpoints",
        sep="\n",
        file=sys.stderr,
    )
    return (stop.received or signal.SIGTERM) if stopped else 0


def _write_start(
    hparams: Hparams,
    batch: tuple[tf.Tensor, tf.Tensor],
    class_names: Sequence[str],
    train_dir: str,
    step: int,
) -> None:
    """Writes to TensorBoard what a run starts with: values, and some examples."""
    summaries.write_hparams(hparams, train_dir)
    features, labels = (part[:PICTURE_EXAMPLES].numpy() for part in batch)
    picture = plots.examples_picture(
        features, labels, class_names=class_names, hparams=hparams
    )
    summaries.write_picture("first_batch", picture, step=step)


def _save(trainer: Trainer, train_dir: str, workers: distribution.Distribution) -> None:
    if workers.num_replicas > 1:
        trainer.average_moving()
    if name := checkpoints.first_not_finite(trainer.variables):
        raise FloatingPointError(
            f"step {trainer.steps_done}: {name} is no longer finite; the checkpoints "
            f"in {train_dir} are good; a lower lr may help"
        )
    if workers.is_chief:
        checkpoints.save_training(train_dir, trainer.network, trainer.optimizer)


def _warn_if_none_seen(train_dir: str) -> None:
    """Says now, not at the next start, that a worker has another train_dir."""
    if not checkpoints.list_checkpoints(train_dir):
        print(
            f"warning: the chief's checkpoint is not seen in {train_dir}; unless all "
            f"workers see one --train_dir, they cannot go on together from there",
            file=sys.stderr,
        )


class _Speed:
    """Steps a second between one look and the next."""

    def __init__(self):
        self._last: tuple[int, float] | None = None  # a step, and when it was done

    def look(self, step: int) -> float | None:
        """Steps a second since the last look; None at the first."""
        last, self._last = self._last, (step, time.monotonic())
        return (step - last[0]) / (self._last[1] - last[1]) if last else None


class _Report:
    """Shows each step's loss, one step late so that no step waits for its number.

    The bar shows every step, and stdout has a line for each; where stdout is a terminal
    beside a bar, for every RATE_STEPS.
    """

    def __init__(self, bar: tqdm.tqdm, step: int, batch_size: int):
        self._bar = bar
        self._first_step = self._step = step
        self._batch_size = batch_size
        self._line_steps = 1 if bar.disable or not sys.stdout.isatty() else RATE_STEPS
        self._loss: tf.Tensor | None = None
        self._losses = collections.deque(maxlen=MEAN_LOSS_STEPS)
        # The first step also builds the graph, and is in no speed.
        self._printed, self._written, self._whole = _Speed(), _Speed(), _Speed()
        self._started = time.monotonic()

    def print_previous(self, loss: tf.Tensor) -> None:
        """Prints the step before, and takes note of this one's loss."""
        self.print_last()
        self._step += 1
        self._loss = loss
        if not self._losses:  # The first step has built the graph; nothing else waits.
            self.print_last()

    def print_last(self) -> None:
        """Prints what is not printed yet.

        Raises:
          FloatingPointError: the loss is not finite.
        """
        if self._loss is None:
            return
        loss, self._loss = float(self._loss), None
        line = f"step {self._step}: loss {loss:.6f}"
        self._bar.set_postfix_str(f"loss {loss:.4f}", refresh=False)
        if self._losses:
            self._bar.update()
            if self._step % RATE_STEPS == 0:
                rate = self._printed.look(self._step) * self._batch_size
                line += f", {rate:.1f} examples/s"
        else:
            leave_out(self._bar)
            for speed in (self._printed, self._written, self._whole):
                speed.look(self._step)
        self._losses.append(loss)
        if self._step % self._line_steps == 0:
            print_result(line)
        if not np.isfinite(loss):
            raise FloatingPointError(
                f"step {self._step}: the loss is {loss}; training stops, and the last "
                f"checkpoint is kept; a lower lr may help"
            )

    def write_speed(self) -> None:
        """Writes the speed since it was last written to TensorBoard."""
        if self._step > self._first_step + 1:
            speed = self._written.look(self._step)
            tf.summary.scalar("steps_per_second", speed, step=self._step)
            rate = speed * self._batch_size
            tf.summary.scalar("examples_per_second", rate, step=self._step)

    def closing(self) -> str:
        """A line about all steps of this process, once the last is printed."""
        num_steps = self._step - self._first_step
        seconds = round(time.monotonic() - self._started)
        duration = datetime.timedelta(seconds=seconds)
        text = f"{counted(num_steps, 'step')} in {duration}"
        if num_steps >= RATE_STEPS:
            rate = self._whole.look(self._step) * self._batch_size
            text += f", {rate:.1f} examples/s after the first"
        mean = np.mean(self._losses)
        return f"{text}, mean loss of the last {len(self._losses)}: {mean:.4f}"
