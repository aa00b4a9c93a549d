"""Splits CSVs of clips into training and validation parts, stratified by label.

    python -m tools.make_validation_split train_curated.csv --out_dir splits
    python -m tools.make_validation_split a.csv b.csv --out_dir splits --folds 5

For each X.csv this writes X_train.csv and X_validation.csv. With --folds K it writes
X_fold<k>_train.csv and X_fold<k>_validation.csv for each fold k from 1 to K. Rows are
shuffled. The header and further columns are unchanged. Each CSV is split separately.
With --group_by COLUMN, rows with the same value in that column stay together, such as
the clips of one recording.

The split is multi-label stratified; see tagger/data/splits.py.
"""

import pathlib
import re
import sys
from collections.abc import Sequence

import numpy as np
from absl import flags

from tagger.data.csv_files import read_rows, write_csv
from tagger.data.splits import RECORDING, groups_of, split
from tagger.errors import UserError
from tagger.terminal import program
from tagger.terminal.files import make_folder
from tagger.terminal.progress import print_result

FLAGS = flags.FLAGS


def define_flags() -> None:
    """Defines the flags of this program."""
    flags.DEFINE_string("out_dir", None, "Folder to write to.")
    flags.DEFINE_float(
        "fraction",
        0.1,
        "Share of the clips for validation; with --group_by, share of the groups.",
    )
    flags.DEFINE_integer(
        "folds", None, "Number of folds, instead of a single split.", lower_bound=2
    )
    flags.DEFINE_string(
        "group_by",
        "",
        "Column, such as recording; rows with the same value in it stay in one part.",
    )
    flags.DEFINE_integer("seed", 0, "Seed of the random choices.", lower_bound=0)
    flags.register_validator(
        "fraction", lambda share: 0 < share < 1, message="must be between 0 and 1"
    )


def write_split(
    source: str,
    *,
    out_dir: str,
    fraction: float,
    num_folds: int | None,
    group_by: str,
    seed: int,
) -> None:
    """Splits one CSV and writes its parts to out_dir.

    Classes without validation clips are reported on stderr.

    Raises:
      UserError: the CSV cannot be used, or has too few clips.
    """
    header, rows = read_rows(source)
    groups = groups_of(source, header, rows, group_by)
    if not group_by:
        if len(set(groups)) < len(groups):
            print(
                f"note: {source} has several clips of some recordings. If they are in "
                f"different parts, the lwlrap is too high; --group_by {RECORDING} "
                f"keeps them together",
                file=sys.stderr,
            )
        groups = None
    class_names = np.array(sorted({label for row in rows for label in row.labels}))
    labels = np.array([np.isin(class_names, row.labels) for row in rows], int)
    try:
        parts = split(labels, groups, fraction=fraction, num_folds=num_folds, seed=seed)
    except (UserError, ValueError) as error:  # of this function and of scikit-learn
        raise UserError(f"{source}: {error}") from None
    for fold, (training, validation) in enumerate(parts, start=1):
        stem = pathlib.Path(source).stem + (f"_fold{fold}" if num_folds else "")
        for part, positions in (("train", training), ("validation", validation)):
            path = pathlib.Path(out_dir) / f"{stem}_{part}.csv"
            write_csv(path, [header, *(rows[index].fields for index in positions)])
            print_result(f"{path}: {len(positions)} clips")
        missing = class_names[~labels[validation].any(axis=0)]
        if missing.size:
            print(
                f"note: no clip in {path} has the label {', '.join(missing)}",
                file=sys.stderr,
            )


def check_sources(sources: Sequence[str], out_dir: str) -> None:
    """Checks that the parts of the CSVs can all be written.

    Raises:
      UserError: there are no CSVs, two have equal names, or a part would replace one.
    """
    stems = {pathlib.Path(source).stem for source in sources}
    if not sources:
        raise UserError("expected at least one CSV of clips; see --help")
    if len(stems) < len(sources):
        raise UserError("the names of the CSVs must differ; parts are named after them")
    for path in map(pathlib.Path, sources):
        in_folder = path.resolve().parent == pathlib.Path(out_dir).resolve()
        stem = re.sub(r"(_fold\d+)?_(train|validation)$", "", path.stem)
        if in_folder and stem in stems - {path.stem}:
            raise UserError(f"{path} would be replaced; choose another --out_dir")


def main(argv: Sequence[str]) -> int:
    """Runs the program; returns the exit status."""
    sources = argv[1:]
    check_sources(sources, FLAGS.out_dir)
    if FLAGS.folds and FLAGS["fraction"].present:
        raise UserError("--folds and --fraction exclude each other")
    make_folder(FLAGS.out_dir, "--out_dir")
    for source in sources:
        write_split(
            source,
            out_dir=FLAGS.out_dir,
            fraction=FLAGS.fraction,
            num_folds=FLAGS.folds,
            group_by=FLAGS.group_by,
            seed=FLAGS.seed,
        )
    return 0


if __name__ == "__main__":
    define_flags()
    program.run(main, required=["out_dir"])
