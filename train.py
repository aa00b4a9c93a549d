"""Trains the model on labelled clips. Used by --mode train.

The training step is in tagger/training/trainer.py.
"""

import contextlib
import dataclasses
import itertools
import os
import secrets
import signal
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import tensorflow as tf

import inputs
import model
from tagger.data.clips import Clips, read_clips
from tagger.errors import UserError
from tagger.hparams import MAX_SEED, MODEL_NAMES, Hparams
from tagger.options import TrainOptions
from tagger.runs import checkpoints
from tagger.runs.run import Run
from tagger.runs.warm_start import warm_start
from tagger.terminal import machine
from tagger.terminal.signals import StopRequest, end_at_once
from tagger.training import summaries
from tagger.training.distribution import Distribution, check_reachable
from tagger.training.trainer import LostWorkerError, Trainer

DEFAULT_PASSES = 1000  # passes over the data, if --max_steps is 0


def train(options: TrainOptions) -> int:
    """Trains until max_steps, or until a signal stops it.

    Returns:
      The number of the signal that stopped it, or 0.

    Raises:
      UserError: an input or a checkpoint cannot be used, or the loss or a weight is no
        longer finite; the message says which.
    """
    if options.data_service:
        check_reachable(options.data_service)
    workers = Distribution(options.devices)
    workers.set_seed(options.seed)
    run = Run(options.train_dir)
    class_names, clips = read_clips(
        csv_path=options.train_csv_path,
        clip_dir=options.train_clip_dir,
        class_map_path=options.class_map_path,
        check_class_map=run.check_class_map,
        flag_prefix="train",
    )
    identity = clips.identity(options.train_clip_dir)
    # Only the chief writes.
    with run.open_to_train() if workers.is_chief else contextlib.nullcontext():
        model_name, hparams = run.settings(
            model_name=options.model,
            overrides=options.hparams,
            class_names=class_names,
            to_train=True,
        )
        workers.check_inputs(options, hparams, class_names, clips)
        training = run.resumed_training(_describe(options, workers, identity))
        options = _count_steps(options, model_name, hparams, clips)
        # Fails here if it does not fit into the memory.
        inputs.shuffle_buffer(clips, hparams, workers.num_workers)
        trainer = define_trainer(
            model_name=model_name,
            num_classes=len(class_names),
            hparams=hparams,
            train_scopes=training["train_scopes"],
            epoch_num_batches=options.epoch_num_batches,
            max_steps=options.max_steps,
            mixed_precision=options.mixed_precision,
            strategy=workers.strategy,
        )
        _start(run, trainer, options, hparams, class_names)
        workers.check_start(trainer.checksums)
        if (step := trainer.steps_done) >= options.max_steps:
            print(f"already at step {step} of {options.max_steps}", file=sys.stderr)
            return 0
        if workers.is_chief:
            run.write_record(
                model_name=model_name,
                hparams=hparams,
                class_names=class_names,
                training=training,
            )
        return _loop(run, trainer, clips, workers, options, hparams)


def _describe(
    options: TrainOptions, workers: Distribution, identity: dict[str, int]
) -> dict[str, Any]:
    """What a resumed run should not change unnoticed; see `RunRecord`."""
    return {
        "train_scopes": list(options.train_scopes),
        "seed": options.seed,
        "mixed_precision": options.mixed_precision,
        "devices": workers.num_replicas,
        "clips": identity,
    }


