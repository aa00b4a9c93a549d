"""Evaluates checkpoints during or after training. Used by --mode eval."""

import dataclasses
import itertools
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

import inputs
import model
from tagger.data.clips import Clips, read_clips
from tagger.errors import UserError
from tagger.metrics.lwlrap import Lwlrap, report_empty_classes
from tagger.network.moving_averages import report_lag
from tagger.options import EvalOptions
from tagger.runs import checkpoints
from tagger.runs.checkpoint_files import (
    UnreadableError,
    checkpoint_step,
    describe,
    fingerprint,
)
from tagger.runs.eval_folder import EvalFolder
from tagger.runs.run import Checkpoint, Run
from tagger.terminal import machine
from tagger.terminal.files import make_folder
from tagger.terminal.progress import print_result, progress_bar
from tagger.training import summaries

SHUFFLE_SEED = 0  # The same order for all checkpoints makes Lwlrap-5% comparable.
PARTIAL_FRACTION = 0.05  # of the clips, for Lwlrap-5%
RUNNING_PRINT_SECONDS = 30
POLL_SECONDS = 2
LAG_BATCHES = 4  # to compare the moving averages of batch norm with


def evaluate(options: EvalOptions) -> None:
    """Evaluates all checkpoints in train_dir, oldest first, then waits for new ones.

    Writes `eval-N.txt` for each checkpoint and TensorBoard's events to eval_dir. A
    checkpoint that has a result and has not changed since is not evaluated again. One
    that cannot be read is reported and skipped.

    With eval_checkpoint, evaluates only this checkpoint, or the averaged scores of
    several.

    Raises:
      UserError: an input cannot be used, or a score is not finite; the message names
        it.
    """
    found = [Run.find(path, "--eval_checkpoint") for path in options.eval_checkpoint]
    if found:
        options = dataclasses.replace(
            options,
            train_dir=found[0].run.directory,
            eval_checkpoint=[found[0].prefix],
            eval_timeout_secs=0,
        )
    run = Run(options.train_dir)
    evaluation = EvalFolder(options.eval_dir, options.train_dir)
    class_names, clips = read_clips(
        csv_path=options.eval_csv_path,
        clip_dir=options.eval_clip_dir,
        class_map_path=options.class_map_path,
        check_class_map=run.check_class_map,
        flag_prefix="eval",
    )
    device = machine.describe_platform(mixed_precision=options.mixed_precision)
    print(device, clips, sep="\n", file=sys.stderr)
    clips = clips.take(np.random.default_rng(SHUFFLE_SEED).permutation(len(clips)))
    report_empty_classes(clips.labels, class_names)
    if not os.path.isdir(options.train_dir):
        message = f"--train_dir: there is no folder {options.train_dir}"
        if options.eval_timeout_secs == 0:
            raise UserError(message)
        print(f"note: {message} yet", file=sys.stderr)
    make_folder(options.eval_dir, "--eval_dir")
    with evaluation.locked(options.eval_shard):
        evaluator = _Evaluator(options, evaluation, clips, class_names)
        if len(found) > 1:
            evaluator.evaluate_mean(found)
        else:
            _evaluate_each(evaluator, options, run, evaluation)


def _evaluate_each(
    evaluator: "_Evaluator", options: EvalOptions, run: Run, evaluation: EvalFolder
) -> None:
    """Evaluates the checkpoints one by one, and prints which is the best so far.

    Raises:
      UserError: no checkpoint can be read, or see `_Evaluator.evaluate`.
    """
    evaluator.check()
    prefix = None
    try:
        for prefix in _new_checkpoints(options, run, evaluation):
            try:
                evaluator.evaluate(prefix)
            except UnreadableError as error:
                if options.eval_checkpoint:
                    raise
                print(f"skipped: {error}", file=sys.stderr)
    finally:
        if (best := evaluation.best()) and not options.eval_checkpoint:
            print(
                f"best so far: step {best[0]}, overall lwlrap {best[1]:.6f}",
                file=sys.stderr,
            )
    if options.eval_checkpoint and not prefix:
        step = checkpoint_step(options.eval_checkpoint[0])
        result = evaluation.marker(step).read_text(encoding="utf-8")
        print_result(f"step {step}, evaluated before:\n{result.rstrip()}")
    if not run.checkpoints() or (prefix and not evaluation.best()):
        raise UserError(
            f"--train_dir: there is no checkpoint in {options.train_dir} that can be "
            f"read"
        )


