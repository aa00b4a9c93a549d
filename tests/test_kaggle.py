"""Packing for Kaggle, and the functions of the kernel."""

import importlib.util
import json
import os
import shutil
import types

import jupytext
import pytest
from helpers import ROOT, parse_hparams

from tagger.errors import UserError
from tagger.hparams import Hparams
from tools import pack_kernel as pack

NOTEBOOKS = ("kaggle/kernel", "notebooks/colab", "notebooks/train_on_kaggle")
COMPETITION = "freesound-audio-tagging-2019"
# Folders of the competition and of a data set on Kaggle: until 2026, and since then.
LAYOUTS = (
    (COMPETITION, "tagger"),
    (f"competitions/{COMPETITION}", "datasets/me/tagger"),
)


def load(name: str):
    """The module kaggle/NAME.py, which is not in a package."""
    path = ROOT / "kaggle" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"kaggle_{name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


kernel = load("kernel")


def run_pack(out, dataset, *checkpoints: object, **options: str) -> None:
    """Packs checkpoints of the test data set."""
    defaults = {
        "owner": "me",
        "name": "freesound-audio-tagger",
        "class_map_path": str(dataset.class_map_path),
        "hparams": "",
    }
    pack.pack(out, checkpoint=",".join(map(str, checkpoints)), **defaults | options)


@pytest.fixture(scope="module")
def packed(dataset, trained, tmp_path_factory):
    """Two packed checkpoints; do not change them."""
    out = tmp_path_factory.mktemp("packed") / "new" / "out"
    run_pack(out, dataset, trained / "model.ckpt-2", trained)
    return out


def test_a_pack_contains_what_inference_needs(packed, trained, dataset):
    modules = [*ROOT.glob("*.py"), *ROOT.glob("tagger/**/*.py")]
    assert {str(p.relative_to(packed)) for p in packed.rglob("*") if p.is_file()} == {
        *(f"dataset/{path.relative_to(ROOT)}" for path in modules),
        "dataset/class_map.csv",
        "dataset/dataset-metadata.json",
        "dataset/checkpoint_1/hparams.json",
        "dataset/checkpoint_1/model.ckpt-2.data-00000-of-00001",
        "dataset/checkpoint_1/model.ckpt-2.index",
        "dataset/checkpoint_2/hparams.json",
        "dataset/checkpoint_2/model.ckpt-5.data-00000-of-00001",
        "dataset/checkpoint_2/model.ckpt-5.index",
        "kernel/kernel-metadata.json",
        "kernel/kernel.ipynb",
        "kernel/kernel.py",
    }
    assert os.access(packed / "dataset" / "runner.py", os.X_OK)
    class_map = (packed / "dataset" / "class_map.csv").read_text()
    assert class_map == dataset.class_map_path.read_text()
    before, *after = (
        json.loads((folder / "hparams.json").read_text())
        for folder in (trained, *sorted((packed / "dataset").glob("checkpoint_*")))
    )
    for record in after:
        for name in ("model", "hparams", "class_names", "run"):
            assert record[name] == before[name]
        # How and where it was trained is not packed.
        assert (record["training"], record["folder"]) == ({}, "")


def test_the_metadata_are_as_kaggle_requires(packed):
    metadata = json.loads((packed / "kernel" / "kernel-metadata.json").read_text())
    assert metadata["id"] == "me/" + metadata["title"]
    assert metadata["dataset_sources"] == ["me/freesound-audio-tagger"]
    assert metadata["competition_sources"] == [COMPETITION]
    assert (metadata["enable_internet"], metadata["enable_gpu"]) == (False, True)
    assert (packed / "kernel" / metadata["code_file"]).is_file()
    metadata = json.loads((packed / "dataset" / "dataset-metadata.json").read_text())
    assert metadata["id"] == "me/" + metadata["title"]
    assert len(metadata["licenses"]) == 1


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_the_notebooks_are_made_from_the_scripts(name):
    made, source = (
        [
            (cell.cell_type, cell.source, cell.metadata)
            for cell in jupytext.read(ROOT / f"{name}.{suffix}").cells
        ]
        for suffix in ("ipynb", "py")
    )
    assert made == source, "run make notebooks"


def test_a_pack_for_training(tmp_path):
    out = tmp_path / "out"
    class_map = ROOT / "class_map.csv"
    pack.pack(out, owner="me", name="train", class_map_path=str(class_map))
    modules = [*ROOT.glob("*.py"), *ROOT.glob("tagger/**/*.py")]
    recipe = ROOT / "recipes" / "published_baseline.sh"
    assert {
        str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()
    } == {
        *(f"dataset/{path.relative_to(ROOT)}" for path in [*modules, recipe]),
        "dataset/class_map.csv",
        "dataset/dataset-metadata.json",
        "kernel/kernel-metadata.json",
        "kernel/train_on_kaggle.ipynb",
        "kernel/train_on_kaggle.py",
    }
    metadata = json.loads((out / "kernel" / "kernel-metadata.json").read_text())
    assert metadata["code_file"] == "train_on_kaggle.ipynb"
    assert metadata["dataset_sources"] == ["me/train"]
    # The checkpoints of the previous version.
    assert metadata["kernel_sources"] == [metadata["id"]] == ["me/train"]
    with pytest.raises(UserError, match="OUT"):
        pack.pack(out, owner="me", name="train", class_map_path=str(class_map))


