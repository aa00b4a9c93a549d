"""Trains the model on labelled clips. Used by --mode train.

The order of this file is: start (`train`), loop (`_loop`). The training step is in
tagger/training/trainer.py.
"""

import contextlib
import dataclasses
import os
import secrets
import signal
import sys
import time
from collections.abc import Iterator, Sequence

import numpy as np
import tensorflow as tf

import inputs
import model
from tagger import hparams as hparams_lib
from tagger.data.clips import Clips, read_clips
from tagger.errors import UserError
from tagger.hparams import Hparams
from tagger.options import TrainOptions
from tagger.runs import checkpoints, run_record
from tagger.terminal import files, machine, signals
from tagger.terminal.progress import print_step, progress_bar
from tagger.training import summaries
from tagger.training.data_service import check_reachable, served_batches
from tagger.training.distribution import Distribution
from tagger.training.trainer import Trainer

DEFAULT_PASSES = 1000  # passes over the data, if --max_steps is 0
ADVICE = "earlier checkpoints are unchanged; a lower lr may help"


@dataclasses.dataclass(frozen=True)
class Plan:
    """A training run whose inputs have been read.

    Attributes:
      options: the options of `train`.
      model_name: the model.
      hparams: all hyperparameters of the run.
      class_names: C names.
      clips: the table of clips.
      epoch_num_batches: batches per epoch.
      max_steps: the step to stop at.
    """

    options: TrainOptions
    model_name: str
    hparams: Hparams
    class_names: Sequence[str]
    clips: Clips
    epoch_num_batches: int
    max_steps: int


def train(options: TrainOptions) -> int:
    """Trains until max_steps, or until a signal stops it.

    Returns:
      The number of the signal that stopped it, or 0.

    Raises:
      UserError: an input or a checkpoint cannot be used; the message names
        it.
      UserError: the loss or a weight is no longer finite.
    """
    if options.data_service:
        check_reachable(options.data_service)
    workers = Distribution(options.devices)
    class_names, clips = read_clips(
        csv_path=options.train_csv_path,
        clip_dir=options.train_clip_dir,
        class_map_path=options.class_map_path,
        train_dir=options.train_dir,
        flag_prefix="train",
    )
    files.make_folder(options.train_dir, "--train_dir")
    # Only the chief writes.
    lock = checkpoints.locked if workers.is_chief else contextlib.nullcontext
    with lock(options.train_dir):
        plan = _plan(options, class_names, clips)
        inputs.check_memory(clips, plan.hparams, workers.num_workers)
        _check_workers(plan, workers)
        seed = workers.set_seed(options.seed)
        trainer = define_trainer(
            model_name=plan.model_name,
            num_classes=len(class_names),
            hparams=plan.hparams,
            train_scopes=options.train_scopes,
            epoch_num_batches=plan.epoch_num_batches,
            max_steps=plan.max_steps,
            mixed_precision=options.mixed_precision,
            strategy=workers.strategy,
        )
        _start(trainer, plan, workers)
        if (done := trainer.steps_done) >= plan.max_steps:
            print(f"already at step {done} of {plan.max_steps}", file=sys.stderr)
            return 0
        if workers.is_chief:
            checkpoints.check_space(
                options.train_dir,
                trainer.variables,
                steps=range(trainer.steps_done, plan.max_steps),
                checkpoint_steps=options.checkpoint_steps,
                keep=options.keep_checkpoints,
            )
            run_record.write_hparams(
                options.train_dir,
                model_name=plan.model_name,
                hparams=plan.hparams,
                class_names=class_names,
                resumed=bool(checkpoints.list_checkpoints(options.train_dir)),
            )
        return _loop(trainer, plan, workers, seed)


