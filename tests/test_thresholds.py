"""CSVs of thresholds of the classes."""

import numpy as np
import pytest

from recordings import thresholds
from recordings.thresholds import Rule
from tagger.errors import UserError


def test_thresholds_are_read_as_they_were_written(tmp_path):
    scores = {'Bär, "x"': np.float64(0.1) + 0.2, "Rare": 1e-300, "<b>": 1.0}
    by_class = {name: Rule(score) for name, score in scores.items()}
    thresholds.write_thresholds(str(tmp_path), by_class)
    path = str(tmp_path / thresholds.THRESHOLDS_FILE)
    assert "\nRare,1e-300\n" in (tmp_path / thresholds.THRESHOLDS_FILE).read_text()
    assert thresholds.read_thresholds(path, "--thresholds") == by_class
    found = thresholds.order_thresholds(by_class, ["Rare", 'Bär, "x"', "<b>"], "")
    assert found.threshold.tolist() == [1e-300, 0.1 + 0.2, 1.0]
    assert not np.any(found[1:])


def test_thresholds_with_times(tmp_path):
    by_class = {"A": Rule(0.5, 0.0, 1.2), "B": Rule(0.25, 0.48, 0.0, 0.5)}
    thresholds.write_thresholds(str(tmp_path), by_class, "model.ckpt-0 0a1b2c3d")
    path = tmp_path / thresholds.THRESHOLDS_FILE
    header = "class,threshold,gap_seconds,min_seconds,mean_seconds,checkpoint\n"
    assert path.read_text().startswith(header)
    assert thresholds.read_thresholds(str(path), "--thresholds") == by_class
    path.write_text("min_seconds,class,threshold\n1.2,A,0.5\n")
    assert thresholds.read_thresholds(str(path), "") == {"A": Rule(0.5, 0, 1.2)}


def test_thresholds_of_another_checkpoint_are_reported(tmp_path, capsys):
    by_class = {"A": Rule(0.5), "B": Rule(0.25)}
    thresholds.write_thresholds(str(tmp_path), by_class, "model.ckpt-20 0a1b2c3d")
    path = str(tmp_path / thresholds.THRESHOLDS_FILE)
    found = thresholds.read_thresholds(path, "--thresholds")
    assert found == by_class
    found.report_other_checkpoint("model.ckpt-9 0a1b2c3d")  # It may be renamed.
    found.report_other_checkpoint("")
    assert capsys.readouterr().err == ""
    found.report_other_checkpoint("model.ckpt-20 00000001")
    assert capsys.readouterr().err == (
        f"warning: --thresholds: {path} is for model.ckpt-20 0a1b2c3d, not for "
        f"model.ckpt-20 00000001\n"
    )
    thresholds.write_thresholds(str(tmp_path), by_class)
    found = thresholds.read_thresholds(path, "--thresholds")
    found.report_other_checkpoint("model.ckpt-9 0a1b2c3d")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", 1),
        ("A,0.5\n", 1),
        ("class,threshold,\n", 1),
        ("class,threshold,checkpoint\nA,0.5\n", 2),
        ("class,threshold\nA\n", 2),
        ("class,threshold\nA,0.5,1\n", 2),
        ("class,threshold\nA,high\n", 2),
        ("class,threshold\nA,nan\n", 2),
        ("class,threshold\nA,0.5\n\nB,-0.1\n", 4),
        ("class,threshold\nA,1.01\n", 2),
        ("class,threshold\nA,0.5\n A ,0.5\n", 3),
        ("class,threshold,class\nA,0.5,A\n", 1),
        ("threshold,class\n0.5\n", 2),
        ("class,threshold,min_seconds\nA,0.5,-1\n", 2),
        ("class,threshold,min_seconds\nA,0.5,inf\n", 2),
    ],
)
def test_wrong_thresholds_are_named(tmp_path, text, line):
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=f"^{path}:{line}: .*$"):
        thresholds.read_thresholds(str(path), "--thresholds")


def test_a_missing_file_of_thresholds_names_the_flag():
    with pytest.raises(UserError, match="--thresholds: .* none.csv"):
        thresholds.read_thresholds("none.csv", "--thresholds")


@pytest.mark.parametrize(("names", "named"), [("A", "B"), ("ABC", "C")])
def test_each_class_of_the_checkpoint_needs_a_threshold(names, named):
    by_class = dict.fromkeys(names, Rule())
    with pytest.raises(UserError, match=f"--thresholds: .* such as {named}$"):
        thresholds.order_thresholds(by_class, ["A", "B"], "--thresholds")
