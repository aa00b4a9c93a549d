"""Measures how many layers of a run on noisy labels help a run on a few clean ones.

    python benchmarks/transfer.py OUT --data kitchen20 --folds 1,2,3

The folder in --data, and the noisy labels, are those of benchmarks/learning.py. For
each fold K, a first run trains on noisy labels. The second runs train on a third of the
clips of each class in trainK.csv: from scratch, or from the first layers of the first
run, which are either trained further or frozen. A layer here is a row of the table of
the network; the start "all" also takes the last layer. All runs have the options
`modern` of docs/learning.md.

Results are appended to OUT/transfer.csv, and those that are there are not repeated. At
the end it prints a table of means and standard errors over folds, with the paired
differences from the start with all layers. The runs stay in OUT.
"""

import csv
import pathlib
import re
from collections.abc import Sequence

import learning_runs
import measure
from absl import flags

from tagger.hparams import MODEL_NAMES, parse_overrides
from tagger.terminal import program

FLAGS = flags.FLAGS
HEADER = ("model", "noisy_steps", "steps", "start", "fold", "lwlrap")
CLIPS_PER_CLASS = 11  # a third of those of kitchen20
NOISY, SCRATCH, ALL = "noisy", "scratch", "all"
NUM_ROWS = 14  # of the table of the network


def define_flags() -> None:
    """Defines the flags of this program."""
    flags.DEFINE_string("data", None, "Folder of the data set.")
    flags.DEFINE_enum("model", "yamnet", MODEL_NAMES, "Network.")
    flags.DEFINE_list("folds", ["1", "2", "3"], "Folds, each also a seed.")
    flags.DEFINE_list(
        "starts",
        [NOISY, SCRATCH, ALL, "6", "10", "14", "6-frozen", "10-frozen", "14-frozen"],
        f"{NOISY} for the first run, which the others need; {SCRATCH}, {ALL}, or how "
        f"many layers are taken, with -frozen if they are not trained.",
    )
    flags.DEFINE_integer("noisy_steps", 2500, "Steps of the first run.", lower_bound=1)
    flags.DEFINE_integer("steps", 1500, "Steps of the second runs.", lower_bound=1)
    flags.mark_flag_as_required("data")
    pattern = rf"{NOISY}|{SCRATCH}|{ALL}|([1-9]|1[0-{NUM_ROWS - 10}])(-frozen)?"
    flags.register_validator(
        "starts",
        lambda starts: all(re.fullmatch(pattern, start) for start in starts),
        message=f"must match {pattern}",
    )


def scopes_of_rows(rows: range) -> list[str]:
    """Regular expressions for the variables of some rows of the network's table."""
    scopes = []
    for row in rows:
        scopes.append(f"Conv_{row}/" if row else "Conv/")
        if row:
            scopes.append(
                f"SeparableConv2d_{row - 1}/" if row > 1 else "SeparableConv2d/"
            )
    return scopes


def warm_start(start: str, checkpoint: pathlib.Path) -> dict[str, object]:
    """The options of a second run."""
    if start == SCRATCH:
        return {}
    options = {
        "warmstart_checkpoint": str(checkpoint),
        "warmstart_moving_averages": True,
    }
    if start != ALL:
        number, _, frozen = start.partition("-")
        options["warmstart_include_scopes"] = scopes_of_rows(range(int(number)))
        if frozen:
            others = scopes_of_rows(range(int(number), NUM_ROWS))
            options["train_scopes"] = [*others, "fully_connected/"]
    return options


def run(out: pathlib.Path, key: tuple[str, ...], fold: int) -> float:
    """Trains and evaluates the last checkpoint once; returns its lwlrap."""
    data, (*settings, start) = pathlib.Path(FLAGS.data), key

    def folder(name: str) -> pathlib.Path:
        return out / "-".join([*settings, name, str(fold)])

    if start == NOISY:
        train_csv, steps, options = out / f"noisy-{fold}.csv", FLAGS.noisy_steps, {}
        learning_runs.write_noisy(data, fold, train_csv)
    else:
        train_csv, steps = out / f"third-{fold}.csv", FLAGS.steps
        learning_runs.draw_clips(
            data / f"train{fold}.csv", train_csv, CLIPS_PER_CLASS, fold
        )
        options = warm_start(start, folder(NOISY))
    hparams = {"batch_size": 32} | parse_overrides(measure.modern_hparams())
    found = learning_runs.train_and_evaluate(
        folder(start),
        data,
        train_csv=train_csv,
        fold=fold,
        max_steps=steps,
        checkpoint_steps=steps,
        hparams=hparams | {"warmstart": int("warmstart_checkpoint" in options)},
        mixed_precision=True,
        model=FLAGS.model,
        keep=True,
        **options,
    )
    return found[steps]


def read_results(path: pathlib.Path) -> dict[tuple[str, ...], dict[str, float]]:
    """The lwlrap by fold, by (model, noisy_steps, steps, start)."""
    results = {}
    for row in csv.DictReader(path.open()):
        key = tuple(row[name] for name in HEADER[:4])
        results.setdefault(key, {})[row["fold"]] = float(row["lwlrap"])
    return results


def print_table(results: dict[tuple[str, ...], dict[str, float]]) -> None:
    """Prints the mean of each start over folds, and its difference from ALL."""
    print("| model | noisy steps | steps | start | folds | lwlrap | - all |")
    print("|---" * 7 + "|")
    for key, found in results.items():
        reference = results.get((*key[:3], ALL), {})
        differences = [
            value - reference[fold]
            for fold, value in found.items()
            if fold in reference
        ]
        cells = [*key, str(len(found)), learning_runs.mean_and_error([*found.values()])]
        print(f"| {' | '.join(cells)} | {learning_runs.mean_and_error(differences)} |")


def main(argv: Sequence[str]) -> int:
    """Runs the benchmark."""
    path = learning_runs.open_results(argv, "transfer.csv", HEADER)
    out = path.parent
    for fold in FLAGS.folds:
        for start in FLAGS.starts:
            key = (FLAGS.model, str(FLAGS.noisy_steps), str(FLAGS.steps), start)
            if fold in read_results(path).get(key, {}):
                continue
            with learning_runs.output_to(out / "log.txt"):
                lwlrap = run(out, key, int(fold))
            learning_runs.append(path, [(*key, fold, lwlrap)])
            print(*key, fold, f"{lwlrap:.3f}", flush=True)
    print_table(read_results(path))
    return 0


if __name__ == "__main__":
    define_flags()
    program.run(main)
