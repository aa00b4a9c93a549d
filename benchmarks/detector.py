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
from recordings.segments import Tags, example_times, mean_scores
from recordings.thresholds import Rule, order_thresholds
from tagger.data.clips import Clips, read_clips
from tagger.data.csv_files import read_rows
from tagger.data.splits import assign_folds, groups_of
from tagger.hparams import SAMPLE_RATE, Hparams
from tagger.terminal import program
from tagger.training import last_layer
from tools.fit_last_layer import embedding, fitting
from tools.make_dataset.dataset import make_dataset
from tools.make_dataset.sources import find_recordings
from tools.tag import scoring

FLAGS = flags.FLAGS
HEADER = ("field", "way", "precision", "recall", "f1", "false_alarms_per_hour", "c")
HOP_SECONDS = 0.24
MAX_ROUNDS = 2
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
      lower: of a detected example, further ones are detected, too, if their logits are
        at most this much below the threshold.
      threshold: of all classes; None: chosen by events.
      precision: wanted for the thresholds.
      times_by_class: whether gap_seconds and min_seconds are chosen for each class.
      tolerance, halfway_events: see choosing.py.
      gap_seconds, min_seconds, mean_seconds: see `Rule`.
    """

    every: int = 1
    heard: bool = True
    background: bool = True
    rounds: int = 2
    c: float | None = None
    log: bool = False
    lower: float = 0
    threshold: float | None = None
    precision: float | None = None
    times_by_class: bool = False
    tolerance: float = choosing.TOLERANCE
    halfway_events: float = choosing.HALFWAY_EVENTS
    gap_seconds: float = choosing.GAP_SECONDS
    min_seconds: float = choosing.MIN_SECONDS
    mean_seconds: float = choosing.MEAN_SECONDS


PLAIN = dict(every=2, rounds=0, gap_seconds=0.5, min_seconds=0, mean_seconds=0)
BEST_F1 = dict(tolerance=0, halfway_events=np.inf, mean_seconds=0)
HIGHEST = dict(halfway_events=np.inf, mean_seconds=0)
WAYS = {
    "labels of sections of 5 s: threshold .5": Way(**PLAIN, heard=False, threshold=0.5),
    "what the example hears: threshold .5": Way(**PLAIN, threshold=0.5),
    "one threshold by F1": Way(**PLAIN | BEST_F1),
    "examples every 0.24 s": Way(**PLAIN | BEST_F1 | {"every": 1}),
    "shortest detection 1.2 s": Way(rounds=0, **BEST_F1),
    "the highest threshold nearly as good": Way(rounds=0, **HIGHEST),
    "mixtures: 1 round": Way(rounds=1, **HIGHEST),
    "mixtures: 2 rounds": Way(**HIGHEST),
    "thresholds per class": Way(mean_seconds=0),
    "per class: lower threshold by 1": Way(lower=1, mean_seconds=0),
    "per class: lower threshold by 2": Way(lower=2, mean_seconds=0),
    "mean over 3 examples": Way(mean_seconds=0.5),
    "mean over 3: --precision 0.9": Way(precision=0.9, mean_seconds=0.5),
    "mean over 3: no gaps closed": Way(gap_seconds=0, mean_seconds=0.5),
    "mean over 3: shortest detection 0.9 s": Way(min_seconds=0.9, mean_seconds=0.5),
    "mean over 3: shortest detection 1.4 s": Way(min_seconds=1.4, mean_seconds=0.5),
    "mean over 3: times per class": Way(times_by_class=True, mean_seconds=0.5),
    "mean over 3: lower threshold by 1": Way(lower=1, mean_seconds=0.5),
    "mean over 3: lower threshold by 2": Way(lower=2, mean_seconds=0.5),
    "mean over 5 examples (the recipe)": Way(),
    "the recipe: --precision 0.9": Way(precision=0.9),
    "the recipe: C .001": Way(c=0.001),
    "the recipe: C .01": Way(c=0.01),
    "the recipe without background recordings": Way(background=False),
    "the recipe: log(1 + embedding)": Way(log=True),
}
RECIPE = "mean over 5 examples (the recipe)"


@dataclasses.dataclass(eq=False)
class Field:
    """What is known of a folder: the clips to learn from, and the test recordings.

    Attributes:
      hparams: hyperparameters of the features.
      class_names: C names.
      clips, events: the N clips and their events.
      groups, folds: [N], groups that cross-validation does not divide, and int [N].
      embeddings, positions: float32 [E, D] and int [E] of their examples.
      mixtures: for each round, float32 [E, D], float32 [E, C] and int [E].
      tests: float32 [E, D], the events and the duration of each test recording.
    """

    hparams: Hparams
    class_names: list[str]
    clips: Clips
    events: list[Any]
    groups: np.ndarray
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
    csv_path = str(data / "clips.csv")
    found = find_recordings(
        train, annotations=train, background=str(folder / "negatives")
    )
    make_dataset(found, data, clip_seconds=60, skip=False)
    class_names, clips = read_clips(
        csv_path=csv_path,
        clip_dir=str(data / "audio"),
        class_map_path=str(data / "class_map.csv"),
        flag_prefix="train",
        check_class_map=lambda names: None,
    )
    events = read_events(
        str(data / "events.csv"), clips, str(data / "audio"), class_names
    )
    groups = np.array(groups_of(csv_path, *read_rows(csv_path), ""))
    groups = fitting.groups_for_folds(groups, last_layer.NUM_FOLDS)
    folds = assign_folds(clips.labels.astype(int), groups, last_layer.NUM_FOLDS)
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
        groups,
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
        transformed(embeddings), targets, field.groups[positions], c=c, folds=folds
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

    mean_seconds = 0 if way.lower else way.mean_seconds

    def tags_of(scores: np.ndarray, seconds: float) -> Tags:
        if way.lower:  # The means come first.
            hop_seconds, _ = example_times(hparams)
            scores = np.transpose(
                [mean_scores(own, way.mean_seconds, hop_seconds) for own in scores.T]
            )
            logits = scipy.special.logit(np.clip(scores, 1e-12, 1 - 1e-12))
            scores = scipy.special.expit(extended(logits, way.lower))
        return Tags(seconds, scores, None, None)

    scored = [
        (tags_of(scores, samples / SAMPLE_RATE), events)
        for scores, samples, events in zip(
            by_clip, field.clips.num_samples, field.events
        )
        if scores is not None
    ]
    rule = Rule(way.threshold or 0, way.gap_seconds, way.min_seconds, mean_seconds)
    if way.threshold is None:
        for name in ("tolerance", "halfway_events", "gap_seconds", "min_seconds"):
            setattr(choosing, name.upper(), getattr(way, name))
        choosing.MEAN_SECONDS = mean_seconds
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
    fields may be easier. The last column is the mean of the differences of F1 from
    RECIPE on the same field.
    """
    values = {}  # float [4, fields], by way
    rows = list(csv.DictReader(path.open()))
    for way in WAYS:
        own = {row["field"]: row for row in rows if row["way"] == way}
        if own.keys() >= set(fields):
            columns = [[float(own[f][name]) for f in fields] for name in HEADER[2:6]]
            values[way] = np.array(columns)
    print("| way | precision | recall | F1 | false alarms per hour | F1 - recipe |")
    print("|---|---|---|---|---|---|")
    for way, (*shares, alarms) in values.items():
        cells = [learning_runs.mean_and_error(share) for share in shares]
        error = learning_runs.standard_error(alarms)
        cells.append(f"{np.mean(alarms):.0f} +- {error:.0f}")
        is_compared = RECIPE in values and way != RECIPE
        difference = shares[-1] - values[RECIPE][2] if is_compared else []
        cells.append(learning_runs.mean_and_error(difference))
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
