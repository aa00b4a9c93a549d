"""Thresholds of the classes: writing, reading and their errors."""

import pytest

from tagger import results
from tagger.clips import InputProblems


def test_thresholds_are_read_as_they_were_written(tmp_path):
    thresholds = {'Bär, "x"': 0.1 + 0.2, "Rare": 1e-9, "<b>": 1.0}
    results.write_thresholds(str(tmp_path), thresholds)
    path = str(tmp_path / results.THRESHOLDS_FILE)
    assert results.read_thresholds(path, "--thresholds") == thresholds
    found = results.order_thresholds(thresholds, ["Rare", 'Bär, "x"', "<b>"], "")
    assert found.tolist() == [1e-9, 0.1 + 0.2, 1.0]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", 1),
        ("A,0.5\n", 1),
        ("class,threshold,\n", 1),
        ("class,threshold\nA\n", 2),
        ("class,threshold\nA,0.5,1\n", 2),
        ("class,threshold\nA,high\n", 2),
        ("class,threshold\nA,nan\n", 2),
        ("class,threshold\nA,0.5\n\nB,-0.1\n", 4),
        ("class,threshold\nA,1.01\n", 2),
        ("class,threshold\nA,0.5\n A ,0.5\n", 3),
    ],
)
def test_wrong_thresholds_are_named(tmp_path, text, line):
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(InputProblems, match=f"^{path}:{line}: .*$"):
        results.read_thresholds(str(path), "--thresholds")


def test_a_missing_file_of_thresholds_names_the_flag():
    with pytest.raises(FileNotFoundError, match="--thresholds: .* none.csv"):
        results.read_thresholds("none.csv", "--thresholds")
