"""Measures what each option of training gains in lwlrap, on clean and on noisy labels.

    python benchmarks/learning.py OUT --data kitchen20 [--model yamnet]

The folder in --data has audio/, class_map.csv, and for the folds K from 1 to 4
trainK.csv and valK.csv. A run trains on a fold K, with K as its seed, and evaluates its
checkpoints on valK.csv. With noisy labels, 40 % of those of trainK.csv are replaced by
wrong ones. All runs have the same number of steps. Their results are appended to
OUT/learning.csv, and those that are there are not repeated, so the program can be
stopped, and several can run at the same time, with different flags. OUT is for one data
set, and for one --evaluate_every of each number of steps.

At the end it prints a table: for each option the best lwlrap over the steps, and the
mean of the last three evaluations, both averaged over folds, with the paired difference
to the default, or to --reference. The best one is biased upwards for options whose
lwlrap varies more. Also draws the curves of the options, folds and labels in the flags,
to OUT/learning.png.
"""

import csv
import itertools
import pathlib
from collections.abc import Sequence

import learning_runs
import measure
import numpy as np
from absl import flags

from tagger import hparams as hparams_lib
from tagger.errors import UserError
from tagger.terminal import program

FLAGS = flags.FLAGS
CLEAN, NOISY = "clean", "noisy"
HEADER = ("labels", "model", "steps", "option", "fold", "step", "lwlrap")
DEFAULT = "default"
# The same in all runs. With the default bndecay, short runs cannot be evaluated.
COMMON = {"lr": 1e-3, "batch_size": 32, "bndecay": 0.9}
OPTIONS = {
    DEFAULT: "",
    "masks": "freq_masks=1,time_masks=1",
    "gain": "gain_db=20",
    "pcen": "frontend=pcen",
    "cosine": "cosine=1,warmup_steps=100",
    "modern": measure.modern_hparams(),
}


def define_flags() -> None:
    """Defines the flags of this program."""
    flags.DEFINE_string("data", None, "Folder of the data set.")
    flags.DEFINE_list("labels", [CLEAN, NOISY], f"{CLEAN}, {NOISY} or both.")
    flags.DEFINE_enum("model", "yamnet", hparams_lib.MODEL_NAMES, "Network.")
    flags.DEFINE_list("folds", ["1", "2", "3", "4"], "Folds, each also a seed.")
    flags.DEFINE_list(
        "options",
        list(OPTIONS),
        "Names of options, or hyperparameters in the form 'name=value name=value'. A "
        "name may come first, such as 'modern width=0.5'.",
    )
    flags.DEFINE_string("reference", DEFAULT, "The option to compare the others with.")
    flags.DEFINE_integer("steps", 2000, "Training steps.", lower_bound=1)
    flags.DEFINE_integer("evaluate_every", 250, "Steps.", lower_bound=1)
    flags.DEFINE_bool("mixed_precision", True, "See runner.py.")
    flags.mark_flag_as_required("data")
    flags.register_validator(
        "labels",
        lambda labels: set(labels) <= {CLEAN, NOISY},
        message=f"must be {CLEAN}, {NOISY} or both",
    )


def read_results(path: pathlib.Path) -> dict[tuple, dict[int, float]]:
    """The lwlrap by step, by (labels, model, steps, option, fold)."""
    results = {}
    for row in csv.DictReader(path.open()):
        key = tuple(row[name] for name in HEADER[:5])
        results.setdefault(key, {})[int(row["step"])] = float(row["lwlrap"])
    return results


def option_hparams(option: str) -> dict[str, object]:
    """The hyperparameters of an option.

    Raises:
      UserError: it is neither a name nor hyperparameters.
    """
    first, *others = option.split()
    hparams = COMMON | hparams_lib.parse_overrides(OPTIONS.get(first, first))
    for word in others:
        hparams |= hparams_lib.parse_overrides(word)
    return hparams


def run(out: pathlib.Path, key: tuple) -> dict[int, float]:
    """Trains and evaluates once; returns the lwlrap by step."""
    labels, model_name, steps, option, fold = key
    data = pathlib.Path(FLAGS.data)
    train_csv = data / f"train{fold}.csv"
    if labels == NOISY:
        train_csv = out / f"train{fold}_noisy.csv"
        learning_runs.write_noisy(data, fold, train_csv)
    return learning_runs.train_and_evaluate(
        out / "-".join(["run", *key]),
        data,
        train_csv=train_csv,
        fold=int(fold),
        max_steps=int(steps),
        checkpoint_steps=FLAGS.evaluate_every,
        hparams=option_hparams(option),
        mixed_precision=FLAGS.mixed_precision,
        model=model_name,
    )


