"""Measures what rounds of reviews gain: docs/archive.md describes the loop.

    python benchmarks/review_loop.py OUT --fields DIR,DIR,DIR --yamnet DIR

Each folder in --fields has recordings in recordings/, others to test on in test/, both
with their annotations, and background in negatives/. Of the annotations in recordings/,
only FIRST_EVENTS of the first recording are known at the start. In each round, parts of
the recordings are chosen by the scores of the network, and the annotations decide what
is heard in them, as a person would in the review. The network is then fitted again.

Results are appended to OUT/review_loop.csv, and those that are there are not repeated.
At the end this prints a table of the means over the folders, and their standard errors.
"""

import csv
import dataclasses
import pathlib
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

import learning_runs
import numpy as np
import scipy.special
from absl import flags

from recordings import choosing, decoding
from recordings.annotations import Event, is_heard, read_annotations
from recordings.archive import Archive, Example, Settings
from recordings.events import ALL_CLASSES, EventScores
from recordings.segments import Tags
from recordings.thresholds import Rule
from tagger.data.csv_files import BACKGROUND, write_csv
from tagger.hparams import Hparams
from tagger.terminal import program
from tools.find import search
from tools.fit_last_layer import embedding
from tools.fit_last_layer.fitting import fit_last_layer
from tools.make_dataset.dataset import make_dataset
from tools.make_dataset.sources import find_recordings
from tools.tag import scoring

FLAGS = flags.FLAGS
HEADER = (
    *("field", "order", "round", "reviewed", "events", "precision", "recall", "f1"),
    *("false_alarms_per_hour", "best_f1"),
)
HPARAMS = {"example_hop_seconds": 0.24}
CLIP_SECONDS = 0.96  # of an example
FIRST_EVENTS = 10
ROUNDS = 3
PER_CLASS = 7  # reviewed in each round: 49 of seven classes
REVIEWED_HEADER = ("file", "start", "end", "label")
Known = Mapping[str, Sequence[Event]]  # events by the paths of the recordings


@dataclasses.dataclass(frozen=True)
class Field:
    """A folder: its recordings and test recordings, embedded once.

    Only the last layer of the network changes.

    Attributes:
      folder: the folder.
      hparams: hyperparameters of the features.
      embedded: float32 [E, D] of each recording, by its path.
      known, test: the true events of the recordings, and of the test recordings.
    """

    folder: pathlib.Path
    hparams: Hparams
    embedded: Mapping[str, np.ndarray]
    known: Known
    test: Known


def define_flags() -> None:
    """Defines the flags of this program."""
    flags.DEFINE_list("fields", None, "Folders with recordings/, test/, negatives/.")
    flags.DEFINE_string("yamnet", None, "Folder of tools.import_yamnet.")
    flags.DEFINE_list(
        "orders", list(search.ORDERS), "What is reviewed; see tools.find."
    )
    flags.mark_flags_as_required(["fields", "yamnet"])


def load_field(folder: pathlib.Path, out: pathlib.Path) -> Field:
    """Reads the annotations, and embeds all recordings, or uses what is in OUT."""
    import model

    network, hparams = embedding.load_layers(
        FLAGS.yamnet, num_classes=1, hparam_overrides=HPARAMS, mixed_precision=False
    )
    scorer = scoring.define_scorer(model.add_embeddings(network), hparams)
    tagger = scoring.Tagger([""], hparams, scorer)
    known, arrays = [], {}
    cache = out / f"{folder.name}.npz"
    for name in ("recordings", "test"):
        source = str(folder / name)
        sounds = decoding.find_sounds(source, (".txt",))
        known.append(read_annotations(source, sounds))
        for path, _ in sounds if not cache.exists() else []:
            tags = scoring.tag(path, tagger, keep_embeddings=True)
            arrays[path] = tags.embeddings
    if not cache.exists():
        np.savez(cache, **arrays)
    return Field(folder, hparams, dict(np.load(cache)), *known)


def first_annotations(known: Known) -> list[tuple[str, float, float, str]]:
    """Rows of the first event of each class in the first recording, and of others."""
    path, events = next(iter(known.items()))
    firsts = {event.label: event for event in reversed(events)}.values()
    others = [event for event in events if event not in firsts]
    chosen = [*firsts, *others][:FIRST_EVENTS]
    return [(path, *event) for event in sorted(chosen)]


def decide(example: Example, class_name: str, known: Known) -> str:
    """The label that a review would give to an example that may be of a class."""
    heard = [
        event.label
        for event in known[example.path]
        if is_heard(event, example.start, example.end)
    ]
    return class_name if class_name in heard else [*heard, BACKGROUND][0]


def fit(field: Field, work: pathlib.Path) -> tuple[list[str], Any, Any]:
    """Fits the last layer to the annotations; returns classes, weights and biases."""
    import model
    from tagger.network.layers import LAST_LAYER
    from tagger.runs.run import Run

    data, run = work / "data", work / "run"
    found = find_recordings(
        str(field.folder / "recordings"),
        annotations=str(work / "annotations"),
        background=str(field.folder / "negatives"),
        only_annotated=True,
    )
    make_dataset(found, data, clip_seconds=CLIP_SECONDS, skip=False)
    shutil.rmtree(run, ignore_errors=True)
    fit_last_layer(
        checkpoint=FLAGS.yamnet,
        class_map_path=str(data / "class_map.csv"),
        clip_dir=str(data / "audio"),
        csv_path=str(data / "clips.csv"),
        train_dir=str(run),
        events_path=str(data / "events.csv"),
        mixtures=2,
        hparam_overrides=HPARAMS,
    )
    checkpoint = Run.find(str(run), "run")
    class_names = checkpoint.run.class_names("")
    network, _ = model.load_network(checkpoint, class_names)
    return class_names, *network.get_layer(LAST_LAYER).get_weights()


