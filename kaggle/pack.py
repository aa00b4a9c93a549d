"""Packs checkpoints and the code that applies them for Kaggle.

    python kaggle/pack.py OUT --owner NAME --checkpoint runs/first/model.ckpt-12000

writes OUT/dataset, to be uploaded as a data set, and OUT/kernel, the kernel that uses
it, and prints the commands that upload them. Several checkpoints are averaged there.
"""

import argparse
import json
import os
import pathlib
import re
import shutil
import sys
from collections.abc import Sequence

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import runner  # noqa: E402
from tagger import files, run_record  # noqa: E402
from tagger import hparams as hparams_lib  # noqa: E402
from tagger.clips import read_class_map  # noqa: E402

MODEL_NAME = hparams_lib.MODEL_NAMES[0]  # runner.py's default; the kernel names none.
KERNEL_FILES = ("kernel.py", "kernel.ipynb")
KERNEL_METADATA = "kernel-metadata.json"
DATASET_METADATA = "dataset-metadata.json"
# As Kaggle takes them: users' names and the last part of an address.
OWNER = re.compile(r"[a-z0-9]+([_-][a-z0-9]+)*")
NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
NAME_LENGTHS = (6, 50)
LICENSE = "other"  # Data sets need one; this one is private.


def check_names(owner: str, name: str) -> None:
    """Checks what Kaggle would refuse after the upload.

    Raises:
      ValueError: the owner or the name cannot be part of an address on Kaggle.
    """
    if not OWNER.fullmatch(owner):
        raise ValueError(
            f"--owner must be your user name as in the address of your page on Kaggle "
            f"(lower-case letters, digits, single hyphens), but got '{owner}'"
        )
    low, high = NAME_LENGTHS
    if not (NAME.fullmatch(name) and low <= len(name) <= high):
        raise ValueError(
            f"--name must be {low} to {high} lower-case letters, digits and single "
            f"hyphens, but got '{name}'"
        )


def check_checkpoint(
    path: str, *, class_names: Sequence[str], hparams: str
) -> tuple[str, hparams_lib.Hparams]:
    """Finds a checkpoint and makes sure that the kernel will be able to use it.

    Args:
      path: `model.ckpt-N`, or a folder, whose newest is meant.
      class_names: the C classes of the class map.
      hparams: the `name=value` pairs of --hparams.

    Returns:
      The prefix of its files, and the hyperparameters it was trained with.

    Raises:
      ValueError: there is none, it is damaged, or it does not fit the classes or
        hyperparameters.
    """
    import model
    from tagger import checkpoints

    prefix = checkpoints.find_checkpoint(path, "--checkpoint")
    _, trained_with = model.load_network(
        prefix,
        class_names,
        model_name=MODEL_NAME,
        hparam_overrides=hparams_lib.parse_overrides(hparams),
    )
    return prefix, trained_with


def pack_checkpoint(
    prefix: str,
    folder: pathlib.Path,
    *,
    class_names: Sequence[str],
    hparams: hparams_lib.Hparams,
) -> None:
    """Copies a checkpoint into a folder of its own, with its hyperparameters."""
    from tagger import checkpoints

    folder.mkdir(parents=True)
    for suffix in (checkpoints.DATA_SUFFIX, checkpoints.INDEX_SUFFIX):
        shutil.copyfile(prefix + suffix, folder / (os.path.basename(prefix) + suffix))
    run_record.write_hparams(
        str(folder), model_name=MODEL_NAME, hparams=hparams, class_names=class_names
    )
    print(f"{folder}: {prefix}, with its hyperparameters")


def pack_code(folder: pathlib.Path, class_map_path: str) -> int:
    """Copies the program and the class map; returns how many modules there are."""
    modules = sorted([*ROOT.glob("*.py"), *ROOT.glob("tagger/*.py")])
    (folder / "tagger").mkdir()
    for module in modules:
        shutil.copyfile(module, folder / module.relative_to(ROOT))
    shutil.copyfile(class_map_path, folder / "class_map.csv")
    return len(modules)


