"""Solves the last layer of a trained network for other classes, instead of training it.

    python -m tools.fit_last_layer --checkpoint yamnet \\
        --class_map_path my_class_map.csv \\
        --train_clip_dir audio --train_csv_path train.csv \\
        --train_dir runs/solved

The network of the checkpoint computes the embeddings of all examples once. The last
layer is then a logistic regression for each class, with the labels of its clip for each
example. This takes seconds where training takes minutes or hours.

Cross-validation selects the regularisation. It does not divide recordings. This prints
the lwlrap of the cross-validation, and writes a new train_dir with model.ckpt-0 and
hparams.json, which all other programs read. Training can resume from it.

For a detector of sounds in recordings, add the times of the labels, as
tools.make_dataset --annotations writes them:

    ... --events data/events.csv --eval_dir runs/solved/eval --thresholds thresholds.csv

Each example then has the labels that are heard in it. Mixtures of the events with other
parts of the background are additional examples. --thresholds is written with the
thresholds that detect the events best in the cross-validation.
"""

import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from absl import flags

from recordings.choosing import write_chosen_rules
from recordings.examples import heard_labels, mixture_examples, read_events
from recordings.segments import Tags
from tagger.data.clips import Clips, read_clips
from tagger.data.csv_files import read_rows
from tagger.data.splits import assign_folds, groups_of
from tagger.errors import UserError
from tagger.hparams import SAMPLE_RATE, parse_overrides
from tagger.metrics.lwlrap import Lwlrap
from tagger.options import CHECKPOINT_FORMS
from tagger.runs.checkpoint_files import describe, fingerprint
from tagger.runs.eval_folder import EvalFolder
from tagger.terminal import program
from tagger.terminal.files import make_folder
from tagger.terminal.progress import counted, print_result, progress_bar
from tagger.training import last_layer

FLAGS = flags.FLAGS
MAX_NAMES = 8  # of clips with doubtful labels that are listed
REQUIRED = (
    *("checkpoint", "class_map_path", "train_clip_dir", "train_csv_path"),
    "train_dir",
)


def define_flags() -> None:
    """Defines the flags of this program."""
    flags.DEFINE_string(
        "checkpoint", None, f"Checkpoint of the other layers: {CHECKPOINT_FORMS}."
    )
    flags.DEFINE_string(
        "class_map_path", None, "CSV of index,name lines, one for each class."
    )
    flags.DEFINE_string("train_clip_dir", None, "Folder of the WAV clips.")
    flags.DEFINE_string("train_csv_path", None, "CSV of the clips and their labels.")
    flags.DEFINE_string("train_dir", None, "New folder to write to.")
    flags.DEFINE_float(
        "c",
        None,
        "C of scikit-learn's LogisticRegression; smaller values regularise more. "
        "Default: selected by cross-validation.",
    )
    flags.DEFINE_integer(
        "folds",
        last_layer.NUM_FOLDS,
        "Folds of the cross-validation; 0: none, which needs --c.",
        lower_bound=0,
    )
    flags.DEFINE_string(
        "group_by",
        "",
        "Column; rows with the same value in it stay in one fold. Default: recording, "
        "if there is such a column.",
    )
    flags.DEFINE_bool(
        "skip_doubtful",
        False,
        "Leave out clips whose labels the cross-validation contradicts, for data sets "
        "with wrong labels.",
    )
    flags.DEFINE_string(
        "events", "", "CSV with the times of the labels in the clips; see above."
    )
    flags.DEFINE_integer(
        "mixtures",
        2,
        "With --events: how often each part of the background is mixed with events.",
        lower_bound=0,
    )
    flags.DEFINE_string(
        "thresholds", "", "CSV to write, with --events: thresholds of detections."
    )
    flags.DEFINE_float(
        "precision",
        None,
        "Precision of the thresholds in cross-validation. Default: they have the "
        "highest F1.",
        0,
        1,
    )
    flags.DEFINE_string(
        "eval_dir", "", "Folder to write the scores of the cross-validation to."
    )
    flags.DEFINE_string(
        "hparams", "", "name=value,...; they override those of the checkpoint."
    )
    flags.DEFINE_bool("mixed_precision", False, "Compute convolutions in bfloat16.")
    flags.register_validator(
        "c",
        lambda c: c is None or 0 < c < float("inf"),
        message="must be a positive number",
    )