def test_a_checkpoint_of_the_original_is_packed_with_its_hyperparameters(
    dataset, trained, tmp_path
):
    for path in trained.glob("model.ckpt-5.*"):
        shutil.copy(path, tmp_path)
    given = "mel_bands=16,example_window_seconds=0.2"
    run_pack(tmp_path / "out", dataset, tmp_path, hparams=given)
    path = tmp_path / "out" / "dataset" / "checkpoint_1" / "hparams.json"
    record = json.loads(path.read_text())
    assert Hparams(**record["hparams"]) == parse_hparams(given)
    assert record["class_names"] == ["Noise", "Tone"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"class_map_path": "none.csv"}, "--class_map_path: .*none.csv"),
        ({"class_map_path": str(ROOT / "class_map.csv")}, "--class_map_path"),
        ({"hparams": "bn=2"}, "bn must be 0 or 1"),
        ({"hparams": "bn=0"}, "Conv/biases"),
    ],
)
def test_bad_inputs_are_not_packed(dataset, trained, tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        run_pack(tmp_path / "out", dataset, trained, **options)
    assert not any(tmp_path.iterdir())


def test_out_is_a_new_folder_with_all_checkpoints_or_absent(dataset, trained, tmp_path):
    with pytest.raises(UserError, match=str(tmp_path)):
        run_pack(tmp_path, dataset, trained)
    with pytest.raises(UserError, match="--checkpoint"):
        run_pack(tmp_path / "out", dataset, trained, tmp_path / "none")
    assert not any(tmp_path.iterdir())


def write(path, text: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture(params=LAYOUTS, ids=("old", "new"))
def inputs(request, tmp_path, monkeypatch):
    """The folders of the inputs, and the flags that the kernel calls runner.py with."""
    root = tmp_path / "input"
    competition, tagger = (root / path for path in request.param)
    write(competition / "test" / "a.wav")
    write(competition / kernel.SAMPLE, "\ufefffname,B,A\r\na.wav,0,0\r\n")
    write(tagger / "runner.py")
    write(tagger / "class_map.csv", "0,A\n1,B\n")
    write(tagger / "checkpoint_1" / "model.ckpt-7.index")
    flags = {}

    def score(command, predictions):
        flags.update(argument.split("=") for argument in command[2:])
        write(predictions, "fname,A,B\na.wav,0.25,0.5\n")

    monkeypatch.setattr(kernel, "score", score)
    monkeypatch.setenv(kernel.INPUT_DIR_VARIABLE, str(root))
    monkeypatch.chdir(tmp_path)
    return types.SimpleNamespace(
        root=root, competition=competition, tagger=tagger, flags=flags
    )


def test_inputs_are_found_in_every_layout(inputs, tmp_path):
    kernel.main()
    assert inputs.flags == {
        "--mode": "inference",
        "--class_map_path": str(inputs.tagger / "class_map.csv"),
        "--inference_clip_dir": str(inputs.competition / "test"),
        "--inference_checkpoint": str(inputs.tagger / "checkpoint_1"),
        "--predictions_csv_path": inputs.flags["--predictions_csv_path"],
    }
    assert (tmp_path / "submission.csv").read_text() == "fname,B,A\na.wav,0.5,0.25\n"
    assert {path.name for path in tmp_path.iterdir()} == {"input", "submission.csv"}


def test_checkpoints_of_all_data_sets_are_used_once(inputs):
    shutil.copytree(inputs.tagger, inputs.root / "second")
    (inputs.root / "linked").symlink_to(inputs.tagger)
    kernel.main()
    folders = [inputs.tagger, inputs.root / "second"]
    used = inputs.flags["--inference_checkpoint"].split(",")
    assert used == sorted(str(folder / "checkpoint_1") for folder in folders)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda i: shutil.rmtree(i.root), kernel.INPUT_DIR_VARIABLE),
        (lambda i: shutil.rmtree(i.tagger / "checkpoint_1"), r"model\.ckpt-"),
        (lambda i: (i.tagger / "runner.py").unlink(), r"runner\.py"),
        (lambda i: shutil.rmtree(i.competition), kernel.SAMPLE),
        (lambda i: write(i.competition / kernel.SAMPLE), "."),
        (lambda i: write(i.competition / kernel.SAMPLE, "fname,A,C"), " B, C"),
        (lambda i: write(i.competition / kernel.SAMPLE, "fname,A,B,B"), r"\(3\)"),
    ],
)
def test_bad_inputs_are_reported_before_scoring(inputs, tmp_path, change, message):
    change(inputs)
    with pytest.raises(SystemExit, match=f"^error: [^\n]*{message}[^\n]*$"):
        kernel.main()
    assert not inputs.flags
    assert not (tmp_path / "submission.csv").exists()


def test_names_that_are_not_utf8_are_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    predictions = b"fname,A\n\xff.wav,0.1\n"
    (tmp_path / "p.csv").write_bytes(predictions)
    kernel.write_submission(tmp_path / "p.csv", ["A"], [])
    assert (tmp_path / "submission.csv").read_bytes() == predictions


@pytest.mark.parametrize(
    ("sample", "rows"),
    [
        ("b a", "b a"),
        ("c b a", "c b a"),  # The folder lacks a clip.
        ("a", "a b"),  # The sample lacks one.
        ("x y z", "a b"),  # The sample is of the public clips.
        ("a x", "a b"),
    ],
)
def test_a_row_for_every_clip(tmp_path, monkeypatch, sample, rows):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "p.csv", "fname,A\na,0.1\nb,0.2\n")
    kernel.write_submission(tmp_path / "p.csv", ["A"], sample.split())
    scores = {"a": "0.1", "b": "0.2"}
    lines = [f"{name},{scores.get(name, '0.0')}" for name in rows.split()]
    assert (tmp_path / "submission.csv").read_text().splitlines()[1:] == lines