def score_test(
    field: Field, class_names: Sequence[str], tags: Mapping[str, Tags]
) -> tuple[EventScores, float]:
    """The detections on the test recordings, and the highest F1 of any threshold."""
    scored = [(tags[path], events) for path, events in field.test.items()]

    def score(rule: Rule) -> EventScores:
        found = choosing.score_rule(scored, class_names, field.hparams, rule)
        return found[ALL_CLASSES]

    thresholds = scipy.special.expit(choosing.LOGITS).tolist()
    return score(Rule()), max(score(Rule(value)).f1 for value in thresholds)


def count_known(field: Field, annotations: pathlib.Path) -> int:
    """The number of events that annotations label, at least partly."""
    sounds = [decoding.Sound(path, path) for path in field.known]
    labelled = read_annotations(str(annotations), sounds)
    return sum(
        any(
            event.label == part.label and is_heard(event, part.start, part.end)
            for part in labelled.get(path, [])
        )
        for path, events in field.known.items()
        for event in events
    )


def review(field: Field, order: str, work: pathlib.Path) -> list[tuple[Any, ...]]:
    """Does all rounds with one order; returns a row of results for each."""
    shutil.rmtree(work, ignore_errors=True)
    annotations = work / "annotations"
    annotations.mkdir(parents=True)
    rows, num_reviewed, results = first_annotations(field.known), 0, []
    for number in range(ROUNDS + 1):
        table = [(path, f"{a:.3f}", f"{b:.3f}", label) for path, a, b, label in rows]
        write_csv(annotations / f"{number}.csv", [REVIEWED_HEADER, *table])
        class_names, weights, biases = fit(field, work)
        tags = {}
        for path, values in field.embedded.items():
            scores = scipy.special.expit((values @ weights + biases).astype(float))
            seconds = decoding.read_duration(path)
            tags[path] = Tags(seconds, scores, values, None)
        found, best_f1 = score_test(field, class_names, tags)
        row = [num_reviewed, count_known(field, annotations)]
        row += [f"{value:.4f}" for value in (found.precision, found.recall, found.f1)]
        row += [f"{found.false_alarms_per_hour:.1f}", f"{best_f1:.4f}"]
        results.append((field.folder.name, order, number, *row))
        settings = Settings(FLAGS.yamnet, number, class_names, field.hparams, False)
        rows = []
        with Archive(str(work / f"{number}.db"), settings) as archive:
            for path in field.known:
                archive.add(path, tags[path])
            without = search.read_reviewed(archive, str(annotations))
            for name in class_names:
                chosen = search.find_scores(
                    archive,
                    name,
                    low=0,
                    high=1,
                    order=order,
                    most=PER_CLASS,
                    seed=100 * number + class_names.index(name),
                    without=without,
                )
                for example in chosen:
                    label = decide(example, name, field.known)
                    rows.append((example.path, example.start, example.end, label))
        num_reviewed += len(rows)
    return results


def print_table(path: pathlib.Path) -> None:
    """Prints the means over the folders, and their standard errors."""
    rows = list(csv.DictReader(path.open()))
    print("| reviewed | round | events known | F1 | false alarms per hour | best F1 |")
    print("|---|---|---|---|---|---|")
    keys = dict.fromkeys((row["order"], row["round"]) for row in rows)
    for order, number in keys:
        own = [row for row in rows if (row["order"], row["round"]) == (order, number)]
        cells = []
        for name, digits in (
            *(("events", 0), ("f1", 3), ("false_alarms_per_hour", 0)),
            ("best_f1", 3),
        ):
            values = [float(row[name]) for row in own]
            error = learning_runs.standard_error(values)
            text = f"{np.mean(values):.{digits}f} ± {error:.{digits}f}"
            cells.append(text.replace("0.", "."))
        print(f"| {order} | {number} | {' | '.join(cells)} |")


def main(argv: Sequence[str]) -> int:
    """Runs the benchmark."""
    path = learning_runs.open_results(argv, "review_loop.csv", HEADER)
    out = path.parent
    program.start_tensorflow()
    for folder in map(pathlib.Path, FLAGS.fields):
        done = {
            row["order"]
            for row in csv.DictReader(path.open())
            if row["field"] == folder.name and row["round"] == str(ROUNDS)
        }
        orders = [order for order in FLAGS.orders if order not in done]
        field = load_field(folder, out) if orders else None
        for order in orders:
            with learning_runs.output_to(out / "log.txt"):
                rows = review(field, order, out / "work")
            learning_runs.append(path, rows)
            for row in rows:
                print(*row, flush=True)
    print_table(path)
    return 0


if __name__ == "__main__":
    define_flags()
    program.run(main)
