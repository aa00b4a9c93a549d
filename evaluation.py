"""Evaluates checkpoints by lwlrap as training writes them. Called in --mode eval."""

import csv
import dataclasses
import fcntl
import io
import json
import os
import pathlib
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import inputs
import model
from tagger import checkpoints, distribution, plots, summaries
from tagger.clips import Clips, read_clips
from tagger.files import lock, make_folder, write_whole
from tagger.hparams import Hparams
from tagger.lwlrap import Lwlrap
from tagger.progress import counted, print_result, progress_bar

PARTIAL_SHARE = 0.05  # of the clips, for the quick scalar
PARTIAL_NAME = "Lwlrap-5%"
SHUFFLE_SEED = 0  # One order for all checkpoints, so that their partial values compare.
RUNNING_PRINT_SECONDS = 30
POLL_SECONDS = 2
SUMMARY_FILE = "lwlrap.csv"
SUMMARY_PICTURE = "lwlrap.png"
SUMMARY_LOCK_FILE = ".lwlrap.lock"
CONTENTS_FILE = "evaluated.json"  # of what the results in an eval_dir are
ALIKE = 1e-3  # Scores whose range over all clips is smaller separate no clips.


@dataclasses.dataclass(frozen=True)
class Share:
    """The checkpoints of an evaluator: every k-th, and of those every n-th."""

    every_k: int = 1
    shard: int = 0
    num_shards: int = 1

    def of(self, prefixes: Sequence[str]) -> list[str]:
        """Those of a list of checkpoints, oldest first, that are this evaluator's."""
        return list(prefixes[:: self.every_k][self.shard :: self.num_shards])