def load_layers(
    checkpoint: str,
    *,
    num_classes: int,
    hparam_overrides: Mapping[str, Any],
    mixed_precision: bool,
) -> tuple[Any, Any]:
    """Builds a network for other classes from a checkpoint.

    Returns:
      `keras.Model` with the weights of the checkpoint, except for the last layer, and
      its `Hparams`.

    Raises:
      UserError: there is no such checkpoint, or it cannot be read.
    """
    import model
    from tagger.network.layers import LAST_LAYER
    from tagger.runs import checkpoints
    from tagger.runs.run import Run

    run, prefix = Run.find(checkpoint, "--checkpoint")
    model_name, hparams = run.settings(
        model_name=None,
        overrides=hparam_overrides,
        class_names=run.record.class_names if run.record else [],
    )
    print(f"{prefix}: {model_name}, hyperparameters: {hparams}", file=sys.stderr)
    network = model.define_model(
        model_name,
        num_classes=num_classes,
        hparams=hparams,
        mixed_precision=mixed_precision,
    )
    variables = checkpoints.network_variables(network)
    kept = {n: v for n, v in variables.items() if not n.startswith(f"{LAST_LAYER}/")}
    checkpoints.restore(prefix, kept)
    return network, hparams


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


def define_embedder(network: Any) -> Callable[[Any], np.ndarray]:
    """A function from examples, float32 [E, T, F], to embeddings, float32 [E, 1024]."""
    import tensorflow as tf

    import inputs
    import model

    with_embeddings = model.add_embeddings(network)

    @tf.function(reduce_retracing=True, autograph=False)
    def embed_batch(features: tf.Tensor) -> tf.Tensor:
        return with_embeddings(features, training=False)[1]

    def embed_examples(features: Any) -> np.ndarray:
        batches = range(0, len(features), inputs.SCORING_BATCH)
        parts = [features[start:][: inputs.SCORING_BATCH] for start in batches]
        return np.concatenate([embed_batch(part).numpy() for part in parts])

    return embed_examples


def embed(
    embedder: Callable[[Any], np.ndarray], clips: Clips, hparams: Any
) -> tuple[np.ndarray, np.ndarray]:
    """The embeddings of all examples of N clips.

    Returns:
      float32 [E, 1024], and int [E], the positions of their clips.

    Raises:
      UserError: a clip can no longer be read, or its embeddings are not finite.
    """
    import inputs

    batches = inputs.read_batches(inputs.clip_input(clips, hparams))
    total = int(hparams.num_examples(clips.num_samples).sum())
    embeddings, positions = [], []
    with progress_bar(total, what="embeddings", unit="example") as bar:
        for features, rows in batches:
            values, indices = embedder(features), rows.numpy()
            if not np.isfinite(values).all():
                row = np.flatnonzero(~np.isfinite(values).all(axis=1))[0]
                raise UserError(
                    f"--checkpoint: the embeddings of {clips.paths[indices[row]]} are "
                    f"not finite"
                )
            embeddings.append(values)
            positions.append(indices)
            bar.update(len(values))
    return np.concatenate(embeddings), np.concatenate(positions)


