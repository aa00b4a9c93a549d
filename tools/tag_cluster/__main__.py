"""Tags recordings with Ray, on one or several machines, into Parquet files.

    pip install -r requirements-cluster.txt
    python -m tools.tag_cluster runs/first field_recordings/ out --workers 8
    python -m tools.tag_cluster best:EVAL_DIR paths.txt out --archive field.db
    python -m tools.tag_cluster runs/first s3://bucket/recordings out

CHECKPOINT is as of tools.tag. The recordings are a folder, a pattern, a file, or a .txt
file with a path in each line; all machines must find them, the checkpoint and OUT at
the same paths. A folder, a file, a list and the paths in it can also be URIs that
PyArrow reads, such as s3://, gs:// and hdfs://.

The Ray cluster is that of RAY_ADDRESS, or the one that `ray start` started on this
machine. Without both, the program starts one on this machine.

Each worker loads the network once, tags one file after the other, and writes Parquet
files with a row for each file:

    file                    its absolute path or URI
    bytes, modified         its size, and time of modification in ns; null if it was
                            missing or could not be copied
    seconds                 its duration; null if it failed
    detections              list of {start, end, class, score}, as tools.tag --segments
    scores, embeddings      a list for each example
    doubt, error            why the scores mean little, and why it failed; or empty

The same command continues after an interruption: files that are in OUT are not tagged
again, except those that were missing or could not be copied. If files failed, the exit
status is 1.
"""

import importlib.util
import logging
import pathlib
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from absl import flags

from recordings.archive import (
    Archive,
    Settings,
    check_settings,
    file_status,
    stored,
)
from recordings.segments import Tags
from recordings.thresholds import Rule
from tagger.errors import UserError
from tagger.terminal import program
from tagger.terminal.files import locked, make_folder, read_json, write_json
from tagger.terminal.progress import counted, print_result, printable
from tools.tag import rule_flags
from tools.tag_cluster.parts import (
    ARRAYS,
    delete_rows,
    find_pending,
    read_parts,
    read_statuses,
)
from tools.tag_cluster.sources import find_paths, is_remote
from tools.tag_cluster.worker import Worker

FLAGS = flags.FLAGS
SETTINGS_FILE = "settings.json"
RULE = "rule"  # in it, beside the `Settings`


def define_flags() -> None:
    """Defines the flags of this program."""
    flags.DEFINE_integer("workers", 2, "Processes that tag files.", lower_bound=1)
    flags.DEFINE_float("cpus", 1, "CPU cores of each worker.", lower_bound=0)
    flags.DEFINE_float("gpus", 0, "GPUs of each worker.", lower_bound=0)
    flags.DEFINE_integer(
        "files_per_part", 8, "Files in each Parquet file.", lower_bound=1
    )
    rule_flags.define_flags()
    flags.DEFINE_string("archive", "", "Archive of tools.tag to add all results to.")
    flags.DEFINE_bool("mixed_precision", False, "Compute convolutions in bfloat16.")


def check_rule(rule: Rule, values: Mapping[str, Any], out: pathlib.Path) -> None:
    """Checks that the detections in a folder are by the same rule.

    Args:
      rule: the rule.
      values: the contents of SETTINGS_FILE.
      out: the folder, for the message.

    Raises:
      UserError: they are by another one.
    """
    if values.get(RULE) != stored_rule(rule):
        raise UserError(
            f"--threshold, --thresholds: {out} has detections with other thresholds; "
            f"use a new folder"
        )


def stored_rule(rule: Rule) -> list[Any]:
    """A rule as JSON values."""
    return [np.asarray(value).tolist() for value in rule]


def check_machines(
    machines: Sequence[Mapping[str, float]], cpus: float, gpus: float
) -> None:
    """Checks that a machine has enough for a worker; Ray would wait for one.

    Args:
      machines: the numbers of each: CPU, GPU.
      cpus, gpus: the numbers for a worker.

    Raises:
      UserError: none has.
    """
    found = [(machine.get("CPU", 0), machine.get("GPU", 0)) for machine in machines]
    if not any(have[0] >= cpus and have[1] >= gpus for have in found):
        listed = ", ".join(
            f"{have[0]:g} and {have[1]:g}" for have in sorted(set(found))
        )
        raise UserError(
            f"--cpus is {cpus:g} and --gpus is {gpus:g}, but no machine of the Ray "
            f"cluster has as many; CPUs and GPUs of its machines: {listed}"
        )


