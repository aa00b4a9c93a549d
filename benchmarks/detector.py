"""Measures ways to make a detector from annotated recordings, by its events.

    python benchmarks/detector.py OUT --fields DIR,DIR,DIR --yamnet DIR

Each folder in --fields has annotated recordings to learn from in train/, others to test
on in test/, and background in negatives/. Embeddings are kept in OUT. Results are
appended to OUT/detector.csv, and those that are there are not repeated. At the end this
prints a table of the means over the folders, and their standard errors. It has the ways
that were measured on all of the folders.
"""

import csv
import dataclasses
import functools
import pathlib
from collections.abc import Collection, Sequence
from typing import Any

import learning_runs
import numpy as np
import scipy.special
from absl import flags

from recordings import choosing, decoding
from recordings.annotations import is_heard, read_annotations
from recordings.events import ALL_CLASSES, EventScores
from recordings.examples import heard_labels, mixture_examples, read_events
from recordings.segments import Tags, example_times
from recordings.thresholds import Rule, order_thresholds
from tagger.data.clips import Clips, read_clips
from tagger.data.splits import assign_folds
from tagger.hparams import SAMPLE_RATE, Hparams
from tagger.terminal import program
from tools.fit_last_layer import embedding
from tools.make_dataset.dataset import make_dataset
from tools.make_dataset.sources import find_recordings
from tools.tag import scoring

FLAGS = flags.FLAGS
HEADER = ("field", "way", "precision", "recall", "f1", "false_alarms_per_hour", "c")
HOP_SECONDS = 0.24
MAX_ROUNDS = 4
SECTION_SECONDS = 5  # of clips whose label counts for all their examples
CLASS_GAPS, CLASS_MINIMA = (0, 0.5, 1), (0.9, 1.2, 1.4, 1.9)  # compared for each class


@dataclasses.dataclass(frozen=True)
class Way:
    """A way to make a detector.

    Attributes:
      every: every n-th example is used, also of the test recordings.
      heard: whether examples are labelled by what they hear, or else by what is heard
        in their section of SECTION_SECONDS.
      background: whether the recordings without events are used.
      rounds: of mixtures.
      c: of the regression; None: selected.
      log: whether the logarithm of 1 plus the embedding is used.
      neighbours: number of examples over which logits are averaged.
      scores: whether scores are averaged instead of logits.
      lower: of a detected example, further ones are detected, too, if their logits are
        at most this much below the threshold.
      threshold: of all classes; None: chosen by events.
      precision: wanted for the thresholds.
      times_by_class: whether gap_seconds and min_seconds are chosen for each class.
      tolerance, halfway_events, gap_seconds, min_seconds: see choosing.py.
    """

    every: int = 1
    heard: bool = True
    background: bool = True
    rounds: int = 2
    c: float | None = None
    log: bool = False
    neighbours: int = 1
    scores: bool = False
    lower: float = 0
    threshold: float | None = None
    precision: float | None = None
    times_by_class: bool = False
    tolerance: float = choosing.TOLERANCE
    halfway_events: float = choosing.HALFWAY_EVENTS
    gap_seconds: float = choosing.GAP_SECONDS
    min_seconds: float = choosing.MIN_SECONDS


