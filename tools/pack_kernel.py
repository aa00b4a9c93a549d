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
from tagger.runs import run_record
from tagger.terminal import program
from tagger.terminal.files import make_folder
from tagger.terminal.progress import print_result

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
        None,
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
    flags.mark_flag_as_required("owner")
    for name in ("owner", "name"):
        flags.register_validator(
            name,
            lambda text: text is None or re.fullmatch("[a-z0-9_-]+", text),
            message="must be lower-case letters, digits, hyphens and underscores",
        )


def check_new(out: pathlib.Path) -> None:
    """Raises a UserError if OUT exists, or cannot be made."""
    if out.exists():
        raise UserError(f"OUT must be a new folder, but {out} exists")
    make_folder(str(out.absolute().parent), "OUT")


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


def pack_code(
    out: pathlib.Path,
    *,
    owner: str,
    name: str,
    class_map_path: str,
    notebook: pathlib.Path,
    more: Sequence[pathlib.Path] = (),
    sources: Sequence[str] = (),
) -> None:
    """Writes the code, the notebook and the metadata, and prints what to do next.

    Args:
      out: the folder to write to, without code and notebook.
      owner, name, class_map_path: see `define_flags`.
      notebook: the kernel; a script of the same name is copied, too.
      more: further files of the repository for the data set.
      sources: addresses of kernels whose output is an input of the kernel.
    """
    dataset, kernel = out / "dataset", out / "kernel"
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


def pack(
    out: pathlib.Path,
    *,
    owner: str,
    name: str,
    checkpoint: str,
    class_map_path: str,
    hparams: str,
) -> None:
    """Writes the new folder `out` with the kernel that scores the test clips.

    See `define_flags` for the other arguments.

    Raises:
      UserError: an argument cannot be used. If it is a checkpoint, the class
        map or a hyperparameter, nothing is written.
    """
    check_new(out)
    class_names = read_class_map(class_map_path)
    overrides = parse_overrides(hparams)
    program.start_tensorflow()
    import model
    from tagger.runs import checkpoints

    loaded = {}
    for path in checkpoint.split(","):
        prefix = checkpoints.find_checkpoint(path, "--checkpoint")
        # The network is built only to check that the kernel can load it.
        loaded[prefix] = model.load_network(
            prefix, class_names, hparam_overrides=overrides
        )
    out.mkdir(parents=True)
    for number, (prefix, (network, values)) in enumerate(loaded.items(), start=1):
        folder = out / "dataset" / f"checkpoint_{number}"
        folder.mkdir(parents=True)
        for suffix in (checkpoints.DATA_SUFFIX, checkpoints.INDEX_SUFFIX):
            shutil.copy(prefix + suffix, folder)
        run_record.write_hparams(
            str(folder),
            model_name=network.name,
            hparams=values,
            class_names=class_names,
        )
        print_result(f"{folder.name}: {prefix}")
    pack_code(
        out, owner=owner, name=name, class_map_path=class_map_path, notebook=KERNEL
    )


def pack_training(
    out: pathlib.Path, *, owner: str, name: str, class_map_path: str
) -> None:
    """Writes the new folder `out` with the notebook that trains.

    Each version of the notebook has the output of the version before as an input.

    Raises:
      UserError: the class map cannot be used, or `out` not be written.
    """
    check_new(out)
    read_class_map(class_map_path)
    pack_code(
        out,
        owner=owner,
        name=name,
        class_map_path=class_map_path,
        notebook=TRAINING_KERNEL,
        more=[RECIPE],
        sources=[f"{owner}/{name}"],
    )


def main(argv: Sequence[str]) -> int:
    """Runs the program; returns the exit status."""
    if len(argv) != 2:
        raise UserError(f"OUT must be one folder, but got {len(argv) - 1} arguments")
    out = pathlib.Path(argv[1])
    values = flags.FLAGS
    if values.train == bool(values.checkpoint):
        raise UserError("give one of --checkpoint and --train, and only one")
    if values.train and values.hparams:
        raise UserError("--hparams needs --checkpoint")
    common = {
        "owner": values.owner,
        "name": values.name or (TRAINING_NAME if values.train else NAME),
        "class_map_path": values.class_map_path,
    }
    if values.train:
        pack_training(out, **common)
    else:
        pack(out, checkpoint=values.checkpoint, hparams=values.hparams, **common)
    return 0


if __name__ == "__main__":
    define_flags()
    program.run(main)
