"""The code in README.md and docs/usage.md runs; a recipe is as its page says."""

import csv
import itertools
import re
import statistics

import numpy as np
import pytest
from helpers import ROOT, parse_hparams, section_of, table_of_page

import model
from tagger.hparams import Hparams
from tagger.runs import checkpoints
from tagger.runs.run import Run

pytestmark = pytest.mark.usefixtures("whole_network")


def test_the_python_examples(dataset, tmp_path, monkeypatch, capsys):
    network = model.define_model("mobilenet-v1", num_classes=2, hparams=Hparams())
    (tmp_path / "runs" / "first").mkdir(parents=True)
    Run(tmp_path / "runs" / "first").save(checkpoints.network_variables(network), 700)
    (tmp_path / "my_class_map.csv").symlink_to(dataset.class_map_path)
    (tmp_path / "clip.wav").symlink_to(dataset.clip_dir / "00.wav")
    monkeypatch.chdir(tmp_path)
    names = {}
    for page, title in (
        ("README.md", "Python API"),
        ("docs/usage.md", "Python API"),
    ):
        blocks = re.findall("```python\n(.*?)```", section_of(page, title), re.DOTALL)
        assert blocks
        for block in blocks:
            exec(block, names)
    assert "SeparableConv2d_12" in capsys.readouterr().out
    assert names["embeddings"].shape[1] == 1024
    assert names["scores"].shape == (2,)
    for loaded, saved in zip(names["network"].get_weights(), network.get_weights()):
        np.testing.assert_array_equal(loaded, saved)


def test_the_recipe_for_own_sounds_has_the_commands_of_its_page():
    """A system test runs the recipe."""
    page = section_of("docs/own-recordings.md", "Quick start")
    commands = re.search(r"```\n(python .*?)```", page, re.DOTALL)[1]
    words = set(commands.replace("runs/own", "run").split())
    recipe = (ROOT / "recipes" / "own_sounds.sh").read_text().replace('"$out/', "")
    found = set(re.sub(r'["$()]', " ", recipe).split())
    assert "tools.make_validation_split" in words
    assert words - found == {"recording.mp3"}


def test_the_recipe_for_own_sounds_solves_as_its_page_says():
    page = section_of("docs/own-recordings.md", "Solving the last layer")
    command = re.search(r"```\n(python .*?)```", page, re.DOTALL)[1]
    recipe = (ROOT / "recipes" / "own_sounds.sh").read_text()
    assert "-m tools.fit_last_layer --checkpoint" in command
    for word in re.findall(r"--\w+|tools\.\w+", command):
        assert word in recipe


def test_the_recipe_for_a_detector_has_the_commands_of_its_page():
    """A system test runs the recipe."""
    sections = (
        section_of("docs/detecting.md", title) for title in ("The steps", "Quick start")
    )
    commands = [re.search(r"```\n(python .*?)```", s, re.DOTALL)[1] for s in sections]
    words = set(" ".join(commands).replace("out/", "").split())
    recipe = (ROOT / "recipes" / "detector.sh").read_text().replace("$out/", "")
    found = set(re.sub(r'["$()]', " ", recipe).split())
    assert "tools.fit_last_layer" in words
    given = {"field", "field/quiet", "new.flac"}
    assert words - found == given  # "yamnet" is also a model of the recipe.


def test_the_table_of_reviews_is_that_of_its_csv():
    with (ROOT / "docs" / "review_loop.csv").open() as file:
        rows = sorted(
            csv.DictReader(file), key=lambda row: (row["order"], row["round"])
        )
    columns = {"events": 0, "f1": 3, "false_alarms_per_hour": 0, "best_f1": 3}
    expected = []
    for key, own in itertools.groupby(rows, lambda row: (row["order"], row["round"])):
        own = list(own)
        assert len({row["field"] for row in own}) == len(own) == 3
        cells = []
        for name, digits in columns.items():
            values = [float(row[name]) for row in own]
            pair = (statistics.mean(values), statistics.stdev(values) / 3**0.5)
            texts = [f"{value:.{digits}f}" for value in pair]
            cells.append(" ± ".join(text.replace("0.", ".") for text in texts))
        expected.append([*key, *cells])
    table = table_of_page("docs/archive.md", "What the rounds gained")
    assert sorted(table) == sorted(expected)


def test_the_modern_recipe_has_hyperparameters_of_the_page():
    recipe = (ROOT / "recipes" / "modern.sh").read_text()
    page = (ROOT / "docs" / "learning.md").read_text()
    (hparams,) = re.findall(r"^hparams=(\S+)$", recipe, re.MULTILINE)
    assert f"`{hparams}`" in page
    parse_hparams(hparams)