def _new_checkpoints(
    options: EvalOptions, run: Run, evaluation: EvalFolder
) -> Iterator[str]:
    """Yields the checkpoints of this evaluator without a result, and waits for more.

    A checkpoint that could not be read has no result. It is not yielded again, unless
    it has changed.
    """
    yielded = set()
    waiting_since = None
    while True:
        own = _own_checkpoints(options, run, evaluation)
        new = (item for item in evaluation.without_result(own) if item not in yielded)
        if item := next(new, None):
            yielded.add(item)
            waiting_since = None
            yield item[0]
            continue
        now = time.monotonic()
        if waiting_since is None:
            waiting_since = now
            if options.eval_timeout_secs:
                print(
                    f"waiting for a checkpoint in {options.train_dir}", file=sys.stderr
                )
        if 0 <= options.eval_timeout_secs <= now - waiting_since:
            return
        time.sleep(POLL_SECONDS)


def _own_checkpoints(
    options: EvalOptions, run: Run, evaluation: EvalFolder
) -> list[str]:
    """The checkpoints of this evaluator: every k-th, and of these every n-th; or one.

    They are counted in the order in which the evaluators of eval_dir first saw them.
    This order does not change if training deletes old ones, or at a restart.
    """
    if options.eval_checkpoint:
        return list(options.eval_checkpoint)
    prefixes = run.checkpoints()
    index, num_evaluators = options.eval_shard
    if options.eval_every_k == num_evaluators == 1:
        return prefixes
    steps = [checkpoint_step(prefix) for prefix in prefixes]
    seen = evaluation.steps_seen(steps)
    own = set(seen[:: options.eval_every_k][index::num_evaluators])
    return [prefix for step, prefix in zip(steps, prefixes) if step in own]


