"""The published recipe, and the notebooks, with a few steps on synthetic clips."""

import copy
import os
import pathlib
import re
import shutil
import subprocess
import wave

import nbclient
import nbformat
import pytest
from helpers import ROOT
from processes import HANG_SECONDS, copy_code, forking_python

FAKE_COLAB = """
class files:
    @staticmethod
    def upload():
        return [uploads.pop(0)]

uploads = {uploads}
"""


@pytest.fixture(scope="module")
def code(tmp_path_factory) -> pathlib.Path:
    """A copy of the repository; do not change it."""
    return copy_code(tmp_path_factory.mktemp("copy") / "code")


@pytest.fixture(scope="module")
def recipe(code, tmp_path_factory) -> tuple[pathlib.Path, str, str]:
    """OUT of a few steps of the published recipe, its stderr and its stdout.

    Do not change OUT.

    OUT/data has synthetic clips in the form of the competition's data.
    """
    out = tmp_path_factory.mktemp("recipe")
    done = subprocess.run(
        [code / "recipes" / "published_baseline.sh", "--smoke", out],
        env=os.environ | {"PYTHON": forking_python()},
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr
    return out, done.stderr, done.stdout


def test_the_recipe_runs(recipe):
    """A few steps of both stages, evaluations, a submission and its lwlrap."""
    out, stderr, stdout = recipe
    assert re.match(r"Overall lwlrap = [01]\.\d{6}$", stdout.splitlines()[-1])
    for stage in ("noisy", "curated"):
        results = {path.name for path in (out / stage / "eval").glob("eval-*.txt")}
        assert results == {"eval-0.txt", "eval-2.txt", "eval-4.txt"}
        assert "waiting for a checkpoint" in (out / f"{stage}-eval.log").read_text()
    assert "11 of 11 variables restored" in stderr
    submission = (out / "submission.csv").read_text().splitlines()
    assert len(submission) == 13
    assert len(submission[0].split(",")) == 81


def read_notebook(name: str, **parameters) -> nbformat.NotebookNode:
    """Reads a notebook of the repository, and changes its parameters."""
    notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
    tags = [cell.metadata.get("tags") for cell in notebook.cells]
    position = tags.index(["parameters"])
    lines = [f"{key} = {value!r}" for key, value in parameters.items()]
    for key in parameters:
        assert f"\n{key} = " in f"\n{notebook.cells[position].source}"
    cell = nbformat.v4.new_code_cell("\n".join(lines))
    notebook.cells.insert(position + 1, cell)
    return notebook


def execute(notebook: nbformat.NotebookNode, folder: pathlib.Path, **variables) -> str:
    """Executes a notebook in a folder; returns the text of its outputs.

    Args:
      notebook: gets the outputs.
      folder: the working directory.
      variables: environment variables.

    Raises:
      nbclient.exceptions.CellExecutionError: a cell failed.
    """
    client = nbclient.NotebookClient(
        notebook,
        timeout=3 * HANG_SECONDS,  # A cell runs up to three programs.
        resources={"metadata": {"path": str(folder)}},
        coalesce_streams=True,
    )
    client.execute(env=os.environ | variables)
    outputs = [out for cell in notebook.cells for out in cell.get("outputs", [])]
    return "".join(out.get("text", "") for out in outputs)


def test_colab_with_the_demo_data(tmp_path):
    """In a copy of the repository. TensorBoard ends with the notebook."""
    notebooks = copy_code(tmp_path / "code") / "notebooks"
    notebook = read_notebook("colab", STEPS=2)
    output = execute(notebook, notebooks, TMPDIR=str(tmp_path))
    assert "done at step 2" in output
    assert "Overall lwlrap = " in output
    data = [
        out.data
        for cell in notebook.cells
        for out in cell.get("outputs", [])
        if "data" in out
    ]
    assert sum("tensorboard-frame" in kinds.get("text/html", "") for kinds in data) == 1
    assert sum("image/png" in kinds for kinds in data) == 3


def write_recordings(folder: pathlib.Path) -> None:
    """Writes five recordings of each of two classes."""
    for label in ("Dog", "Rain"):
        (folder / label).mkdir(parents=True)
        for number in range(5):
            with wave.open(str(folder / label / f"{number} b.wav"), "wb") as file:
                file.setparams((1, 2, 8000, 0, "NONE", ""))
                file.writeframes(bytes(range(1, 200)) * 50)


def delete_training(notebook: nbformat.NotebookNode) -> None:
    """Deletes the cells of the training and after it."""
    sources = [cell.source for cell in notebook.cells]
    (training,) = (i for i, text in enumerate(sources) if text.startswith("## Train"))
    del notebook.cells[training:]


def test_colab_with_a_folder(tmp_path):
    """Its relative path has a space. All cells run twice."""
    code = copy_code(tmp_path / "code")
    notebooks = code / "notebooks"
    write_recordings(notebooks / "my sounds")
    notebook = read_notebook("colab", SOUNDS="my sounds")
    delete_training(notebook)
    notebook.cells += copy.deepcopy(notebook.cells)
    output = execute(notebook, notebooks)
    assert "recordings: 10 written" in output
    assert "0 written, 10 unchanged, 0 removed" in output
    data = code / "runs" / "my_sounds" / "data"
    assert (data / "class_map.csv").read_text() == "0,Dog\n1,Rain\n"
    assert (data / "clips_validation.csv").exists()


def test_only_colab_can_upload(tmp_path):
    """There is no code in this folder and its parent."""
    folder = tmp_path / "content"
    folder.mkdir()
    with pytest.raises(nbclient.exceptions.CellExecutionError, match="only on Colab"):
        execute(read_notebook("colab"), folder)


def test_colab_with_uploads(tmp_path):
    """The files of the project, and recordings in a folder in a zip file."""
    copy_code(tmp_path / "zipped" / "tagger-main")
    sounds = tmp_path / "sounds"
    write_recordings(sounds / "mine")
    (sounds / "__MACOSX").mkdir()
    (sounds / "__MACOSX" / "._mine").touch()
    uploads = [
        shutil.make_archive(str(tmp_path / "code"), "zip", tmp_path / "zipped"),
        shutil.make_archive(str(tmp_path / "mine"), "zip", sounds),
    ]
    colab = tmp_path / "modules" / "google" / "colab"
    colab.mkdir(parents=True)
    (colab / "__init__.py").write_text(FAKE_COLAB.format(uploads=uploads))
    content = tmp_path / "content"
    content.mkdir()
    notebook = read_notebook("colab", SOUNDS="upload")
    delete_training(notebook)
    output = execute(notebook, content, PYTHONPATH=str(colab.parent.parent))
    assert "10 written, 0 unchanged" in output
    work = content / "tagger" / "tagger-main" / "runs" / "upload"
    assert (work / "data" / "class_map.csv").read_text() == "0,Dog\n1,Rain\n"


@pytest.fixture
def inputs(code, recipe, tmp_path) -> pathlib.Path:
    """The inputs of the notebook for Kaggle, in Kaggle's layout."""
    packed, folder = tmp_path / "packed", tmp_path / "input"
    command = [forking_python(), "-m", "tools.pack_kernel", packed, "--owner=me"]
    subprocess.run([*command, "--train"], cwd=code, check=True)
    (folder / "datasets" / "me").mkdir(parents=True)
    (packed / "dataset").rename(folder / "datasets" / "me" / "code")
    without_labels = shutil.ignore_patterns("test_post_competition.csv")
    data = folder / "competitions" / "tagging"
    shutil.copytree(recipe[0] / "data", data, ignore=without_labels)
    return folder


def test_training_on_kaggle_resumes_from_the_output_of_the_previous_version(
    recipe, inputs, tmp_path
):
    for stage in ("noisy", "curated"):
        output = inputs / "notebooks" / "me" / "train" / "published_baseline"
        without_results = shutil.ignore_patterns("eval")
        shutil.copytree(recipe[0] / stage, output / stage, ignore=without_results)
    notebook = read_notebook(
        "train_on_kaggle",
        INPUT_DIR=str(inputs),
        FLAGS=["--max_steps=5", "--keep_checkpoints=1"],
        PRINT_STEPS=5,
    )
    output = execute(notebook, tmp_path)
    for stage in ("noisy", "curated"):
        folder = f"published_baseline/{stage}"
        assert f"resuming from {folder}/model.ckpt-4\n" in output
        assert f"checkpoint model.ckpt-5 is in {folder}\n" in output
        kept = {path.name for path in (tmp_path / folder).glob("*.index")}
        assert kept == {"model.ckpt-4.index", "model.ckpt-5.index"}
    assert output.count("\nstep 5: loss ") == 2
    submission = tmp_path / "published_baseline" / "submission.csv"
    assert len(submission.read_text().splitlines()) == 13


def test_training_on_kaggle_stops_in_time(inputs, tmp_path):
    parameters = {"INPUT_DIR": str(inputs), "HOURS": 0.1 / 3600}
    output = execute(read_notebook("train_on_kaggle", **parameters), tmp_path)
    assert output.splitlines()[-1].startswith("The time limit was reached.")


@pytest.mark.parametrize(
    ("missing", "message"),
    [("train_noisy.csv", "inputs"), ("train_curated.csv", "exit status 1")],
)
def test_training_on_kaggle_reports_errors(inputs, tmp_path, missing, message):
    (inputs / "competitions" / "tagging" / missing).unlink()
    notebook = read_notebook("train_on_kaggle", INPUT_DIR=str(inputs))
    with pytest.raises(nbclient.exceptions.CellExecutionError, match=message):
        execute(notebook, tmp_path)
