"""Fits the last layer to clips or events, and writes what was found."""

import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from recordings.annotations import Event
from recordings.choosing import write_chosen_rules
from recordings.examples import heard_labels, mixture_examples, read_events
from recordings.segments import Tags
from tagger.data.clips import Clips, read_clips
from tagger.data.csv_files import read_rows
from tagger.data.splits import assign_folds, groups_of
from tagger.errors import UserError
from tagger.hparams import SAMPLE_RATE, Hparams
from tagger.metrics.lwlrap import Lwlrap
from tagger.runs.checkpoint_files import describe, fingerprint
from tagger.runs.eval_folder import EvalFolder
from tagger.terminal.files import make_folder
from tagger.terminal.progress import counted, print_result
from tagger.training import last_layer
from tools.fit_last_layer.embedding import (
    define_embedder,
    embed,
    embed_mixtures,
    load_layers,
)

MAX_NAMES = 8  # of clips with doubtful labels that are listed


def groups_for_folds(groups: np.ndarray, num_folds: int) -> np.ndarray:
    """The groups of N clips, or if they are fewer than the folds, a group per clip."""
    if len(np.unique(groups)) >= num_folds:
        return groups
    print(
        f"note: cross-validation divides recordings, because there are fewer than "
        f"{num_folds}",
        file=sys.stderr,
    )
    return np.arange(len(groups)).astype(str)


def clip_scores(solved: Any, positions: np.ndarray) -> np.ndarray:
    """The scores of N clips in the cross-validation, the means over their examples.

    Args:
      solved: from `last_layer.fit`.
      positions: int [E], the clips of the examples.

    Returns:
      float64 [N, C].
    """
    scores = np.zeros([positions.max() + 1, len(solved.biases)])
    np.add.at(scores, positions, solved.scores)
    return scores / np.bincount(positions)[:, np.newaxis]


def scored_clips(
    solved: Any,
    positions: np.ndarray,
    clips: Clips,
    events: Sequence[Sequence[Event]],
) -> list[tuple[Tags, Sequence[Event]]]:
    """The scores of N clips in cross-validation, and their events.

    Args:
      solved: see `last_layer.fit`.
      positions: int [E], the clips of the examples.
      clips: the N clips.
      events: the events of each clip.
    """
    scores = solved.scores.astype(np.float64)
    return [
        (Tags(size / SAMPLE_RATE, scores[positions == index], None, None), known)
        for index, (size, known) in enumerate(zip(clips.num_samples, events))
    ]


def print_skipped(clips: Clips, skipped: np.ndarray) -> None:
    """Prints which clips have doubtful labels, bool [N]."""
    names = [os.path.basename(clips.paths[index]) for index in np.flatnonzero(skipped)]
    listed = ", ".join(names[:MAX_NAMES]) + ", ..." * (len(names) > MAX_NAMES)
    print_result(
        f"skipped {len(names)} of {counted(len(clips), 'clip')}, whose labels are "
        f"doubtful: {listed or 'none'}"
    )


def write_cross_validation(
    scores: np.ndarray,
    clips: Clips,
    class_names: Sequence[str],
    *,
    num_folds: int,
    clip_dir: str,
    checkpoint: Any,
    eval_dir: str,
) -> None:
    """Prints the lwlrap of the cross-validation, and writes it like an evaluation.

    Args:
      scores: float64 [N, C].
      clips: the N clips.
      class_names: C names.
      num_folds: number of folds.
      clip_dir: the folder of the clips.
      checkpoint: the `Checkpoint` that was solved.
      eval_dir: folder to write to; empty: none.

    Raises:
      UserError: the folder has other results, or cannot be written.
    """
    lwlrap = Lwlrap(class_names)
    lwlrap.accumulate(clips.labels, scores)
    print_result(f"{num_folds}-fold cross-validation:\n{lwlrap}")
    if not eval_dir:
        return
    run, prefix = checkpoint
    make_folder(eval_dir, "--eval_dir")
    folder = EvalFolder(eval_dir, run.directory)
    contents = {"run": run.id, "clips": clips.identity(clip_dir)}
    folder.check(contents | {"scores_of": ["cross-validation"]}, write=True)
    folder.write_result(
        0,
        f"{lwlrap}\n",
        crc32=fingerprint(prefix),
        class_names=class_names,
        clips=clips.names(clip_dir),
        labels=clips.labels,
        scores=scores,
    )


