"""The Kaggle kernel, from packing to submission.csv, in the file trees of Kaggle."""

import importlib.util
import json
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT, SMALL_HPARAMS, run_main, write_wav
from test_export_model import varied_network
from test_inference import read

from tagger import checkpoints, hparams, run_record

FOLDER = ROOT / "kaggle"
COMPETITION = "freesound-audio-tagging-2019"
# Where Kaggle mounted the competition and a data set until 2026, and from then on.
LAYOUTS = {
    "old": (COMPETITION, "tagger"),
    "new": (f"competitions/{COMPETITION}", "datasets/me/tagger"),
}
PRIVATE_CLIPS = 3361  # of the private test set
CLIPS = ["00_text.wav", "01.wav", "03_cut.wav", "05.wav", "06.wav"]
# No network, and read-only inputs for root too, where the machine permits it.
SANDBOX = [
    *["unshare", "--map-root-user", "--net", "--mount", "sh", "-ec"],
    'mount --bind "$0" "$0"; mount -o remount,ro,bind "$0"; exec "$@"',
]


def load(name: str):
    """The module kaggle/NAME.py, which is in no package."""
    spec = importlib.util.spec_from_file_location(
        f"kaggle_{name}", FOLDER / f"{name}.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


kernel, make_notebook, pack = map(load, ("kernel", "make_notebook", "pack"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> pathlib.Path:
    """A train_dir with checkpoints whose scores differ from clip to clip."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    folder.mkdir()
    network, trained_with = varied_network(SMALL_HPARAMS)
    run_record.write_hparams(
        str(folder),
        model_name="mobilenet-v1",
        hparams=trained_with,
        class_names=["Noise", "Tone"],
    )
    values = checkpoints.network_variables(network)
    for step in (2, 5):
        values["fully_connected/biases"].assign_add([0.1, -0.2])
        step_value = {checkpoints.GLOBAL_STEP: np.int64(step)}
        checkpoints.save(str(folder), values | step_value, step)
    return folder


@pytest.fixture(scope="module")
def packed(dataset, trained, tmp_path_factory) -> pathlib.Path:
    """What pack.py makes of two checkpoints; not to be changed."""
    out = tmp_path_factory.mktemp("packed") / "out"
    assert (
        pack.main(pack_arguments(out, dataset, trained / "model.ckpt-2", trained)) == 0
    )
    return out


def pack_arguments(out, dataset, *checkpoints: object, **options: str) -> list[str]:
    options = {"owner": "me", "class_map_path": str(dataset.class_map_path)} | options
    return [
        str(out),
        *[f"--{name}={value}" for name, value in options.items()],
        "--checkpoint",
        *map(str, checkpoints),
    ]


def run_kernel(program: pathlib.Path, root: pathlib.Path, folder: pathlib.Path):
    """Runs a program in a folder as Kaggle does: inputs read-only, no network."""
    sandbox = [*SANDBOX, str(root)]
    if subprocess.run([*sandbox, "true"], capture_output=True).returncode:
        sandbox = []
    for path in [root, *root.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        return subprocess.run(
            [*sandbox, sys.executable, str(program)],
            cwd=folder,
            env=os.environ | {kernel.INPUT_DIR_VARIABLE: str(root)},
            capture_output=True,
            text=True,
            timeout=300,
        )
    finally:
        for path in [root, *root.rglob("*")]:
            path.chmod(0o755 if path.is_dir() else 0o644)


@pytest.fixture(scope="module")
def competition(dataset, tmp_path_factory) -> pathlib.Path:
    """The competition's folder: clips, two of them broken, and a sample submission."""
    folder = tmp_path_factory.mktemp("competition")
    test = folder / "test"
    test.mkdir()
    for name in ("01.wav", "05.wav", "06.wav"):
        shutil.copy(dataset.clip_dir / name, test)
    (test / "00_text.wav").write_text("not audio")
    (test / "03_cut.wav").write_bytes((test / "05.wav").read_bytes()[:999])
    sample = "".join(f"{name},0,0\n" for name in [*CLIPS, "99_gone.wav"])
    (folder / "sample_submission.csv").write_text("fname,Tone,Noise\n" + sample)
    return folder


@pytest.fixture(scope="module")
def expected_scores(competition, dataset, trained) -> np.ndarray:
    """What both packed checkpoints give for CLIPS, [5, 2]."""
    both = f"{trained / 'model.ckpt-2'},{trained}"
    out = competition.parent / "expected.csv"
    flags = dataset.inference_flags(both, out, clip_dir=competition / "test")
    assert run_main(flags) == 1
    _, names, scores = read(out)
    assert names == CLIPS
    return scores


def lay_out(root: pathlib.Path, layout: str, competition, dataset) -> None:
    """Copies the folders of a competition and a data set to where Kaggle has them."""
    for source, path in zip((competition, dataset), LAYOUTS[layout]):
        shutil.copytree(source, root / path, copy_function=os.link)


def test_a_submission_of_every_clip(packed, competition, expected_scores, tmp_path):
    """By the notebook's cells, in the new layout."""
    root, out = tmp_path / "input", tmp_path / "working"
    out.mkdir()
    lay_out(root, "new", competition, packed / "dataset")
    files = sorted(root.rglob("*"))
    notebook = json.loads((packed / "kernel" / "kernel.ipynb").read_text())
    code = [c["source"] for c in notebook["cells"] if c["cell_type"] == "code"]
    program = tmp_path / "cells.py"
    program.write_text("\n".join("".join(source) for source in code))

    done = run_kernel(program, root, out)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert "00_text.wav: is not a WAV file" in done.stdout
    assert "03_cut.wav: is cut off" in done.stdout
    assert "warning: runner.py ended with status 1" in done.stdout
    assert "checkpoint 2 of 2: " in done.stdout
    assert sorted(root.rglob("*")) == files
    assert [path.name for path in out.iterdir()] == ["submission.csv"]

    header, submitted, scores = read(out / "submission.csv")
    assert header == ["fname", "Tone", "Noise"]
    assert submitted == [*CLIPS, "99_gone.wav"]
    np.testing.assert_allclose(scores[:-1, ::-1], expected_scores, atol=1e-6)
    assert scores.any(axis=1).tolist() == [False, True, False, True, True, False]


def test_as_many_clips_as_the_private_test_set_has(packed, tmp_path):
    """By the script, in the old layout. Links to a few; every hundredth is broken."""
    root, out = tmp_path / "input", tmp_path / "working"
    out.mkdir()
    test = tmp_path / "competition" / "test"
    test.mkdir(parents=True)
    rng = np.random.default_rng(0)
    good = [tmp_path / f"{size}.wav" for size in (200, 2000, 5000, 13000)]
    for path in good:
        write_wav(path, 9000 * rng.normal(size=int(path.stem)))
    bad = [tmp_path / name for name in ("empty", "text", "cut")]
    for path, contents in zip(bad, (b"", b"not audio", good[-1].read_bytes()[:999])):
        path.write_bytes(contents)
    sources = [
        bad[index // 100 % 3] if index % 100 == 0 else good[index % 4]
        for index in range(PRIVATE_CLIPS)
    ]
    names = [f"{number:08x}.wav" for number in rng.permutation(PRIVATE_CLIPS)]
    for name, source in zip(names, sources):
        (test / name).hardlink_to(source)
    sample = "".join(f"{name},0,0\n" for name in names)
    (test.parent / "sample_submission.csv").write_text("fname,Tone,Noise\n" + sample)
    lay_out(root, "old", test.parent, packed / "dataset")

    done = run_kernel(packed / "kernel" / "kernel.py", root, out)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "error: 34 clips could not be read" in done.stdout
    _, submitted, scores = read(out / "submission.csv")
    assert submitted == names
    of = {path: scores[[source == path for source in sources]] for path in good + bad}
    assert not any(of[path].any() for path in bad)
    for path in good:
        np.testing.assert_allclose(of[path], of[path][:1].repeat(len(of[path]), 0))
    assert len({tuple(of[path][0]) for path in good}) == len(good)


def test_the_pack_holds_what_inference_needs(packed, trained, dataset):
    files = {str(p.relative_to(packed)) for p in packed.rglob("*") if p.is_file()}
    modules = {
        f"dataset/{path.relative_to(ROOT)}"
        for path in [*ROOT.glob("*.py"), *ROOT.glob("tagger/*.py")]
    }
    assert files == modules | {
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
    for path in ("checkpoint_1/hparams.json", "checkpoint_2/hparams.json"):
        trained_with = (trained / "hparams.json").read_text()
        assert (packed / "dataset" / path).read_text() == trained_with
    class_map = (packed / "dataset" / "class_map.csv").read_text()
    assert class_map == dataset.class_map_path.read_text()


def test_the_metadata_are_as_kaggle_takes_them(packed):
    metadata = json.loads((packed / "kernel" / "kernel-metadata.json").read_text())
    assert metadata["id"] == "me/" + metadata["title"]
    assert metadata["dataset_sources"] == ["me/freesound-audio-tagger"]
    assert metadata["competition_sources"] == [COMPETITION]
    assert (metadata["enable_internet"], metadata["enable_gpu"]) == (False, True)
    assert (packed / "kernel" / metadata["code_file"]).is_file()
    metadata = json.loads((packed / "dataset" / "dataset-metadata.json").read_text())
    assert metadata["id"] == "me/" + metadata["title"]
    assert len(metadata["licenses"]) == 1


def test_the_notebook_is_that_of_the_script():
    source = (FOLDER / "kernel.py").read_text()
    assert (FOLDER / "kernel.ipynb").read_text() == make_notebook.notebook(source), (
        "run kaggle/make_notebook.py"
    )


def test_a_checkpoint_of_the_original_is_packed_with_its_hyperparameters(
    dataset, trained, tmp_path, capsys
):
    original = tmp_path / "original"
    original.mkdir()
    for path in trained.glob("model.ckpt-5.*"):
        shutil.copy(path, original)
    given = "mel_bands=16,example_window_seconds=0.2"
    arguments = pack_arguments(tmp_path / "out", dataset, original, hparams=given)
    assert pack.main(arguments) == 0
    record = json.loads(
        (tmp_path / "out" / "dataset" / "checkpoint_1" / "hparams.json").read_text()
    )
    assert hparams.Hparams(**record["hparams"]) == hparams.parse_hparams(given)
    assert record["class_names"] == ["Noise", "Tone"]
    output = capsys.readouterr().out
    assert f"kaggle datasets create -p {tmp_path / 'out' / 'dataset'} " in output
    assert f"kaggle kernels push -p {tmp_path / 'out' / 'kernel'}\n" in output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"owner": "Jo Doe"}, "--owner must be your user name"),
        ({"name": "short"}, "--name must be 6 to 50"),
        ({"name": "under_score"}, "--name must be 6 to 50"),
        ({"class_map_path": "none.csv"}, "--class_map_path: there is no file none.csv"),
        ({"class_map_path": str(ROOT / "class_map.csv")}, "2 classes were trained, 80"),
        ({"hparams": "bn=2"}, "bn must be 0 or 1"),
        ({"hparams": "bn=0"}, "lacks 27 of 56 variables"),
    ],
)
def test_what_cannot_be_packed_is_one_line(
    dataset, trained, tmp_path, capsys, options, message
):
    arguments = pack_arguments(tmp_path / "out", dataset, trained, **options)
    assert pack.main(arguments) == 1
    errors = capsys.readouterr().err.splitlines()
    assert errors[-1].startswith("error: ")
    assert message in errors[-1]
    assert not (tmp_path / "out").exists()


def test_nothing_is_packed_over(dataset, trained, tmp_path, capsys):
    assert pack.main(pack_arguments(tmp_path, dataset, trained)) == 1
    assert f"OUT: {tmp_path} is there already" in capsys.readouterr().err
    assert not any(tmp_path.iterdir())
    out = tmp_path / "out"
    assert pack.main(pack_arguments(out, dataset, trained, tmp_path / "none")) == 1
    assert "--checkpoint: there is no checkpoint" in capsys.readouterr().err
    assert not out.exists()


class Tree:
    """A small /kaggle/input with all that find_inputs looks for."""

    def __init__(self, root: pathlib.Path):
        self.root = root
        self.competition = root / COMPETITION
        self.add(f"{COMPETITION}/test/a.wav")
        self.add(f"{COMPETITION}/sample_submission.csv", "fname,A\na.wav,0\n")
        self.tagger = root / "tagger"
        self.add_tagger("tagger")

    def add(self, path: str, text: str = "") -> None:
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)

    def add_tagger(self, name: str, code: str = "", weights: str = "") -> None:
        for path in ("runner.py", "inference.py", "class_map.csv"):
            self.add(f"{name}/{path}", "0,A\n" if path == "class_map.csv" else code)
        self.add(f"{name}/checkpoint_1/model.ckpt-7.index", weights)
        self.add(f"{name}/checkpoint_1/hparams.json")


