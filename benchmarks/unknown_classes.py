"""Measures how often sounds of no class get a high score, and what tells them apart.

    python benchmarks/unknown_classes.py OUT --data esc10,kitchen20 --yamnet DIR

Each folder in --data has audio/, class_map.csv, trainK.csv and valK.csv. In each draw,
half of the classes are known, and the last layer is solved for them on train4.csv, as
tools.fit_last_layer does it. A quarter are background, and a quarter are unknown. The
known and the unknown clips of val4.csv are scored, with and without the background
clips of train4.csv in the solution. Results are written to OUT/unknown_classes.csv. At
the end, this prints the means over the draws, and their standard errors.
"""

import csv
import pathlib
from collections.abc import Sequence

import learning_runs
import numpy as np
import scipy.special
from absl import flags
from sklearn.metrics import roc_auc_score

from tagger.data.clips import Clips, read_clips
from tagger.terminal import program
from tagger.training import last_layer
from tools.fit_last_layer import embedding

FLAGS = flags.FLAGS
FOLD = 4
DRAWS = 6
HIGH_SCORES = (0.5, 0.9)
HEADER = (
    *("data", "draw", "background", "auroc_of_score", "auroc_of_distance"),
    *("unknown_from_0.5", "unknown_from_0.9", "known_from_0.5", "accuracy"),
)


def define_flags() -> None:
    """Defines the flags of this program."""
    flags.DEFINE_list("data", None, "Folders of data sets.")
    flags.DEFINE_string("yamnet", None, "Folder of tools.import_yamnet.")
    flags.mark_flags_as_required(["data", "yamnet"])


def embed_part(data: pathlib.Path, part: str) -> tuple[Clips, np.ndarray, np.ndarray]:
    """The N clips of a part, float32 [E, D] and int [E], the clips of the examples."""
    class_names, clips = read_clips(
        csv_path=str(data / f"{part}{FOLD}.csv"),
        clip_dir=str(data / "audio"),
        class_map_path=str(data / "class_map.csv"),
        flag_prefix="train",
        check_class_map=lambda names: None,
    )
    network, hparams = embedding.load_layers(
        FLAGS.yamnet,
        num_classes=len(class_names),
        hparam_overrides={},
        mixed_precision=False,
    )
    embedder = embedding.define_embedder(network)
    return clips, *embedding.embed(embedder, clips, hparams)


def clip_means(values: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """The means over the examples of each clip, float64 [N, D]."""
    sums = np.zeros([positions.max() + 1, values.shape[1]])
    np.add.at(sums, positions, values)
    return sums / np.bincount(positions)[:, np.newaxis]


def distances(train: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The cosine distances to the nearest clip of train, after standardisation."""
    mean, scale = train.mean(axis=0), train.std(axis=0)
    scale = np.maximum(scale, last_layer.MIN_SCALE * scale.max())
    first, second = ((array - mean) / scale for array in (train, values))
    first /= np.linalg.norm(first, axis=1, keepdims=True)
    second /= np.linalg.norm(second, axis=1, keepdims=True)
    return 1 - (second @ first.T).max(axis=1)


def measure_draw(
    train: tuple[Clips, np.ndarray, np.ndarray],
    test: tuple[Clips, np.ndarray, np.ndarray],
    draw: int,
    *,
    with_background: bool,
) -> list[float]:
    """The values of a row of the results."""
    num_classes = train[0].labels.shape[1]
    order = np.random.default_rng(draw).permutation(num_classes)
    known, background, unknown = np.split(
        order, [num_classes // 2, num_classes // 2 + num_classes // 4]
    )
    known = np.sort(known)
    clips, embeddings, positions = train
    used = clips.labels[:, known].any(axis=1)
    if with_background:
        used |= clips.labels[:, background].any(axis=1)
    rows = used[positions]
    solved = last_layer.fit(
        embeddings[rows], clips.labels[positions[rows]][:, known], positions[rows]
    )
    test_clips, test_embeddings, test_positions = test
    logits = test_embeddings @ solved.weights + solved.biases
    scores = clip_means(scipy.special.expit(logits), test_positions)
    is_known, is_unknown = (
        test_clips.labels[:, part].any(axis=1) for part in (known, unknown)
    )
    of_class = clips.labels[:, known].any(axis=1)
    distance = distances(
        clip_means(embeddings, positions)[of_class],
        clip_means(test_embeddings, test_positions),
    )
    compared = is_known | is_unknown
    highest = scores.max(axis=1)
    right = test_clips.labels[:, known][is_known, scores[is_known].argmax(axis=1)]
    return [
        roc_auc_score(is_known[compared], highest[compared]),
        roc_auc_score(is_known[compared], -distance[compared]),
        *(np.mean(highest[is_unknown] >= score) for score in HIGH_SCORES),
        np.mean(highest[is_known] >= HIGH_SCORES[0]),
        right.mean(),
    ]


def main(argv: Sequence[str]) -> int:
    """Runs the benchmark."""
    path = learning_runs.open_results(argv, "unknown_classes.csv", HEADER)
    program.start_tensorflow()
    for data in map(pathlib.Path, FLAGS.data):
        train, test = (embed_part(data, part) for part in ("train", "val"))
        for draw in range(DRAWS):
            for with_background in (False, True):
                values = measure_draw(
                    train, test, draw, with_background=with_background
                )
                row = [data.name, draw, with_background, *np.round(values, 4)]
                learning_runs.append(path, [row])
    groups = {}
    for row in csv.DictReader(path.open()):
        key = (row["data"], row["background"])
        groups.setdefault(key, []).append([float(row[name]) for name in HEADER[3:]])
    print("| data | background |", *(f"{name} |" for name in HEADER[3:]))
    print("|---|---|" + "---|" * len(HEADER[3:]))
    for key, values in groups.items():
        cells = [learning_runs.mean_and_error(column) for column in zip(*values)]
        print("|", " | ".join((*key, *cells)), "|")
    return 0


if __name__ == "__main__":
    define_flags()
    program.run(main)