class _Evaluator:
    """Evaluates checkpoints of one network on the same N clips."""

    def __init__(
        self,
        options: EvalOptions,
        evaluation: EvalFolder,
        clips: Clips,
        class_names: Sequence[str],
    ):
        self._options = options
        self._evaluation = evaluation
        self._clips = clips
        self._class_names = class_names
        self._writer = tf.summary.create_file_writer(options.eval_dir)
        self._contents = {
            "clips": clips.identity(options.eval_clip_dir),
            "class_names": list(class_names),
            "mixed_precision": options.mixed_precision,
        }
        self._settings = None  # model and hyperparameters, known when the run has begun
        self._network = None  # built with the first checkpoint

    def check(self) -> Run:
        """Checks that the results are of this evaluation, as far as it is known yet.

        Raises:
          UserError: there are results for another one.
        """
        run = Run(self._options.train_dir)
        if not run.checkpoints():
            self._evaluation.check(self._contents, write=False)
            return run
        is_first = self._settings is None
        self._settings = self._settings or run.settings(
            model_name=self._options.model,
            overrides=self._options.hparams,
            class_names=self._class_names,
        )
        model_name, hparams = self._settings
        values = hparams.model_values()
        started = {"run": run.id, "model": model_name, "hparams": values}
        self._evaluation.check(self._contents | started, write=True)
        if is_first:  # It reads all results. Later ones have fingerprints.
            self._evaluation.adopt_results()
        return run

    def evaluate(self, prefix: str) -> None:
        """Scores all clips with a checkpoint, then prints and writes lwlrap.

        Raises:
          UnreadableError: the checkpoint cannot be read.
          UserError: a score is not finite, or a result cannot be written.
        """
        run = self.check()
        if not self._options.eval_checkpoint:  # Otherwise, Run.find has reported it.
            run.report_misplacement(prefix)
        step, crc32 = checkpoint_step(prefix), fingerprint(prefix)
        self._load(prefix)
        started = time.monotonic()
        functions = [(f"step {step}", self._score_function)]
        scores = self._score_clips(functions, self._batches)
        lwlrap = self._lwlrap(scores)
        seconds = time.monotonic() - started
        print_result(
            f"step {step}, all {len(scores)} clips in {seconds:.1f} s:\n{lwlrap}"
        )
        # The averages of frozen layers are those of another data set, on purpose.
        if step and not (run.record and run.record.training.get("train_scopes")):
            batches = (features for features, _ in inputs.read_batches(self._batches))
            batches = itertools.islice(batches, LAG_BATCHES)
            report_lag(step, self._network, self._settings[1], batches)
        # As in the original: after one clip more than this fraction, rounded down.
        partial = self._lwlrap(scores[: int(PARTIAL_FRACTION * len(scores)) + 1])
        with self._writer.as_default(step=step):
            tf.summary.scalar("Lwlrap", lwlrap.overall_lwlrap())
            tf.summary.scalar("Lwlrap-5%", partial.overall_lwlrap())
        arrays = self._arrays(scores)
        self._evaluation.write_result(step, f"{lwlrap}\n", crc32=crc32, **arrays)

    def evaluate_mean(self, found: Sequence[Checkpoint]) -> None:
        """Averages the scores of checkpoints, then prints and writes lwlrap.

        Raises:
          UserError: a checkpoint cannot be used, a score is not finite, or eval_dir has
            results of a run.
        """
        names, mean = [describe(prefix) for _, prefix in found], 0
        self._evaluation.claim(names)
        networks = []
        for checkpoint in found:
            network, hparams = model.load_network(
                checkpoint,
                self._class_names,
                model_name=self._options.model,
                hparam_overrides=self._options.hparams,
                mixed_precision=self._options.mixed_precision,
            )
            networks.append((checkpoint.prefix, network, hparams))
        for hparams, functions in model.group_by_features(networks):
            batches = inputs.clip_input(self._clips, hparams)
            share = len(functions) / len(found)
            mean += self._score_clips(functions, batches) * share
        lwlrap = self._lwlrap(mean)
        print_result(f"{', '.join(names)}, all {len(mean)} clips:\n{lwlrap}")
        self._evaluation.write_result(0, f"{lwlrap}\n", **self._arrays(mean))

    def _arrays(self, scores: np.ndarray) -> dict[str, Any]:
        """The arrays of a result."""
        return dict(
            class_names=self._class_names,
            clips=self._clips.names(self._options.eval_clip_dir),
            labels=self._clips.labels,
            scores=scores,
        )

    def _load(self, prefix: str) -> None:
        """Restores a checkpoint. The first one also builds network and features."""
        model_name, hparams = self._settings
        if self._network is None:
            print(
                f"{prefix}: {model_name}, hyperparameters: {hparams}", file=sys.stderr
            )
            self._network = model.define_model(
                model_name,
                num_classes=len(self._class_names),
                hparams=hparams,
                mixed_precision=self._options.mixed_precision,
            )
            self._score_function = model.score_function(self._network)
            self._batches = inputs.clip_input(self._clips, hparams)
            with self._writer.as_default():
                summaries.write_hparams(hparams, self._options.train_dir)
        variables = checkpoints.network_variables(self._network)
        checkpoints.restore(prefix, variables)

    def _score_clips(
        self,
        functions: Sequence[tuple[str, Callable[[tf.Tensor], tf.Tensor]]],
        batches: tf.data.Dataset,
    ) -> np.ndarray:
        """The mean scores of networks for all clips, float64 [N, C] in [0, 1].

        Args:
          functions, batches: see `model.score_clips`.
        """
        name = ", ".join(name for name, _ in functions)
        num_clips, paths = len(self._clips), self._clips.paths
        scores = np.zeros([num_clips, len(self._class_names)])
        last_printed = time.monotonic()
        batches = inputs.read_batches(batches)
        with progress_bar(num_clips, what=name, unit="clip") as bar:
            for index, score in model.score_clips(functions, batches, paths):
                scores[index] = score
                bar.update()
                if time.monotonic() - last_printed > RUNNING_PRINT_SECONDS:
                    done = index + 1
                    running = self._lwlrap(scores[:done])
                    print_result(f"{name}, {done} of {num_clips} clips:\n{running}")
                    last_printed = time.monotonic()
        return scores

    def _lwlrap(self, scores: np.ndarray) -> Lwlrap:
        """The lwlrap of the first len(scores) clips."""
        lwlrap = Lwlrap(self._class_names)
        lwlrap.accumulate(self._clips.labels[: len(scores)], scores)
        return lwlrap