@pytest.fixture
def tree(tmp_path) -> Tree:
    return Tree(tmp_path / "input")


def test_what_there_is_once_is_found(tree):
    inputs = kernel.find_inputs(tree.root)
    assert inputs.code == tree.tagger
    assert inputs.checkpoints == [tree.tagger / "checkpoint_1"]
    assert inputs.clips == tree.competition / "test"
    assert inputs.sample == tree.competition / "sample_submission.csv"


def test_what_is_mounted_twice_counts_once(tree):
    shutil.copytree(tree.root, tree.root / "datasets" / "again")
    (tree.root / "linked").symlink_to(tree.tagger)
    (tree.root / "round").symlink_to(tree.root)
    inputs = kernel.find_inputs(tree.root)
    assert len(inputs.checkpoints) == 1
    assert inputs.sample.parent == inputs.clips.parent


def test_the_checkpoints_of_two_data_sets_are_averaged(tree):
    tree.add_tagger("second", weights="other")
    folders = [tree.root / name / "checkpoint_1" for name in ("second", "tagger")]
    assert kernel.find_inputs(tree.root).checkpoints == folders


def test_the_clips_are_those_beside_the_sample(tree):
    tree.add("demo/test/b.wav")
    assert kernel.find_inputs(tree.root).clips == tree.competition / "test"


