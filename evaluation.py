"""Computes the lwlrap of checkpoints, also during training. Used by --mode eval."""

import contextlib
import os
import pathlib
import sys
import time
from collections.abc import Iterator, Sequence

import numpy as np
import tensorflow as tf

import inputs
import model
from tagger.data.clips import Clips, read_clips
from tagger.errors import UserError
from tagger.metrics.lwlrap import Lwlrap
from tagger.options import EvalOptions
from tagger.runs import checkpoints, results
from tagger.terminal import machine
from tagger.terminal.files import atomic, locked, make_folder, write_whole
from tagger.terminal.progress import print_result, progress_bar
from tagger.training import summaries

SHUFFLE_SEED = 0  # The same order for all checkpoints makes Lwlrap-5% comparable.
PARTIAL_FRACTION = 0.05  # of the clips, for Lwlrap-5%
RUNNING_PRINT_SECONDS = 30
POLL_SECONDS = 2
MAX_SAME_RANKING = 0.95  # Share of the clips; a note is printed above it.


def evaluate(options: EvalOptions) -> None:
    """Evaluates all checkpoints in train_dir, oldest first, then waits for new ones.

    Writes `eval-N.txt` for each checkpoint and TensorBoard's events to eval_dir. A
    checkpoint that has an `eval-N.txt` is not evaluated again. A checkpoint that cannot
    be read is reported and skipped.

    Raises:
      UserError: an input cannot be used; the message names it.
      UserError: a score is not finite; the message names the clip.
    """
    class_names, clips = read_clips(
        csv_path=options.eval_csv_path,
        clip_dir=options.eval_clip_dir,
        class_map_path=options.class_map_path,
        train_dir=options.train_dir,
        flag_prefix="eval",
    )
    device = machine.describe_platform(mixed_precision=options.mixed_precision)
    print(device, clips, sep="\n", file=sys.stderr)
    clips = clips.take(np.random.default_rng(SHUFFLE_SEED).permutation(len(clips)))
    _report_empty_classes(clips, class_names)
    if not os.path.isdir(options.train_dir):
        message = f"--train_dir: there is no folder {options.train_dir}"
        if options.eval_timeout_secs == 0:
            raise UserError(message)
        print(f"note: {message} yet", file=sys.stderr)
    make_folder(options.eval_dir, "--eval_dir")
    _check_same_run(options, clips, class_names)
    prefix = None
    with _locked_part(options):
        evaluator = _Evaluator(options, clips, class_names)
        try:
            for prefix in _new_checkpoints(options):
                _check_same_run(options, clips, class_names)
                try:
                    evaluator.evaluate(prefix)
                except checkpoints.UnreadableError as error:
                    print(f"skipped: {error}", file=sys.stderr)
        finally:
            _report_best(options.eval_dir)
    existing = checkpoints.list_checkpoints(options.train_dir)
    if not existing or (prefix and not results.read_results(options.eval_dir)):
        raise UserError(
            f"--train_dir: there is no checkpoint in {options.train_dir} that can be "
            f"read"
        )


def _report_empty_classes(clips: Clips, class_names: Sequence[str]) -> None:
    empty = [class_names[index] for index in np.flatnonzero(~clips.labels.any(axis=0))]
    if empty:
        print(
            f"note: no clip has the label {', '.join(empty)}; the lwlrap of such a "
            f"class is shown as 0 and does not affect the overall value",
            file=sys.stderr,
        )


def _check_same_run(
    options: EvalOptions, clips: Clips, class_names: Sequence[str]
) -> None:
    """Checks that eval_dir has no results for other checkpoints, clips or labels.

    The first evaluator writes what it evaluates to `evaluated.json`, as soon as there
    is a checkpoint.

    Raises:
      UserError: eval_dir has results of another evaluation.
    """
    path = pathlib.Path(options.eval_dir) / results.CONTENTS_FILE
    text = results.describe_run(
        options.eval_dir, options.train_dir, clips.checksum(class_names)
    )
    if not path.exists():
        if checkpoints.list_checkpoints(options.train_dir):
            write_whole(path, text)
    elif path.read_text(encoding="utf-8", errors="replace") != text:
        raise UserError(
            f"--eval_dir: {options.eval_dir} has results for another run, clips, "
            f"labels or classes; choose another folder (or delete {path} if "
            f"--train_dir was only moved)"
        )


def _locked_part(options: EvalOptions) -> contextlib.AbstractContextManager[None]:
    """Locks this evaluator's part; a UserError if another one has locked it."""
    index, num_evaluators = options.eval_shard
    error = UserError(
        f"--eval_dir: another evaluator writes to {options.eval_dir}; several can "
        f"share the work with --eval_shard"
    )
    path = os.path.join(options.eval_dir, f".lock-{index}-of-{num_evaluators}")
    return locked(path, error)


def _new_checkpoints(options: EvalOptions) -> Iterator[str]:
    """Yields the checkpoints of this evaluator without a marker, and waits for more.

    A checkpoint that could not be read has no marker. It is not yielded again.
    """
    yielded = set()
    waiting_since = None

    def is_new(prefix: str) -> bool:
        step = checkpoints.checkpoint_step(prefix)
        marker = results.marker_path(options.eval_dir, step)
        return prefix not in yielded and not marker.exists()

    while True:
        if prefix := next(filter(is_new, _own_checkpoints(options)), None):
            yielded.add(prefix)
            waiting_since = None
            yield prefix
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