def evaluate(
    *,
    model_name: str,
    hparam_overrides: Mapping[str, Any],
    class_map_path: str,
    eval_clip_dir: str,
    eval_csv_path: str,
    train_dir: str,
    eval_dir: str,
    share: Share,
    timeout_secs: float,
    mixed_precision: bool = False,
) -> None:
    """Evaluates all checkpoints of train_dir, oldest first, then waits for new ones.

    Writes `eval-N.txt`, `per_class-N.png`, `lwlrap.csv`, `lwlrap.png` and TensorBoard's
    events into eval_dir. See runner.py for the flags of these names.

    Args:
      share: which checkpoints are this evaluator's.
      timeout_secs: how long to wait for a new checkpoint; 0: not at all; negative: for
        ever.

    Raises:
      ValueError, OSError: inputs that cannot be used; what to do about it.
      FloatingPointError: a score is not finite.
    """
    class_names, clips = read_clips(
        csv_path=eval_csv_path,
        clip_dir=eval_clip_dir,
        class_map_path=class_map_path,
        train_dir=train_dir,
        flag_prefix="eval",
    )
    print(distribution.describe_platform(), clips, sep="\n", file=sys.stderr)
    clips = _shuffle(clips)
    _report_empty_classes(clips, class_names)
    make_folder(eval_dir, "--eval_dir")
    _check_same_clips(eval_dir, clips, class_names, train_dir)
    results = _Results(eval_dir, class_names)
    results.write()
    evaluator = None
    try:
        for prefix in _pending_checkpoints(train_dir, eval_dir, share, timeout_secs):
            try:
                if evaluator is None:
                    network, hparams = model.load_network(
                        prefix,
                        class_names,
                        model_name=model_name,
                        hparam_overrides=hparam_overrides,
                        mixed_precision=mixed_precision,
                    )
                    evaluator = _Evaluator(network, hparams, clips, results)
                    evaluator.write_hparams(train_dir)
                else:
                    variables = checkpoints.network_variables(network)
                    checkpoints.restore(prefix, variables)
                evaluator.evaluate(checkpoints.checkpoint_step(prefix))
            except checkpoints.UnreadableError as error:
                print(f"skipped: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        results.report()
        raise
    if not checkpoints.list_checkpoints(train_dir):
        raise ValueError(f"--train_dir: there is no whole checkpoint in {train_dir}")
    results.report()


def _shuffle(clips: Clips) -> Clips:
    """The clips in the one order that all evaluations have."""
    return clips.take(np.random.default_rng(SHUFFLE_SEED).permutation(len(clips)))


def _check_same_clips(
    eval_dir: str, clips: Clips, class_names: Sequence[str], train_dir: str
) -> None:
    """Keeps in eval_dir what is evaluated, and compares it with what was before.

    Raises:
      ValueError: its results are of other clips, labels or classes.
    """
    path = pathlib.Path(eval_dir) / CONTENTS_FILE
    checksum = clips.checksum(class_names)
    contents = {"train_dir": os.path.realpath(train_dir), "clips_crc32": checksum}
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
        if before["clips_crc32"] != checksum:
            raise ValueError(
                f"--eval_dir: {eval_dir} has results of other clips, labels or "
                f"classes; name another folder"
            )
        if before["train_dir"] != contents["train_dir"]:
            print(
                f"warning: {eval_dir} has results of checkpoints in "
                f"{before['train_dir']}; steps that have one are not evaluated again "
                f"(right only if that folder was moved)",
                file=sys.stderr,
            )
    except (FileNotFoundError, KeyError, TypeError, json.JSONDecodeError):
        write_whole(path, json.dumps(contents, indent=2) + "\n")


def _report_empty_classes(clips: Clips, class_names: Sequence[str]) -> None:
    empty = [class_names[index] for index in np.flatnonzero(~clips.labels.any(axis=0))]
    if empty:
        print(
            f"note: no clip is labelled {', '.join(empty)}; such classes are listed "
            f"with 0 and count nothing",
            file=sys.stderr,
        )


def _marker_path(eval_dir: str, step: int) -> pathlib.Path:
    return pathlib.Path(eval_dir) / f"eval-{step}.txt"


@dataclasses.dataclass(frozen=True)
class _Marker:
    """The decimals in an `eval-N.txt`: overall, and by class name."""

    overall: str
    by_class: dict[str, str]


def _read_marker(path: pathlib.Path) -> _Marker | None:
    """What a marker holds; None if it is not one."""
    text = path.read_text(encoding="utf-8", errors="replace")
    values = re.findall(r"^Lwlrap\((.*)\) = (\d\.\d+)$", text, re.MULTILINE)
    overall = re.search(r"^Overall lwlrap = (\d\.\d+)$", text, re.MULTILINE)
    return _Marker(overall[1], dict(values)) if overall else None


class _Results:
    """What has been evaluated into an eval_dir, also by other evaluators.

    Attributes:
      eval_dir: the folder.
      class_names: C names.
    """

    def __init__(self, eval_dir: str, class_names: Sequence[str]):
        self.eval_dir = eval_dir
        self.class_names = class_names
        self._markers: dict[int, _Marker] = {}  # by step, in order
        self._num_evaluated = 0

    def add(self, step: int, lwlrap: Lwlrap) -> None:
        """Writes the marker of a step, and then all that sums up the markers."""
        write_whole(_marker_path(self.eval_dir, step), f"{lwlrap}\n")
        self._num_evaluated += 1
        self.write()

    def best_except(self, excluded: int | None = None) -> tuple[int, _Marker] | None:
        """The first step with the highest overall value; None if there is none."""
        steps = [step for step in self._markers if step != excluded]
        if not steps:
            return None
        best = max(steps, key=lambda step: float(self._markers[step].overall))
        return best, self._markers[best]

    def write(self) -> None:
        """Writes all markers as one table, a row per step, and overall as a picture.

        One evaluator at a time, so that the last to write has seen all markers.
        """
        folder = pathlib.Path(self.eval_dir)
        with open(folder / SUMMARY_LOCK_FILE, "w") as file:
            lock(file, fcntl.LOCK_EX)
            self._read()
            text = io.StringIO()
            table = csv.writer(text, lineterminator="\n")
            table.writerow(["step", "overall", *self.class_names])
            for step, marker in self._markers.items():
                by_class = [marker.by_class.get(name, "") for name in self.class_names]
                table.writerow([step, marker.overall, *by_class])
            write_whole(folder / SUMMARY_FILE, text.getvalue())
            if self._markers:
                overall = {step: float(m.overall) for step, m in self._markers.items()}
                write_whole(folder / SUMMARY_PICTURE, plots.lwlrap_picture(overall))

    def _read(self) -> None:
        """Reads the markers that are new, and forgets those that are gone."""
        markers = {}
        for path in pathlib.Path(self.eval_dir).iterdir():
            if match := re.fullmatch(r"eval-(\d+)\.txt", path.name):
                step = int(match[1])
                if marker := self._markers.get(step) or _read_marker(path):
                    markers[step] = marker
        self._markers = dict(sorted(markers.items()))

    def report(self) -> None:
        """Says how many checkpoints were evaluated, and which of all is the best."""
        print(
            f"{counted(self._num_evaluated, 'checkpoint')} evaluated; results are in "
            f"{self.eval_dir}",
            file=sys.stderr,
        )
        if best := self.best_except():
            print(
                f"best so far: step {best[0]}, overall lwlrap {best[1].overall}",
                file=sys.stderr,
            )


def _pending_checkpoints(
    train_dir: str, eval_dir: str, share: Share, timeout_secs: float
) -> Iterator[str]:
    """Yields this evaluator's checkpoints without a marker, oldest first, and waits.

    One that still has no marker when it comes up again could not be read; it is yielded
    again only when its file has changed.
    """
    tried: dict[str, float] = {}
    waiting_since = None
    while True:
        for prefix in share.of(checkpoints.list_checkpoints(train_dir)):
            marker = _marker_path(eval_dir, checkpoints.checkpoint_step(prefix))
            written = checkpoints.time_written(prefix)
            if not marker.exists() and tried.get(prefix) != written:
                tried[prefix] = written
                waiting_since = None
                yield prefix
                break
        else:
            now = time.monotonic()
            if waiting_since is None:
                waiting_since = now
                if timeout_secs:
                    there = "" if os.path.isdir(train_dir) else ", not there yet"
                    print(
                        f"waiting for a checkpoint in {train_dir}{there}",
                        file=sys.stderr,
                    )
            if 0 <= timeout_secs <= now - waiting_since:
                return
            time.sleep(POLL_SECONDS)


class _Evaluator:
    """The clips, their features and a network, for all checkpoints to come."""

    def __init__(
        self, network: keras.Model, hparams: Hparams, clips: Clips, results: _Results
    ):
        self._clips = clips
        self._results = results
        self._class_names = results.class_names
        self._network = network
        self._hparams = hparams
        self._scores = model.score_function(network)
        self._num_clips = clips.labels.astype(bool).sum(axis=0)  # int [C]
        self._batches = inputs.clip_input(clips, hparams)
        self._writer = tf.summary.create_file_writer(results.eval_dir)

    def write_hparams(self, train_dir: str) -> None:
        """Writes the hyperparameters of the run in train_dir to TensorBoard."""
        with self._writer.as_default():
            summaries.write_hparams(self._hparams, train_dir)

    def evaluate(self, step: int) -> None:
        """Scores every clip with the weights of a step, prints lwlrap, and writes it.

        Raises:
          FloatingPointError: a score is not finite.
        """
        started = time.monotonic()
        lwlrap, partial = self._score(step)
        seconds = time.monotonic() - started
        print_result(
            f"step {step}, all {len(self._clips)} clips in {seconds:.1f} s:\n{lwlrap}"
        )
        picture = self._per_class_picture(lwlrap, step)
        with self._writer.as_default(step=step):
            tf.summary.scalar("Lwlrap", lwlrap.overall_lwlrap())
            tf.summary.scalar(PARTIAL_NAME, partial)
            summaries.write_picture("per_class", picture, step=step)
            summaries.write_per_class(
                lwlrap.per_class_lwlrap(),
                self._num_clips,
                self._class_names,
                step=step,
            )
            self._writer.flush()
        path = pathlib.Path(self._results.eval_dir) / f"per_class-{step}.png"
        write_whole(path, picture)
        self._results.add(step, lwlrap)

    def _per_class_picture(self, lwlrap: Lwlrap, step: int) -> bytes:
        """A PNG of lwlrap per class, beside that of the best of the other steps."""
        other_values, other_title = None, ""
        if best := self._results.best_except(step):
            other, marker = best
            other_values = np.array(
                [float(marker.by_class.get(name, "nan")) for name in self._class_names]
            )
            other_title = f"best of the others: step {other}, {marker.overall}"
        return plots.per_class_picture(
            lwlrap.per_class_lwlrap(),
            self._num_clips,
            class_names=self._class_names,
            title=f"step {step}: overall lwlrap {lwlrap.overall_lwlrap():.6f}",
            other_values=other_values,
            other_title=other_title,
        )

    def _score(self, step: int) -> tuple[Lwlrap, float]:
        """The metric over all clips, and overall after the first PARTIAL_SHARE."""
        num_clips = len(self._clips)
        num_partial = max(1, int(PARTIAL_SHARE * num_clips))
        lwlrap, partial = Lwlrap(self._class_names), 0.0
        last_printed = time.monotonic()
        lowest, highest = np.inf, -np.inf
        with progress_bar(num_clips, what=f"step {step}", unit="clip") as bar:
            for position, scores in self._clip_scores():
                lowest = np.minimum(lowest, scores)
                highest = np.maximum(highest, scores)
                lwlrap.accumulate(self._clips.labels[[position]], scores[np.newaxis])
                bar.update()
                done = position + 1
                if done == num_partial:
                    partial = lwlrap.overall_lwlrap()
                if time.monotonic() - last_printed > RUNNING_PRINT_SECONDS:
                    print_result(f"step {step}, {done} of {num_clips} clips:\n{lwlrap}")
                    last_printed = time.monotonic()
        if num_clips > 1 and np.max(highest - lowest) < ALIKE:
            print(
                f"note: at step {step} all clips have nearly the same scores; early in "
                f"training, batch norm's moving averages lag behind (see bndecay)",
                file=sys.stderr,
            )
        return lwlrap, partial

    def _clip_scores(self) -> Iterator[tuple[int, np.ndarray]]:
        batches = inputs.read_batches(self._batches)
        for position, scores in model.clip_scores(self._scores, batches):
            if not np.isfinite(scores).all():
                raise FloatingPointError(
                    f"the scores of {self._clips.paths[position]} are not finite; "
                    f"the checkpoint is broken"
                )
            yield position, scores
