"""Packs the code and a kernel for Kaggle.

    python -m tools.pack_kernel OUT --owner NAME --checkpoint runs/first/model.ckpt-700
    python -m tools.pack_kernel OUT --owner NAME --train

This writes the data set, OUT/dataset, and the kernel, OUT/kernel, and prints the
commands to upload them. The first kernel averages the scores of all checkpoints. The
second one, notebooks/train_on_kaggle.ipynb, trains with the published recipe.
"""

import json
import pathlib
import re
import shutil
from collections.abc import Sequence

from absl import flags

from tagger.data.clips import read_class_map
from tagger.errors import UserError
from tagger.hparams import parse_overrides
from tagger.terminal import program
from tagger.terminal.files import make_folder
from tagger.terminal.progress import print_result

FLAGS = flags.FLAGS
ROOT = pathlib.Path(__file__).resolve().parent.parent
LICENSE = "other"  # Kaggle requires one; the data set is private.
NAME = "freesound-audio-tagger"
TRAINING_NAME = "freesound-audio-tagger-training"
KERNEL = ROOT / "kaggle" / "kernel.ipynb"
TRAINING_KERNEL = ROOT / "notebooks" / "train_on_kaggle.ipynb"
RECIPE = ROOT / "recipes" / "published_baseline.sh"


def define_flags() -> None:
    """Defines the flags of this program."""
    flags.DEFINE_string("owner", None, "Your user name on Kaggle.")
    flags.DEFINE_string(
        "checkpoint",
        "",
        "model.ckpt-N, a train_dir for its newest one, or best:EVAL_DIR for the best "
        "one of an evaluation. The scores of several, separated by commas, are "
        "averaged.",
    )
    flags.DEFINE_bool("train", False, "Pack the notebook that trains.")
    flags.DEFINE_string(
        "name",
        None,
        f"Name of data set and kernel on Kaggle. By default {NAME}, and with --train "
        f"{TRAINING_NAME}.",
    )
    flags.DEFINE_string(
        "class_map_path",
        str(ROOT / "class_map.csv"),
        "CSV of index,name lines, one per class.",
    )
    flags.DEFINE_string(
        "hparams",
        "",
        "Hyperparameters as name=value,name=value, for checkpoints without "
        "hparams.json.",
    )
    for name in ("owner", "name"):
        flags.register_validator(
            name,
            lambda text: text is None or re.fullmatch("[a-z0-9_-]+", text),
            message="must be lower-case letters, digits, hyphens and underscores",
        )


def pack(
    out: pathlib.Path,
    *,
    owner: str,
    name: str,
    class_map_path: str,
    checkpoint: str = "",
    hparams: str = "",
) -> None:
    """Writes the code, the notebook and the metadata, and prints what to do next.

    Without checkpoints, the notebook is the one that trains. Each of its versions has
    the output of the version before as an input.

    Args:
      out: the new folder to write to.
      owner, name, class_map_path, checkpoint, hparams: see `define_flags`.

    Raises:
      UserError: an argument cannot be used; nothing is written.
    """
    if out.exists():
        raise UserError(f"OUT must be a new folder, but {out} exists")
    make_folder(str(out.absolute().parent), "OUT")
    class_names = read_class_map(class_map_path)
    dataset, kernel = out / "dataset", out / "kernel"
    notebook, more, sources = TRAINING_KERNEL, [RECIPE], [f"{owner}/{name}"]
    if checkpoint:
        notebook, more, sources = KERNEL, [], []
        pack_checkpoints(dataset, checkpoint.split(","), class_names, hparams)
    for path in [*ROOT.glob("*.py"), *ROOT.glob("tagger/**/*.py"), *more]:
        copy = dataset / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
    shutil.copy(class_map_path, dataset / "class_map.csv")
    kernel.mkdir(parents=True)
    for path in (notebook, notebook.with_suffix(".py")):
        shutil.copy(path, kernel)
    write_metadata(
        out, owner=owner, name=name, code_file=notebook.name, sources=sources
    )
    print_result(
        f"to upload both, run:\n"
        f"  kaggle datasets create -p {dataset} --dir-mode zip\n"
        f"  kaggle kernels push -p {kernel}"
    )


def pack_checkpoints(
    dataset: pathlib.Path,
    paths: Sequence[str],
    class_names: Sequence[str],
    hparams: str,
) -> None:
    """Copies checkpoints and their hyperparameters to folders in `dataset`.

    Raises:
      UserError: a checkpoint or a hyperparameter cannot be used; nothing is written.
    """
    overrides = parse_overrides(hparams)
    program.start_tensorflow()
    import model
    from tagger.runs import checkpoint_files
    from tagger.runs.run import Run

    loaded = {}
    for path in paths:
        found = Run.find(path, "--checkpoint")
        # The network is built only to check that the kernel can load it.
        loaded[found.prefix] = model.load_network(
            found, class_names, hparam_overrides=overrides
        )
    for number, (prefix, (network, values)) in enumerate(loaded.items(), start=1):
        folder = dataset / f"checkpoint_{number}"
        folder.mkdir(parents=True)
        for suffix in (checkpoint_files.DATA_SUFFIX, checkpoint_files.INDEX_SUFFIX):
            shutil.copy(prefix + suffix, folder)
        Run(folder).write_record(
            model_name=network.name, hparams=values, class_names=class_names
        )
        print_result(f"{folder.name}: {prefix}")


def write_metadata(
    out: pathlib.Path, *, owner: str, name: str, code_file: str, sources: Sequence[str]
) -> None:
    """Writes the metadata of data set and kernel for Kaggle's command-line tool."""
    address = f"{owner}/{name}"
    # Kaggle makes the address from the title, so both use the same name.
    dataset = {"title": name, "id": address, "licenses": [{"name": LICENSE}]}
    template = ROOT / "kaggle" / "kernel-metadata.json"
    kernel = json.loads(template.read_text(encoding="utf-8"))
    kernel |= {"title": name, "id": address, "dataset_sources": [address]}
    kernel |= {"code_file": code_file, "kernel_sources": list(sources)}
    for path, metadata in (
        ("dataset/dataset-metadata.json", dataset),
        ("kernel/kernel-metadata.json", kernel),
    ):
        text = json.dumps(metadata, indent=2) + "\n"
        (out / path).write_text(text, encoding="utf-8")


def main(argv: Sequence[str]) -> int:
    """Runs the program; returns the exit status."""
    if len(argv) != 2:
        raise UserError(f"OUT must be one folder, but got {len(argv) - 1} arguments")
    if FLAGS.train == bool(FLAGS.checkpoint):
        raise UserError("give one of --checkpoint and --train, and only one")
    if FLAGS.train and FLAGS.hparams:
        raise UserError("--hparams needs --checkpoint")
    pack(
        pathlib.Path(argv[1]),
        owner=FLAGS.owner,
        name=FLAGS.name or (TRAINING_NAME if FLAGS.train else NAME),
        class_map_path=FLAGS.class_map_path,
        checkpoint=FLAGS.checkpoint,
        hparams=FLAGS.hparams,
    )
    return 0


if __name__ == "__main__":
    define_flags()
    program.run(main, required=["owner"])