def _own_checkpoints(options: EvalOptions) -> list[str]:
    """The checkpoints of this evaluator: every k-th, and of these every n-th.

    They are counted in the order in which the evaluators of eval_dir first saw them.
    This order does not change if training deletes old ones, or at a restart.
    """
    prefixes = checkpoints.list_checkpoints(options.train_dir)
    index, num_evaluators = options.eval_shard
    if options.eval_every_k == num_evaluators == 1:
        return prefixes
    steps = [checkpoints.checkpoint_step(prefix) for prefix in prefixes]
    seen = results.steps_seen(options.eval_dir, steps)
    own = set(seen[:: options.eval_every_k][index::num_evaluators])
    return [prefix for step, prefix in zip(steps, prefixes) if step in own]


class _Evaluator:
    """Evaluates checkpoints of one network on the same N clips."""

    def __init__(self, options: EvalOptions, clips: Clips, class_names: Sequence[str]):
        self._options = options
        self._clips = clips
        self._class_names = class_names
        self._writer = tf.summary.create_file_writer(options.eval_dir)
        self._network = None  # built with the first checkpoint

    def evaluate(self, prefix: str) -> None:
        """Scores all clips with a checkpoint, then prints and writes lwlrap.

        Raises:
          UnreadableError: the checkpoint cannot be read.
          UserError: a score is not finite.
        """
        step = checkpoints.checkpoint_step(prefix)
        self._load(prefix)
        started = time.monotonic()
        scores = self._score_clips(step)
        lwlrap = self._lwlrap(scores)
        seconds = time.monotonic() - started
        print_result(
            f"step {step}, all {len(scores)} clips in {seconds:.1f} s:\n{lwlrap}"
        )
        same = max_same_ranking(scores)
        if len(scores) > 1 and same > MAX_SAME_RANKING * len(scores):
            print(
                f"note: at step {step}, {same} of {len(scores)} clips have the same "
                f"ranking of classes; early in training, the moving averages of batch "
                f"norm can lag behind (see bndecay in docs/reference.md)",
                file=sys.stderr,
            )
        # As in the original: after one clip more than this fraction, rounded down.
        partial = self._lwlrap(scores[: int(PARTIAL_FRACTION * len(scores)) + 1])
        with self._writer.as_default(step=step):
            tf.summary.scalar("Lwlrap", lwlrap.overall_lwlrap())
            tf.summary.scalar("Lwlrap-5%", partial.overall_lwlrap())
        eval_dir, text = self._options.eval_dir, f"{lwlrap}\n"
        found = results.read_results(eval_dir) | {step: results.read_overall(text)}
        # After a kill in between, the step has no marker, and is evaluated again.
        if results.best_step(found) == step:
            self._write_scores(step, scores)
        write_whole(results.marker_path(eval_dir, step), text)

    def _write_scores(self, step: int, scores: np.ndarray) -> None:
        """Writes what `tools.report` needs of the best checkpoint, atomically."""
        clip_dir = self._options.eval_clip_dir
        with atomic(pathlib.Path(self._options.eval_dir) / results.SCORES_FILE) as file:
            np.savez_compressed(
                file,
                step=step,
                class_names=np.array(self._class_names),
                clips=np.array(
                    [os.path.relpath(p, clip_dir) for p in self._clips.paths]
                ),
                labels=self._clips.labels,
                scores=scores,
            )

    def _load(self, prefix: str) -> None:
        """Restores a checkpoint. The first one also builds network and features."""
        if self._network is not None:
            variables = checkpoints.network_variables(self._network)
            checkpoints.restore(prefix, variables)
            return
        self._network, hparams = model.load_network(
            prefix,
            self._class_names,
            model_name=self._options.model,
            hparam_overrides=self._options.hparams,
            mixed_precision=self._options.mixed_precision,
        )
        self._score_function = model.score_function(self._network)
        self._batches = inputs.clip_input(self._clips, hparams)
        with self._writer.as_default():
            summaries.write_hparams(hparams, self._options.train_dir)

    def _score_clips(self, step: int) -> np.ndarray:
        """The scores of all clips, float64 [N, C] in [0, 1]."""
        num_clips = len(self._clips)
        scores = np.zeros([num_clips, len(self._class_names)])
        last_printed = time.monotonic()
        batches = inputs.read_batches(self._batches)
        with progress_bar(num_clips, what=f"step {step}", unit="clip") as bar:
            for index, score in model.clip_scores(self._score_function, batches):
                if not np.isfinite(score).all():
                    raise UserError(
                        f"step {step}: the scores of {self._clips.paths[index]} are "
                        f"not finite"
                    )
                scores[index] = score
                bar.update()
                if time.monotonic() - last_printed > RUNNING_PRINT_SECONDS:
                    done = index + 1
                    running = self._lwlrap(scores[:done])
                    print_result(
                        f"step {step}, {done} of {num_clips} clips:\n{running}"
                    )
                    last_printed = time.monotonic()
        return scores

    def _lwlrap(self, scores: np.ndarray) -> Lwlrap:
        """The lwlrap of the first len(scores) clips."""
        lwlrap = Lwlrap(self._class_names)
        lwlrap.accumulate(self._clips.labels[: len(scores)], scores)
        return lwlrap


def max_same_ranking(scores: np.ndarray) -> int:
    """The number of clips with the most common ranking of classes.

    Args:
      scores: float [N, C], N > 0.
    """
    _, counts = np.unique(scores.argsort(axis=1), axis=0, return_counts=True)
    return int(counts.max())


def _report_best(eval_dir: str) -> None:
    """Prints the best step."""
    found = results.read_results(eval_dir)
    if found:
        best = results.best_step(found)
        print(
            f"best so far: step {best}, overall lwlrap {found[best]:.6f}",
            file=sys.stderr,
        )