PLAIN = dict(every=2, rounds=0, gap_seconds=0.5, min_seconds=0)
BEST_F1 = dict(tolerance=0, halfway_events=np.inf)
WAYS = {
    "labels of sections of 5 s: threshold .5": Way(**PLAIN, heard=False, threshold=0.5),
    "what the example hears: threshold .5": Way(**PLAIN, threshold=0.5),
    "one threshold by F1": Way(**PLAIN, **BEST_F1),
    "examples every 0.24 s": Way(**PLAIN | {"every": 1}, **BEST_F1),
    "shortest detection 1.2 s": Way(rounds=0, **BEST_F1),
    "the highest threshold nearly as good": Way(rounds=0, halfway_events=np.inf),
    "mixtures: 1 round": Way(rounds=1, halfway_events=np.inf),
    "mixtures: 2 rounds": Way(halfway_events=np.inf),
    "mixtures: 4 rounds": Way(rounds=4, halfway_events=np.inf),
    "thresholds per class (the recipe)": Way(),
    "the recipe: C .001": Way(c=0.001),
    "the recipe: C .003": Way(c=0.003),
    "the recipe: C .01": Way(c=0.01),
    "the recipe: C .03": Way(c=0.03),
    "the recipe: 4 rounds of mixtures": Way(rounds=4),
    "the recipe without background recordings": Way(background=False),
    "the recipe: log(1 + embedding)": Way(log=True),
    "the recipe: mean over 3 examples": Way(neighbours=3),
    "the recipe: mean over 5 examples": Way(neighbours=5),
    "the recipe: mean over 7 examples": Way(neighbours=7),
    "the recipe: mean score of 3 examples": Way(neighbours=3, scores=True),
    "the recipe: mean score of 5 examples": Way(neighbours=5, scores=True),
    "the recipe: lower threshold by 1": Way(lower=1),
    "the recipe: lower threshold by 2": Way(lower=2),
    "the recipe: times per class": Way(times_by_class=True),
    "mean over 3: lower threshold by 1": Way(neighbours=3, lower=1),
    "mean over 3: times per class": Way(neighbours=3, times_by_class=True),
    "mean over 3: no gaps closed": Way(neighbours=3, gap_seconds=0),
    "mean over 3: shortest detection 1.4 s": Way(neighbours=3, min_seconds=1.4),
    "mean over 3: shortest detection 0.9 s": Way(neighbours=3, min_seconds=0.9),
    "mean over 3: C .01": Way(neighbours=3, c=0.01),
    "mean over 3: --precision 0.9": Way(neighbours=3, precision=0.9),
    "the recipe: no gaps closed": Way(gap_seconds=0),
    "the recipe: shortest detection 1.4 s": Way(min_seconds=1.4),
    "the recipe: --precision 0.9": Way(precision=0.9),
}


@dataclasses.dataclass(eq=False)
class Field:
    """What is known of a folder: the clips to learn from, and the test recordings.

    Attributes:
      hparams: hyperparameters of the features.
      class_names: C names.
      clips, events, folds: the N clips, their events, and int [N].
      embeddings, positions: float32 [E, D] and int [E] of their examples.
      mixtures: for each round, float32 [E, D], float32 [E, C] and int [E].
      tests: float32 [E, D], the events and the duration of each test recording.
    """

    hparams: Hparams
    class_names: list[str]
    clips: Clips
    events: list[Any]
    folds: np.ndarray
    embeddings: np.ndarray
    positions: np.ndarray
    mixtures: list[tuple[np.ndarray, np.ndarray, np.ndarray]]
    tests: list[tuple[np.ndarray, Any, float]]


def define_flags() -> None:
    """Defines the flags of this program."""
    flags.DEFINE_list("fields", None, "Folders with train/, test/ and negatives/.")
    flags.DEFINE_string("yamnet", None, "Folder of tools.import_yamnet.")
    flags.DEFINE_list("ways", [], "Names of ways. Default: all.")
    flags.mark_flags_as_required(["fields", "yamnet"])


def load_field(folder: pathlib.Path, out: pathlib.Path) -> Field:
    """Makes a data set of a folder, and embeds its examples; uses what is in OUT."""
    train, data = str(folder / "train"), out / f"{folder.name}-data"
    found = find_recordings(
        train, annotations=train, background=str(folder / "negatives")
    )
    make_dataset(found, data, clip_seconds=60, skip=False)
    class_names, clips = read_clips(
        csv_path=str(data / "clips.csv"),
        clip_dir=str(data / "audio"),
        class_map_path=str(data / "class_map.csv"),
        flag_prefix="train",
        check_class_map=lambda names: None,
    )
    events = read_events(
        str(data / "events.csv"), clips, str(data / "audio"), class_names
    )
    folds = assign_folds(clips.labels.astype(int), None, 5)
    network, hparams = embedding.load_layers(
        FLAGS.yamnet,
        num_classes=len(class_names),
        hparam_overrides={"example_hop_seconds": HOP_SECONDS},
        mixed_precision=False,
    )
    cache = out / f"{folder.name}.npz"
    sounds = decoding.find_sounds(str(folder / "test"), (".txt",))
    if not cache.exists():
        embedder = embedding.define_embedder(network)
        embeddings, positions = embedding.embed(embedder, clips, hparams)
        arrays = {"embeddings": embeddings, "positions": positions}
        arguments = (clips, events, folds, class_names, hparams)
        mixtures = embedding.embed_mixtures(
            embedder, mixture_examples(*arguments, rounds=MAX_ROUNDS)
        )
        size = len(mixtures) // MAX_ROUNDS
        for index in range(MAX_ROUNDS):
            parts = zip(*mixtures[index * size : (index + 1) * size])
            for name, values in zip(("e", "t", "f"), map(np.concatenate, parts)):
                arrays[f"{name}{index}"] = values
        import model

        scorer = scoring.define_scorer(model.add_embeddings(network), hparams)
        tagger = scoring.Tagger(class_names, hparams, scorer)
        for sound in sounds:
            tags = scoring.tag(sound.path, tagger, keep_embeddings=True)
            arrays[sound.name] = tags.embeddings
        np.savez(cache, **arrays)
    arrays = np.load(cache)
    known = read_annotations(str(folder / "test"), sounds)
    return Field(
        hparams,
        class_names,
        clips,
        events,
        folds,
        arrays["embeddings"],
        arrays["positions"],
        [tuple(arrays[f"{n}{i}"] for n in "etf") for i in range(MAX_ROUNDS)],
        [
            (arrays[name], known[path], decoding.read_duration(path))
            for path, name in sounds
        ],
    )