def _count_steps(
    options: TrainOptions, model_name: str, hparams: Hparams, clips: Clips
) -> TrainOptions:
    """Computes epoch_num_batches and max_steps where they are 0.

    Prints all numbers and hyperparameters, with warnings of those that may be mistakes.
    """
    num_examples = int(hparams.num_examples(clips.num_samples).sum())
    one_pass = max(1, num_examples // hparams.batch_size)
    all_passes = max(1, DEFAULT_PASSES * num_examples // hparams.batch_size)
    options = dataclasses.replace(
        options,
        epoch_num_batches=options.epoch_num_batches or one_pass,
        max_steps=options.max_steps or all_passes,
    )
    print(
        machine.describe_platform(mixed_precision=options.mixed_precision),
        f"{clips}, {num_examples} examples; {options.epoch_num_batches} batches of "
        f"{hparams.batch_size} per epoch; training to step {options.max_steps}",
        f"{model_name}, hyperparameters: {hparams}",
        *(f"warning: {warning}" for warning in hparams.warnings(options.hparams)),
        sep="\n",
        file=sys.stderr,
    )
    return options


def define_trainer(
    *,
    num_classes: int,
    hparams: Hparams,
    epoch_num_batches: int,
    model_name: str = MODEL_NAMES[0],
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
      train_scopes: see `Trainer`.
      mixed_precision: see `model.define_model`.
      strategy: see `Trainer`; None: TensorFlow's default one, which has one replica.
    """
    strategy = strategy or tf.distribute.get_strategy()
    with strategy.scope():
        optimizer = model.define_optimizer(
            hparams, epoch_num_batches=epoch_num_batches, max_steps=max_steps
        )
        loss = model.define_loss(hparams)
        network = model.define_model(
            model_name,
            num_classes=num_classes,
            hparams=hparams,
            mixed_precision=mixed_precision,
            num_updates=(lambda: optimizer.iterations) if hparams.bn_ramp else None,
        )
    return Trainer(network, optimizer, loss, strategy, train_scopes=train_scopes)


def _start(
    run: Run,
    trainer: Trainer,
    options: TrainOptions,
    hparams: Hparams,
    class_names: Sequence[str],
) -> None:
    """Sets the initial values of the variables, and prints where they come from.

    In this order:
    1. Resume from the newest checkpoint in train_dir that can be read.
    2. Otherwise, warm-start from another run's weights.
    3. Otherwise, start from scratch.
    """
    if prefix := run.resume(trainer.network, trainer.optimizer):
        print(f"resuming from {prefix}", file=sys.stderr)
        if options.warmstart_checkpoint:
            print("note: --warmstart_checkpoint is not used", file=sys.stderr)
    elif hparams.warmstart:
        warm_start(
            trainer.network,
            options.warmstart_checkpoint,
            include_scopes=options.warmstart_include_scopes,
            exclude_scopes=options.warmstart_exclude_scopes,
            moving_averages=options.warmstart_moving_averages,
            hparams=hparams,
            class_names=class_names,
        )
    else:
        print("starting from scratch", file=sys.stderr)


def _batches(
    clips: Clips,
    hparams: Hparams,
    options: TrainOptions,
    workers: Distribution,
    start: int,
) -> Iterator[tuple[tf.Tensor, tf.Tensor]]:
    """The batches of the steps after `start`, each for all local replicas, endless."""
    batch_size = hparams.batch_size // workers.num_replicas
    # Each start needs a new job, because a job delivers its data only once.
    job = workers.chief_value(secrets.randbits(32))
    dataset = inputs.train_input(
        clips,
        dataclasses.replace(hparams, batch_size=batch_size),
        # A resumed run starts a new epoch, and must not repeat its earlier order.
        seed=(workers.seed + start) % MAX_SEED,
        deterministic=options.seed is not None,
        shard=workers.worker,
        num_shards=workers.num_workers,
        data_service=options.data_service,
        job_name=f"train-{job}",
    )
    return workers.batches(inputs.read_batches(dataset))


def _loop(
    run: Run,
    trainer: Trainer,
    clips: Clips,
    workers: Distribution,
    options: TrainOptions,
    hparams: Hparams,
) -> int:
    """Trains, reports and saves until max_steps, or until a signal stops it.

    Returns:
      The number of the signal, or 0.
    """
    start, last = trainer.steps_done, options.max_steps
    batches = _batches(clips, hparams, options, workers, start)

    def save() -> None:
        """Saves a checkpoint. All workers take part, and the chief writes it."""
        values = trainer.checkpoint_values()
        if workers.is_chief:
            run.save(values, trainer.steps_done, keep=options.keep_checkpoints)

    if not run.resumed_from:
        save()
    with StopRequest() as stop:
        print("filling the shuffle buffer", file=sys.stderr)
        with end_at_once():
            batches = itertools.chain([next(batches)], batches)
        with summaries.reports(
            run.directory if workers.is_chief else "",
            hparams,
            steps=range(start + 1, last + 1),
            summary_steps=options.summary_steps,
        ) as report:
            try:
                for step, result, is_last in trainer.steps(batches, last, stop):
                    report(step, result)
                    if is_last or step % options.checkpoint_steps == 0:
                        save()
                        tf.summary.flush()
            except LostWorkerError as error:
                newest = os.path.basename(run.checkpoints()[-1])
                raise UserError(
                    f"{error}; start all workers again, with the same flags, to resume "
                    f"from {newest}"
                ) from None
    workers.wait_for_all()  # No worker exits before the checkpoint is complete.
    reason, number = "done", 0
    if step < last:
        name = signal.Signals(stop.signal).name if stop else "another worker"
        reason, number = f"stopped by {name}", stop.signal or signal.SIGTERM
    print(
        f"{reason} at step {step}; checkpoint {checkpoints.NAME}-{step} is in "
        f"{run.directory}",
        file=sys.stderr,
    )
    return number