def _plan(options: TrainOptions, class_names: Sequence[str], clips: Clips) -> Plan:
    """Returns and prints the plan of a run; computes the counts that are 0."""
    model_name = options.model or hparams_lib.MODEL_NAMES[0]
    hparams = hparams_lib.model_hparams(model_name, options.hparams)
    if checkpoints.list_checkpoints(options.train_dir):
        model_name, hparams = run_record.trained_model(
            options.train_dir,
            model_name=options.model,
            overrides=options.hparams,
            class_names=class_names,
            resuming=True,
        )
    num_examples = int(hparams.num_examples(clips.num_samples).sum())
    epoch_num_batches = max(1, num_examples // hparams.batch_size)
    max_steps = max(1, DEFAULT_PASSES * num_examples // hparams.batch_size)
    plan = Plan(
        options=options,
        model_name=model_name,
        hparams=hparams,
        class_names=class_names,
        clips=clips,
        epoch_num_batches=options.epoch_num_batches or epoch_num_batches,
        max_steps=options.max_steps or max_steps,
    )
    print(
        machine.describe_platform(mixed_precision=options.mixed_precision),
        f"{clips}, {num_examples} examples; {plan.epoch_num_batches} batches of "
        f"{hparams.batch_size} per epoch; training to step {plan.max_steps}",
        hparams_lib.describe_hparams(model_name, hparams),
        sep="\n",
        file=sys.stderr,
    )
    return plan


def _check_workers(plan: Plan, workers: Distribution) -> None:
    """Checks that the work can be shared, and that all workers have the same inputs.

    Raises:
      UserError: the work cannot be shared, or the inputs differ.
    """
    workers.check_shares(plan.hparams.batch_size, len(plan.clips))
    # Only the paths of input files may differ.
    paths = dict.fromkeys(["class_map_path", "train_clip_dir", "train_csv_path"], "")
    options = dataclasses.replace(plan.options, hparams={}, **paths)
    facts = [options, plan.hparams, plan.class_names]
    facts += [plan.clips.num_samples.tobytes(), plan.clips.labels.tobytes()]
    workers.check_equal(
        facts,
        "the flags or clips of the workers differ; start all workers with the same "
        "flags and clips",
    )


def define_trainer(
    *,
    num_classes: int,
    hparams: Hparams,
    epoch_num_batches: int,
    model_name: str = hparams_lib.MODEL_NAMES[0],
    max_steps: int | None = None,
    train_scopes: Sequence[str] = (),
    mixed_precision: bool = False,
    strategy: tf.distribute.Strategy | None = None,
) -> Trainer:
    """Builds a trainer with a new network, optimizer and loss.

    Args:
      num_classes: C.
      hparams: hyperparameters of model and training.
      epoch_num_batches: batches per epoch, for lrdecay.
      model_name: a name that --model allows.
      max_steps: the last step, for cosine.
      train_scopes: see `model.freeze`.
      mixed_precision: see `model.define_model`.
      strategy: see `Trainer`; None: TensorFlow's default one, which has one replica.
    """
    strategy = strategy or tf.distribute.get_strategy()
    with strategy.scope():
        network = model.define_model(
            model_name,
            num_classes=num_classes,
            hparams=hparams,
            mixed_precision=mixed_precision,
        )
        model.freeze(network, train_scopes)
        optimizer = model.define_optimizer(
            hparams, epoch_num_batches=epoch_num_batches, max_steps=max_steps
        )
    if hparams.bn_ramp:
        model.ramp_up(network, lambda: optimizer.iterations)
    return Trainer(network, optimizer, model.define_loss(hparams), strategy)


def _start(trainer: Trainer, plan: Plan, workers: Distribution) -> None:
    """Sets the initial values of the variables, and prints where they come from.

    In this order:
    1. Resume from the newest complete checkpoint in train_dir.
    2. Otherwise, warm-start from another run's weights.
    3. Otherwise, start from scratch.
    """
    options = plan.options
    if checkpoints.list_checkpoints(options.train_dir):
        print(f"resuming from {trainer.resume(options.train_dir)}", file=sys.stderr)
        if options.warmstart_checkpoint:
            print("note: --warmstart_checkpoint is not used", file=sys.stderr)
    elif plan.hparams.warmstart:
        prefix = checkpoints.find_checkpoint(
            options.warmstart_checkpoint, "--warmstart_checkpoint"
        )
        run_record.check_warm_start(
            os.path.dirname(prefix), plan.model_name, plan.hparams
        )
        started = trainer.warm_start(
            prefix,
            include_scopes=options.warmstart_include_scopes,
            exclude_scopes=options.warmstart_exclude_scopes,
            moving_averages=options.warmstart_moving_averages,
        )
        run_record.check_last_layer(
            os.path.dirname(prefix), plan.class_names, started.restored
        )
        print(started.report(prefix), file=sys.stderr)
    else:
        print("starting from scratch", file=sys.stderr)
    if workers.num_workers > 1:  # The checksums take time.
        workers.check_equal(
            trainer.checksums(),
            f"the workers start from different weights; --train_dir "
            f"({options.train_dir}) and --warmstart_checkpoint must be on a drive that "
            f"all workers share",
        )


def _batches(
    trainer: Trainer, plan: Plan, workers: Distribution, seed: int, received: list[int]
) -> Iterator[tuple[tf.Tensor, tf.Tensor]]:
    """The stream of inputs of the steps. A resumed run starts a new epoch."""
    service, job_name = plan.options.data_service, ""
    if service:
        # Each start needs a new job, because a job delivers its data only once.
        job_name = f"train-{workers.chief_value(secrets.randbits(32))}"
    batch_size = plan.hparams.batch_size // workers.num_replicas
    dataset = inputs.train_input(
        plan.clips,
        dataclasses.replace(plan.hparams, batch_size=batch_size),
        # A resumed run must not repeat its earlier order.
        seed=(seed + trainer.steps_done) % hparams_lib.MAX_SEED,
        deterministic=plan.options.seed is not None,
        shard=workers.worker,
        num_shards=workers.num_workers,
        data_service=service,
        job_name=job_name,
    )
    stream = inputs.read_batches(dataset)
    if service:
        # One of several workers cannot save without the others.
        stream = served_batches(stream, received if workers.num_workers == 1 else ())
    return workers.batches(stream)


def _loop(trainer: Trainer, plan: Plan, workers: Distribution, seed: int) -> int:
    """Trains, prints, summarises, saves; returns the signal that stopped it, or 0."""
    options, step = plan.options, trainer.steps_done
    if step == 0:
        _save(trainer, plan, workers)
    received = []
    print("filling the shuffle buffer", file=sys.stderr)
    with signals.end_at_once():
        batches = _batches(trainer, plan, workers, seed, received)
        batch = next(batches)
    writer = tf.summary.create_noop_writer()
    if workers.is_chief:
        writer = tf.summary.create_file_writer(options.train_dir)
    with (
        signals.recorded(received),
        writer.as_default(),
        progress_bar(
            plan.max_steps, what="training", unit="step", done=step, keep=True
        ) as bar,
    ):
        summaries.write_hparams(plan.hparams, options.train_dir)
        timed_step, timed_at = step, time.monotonic()
        last = False
        while not last:
            # Each step also averages the stop requests of all workers.
            stop_request = tf.constant(float(bool(received)))
            result = trainer.train_step(*batch, stop_request)
            loss = float(result.loss)
            step += 1
            if not np.isfinite(loss):
                raise UserError(f"step {step}: the loss is {loss}; {ADVICE}")
            rate = None
            if step % options.summary_steps == 0:
                seconds = time.monotonic() - timed_at
                rate = (step - timed_step) * plan.hparams.batch_size / seconds
                timed_step, timed_at = step, timed_at + seconds
                summaries.write_step(result, rate, step)
            print_step(bar, step, loss, rate)
            # All workers stop if one of them is asked to stop.
            last = step == plan.max_steps or float(result.stop_requests) > 0
            if last or step % options.checkpoint_steps == 0:
                _save(trainer, plan, workers)
                tf.summary.flush()
            if not last and (batch := next(batches, None)) is None:
                last = True  # A signal came while the data service sent nothing.
                if step % options.checkpoint_steps:
                    _save(trainer, plan, workers)
    workers.wait_for_all()  # No worker exits before the checkpoint is complete.
    return _finish(plan, step, received)


def _save(trainer: Trainer, plan: Plan, workers: Distribution) -> None:
    """Saves a checkpoint. Only the chief writes it.

    Raises:
      UserError: a weight is not finite.
    """
    if workers.num_replicas > 1:
        trainer.sync_averages()
    if name := trainer.first_not_finite():
        raise UserError(f"step {trainer.steps_done}: {name} is not finite; {ADVICE}")
    if workers.is_chief:
        checkpoints.save_training(
            plan.options.train_dir,
            trainer.network,
            trainer.optimizer,
            keep=plan.options.keep_checkpoints,
            resumed_from=trainer.resumed_from,
        )


def _finish(plan: Plan, step: int, received: Sequence[int]) -> int:
    """Prints why training ended; returns the signal that stopped it, or 0."""
    stopped_by, reason = 0, "done"
    if step < plan.max_steps:
        stopped_by = received[-1] if received else signal.SIGTERM
        name = signal.Signals(stopped_by).name if received else "another worker"
        reason = f"stopped by {name}"
    print(
        f"{reason} at step {step}; checkpoint {checkpoints.NAME}-{step} is in "
        f"{plan.options.train_dir}",
        file=sys.stderr,
    )
    return stopped_by