def test_without_a_sample(tree):
    (tree.competition / "sample_submission.csv").unlink()
    assert kernel.find_inputs(tree.root).sample is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: shutil.rmtree(t.root), "there is no folder"),
        (lambda t: shutil.rmtree(t.tagger / "checkpoint_1"), "there is no checkpoint"),
        (lambda t: (t.tagger / "runner.py").unlink(), "there is no version of the tag"),
        (lambda t: shutil.rmtree(t.competition), "there is no folder 'test' of WAV"),
        (lambda t: t.add_tagger("b", "other"), "expected one version of the tagger's"),
        (
            lambda t: [t.add(f"b/{name}") for name in ("test/b.wav", kernel.SAMPLE)],
            "expected one folder 'test' of WAV files, but got 2: ",
        ),
    ],
)
def test_what_is_missing_or_ambiguous_is_one_line(tree, monkeypatch, change, message):
    change(tree)
    monkeypatch.setenv(kernel.INPUT_DIR_VARIABLE, str(tree.root))
    with pytest.raises(SystemExit, match=f"^error: {message}[^\n]*$"):
        kernel.main()


@pytest.mark.parametrize(
    ("clips", "sample", "rows"),
    [
        ("a b", "b a", "b a"),
        ("a b", "c b a", "c b a"),  # The folder lacks a clip.
        ("a b", "a", "a b"),  # The sample lacks one.
        ("a b", "x y z", "a b"),  # The sample is of the public clips.
        ("a b", "a x", "a b"),
    ],
)
def test_rows_are_the_clips_and_what_the_sample_has_besides(clips, sample, rows):
    assert kernel.choose_rows(clips.split(), sample.split()) == rows.split()