def tag_all(
    paths: Sequence[str], out: pathlib.Path, checkpoint: str, rule: Rule, num_done: int
) -> None:
    """Tags files in the workers, and prints a line for each."""
    import ray
    import ray.data

    # Its errors are also exceptions.
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    try:
        ray.init(logging_level="error", log_to_driver=False, ignore_reinit_error=True)
    except ConnectionError as error:
        raise UserError(f"RAY_ADDRESS: {error}") from None
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    check_machines(machines, FLAGS.cpus, FLAGS.gpus)
    num_batches = -(-len(paths) // FLAGS.files_per_part)
    results = ray.data.from_items(
        [{"path": path} for path in paths], override_num_blocks=num_batches
    ).map_batches(
        Worker,
        fn_constructor_args=(
            *(checkpoint, str(out), rule, FLAGS.mixed_precision),
            max(1, int(FLAGS.cpus)),
        ),
        batch_size=FLAGS.files_per_part,
        compute=ray.data.ActorPoolStrategy(size=min(FLAGS.workers, num_batches)),
        num_cpus=FLAGS.cpus,
        num_gpus=FLAGS.gpus,
    )
    print_results(results.iter_rows(), num_done, num_done + len(paths))


def print_results(rows: Iterable[Mapping[str, Any]], num_done: int, total: int) -> None:
    """Prints a line for each file, from the rows of `Worker.__call__`.

    Raises:
      UserError: a worker could not continue.
    """
    for number, row in enumerate(rows, num_done + 1):
        if row["problem"]:
            raise UserError(*row["problem"].splitlines())
        if row["error"]:
            print(f"error: {printable(row['error'])}", file=sys.stderr)
            continue
        path = printable(row["file"])
        if row["doubt"]:
            print(f"note: {path}: {row['doubt']}", file=sys.stderr)
        print_result(f"file {number:,} of {total:,}: {path} ({row['seconds']:.1f} s)")


def add_to_archive(out: pathlib.Path, path: str, settings: Settings) -> None:
    """Adds all results in a folder to an archive that does not have them.

    Those of files that have changed since are left out, because the archive would take
    them for results of the files as they are now.

    Raises:
      UserError: the archive cannot be written, or has other settings.
    """
    columns = ("file", "bytes", "modified", "seconds", "doubt", "error", *ARRAYS)
    num_changed = 0
    with Archive(path, settings) as archive:
        for row in read_parts(out, columns):
            if file_status(row["file"]) != (row["bytes"], row["modified"]):
                num_changed += 1
                continue
            if archive.find(row["file"]):
                continue
            tags = None
            if not row["error"]:
                arrays = (row[name] for name in ARRAYS)
                tags = Tags(row["seconds"], *arrays, None, row["doubt"])
            archive.add(row["file"], tags, row["error"])
    if num_changed:
        print(
            f"warning: {counted(num_changed, 'file')} changed since the results in "
            f"{out}, which are not added to {path}",
            file=sys.stderr,
        )


def main(argv: Sequence[str]) -> int:
    """Runs the program; returns the exit status."""
    if len(argv) != 4:
        raise UserError("expected a checkpoint, recordings and a folder; see --help")
    given = rule_flags.read_flags()
    if not importlib.util.find_spec("ray"):
        raise UserError("Ray is not installed: pip install -r requirements-cluster.txt")
    paths = find_paths(argv[2])
    program.start_tensorflow()
    from tagger.runs.run import Run

    found = Run.find(argv[1], "CHECKPOINT")
    class_names = found.run.class_names("")
    _, hparams = found.run.settings(
        model_name=None, overrides={}, class_names=class_names
    )
    settings = Settings.of(found.prefix, class_names, hparams, FLAGS.mixed_precision)
    rule = rule_flags.rule_for(given, class_names, settings.description)
    make_folder(argv[3], "OUT")
    out = pathlib.Path(argv[3]).resolve()
    busy = UserError(f"another program writes to {out}")
    with locked(out / "lock", busy):
        values = read_json(out / SETTINGS_FILE)
        if values is None:
            values = stored(settings) | {RULE: stored_rule(rule)}
            write_json(out / SETTINGS_FILE, values)
        else:
            check_settings(settings, values, str(out))
            check_rule(rule, values, out)
        done = read_statuses(out)
        if FLAGS.archive and (remote := [*filter(is_remote, [*paths, *done])]):
            raise UserError(f"--archive needs local files, but got {remote[0]}")
        pending = find_pending(paths, done, out)
        delete_rows(out, done.keys() & pending)
        num_done = len(paths) - len(pending)
        if num_done:
            print(f"{num_done:,} of {len(paths):,} files are in {out}", file=sys.stderr)
        if pending:
            tag_all(pending, out, settings.checkpoint, rule, num_done)
        if FLAGS.archive:
            add_to_archive(out, FLAGS.archive, settings)
        errors = [row["error"] for row in read_parts(out, ["error"]) if row["error"]]
    if errors:
        print(f"{counted(len(errors), 'file')} failed", file=sys.stderr)
    return 1 if errors else 0


if __name__ == "__main__":
    define_flags()
    program.run(main)