def section_labels(field: Field) -> np.ndarray:
    """The labels of the examples by what is heard in their section, float32 [E, C]."""
    hop_seconds, _ = example_times(field.hparams)
    labels = []
    for index, events in enumerate(field.events):
        for row in range(np.count_nonzero(field.positions == index)):
            start = row * hop_seconds // SECTION_SECONDS * SECTION_SECONDS
            heard = {
                event.label
                for event in events
                if is_heard(event, start, start + SECTION_SECONDS)
            }
            labels.append([name in heard for name in field.class_names])
    return np.array(labels, np.float32)


@functools.lru_cache(maxsize=8)
def solve(
    field: Field,
    *,
    every: int,
    heard: bool,
    background: bool,
    rounds: int,
    c: float | None,
    log: bool,
) -> tuple[Any, list[np.ndarray | None], list[np.ndarray]]:
    """Solves the last layer in a way.

    Returns:
      The solution; float64 [E, C], the scores of the examples of each clip in
      cross-validation, or None if it is not used; and those of each test recording.
    """
    from tagger.training import last_layer

    labels = heard_labels(
        field.events, field.positions, field.class_names, field.hparams
    )
    if not heard:
        labels = section_labels(field)
    first = np.searchsorted(field.positions, field.positions)
    used = (np.arange(len(field.positions)) - first) % every == 0
    if not background:
        in_background = np.array([not events for events in field.events])
        used &= ~in_background[field.positions]
    positions = field.positions[used]
    own = (field.embeddings[used], labels[used], field.folds[positions])
    embeddings, targets, folds = map(np.concatenate, zip(own, *field.mixtures[:rounds]))

    def transformed(values: np.ndarray) -> np.ndarray:
        return np.log1p(np.maximum(values, 0)) if log else values

    solved = last_layer.fit(
        transformed(embeddings), targets, positions, c=c, folds=folds
    )
    scores = solved.scores.astype(np.float64)
    by_clip = [
        scores[positions == index] if np.any(positions == index) else None
        for index in range(len(field.events))
    ]
    tests = [
        transformed(values[::every]) @ solved.weights + solved.biases
        for values, _, _ in field.tests
    ]
    return solved, by_clip, list(map(scipy.special.expit, tests))