def best(found: dict[int, float]) -> float:
    """The highest lwlrap."""
    return max(found.values())


def last_three(found: dict[int, float]) -> float:
    """The mean lwlrap of the last three evaluations."""
    return float(np.mean([found[step] for step in sorted(found)[-3:]]))


def reference_run(
    results: dict[tuple, dict[int, float]], key: tuple
) -> dict[int, float]:
    """The lwlrap of the reference at the same steps as a run; empty if not there.

    The default has no schedule, so a longer run has the same first steps.
    """
    steps = results[key]
    for other, found in results.items():
        same = other[:2] == key[:2] and other[3:] == (FLAGS.reference, key[4])
        same &= FLAGS.reference == DEFAULT or other[2] == key[2]
        if same and steps.keys() <= found.keys():
            return {step: found[step] for step in steps}
    return {}


def table(results: dict[tuple, dict[int, float]]) -> list[str]:
    """The rows of a table of means and standard errors over folds, with a header."""
    columns = "labels", "model", "steps", "option", "folds"
    difference = f"- {FLAGS.reference}"
    summaries = "best", difference, "last three", difference
    rows = [f"| {' | '.join(columns + summaries)} |"]
    rows.append("|---" * len(columns + summaries) + "|")
    for group in dict.fromkeys(key[:4] for key in results):
        runs = {key[4]: found for key, found in results.items() if key[:4] == group}
        cells = [*group, str(len(runs))]
        for summary in (best, last_three):
            values = [summary(found) for found in runs.values()]
            differences = [
                summary(found) - summary(control)
                for fold, found in runs.items()
                if (control := reference_run(results, (*group, fold)))
            ]
            cells.append(learning_runs.mean_and_error(values))
            cells.append(learning_runs.mean_and_error(differences))
        rows.append(f"| {' | '.join(cells)} |")
    return rows


def draw_curves(results: dict[tuple, dict[int, float]], path: pathlib.Path) -> None:
    """Draws the lwlrap of the chosen runs over the steps: means and standard errors."""
    from matplotlib.figure import Figure

    count = len(FLAGS.labels)
    figure = Figure(figsize=(5.5 * count, 4.5), layout="constrained")
    panels = figure.subplots(1, count, sharey=True, squeeze=False)[0]
    for axes, labels in zip(panels, FLAGS.labels):
        for option in FLAGS.options:
            keys = [
                (labels, FLAGS.model, str(FLAGS.steps), option, fold)
                for fold in FLAGS.folds
            ]
            curves = [results[key] for key in keys if key in results]
            if not curves:
                continue
            steps = sorted(set.intersection(*map(set, curves)))
            values = np.array([[curve[step] for step in steps] for curve in curves])
            errors = learning_runs.standard_error(values)
            axes.errorbar(steps, values.mean(0), errors, label=option, capsize=3)
        axes.set_xlabel("steps")
        axes.set_title(f"{labels} labels")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=6, loc="upper center", bbox_to_anchor=(0.5, -0.12))
    panels[0].set_ylabel("lwlrap")
    figure.savefig(path, dpi=100)


def main(argv: Sequence[str]) -> int:
    """Runs the benchmark."""
    path = learning_runs.open_results(argv, "learning.csv", HEADER)
    out = path.parent
    for option in FLAGS.options:  # A mistake is found before the first run.
        option_hparams(option)
    known = {DEFAULT, *FLAGS.options, *(key[3] for key in read_results(path))}
    if FLAGS.reference not in known:
        raise UserError(f"--reference: there are no runs of {FLAGS.reference}")
    for fold, labels, option in itertools.product(
        FLAGS.folds, FLAGS.labels, FLAGS.options
    ):
        key = (labels, FLAGS.model, str(FLAGS.steps), option, fold)
        if key in read_results(path):
            continue
        with learning_runs.output_to(out / f"{labels}.log"):
            found = run(out, key)
        learning_runs.append(path, [(*key, *item) for item in found.items()])
        print(*key, f"{best(found):.3f}", flush=True)
    results = read_results(path)
    print("", *table(results), sep="\n")
    draw_curves(results, out / "learning.png")
    return 0


if __name__ == "__main__":
    define_flags()
    program.run(main)