def compute_examples(
    network: Any,
    hparams: Hparams,
    clips: Clips,
    class_names: Sequence[str],
    events: Sequence[Sequence[Event]] | None,
    folds: np.ndarray,
    *,
    mixtures: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Computes the examples of N clips, and their mixtures.

    Args:
      network, hparams: see `load_layers`.
      clips: the N clips.
      class_names: C names.
      events: the events of each clip; None: examples have the labels of their clips.
      folds: int [N], the fold of each clip.
      mixtures: see `mixture_examples`; only with events.

    Returns:
      float32 [E, D], embeddings; [E, C], targets; int [E], folds; and int, the
      positions of the clips of the first examples. The others are mixtures.
    """
    embedder = define_embedder(network)
    embeddings, positions = embed(embedder, clips, hparams)
    targets, mixed = clips.labels[positions], []
    if events is not None:
        targets = heard_labels(events, positions, class_names, hparams)
        examples = mixture_examples(
            clips, events, folds, class_names, hparams, rounds=mixtures
        )
        mixed = embed_mixtures(embedder, examples)
    parts = zip((embeddings, targets, folds[positions]), *mixed)
    return *map(np.concatenate, parts), positions


def save(
    run: Any, network: Any, solved: Any, hparams: Hparams, class_names: Sequence[str]
) -> str:
    """Writes model.ckpt-0 with the solved layer, and hparams.json; returns its prefix.

    Args:
      run: the `Run` to write to.
      network: `keras.Model`.
      solved: see `last_layer.fit`.
      hparams: hyperparameters of the network.
      class_names: C names.
    """
    from tagger.network.layers import LAST_LAYER
    from tagger.runs import checkpoints

    network.get_layer(LAST_LAYER).set_weights([solved.weights, solved.biases])
    run.write_record(model_name=network.name, hparams=hparams, class_names=class_names)
    values = checkpoints.network_variables(network)
    return run.save(values | {checkpoints.GLOBAL_STEP: np.int64(0)}, step=0)


def fit_last_layer(
    *,
    checkpoint: str,
    class_map_path: str,
    clip_dir: str,
    csv_path: str,
    train_dir: str,
    c: float | None = None,
    num_folds: int = last_layer.NUM_FOLDS,
    group_by: str = "",
    skip_doubtful: bool = False,
    hparam_overrides: Mapping[str, Any] | None = None,
    mixed_precision: bool = False,
    events_path: str = "",
    mixtures: int = 0,
    thresholds_path: str = "",
    precision: float | None = None,
    eval_dir: str = "",
) -> None:
    """Solves the last layer, and writes the network to train_dir; see above.

    Args:
      checkpoint: see `Run.find`.
      class_map_path: class map of the C classes.
      clip_dir, csv_path: the N clips, with labels.
      train_dir: folder without checkpoints.
      c, num_folds: see `last_layer.fit`.
      group_by: column of the groups; empty: see `splits.groups_of`.
      skip_doubtful: whether doubtful clips are left out, see `last_layer.doubtful`.
      hparam_overrides: hyperparameters for a checkpoint without hparams.json.
      mixed_precision: see `model.define_model`.
      events_path: CSV with the times of the labels in the clips; empty: the examples
        have the labels of their clips.
      mixtures: see `mixture_examples`; only with events_path.
      thresholds_path: CSV of thresholds to write; empty: none.
      precision: see `choose_rules`.
      eval_dir: folder to write the scores of the cross-validation to; empty: none.

    Raises:
      UserError: an input cannot be used; the message names it.
    """
    from tagger.runs.run import Run

    run = Run(train_dir)
    if run.checkpoints():
        raise UserError(
            f"--train_dir: there are checkpoints in {train_dir}; choose a new folder"
        )
    class_names, clips = read_clips(
        csv_path=csv_path,
        clip_dir=clip_dir,
        class_map_path=class_map_path,
        flag_prefix="train",
        check_class_map=lambda names: None,
    )
    groups = np.array(groups_of(csv_path, *read_rows(csv_path), group_by))
    events = None
    if events_path:
        events = read_events(events_path, clips, clip_dir, class_names)
        groups = groups_for_folds(groups, num_folds)
    folds = np.zeros(len(clips), int)
    if num_folds:
        folds = assign_folds(clips.labels.astype(int), groups, num_folds)
    network, hparams = load_layers(
        checkpoint,
        num_classes=len(class_names),
        hparam_overrides=hparam_overrides or {},
        mixed_precision=mixed_precision,
    )
    with run.open_to_train():
        embeddings, targets, all_folds, positions = compute_examples(
            network, hparams, clips, class_names, events, folds, mixtures=mixtures
        )
        solved = last_layer.fit(
            embeddings,
            targets,
            groups[positions],
            c=c,
            num_folds=num_folds,
            folds=all_folds,
        )
        skipped = np.zeros(len(clips), bool)
        if skip_doubtful:
            skipped = last_layer.doubtful(clip_scores(solved, positions), clips.labels)
            print_skipped(clips, skipped)
            kept = ~skipped[positions]
            solved = last_layer.fit(
                embeddings[kept], targets[kept], c=solved.c, num_folds=0
            )._replace(scores=solved.scores)
        if not solved.converged:
            print("warning: the regression did not converge", file=sys.stderr)
        prefix = save(run, network, solved, hparams, class_names)
    if solved.scores is not None:
        write_cross_validation(
            clip_scores(solved, positions),
            clips,
            class_names,
            num_folds=num_folds,
            clip_dir=clip_dir,
            checkpoint=Run.find(prefix, ""),
            eval_dir=eval_dir,
        )
    if thresholds_path:
        scored = scored_clips(solved, positions, clips, events)
        write_chosen_rules(
            thresholds_path,
            scored,
            class_names,
            hparams,
            precision=precision,
            checkpoint=describe(prefix),
        )
    num_examples = len(embeddings) - skipped[positions].sum()
    num_clips = len(clips) - skipped.sum()
    print_result(
        f"solved with C {solved.c:g} for {num_examples} examples of "
        f"{counted(num_clips, 'clip')}; checkpoint {prefix}"
    )