def averaged(values: np.ndarray, number: int) -> np.ndarray:
    """The mean over a number of neighbouring examples, float64 [E, C]."""
    padded = np.pad(values, ((number // 2, number // 2), (0, 0)), mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, number, axis=0)
    return windows.mean(axis=-1)


def extended(logits: np.ndarray, lower: float) -> np.ndarray:
    """Logits that reach a threshold where hysteresis detects examples, float64 [E, C].

    These are the examples next to one that reaches the threshold, and to one another,
    whose logits are at most this much lower.
    """
    both = []
    for ordered in (logits, logits[::-1]):
        values = ordered.copy()
        for index in range(1, len(values)):
            near = np.minimum(values[index - 1], ordered[index] + lower)
            values[index] = np.maximum(ordered[index], near)
        both.append(values)
    return np.maximum(both[0], both[1][::-1])


def choose_times_by_class(scored: Any, field: Field, hparams: Hparams) -> dict:
    """The rules with the gaps and shortest durations that have the best F1 by class."""
    best = {}
    for choosing.GAP_SECONDS in CLASS_GAPS:
        for choosing.MIN_SECONDS in CLASS_MINIMA:
            rules = choosing.choose_rules(scored, field.class_names, hparams)
            ordered = order_thresholds(rules, field.class_names, "")
            found = choosing.score_rule(scored, field.class_names, hparams, ordered)
            for name, rule in rules.items():
                f1 = found[name].f1 if name in found else 0
                if name not in best or f1 > best[name][0]:
                    best[name] = f1, rule
    return {name: rule for name, (_, rule) in best.items()}


def measure_way(field: Field, way: Way) -> tuple[EventScores, float]:
    """Makes a detector, and scores it on the test recordings; returns also its C."""
    hop_frames = field.hparams.example_hop_frames * way.every
    hparams = dataclasses.replace(
        field.hparams,
        example_hop_seconds=hop_frames * field.hparams.stft_hop_seconds,
    )
    names = ("every", "heard", "background", "rounds", "c", "log")
    solved, by_clip, by_test = solve(field, **{n: getattr(way, n) for n in names})

    def tags_of(scores: np.ndarray, seconds: float) -> Tags:
        values = averaged(scores, way.neighbours) if way.scores else scores
        logits = scipy.special.logit(np.clip(values, 1e-12, 1 - 1e-12))
        if not way.scores:
            logits = averaged(logits, way.neighbours)
        if way.lower:
            logits = extended(logits, way.lower)
        return Tags(seconds, scipy.special.expit(logits), None, None)

    scored = [
        (tags_of(scores, samples / SAMPLE_RATE), events)
        for scores, samples, events in zip(
            by_clip, field.clips.num_samples, field.events
        )
        if scores is not None
    ]
    rule = Rule(way.threshold or 0, way.gap_seconds, way.min_seconds)
    if way.threshold is None:
        for name in ("tolerance", "halfway_events", "gap_seconds", "min_seconds"):
            setattr(choosing, name.upper(), getattr(way, name))
        if way.times_by_class:
            rules = choose_times_by_class(scored, field, hparams)
        else:
            rules = choosing.choose_rules(
                scored, field.class_names, hparams, precision=way.precision
            )
        rule = order_thresholds(rules, field.class_names, "")
    tests = [
        (tags_of(scores, seconds), events)
        for scores, (_, events, seconds) in zip(by_test, field.tests)
    ]
    found = choosing.score_rule(tests, field.class_names, hparams, rule)
    return found[ALL_CLASSES], solved.c


def print_table(path: pathlib.Path, fields: Collection[str]) -> None:
    """Prints the means over the fields, and their standard errors.

    Ways that were not measured on all of these fields are left out, because other
    fields may be easier.
    """
    rows = list(csv.DictReader(path.open()))
    print("| way | precision | recall | F1 | false alarms per hour |")
    print("|---|---|---|---|---|")
    for way in WAYS:
        own = {row["field"]: row for row in rows if row["way"] == way}
        if own.keys() >= set(fields):
            values = {n: [float(own[f][n]) for f in fields] for n in HEADER[2:6]}
            cells = [learning_runs.mean_and_error(values[n]) for n in HEADER[2:5]]
            alarms = values[HEADER[5]]
            error = learning_runs.standard_error(alarms)
            cells.append(f"{np.mean(alarms):.0f} +- {error:.0f}")
            print(f"| {way} | {' | '.join(cells)} |")


def main(argv: Sequence[str]) -> int:
    """Runs the benchmark."""
    path = learning_runs.open_results(argv, "detector.csv", HEADER)
    program.start_tensorflow()
    for folder in map(pathlib.Path, FLAGS.fields):
        done = {
            row["way"]
            for row in csv.DictReader(path.open())
            if row["field"] == folder.name
        }
        wanted = [way for way in FLAGS.ways or WAYS if way not in done]
        field = load_field(folder, path.parent) if wanted else None
        for way in wanted:
            found, c = measure_way(field, WAYS[way])
            values = (found.precision, found.recall, found.f1)
            row = [f"{value:.4f}" for value in values]
            row += [f"{found.false_alarms_per_hour:.1f}", c]
            learning_runs.append(path, [(folder.name, way, *row)])
            print(folder.name, way, *row, flush=True)
    print_table(path, [pathlib.Path(folder).name for folder in FLAGS.fields])
    return 0


if __name__ == "__main__":
    define_flags()
    program.run(main)