def embed_mixtures(
    embedder: Callable[[Any], np.ndarray],
    mixtures: Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]],
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """The embeddings, float32 [E, 1024], labels and folds of `mixture_examples`."""
    found = []
    with progress_bar(None, what="mixtures", unit="example") as bar:
        for features, labels, folds in mixtures:
            found.append((embedder(features), labels, folds))
            bar.update(len(features))
    return found


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
        class_names=np.array(class_names),
        clips=np.array([os.path.relpath(path, clip_dir) for path in clips.paths]),
        labels=clips.labels,
        scores=scores,
    )


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
    from tagger.network.layers import LAST_LAYER
    from tagger.runs import checkpoints
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
        embedder = define_embedder(network)
        embeddings, positions = embed(embedder, clips, hparams)
        targets = clips.labels[positions]
        mixed = []
        if events is not None:
            targets = heard_labels(events, positions, class_names, hparams)
            mixed = embed_mixtures(
                embedder,
                mixture_examples(
                    clips, events, folds, class_names, hparams, rounds=mixtures
                ),
            )
        embeddings, targets, all_folds = map(
            np.concatenate, zip((embeddings, targets, folds[positions]), *mixed)
        )
        solved = last_layer.fit(
            embeddings,
            targets,
            groups[positions],
            c=c,
            num_folds=num_folds,
            folds=all_folds,
        )
        if skip_doubtful:
            skipped = last_layer.doubtful(clip_scores(solved, positions), clips.labels)
            print_skipped(clips, skipped)
            kept = ~skipped[positions]
            solved = last_layer.fit(
                embeddings[kept], targets[kept], c=solved.c, num_folds=0
            )._replace(scores=solved.scores)
        if not solved.converged:
            print("warning: the regression did not converge", file=sys.stderr)
        network.get_layer(LAST_LAYER).set_weights([solved.weights, solved.biases])
        run.write_record(
            model_name=network.name, hparams=hparams, class_names=class_names
        )
        values = checkpoints.network_variables(network)
        prefix = run.save(values | {checkpoints.GLOBAL_STEP: np.int64(0)}, step=0)
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
        scores = solved.scores.astype(np.float64)
        scored = [
            (Tags(size / SAMPLE_RATE, scores[positions == index], None, None), known)
            for index, (size, known) in enumerate(zip(clips.num_samples, events))
        ]
        write_chosen_rules(
            thresholds_path,
            scored,
            class_names,
            hparams,
            precision=precision,
            checkpoint=describe(prefix),
        )
    print_result(
        f"solved with C {solved.c:g} for {len(embeddings)} examples of "
        f"{counted(len(clips), 'clip')}; checkpoint {prefix}"
    )


def main(argv: Sequence[str]) -> int:
    """Runs the program; returns the exit status."""
    program.check_no_arguments(argv)
    if FLAGS.folds == 1 or (FLAGS.folds == 0 and FLAGS.c is None):
        raise UserError(
            f"--folds must be at least 2, or 0 with --c, but got {FLAGS.folds}"
        )
    if not FLAGS.events and (FLAGS.thresholds or FLAGS.precision is not None):
        raise UserError("--thresholds and --precision need --events")
    if FLAGS.precision is not None and not FLAGS.thresholds:
        raise UserError("--precision needs --thresholds")
    if FLAGS.folds == 0 and (FLAGS.thresholds or FLAGS.eval_dir or FLAGS.skip_doubtful):
        raise UserError(
            "--thresholds, --eval_dir and --skip_doubtful need cross-validation, not 0 "
            "folds"
        )
    if FLAGS.events and FLAGS.skip_doubtful:
        raise UserError("--skip_doubtful and --events are mutually exclusive")
    hparam_overrides = parse_overrides(FLAGS.hparams)
    program.start_tensorflow()
    fit_last_layer(
        checkpoint=FLAGS.checkpoint,
        class_map_path=FLAGS.class_map_path,
        clip_dir=FLAGS.train_clip_dir,
        csv_path=FLAGS.train_csv_path,
        train_dir=FLAGS.train_dir,
        c=FLAGS.c,
        num_folds=FLAGS.folds,
        group_by=FLAGS.group_by,
        skip_doubtful=FLAGS.skip_doubtful,
        hparam_overrides=hparam_overrides,
        mixed_precision=FLAGS.mixed_precision,
        events_path=FLAGS.events,
        mixtures=FLAGS.mixtures,
        thresholds_path=FLAGS.thresholds,
        precision=FLAGS.precision,
        eval_dir=FLAGS.eval_dir,
    )
    return 0


if __name__ == "__main__":
    define_flags()
    program.run(main, required=REQUIRED)
