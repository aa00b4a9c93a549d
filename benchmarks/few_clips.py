"""Measures lwlrap against the number of clips per class, from scratch and from YAMNet.

    python benchmarks/few_clips.py OUT --data esc10,kitchen20 --yamnet DIR

Each folder in --data has audio/, class_map.csv, trainK.csv and valK.csv for the folds K
from 1 to 4. DIR is a folder of tools.import_yamnet. Draw K selects some clips of each
class from trainK.csv at random, and evaluates on valK.csv. Results are appended to
OUT/results.csv, and those that are there are not repeated, so the program can be
stopped. At the end it prints a table of means and standard errors, and draws
OUT/few_clips.png.
"""

import csv
import itertools
import pathlib
import shutil
from collections.abc import Sequence

import learning_runs
import numpy as np
from absl import flags

from tagger.terminal import program

FLAGS = flags.FLAGS
CLIPS_PER_CLASS = (4, 8, 16, 0)  # 0: all
HEADER = ("data", "clips_per_class", "start", "draw", "lwlrap")
LAST_LAYER = "fully_connected"
LAST_BLOCK = ("(SeparableConv2d_12|Conv_13)/", LAST_LAYER)
SOLVED = "last layer solved"
# The variables that are trained; empty: all. Only "from scratch" has no warm start.
STARTS = {
    "from scratch": (),
    "all layers": (),
    "last layer": (LAST_LAYER,),
    "last block": LAST_BLOCK,
    SOLVED: (LAST_LAYER,),
}


def define_flags() -> None:
    """Defines the flags of this program."""
    flags.DEFINE_list("data", None, "Folders of data sets.")
    flags.DEFINE_string("yamnet", None, "Folder of tools.import_yamnet.")
    flags.DEFINE_integer("draws", 3, "Draws of clips.", lower_bound=1, upper_bound=4)
    flags.DEFINE_integer("steps", 100, "Steps of 32 examples.", lower_bound=1)
    flags.DEFINE_float("lr", 1e-3, "Learning rate.", lower_bound=0)
    flags.DEFINE_multi_enum("starts", list(STARTS), STARTS, "Columns to measure.")
    flags.mark_flags_as_required(["data", "yamnet"])


def solve(out: pathlib.Path, data: pathlib.Path) -> None:
    """Solves the last layer for the clips that were drawn, as OUT/run."""
    from tools.fit_last_layer import fitting

    shutil.rmtree(out / "run", ignore_errors=True)
    fitting.fit_last_layer(
        checkpoint=FLAGS.yamnet,
        class_map_path=str(data / "class_map.csv"),
        clip_dir=str(data / "audio"),
        csv_path=str(out / "clips.csv"),
        train_dir=str(out / "run"),
    )


def run(out: pathlib.Path, data: pathlib.Path, number: int, start: str, draw: int):
    """Trains and evaluates once; returns the lwlrap."""
    program.start_tensorflow()
    learning_runs.draw_clips(data / f"train{draw}.csv", out / "clips.csv", number, draw)
    hparams = {"lr": FLAGS.lr, "batch_size": 32, "bndecay": 0.9}
    options = {}
    if start == SOLVED:
        solve(out, data)
        return learning_runs.evaluate(out / "run", data, draw, False)[0]
    if start != "from scratch":
        hparams["warmstart"] = 1
        options = {
            "warmstart_checkpoint": FLAGS.yamnet,
            "warmstart_exclude_scopes": [LAST_LAYER],
            "warmstart_moving_averages": True,
            "train_scopes": STARTS[start],
        }
    found = learning_runs.train_and_evaluate(
        out / "run",
        data,
        train_csv=out / "clips.csv",
        fold=draw,
        max_steps=FLAGS.steps,
        checkpoint_steps=FLAGS.steps,
        hparams=hparams,
        model="yamnet",
        **options,
    )
    return found[FLAGS.steps]


def read_results(path: pathlib.Path) -> dict[tuple[str, str, str], dict[str, float]]:
    """The lwlrap by draw, by (data set, clips per class, start)."""
    results = {}
    for row in csv.DictReader(path.open()):
        key = (row["data"], row["clips_per_class"], row["start"])
        results.setdefault(key, {})[row["draw"]] = float(row["lwlrap"])
    return results


def starts_of(results) -> list[str]:
    """The columns that have results, in the order of STARTS."""
    return [start for start in STARTS if any(key[2] == start for key in results)]


def print_tables(results) -> None:
    """Prints a table for each data set: the mean over draws, and its standard error."""
    starts = starts_of(results)
    for data in dict.fromkeys(key[0] for key in results):
        print(f"\n{data}\n")
        print("| clips per class |", *(f"{start} |" for start in starts))
        print("|---|" + "---|" * len(starts))
        for number in map(str, CLIPS_PER_CLASS):
            cells = []
            for start in starts:
                values = list(results.get((data, number, start), {}).values())
                cells.append(f" {learning_runs.mean_and_error(values)} |")
            print(f"| {'all' if number == '0' else number} |" + "".join(cells))


def draw_curves(results, path: pathlib.Path) -> None:
    """Draws the means against the number of clips per class, a panel per data set."""
    from matplotlib.figure import Figure

    sets = list(dict.fromkeys(key[0] for key in results))
    figure = Figure(figsize=(5.5 * len(sets), 4.5), layout="constrained")
    panels = figure.subplots(1, len(sets), sharey=True, squeeze=False)[0]
    positions = range(len(CLIPS_PER_CLASS))
    for axes, data in zip(panels, sets):
        for start in starts_of(results):
            values = [
                list(results.get((data, str(n), start), {"": np.nan}).values())
                for n in CLIPS_PER_CLASS
            ]
            errors = list(map(learning_runs.standard_error, values))
            means = list(map(np.mean, values))
            axes.errorbar(positions, means, errors, label=start, marker="o", capsize=3)
        axes.set_xticks(positions, [n or "all" for n in CLIPS_PER_CLASS])
        axes.set_xlabel("training clips per class")
        axes.set_title(data)
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("lwlrap")
    panels[0].legend()
    figure.savefig(path, dpi=100)


def main(argv: Sequence[str]) -> int:
    """Runs the benchmark."""
    path = learning_runs.open_results(argv, "results.csv", HEADER)
    out = path.parent
    for draw, data, number, start in itertools.product(
        range(1, FLAGS.draws + 1), FLAGS.data, CLIPS_PER_CLASS, FLAGS.starts
    ):
        data = pathlib.Path(data)
        key = (data.name, str(number), start)
        if str(draw) in read_results(path).get(key, {}):
            continue
        with learning_runs.output_to(out / "log.txt"):
            lwlrap = run(out, data, number, start, draw)
        learning_runs.append(path, [(*key, draw, lwlrap)])
        print(*key, draw, f"{lwlrap:.3f}", flush=True)
    results = read_results(path)
    print_tables(results)
    draw_curves(results, out / "few_clips.png")
    return 0


if __name__ == "__main__":
    define_flags()
    program.run(main)