def write_metadata(out: pathlib.Path, owner: str, name: str) -> None:
    """Writes what Kaggle's program reads beside the data set and the kernel."""
    identity = f"{owner}/{name}"
    # Kaggle derives the address from the title, so the title is the name.
    dataset = {"title": name, "id": identity, "licenses": [{"name": LICENSE}]}
    kernel = json.loads((ROOT / "kaggle" / KERNEL_METADATA).read_text(encoding="utf-8"))
    kernel |= {"id": identity, "title": name, "dataset_sources": [identity]}
    for path, metadata in (
        (out / "dataset" / DATASET_METADATA, dataset),
        (out / "kernel" / KERNEL_METADATA, kernel),
    ):
        files.write_whole(path, json.dumps(metadata, indent=2) + "\n")


def pack(arguments: argparse.Namespace) -> int:
    """Packs what the arguments ask for, and says what and what to do next.

    Returns:
      The exit status, 0.

    Raises:
      ValueError, OSError: something cannot be used; the message names the argument.
    """
    out = pathlib.Path(arguments.out)
    check_names(arguments.owner, arguments.name)
    class_names = read_class_map(arguments.class_map_path)
    if out.exists():
        raise FileExistsError(f"OUT: {out} is there already; name a new folder")
    runner.set_environment()
    runner.start_tensorflow()
    checked = [
        check_checkpoint(path, class_names=class_names, hparams=arguments.hparams)
        for path in arguments.checkpoint
    ]
    files.make_folder(str(out), "OUT")
    try:
        _write(out, arguments, class_names=class_names, checked=checked)
    except BaseException:  # also Ctrl-C
        shutil.rmtree(out, ignore_errors=True)
        raise
    print(
        "Next:",
        f"  kaggle datasets create -p {out / 'dataset'} --dir-mode zip",
        f"  kaggle kernels push -p {out / 'kernel'}",
        sep="\n",
    )
    return 0


def _write(
    out: pathlib.Path,
    arguments: argparse.Namespace,
    *,
    class_names: Sequence[str],
    checked: Sequence[tuple[str, hparams_lib.Hparams]],
) -> None:
    dataset = out / "dataset"
    for number, (prefix, hparams) in enumerate(checked, start=1):
        folder = dataset / f"checkpoint_{number}"
        pack_checkpoint(prefix, folder, class_names=class_names, hparams=hparams)
    num_modules = pack_code(dataset, arguments.class_map_path)
    print(f"{dataset}: {num_modules} modules, {len(class_names)} classes")
    (out / "kernel").mkdir()
    for name in KERNEL_FILES:
        shutil.copyfile(ROOT / "kaggle" / name, out / "kernel" / name)
    write_metadata(out, arguments.owner, arguments.name)
    print(f"{out / 'kernel'}: the kernel, as notebook and as script")


def main(arguments: Sequence[str]) -> int:
    """Runs the program with its command-line arguments; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", metavar="OUT", help="folder to write to, a new one")
    parser.add_argument("--owner", required=True, help="your user name on Kaggle")
    parser.add_argument(
        "--checkpoint",
        required=True,
        nargs="+",
        help="model.ckpt-N, or a train_dir (its newest); the scores of several are "
        "averaged",
    )
    parser.add_argument(
        "--name",
        default="freesound-audio-tagger",
        help="of data set and kernel on Kaggle (default: %(default)s)",
    )
    parser.add_argument(
        "--class_map_path",
        default=str(ROOT / "class_map.csv"),
        help="CSV of index,name lines (default: the 80 classes of the competition)",
    )
    parser.add_argument(
        "--hparams",
        default="",
        help="name=value,name=value, for checkpoints that have no hparams.json",
    )
    parsed = parser.parse_args(arguments)
    return runner.run_telling_errors(lambda: pack(parsed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
