"""Packs checkpoints, the code and the kernel for Kaggle.

    python kaggle/pack.py OUT --owner NAME --checkpoint runs/first/model.ckpt-12000

This writes the data set, OUT/dataset, and the kernel, OUT/kernel, and prints the
commands to upload them. The kernel averages the scores of all checkpoints.
"""

import json
import pathlib
import re
import shutil
import sys
from collections.abc import Sequence

from absl import flags

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tagger import program, run_record  # noqa: E402
from tagger.clips import read_class_map  # noqa: E402
from tagger.hparams import parse_overrides  # noqa: E402

LICENSE = "other"  # Kaggle requires one; the data set is private.


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
    flags.DEFINE_string(
        "name", "freesound-audio-tagger", "Name of data set and kernel on Kaggle."
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
    flags.mark_flags_as_required(["owner", "checkpoint"])
    for name in ("owner", "name"):
        flags.register_validator(
            name,
            lambda text: text is None or re.fullmatch("[a-z0-9_-]+", text),
            message="must be lower-case letters, digits and hyphens, as in addresses",
        )


def write_metadata(folder: pathlib.Path, owner: str, name: str) -> None:
    """Writes the metadata of the data set and the kernel for Kaggle's program."""
    address = f"{owner}/{name}"
    # Kaggle makes the address from the title, so both use the same name.
    dataset = {"title": name, "id": address, "licenses": [{"name": LICENSE}]}
    template = ROOT / "kaggle" / "kernel-metadata.json"
    kernel = json.loads(template.read_text(encoding="utf-8"))
    kernel |= {"title": name, "id": address, "dataset_sources": [address]}
    for path, metadata in (
        ("dataset/dataset-metadata.json", dataset),
        ("kernel/kernel-metadata.json", kernel),
    ):
        text = json.dumps(metadata, indent=2) + "\n"
        (folder / path).write_text(text, encoding="utf-8")


def pack(
    out: pathlib.Path,
    *,
    owner: str,
    name: str,
    checkpoint: str,
    class_map_path: str,
    hparams: str,
) -> None:
    """Writes the new folder `out`; see `define_flags` for the other arguments.

    Raises:
      ValueError, OSError: an argument cannot be used. If it is a checkpoint, the class
        map or a hyperparameter, nothing is written.
    """
    if out.exists():
        raise FileExistsError(f"OUT must be a new folder, but {out} exists")
    class_names = read_class_map(class_map_path)
    overrides = parse_overrides(hparams)
    program.start_tensorflow()
    import model
    from tagger import checkpoints

    loaded = {}
    for path in checkpoint.split(","):
        prefix = checkpoints.find_checkpoint(path, "--checkpoint")
        # The network is built only to check that the kernel can load it.
        loaded[prefix] = model.load_network(
            prefix, class_names, hparam_overrides=overrides
        )
    dataset, kernel = out / "dataset", out / "kernel"
    out.mkdir(parents=True)
    for number, (prefix, (network, values)) in enumerate(loaded.items(), start=1):
        folder = dataset / f"checkpoint_{number}"
        folder.mkdir(parents=True)
        for suffix in (checkpoints.DATA_SUFFIX, checkpoints.INDEX_SUFFIX):
            shutil.copy(prefix + suffix, folder)
        run_record.write_hparams(
            str(folder),
            model_name=network.name,
            hparams=values,
            class_names=class_names,
        )
        print(f"{folder.name}: {prefix}")
    (dataset / "tagger").mkdir()
    for module in [*ROOT.glob("*.py"), *ROOT.glob("tagger/*.py")]:
        shutil.copy(module, dataset / module.relative_to(ROOT))
    shutil.copy(class_map_path, dataset / "class_map.csv")
    kernel.mkdir()
    for file in ("kernel.py", "kernel.ipynb"):
        shutil.copy(ROOT / "kaggle" / file, kernel)
    write_metadata(out, owner, name)
    print(
        f"to upload both, run:\n"
        f"  kaggle datasets create -p {dataset} --dir-mode zip\n"
        f"  kaggle kernels push -p {kernel}"
    )


def main(argv: Sequence[str]) -> int:
    """Runs the program; returns the exit status."""
    if len(argv) != 2:
        raise ValueError(f"OUT must be one folder, but got {len(argv) - 1} arguments")
    values = flags.FLAGS
    pack(
        pathlib.Path(argv[1]),
        owner=values.owner,
        name=values.name,
        checkpoint=values.checkpoint,
        class_map_path=values.class_map_path,
        hparams=values.hparams,
    )
    return 0


if __name__ == "__main__":
    define_flags()
    program.run(main)