def test_columns_are_those_of_the_sample(tmp_path):
    predictions, sample, out = (tmp_path / name for name in ("p", "s", "out.csv"))
    predictions.write_bytes(b"fname,A,B\n\xff.wav,0.25,0.5\na.wav,1.0,0.0\n")
    kernel.write_submission(predictions, None, out)
    assert out.read_bytes() == predictions.read_bytes()
    sample.write_bytes(b"\xef\xbb\xbffname,B,A\r\nz.wav,0,0\r\n")
    kernel.write_submission(predictions, sample, out)
    assert out.read_bytes() == b"fname,B,A\n\xff.wav,0.5,0.25\na.wav,0.0,1.0\n"
    for text in ("", "fname,A\n", "fname,A,C\n", "fname,A,B,B\n"):
        sample.write_text(text)
        with pytest.raises(ValueError, match="the checkpoints have other classes than"):
            kernel.write_submission(predictions, sample, out)
    assert {path.name for path in tmp_path.iterdir()} == {"p", "s", "out.csv"}


def test_other_classes_are_told_before_anything_is_scored(tree, monkeypatch, capsys):
    sample = tree.competition / "sample_submission.csv"
    sample.write_text("fname,A,Extra\na.wav,0,0\n")
    monkeypatch.setenv(kernel.INPUT_DIR_VARIABLE, str(tree.root))
    monkeypatch.setattr(kernel, "score", None)
    with pytest.raises(SystemExit, match="other classes than .*: 1, not 2; .*: Extra"):
        kernel.main()


FAILS_ON_GPU = """
import os, sys
flags = dict(argument.split("=", 1) for argument in sys.argv[1:])
if os.environ.get("CUDA_VISIBLE_DEVICES") == "-1":
    with open(flags["--predictions_csv_path"], "w") as file:
        file.write("fname,A\\na.wav,0.5\\n")
sys.exit("CUDA error")
"""


@pytest.mark.parametrize("gpus", [0, 1])
def test_a_gpu_that_fails_is_done_without(tree, tmp_path, monkeypatch, capsys, gpus):
    (tree.tagger / "runner.py").write_text(FAILS_ON_GPU)
    tools = tmp_path / "tools"
    tools.mkdir()
    if gpus:
        (tools / "nvidia-smi").write_text("#!/bin/sh\necho GPU 0: Some card\n")
        (tools / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tools))
    monkeypatch.setenv(kernel.INPUT_DIR_VARIABLE, str(tree.root))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.chdir(tmp_path)
    if not gpus:
        with pytest.raises(SystemExit, match="error: runner.py scored nothing"):
            kernel.main()
        assert "CUDA error" in capsys.readouterr().out
        assert not (tmp_path / "submission.csv").exists()
        return
    kernel.main()
    assert (tmp_path / "submission.csv").read_text() == "fname,A\na.wav,0.5\n"
    output = capsys.readouterr().out
    assert "GPU 0: Some card" in output
    assert "warning: failed with the GPU; now without it" in output
