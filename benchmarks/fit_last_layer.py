"""Measures the time and the memory of tools.fit_last_layer by the number of examples.

    python benchmarks/fit_last_layer.py --yamnet DIR

Complete processes solve the last layer of YAMNet for 80 classes, with cross-validation.
DIR is a folder of tools.import_yamnet. Each clip has a tone of its class in noise.
Their files need 4 GB. The last lines compare the regression with one C with
scikit-learn's, one class after the other.
"""

import pathlib
import tempfile
import time
from collections.abc import Sequence

import measure
import numpy as np
from absl import flags

from tagger.data.csv_files import write_csv
from tagger.hparams import SAMPLE_RATE, model_hparams
from tagger.terminal import program

CLASSES, SECONDS = 80, 5
EXAMPLES = (1000, 10000, 75000)
PEER_EXAMPLES, PEER_CLASSES, DIMENSIONS, C = 10000, 8, 1024, 0.01
LOWEST_HZ, HIGHEST_HZ = 150, 7000
FLAGS = flags.FLAGS


def define_flags() -> None:
    """Defines the flags of this program."""
    flags.DEFINE_string("yamnet", None, "Folder of tools.import_yamnet.")
    flags.mark_flag_as_required("yamnet")


def write_clips(root: pathlib.Path, number: int) -> None:
    """Writes clips in audio/, clips.csv and class_map.csv."""
    from tools.make_demo_data import write_wav

    rng = np.random.default_rng(0)
    (root / "audio").mkdir(parents=True)
    time_ = np.arange(SECONDS * SAMPLE_RATE) / SAMPLE_RATE
    tones = np.geomspace(LOWEST_HZ, HIGHEST_HZ, CLASSES)
    rows = [("fname", "labels")]
    for index in range(number):
        hertz = tones[index % CLASSES] * rng.uniform(0.98, 1.02)
        samples = np.sin(2 * np.pi * hertz * time_) * rng.uniform(0.01, 1)
        samples += rng.normal(0, rng.uniform(0.01, 0.5), time_.size)
        name = f"{index:05d}.wav"
        write_wav(root / "audio" / name, np.clip(samples, -2, 2) * 16000)
        rows.append((name, f"C{index % CLASSES}"))
    write_csv(root / "clips.csv", rows)
    write_csv(root / "class_map.csv", ((i, f"C{i}") for i in range(CLASSES)))


def fit(root: pathlib.Path) -> tuple[float, float]:
    """The seconds and the peak memory (MiB) of the tool."""
    return measure.run_process(
        [
            *("-m", "tools.fit_last_layer", f"--checkpoint={FLAGS.yamnet}"),
            f"--class_map_path={root / 'class_map.csv'}",
            f"--train_clip_dir={root / 'audio'}",
            f"--train_csv_path={root / 'clips.csv'}",
            f"--train_dir={root / 'run'}",
        ]
    )


def compare_regressions() -> None:
    """Prints the seconds for random embeddings, of this program and of scikit-learn."""
    from sklearn.linear_model import LogisticRegression

    from tagger.training import last_layer

    rng = np.random.default_rng(0)
    labels = rng.integers(PEER_CLASSES, size=PEER_EXAMPLES)
    targets = np.eye(PEER_CLASSES)[labels]
    embeddings = rng.normal(size=[PEER_EXAMPLES, DIMENSIONS])
    embeddings += targets @ rng.normal(0, 0.1, [PEER_CLASSES, DIMENSIONS])
    embeddings = embeddings.astype(np.float32)

    def peer() -> None:
        for target in targets.T:
            LogisticRegression(C=C, max_iter=1000).fit(embeddings, target)

    print(f"\nRegression, {PEER_EXAMPLES} examples, {PEER_CLASSES} classes, C {C}\n")
    for name, run in (
        ("this program", lambda: last_layer.fit(embeddings, targets, c=C, num_folds=0)),
        ("scikit-learn", peer),
    ):
        started = time.perf_counter()
        run()
        print(f"{name}: {time.perf_counter() - started:.1f} s", flush=True)


def main(argv: Sequence[str]) -> int:
    """Runs the benchmark."""
    program.check_no_arguments(argv)
    program.start_tensorflow()
    print(measure.machine("tensorflow", "scipy", "scikit-learn"))
    print("\n| examples | seconds | peak memory (MiB) |\n|---|---|---|")
    hparams = model_hparams("yamnet", {})
    per_clip = int(hparams.num_examples(SECONDS * SAMPLE_RATE))
    with tempfile.TemporaryDirectory() as folder:
        for examples in EXAMPLES:
            root = pathlib.Path(folder) / str(examples)
            write_clips(root, examples // per_clip)
            seconds, mebibytes = fit(root)
            print(f"| {examples:,} | {seconds:.0f} | {mebibytes:,.0f} |", flush=True)
    compare_regressions()
    return 0


if __name__ == "__main__":
    define_flags()
    program.run(main)
