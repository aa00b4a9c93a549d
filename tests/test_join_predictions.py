"""Inference in shards, and joining what they write."""

import csv

import numpy as np
import pytest
from conftest import run_main

from tools import join_predictions


def scores_of(path) -> dict[str, list[float]]:
    with path.open(newline="") as file:
        _, *rows = csv.reader(file)
    return {row[0]: [float(score) for score in row[1:]] for row in rows}


def test_shards_joined_are_the_whole(dataset, trained, tmp_path, capsys):
    whole, joined = tmp_path / "whole.csv", tmp_path / "submission.csv"
    assert run_main(dataset.inference_flags(trained, whole)) == 0
    for shard in (2, 0, 1):
        flags = dataset.inference_flags(trained, joined, inference_shard=f"{shard}/3")
        assert run_main(flags) == 0
        part = scores_of(tmp_path / f"submission-{shard}-of-3.csv")
        assert list(part) == [f"{n:02d}.wav" for n in range(shard, 12, 3)]
    assert not joined.exists()
    arguments = [str(joined), "--inference_clip_dir", str(dataset.clip_dir)]
    assert join_predictions.main(arguments) == 0
    assert "12 clips of 3 parts joined" in capsys.readouterr().out
    expected, actual = scores_of(whole), scores_of(joined)
    assert list(actual) == list(expected)
    np.testing.assert_allclose(
        list(actual.values()), list(expected.values()), atol=1e-6
    )


@pytest.fixture
def parts(tmp_path):
    """Three parts of the clips a to g."""
    for shard in range(3):
        rows = "".join(f"{name}.wav,0.5,0.1\n" for name in "abcdefg"[shard::3])
        (tmp_path / f"s-{shard}-of-3.csv").write_text(f"fname,Bark,Meow\n{rows}")
    return tmp_path


def test_parts_join_as_they_are(parts):
    assert join_predictions.main([str(parts / "s.csv")]) == 0
    expected = "".join(f"{name}.wav,0.5,0.1\n" for name in "abcdefg")
    assert (parts / "s.csv").read_text() == f"fname,Bark,Meow\n{expected}"


@pytest.mark.parametrize(
    ("part", "text", "message"),
    [
        ("s-1-of-3.csv", None, "1 of 3 parts are missing: "),
        ("s-1-of-2.csv", "", "there are parts of 2 and of 3 of "),
        (
            "s-2-of-3.csv",
            "",
            "s-2-of-3.csv:1: expected a header that starts with fname",
        ),
        ("s-2-of-3.csv", "fname,Bark,Moo\n", "s-2-of-3.csv has other classes than "),
        (
            "s-2-of-3.csv",
            "fname,Bark,Meow\nc.wav,1\n",
            ":2: expected 3 columns, but got",
        ),
        (
            "s-0-of-3.csv",
            "fname,Bark,Meow\na.wav,1,0\n",
            "s-0-of-3.csv has 1 rows, but",
        ),
        ("s-2-of-3.csv", "fname,Bark,Meow\nc.wav,1,0.", "is cut off in its last line"),
        (
            "s-2-of-3.csv",
            "fname,Bark,Meow\nc.wav,1,0\n",
            "s-2-of-3.csv has 1 rows, but by the other parts",
        ),
        (
            "s-2-of-3.csv",
            "fname,Bark,Meow\nc.wav,1,0\nc.wav,1,0\n",
            "not of the same clips: c.wav comes after e.wav",
        ),
    ],
)
def test_what_cannot_be_joined_is_one_line(parts, capsys, part, text, message):
    if text is None:
        (parts / part).unlink()
    else:
        (parts / part).write_text(text)
    assert join_predictions.main([str(parts / "s.csv")]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert not (parts / "s.csv").exists()


def test_no_parts_at_all(tmp_path, capsys):
    assert join_predictions.main([str(tmp_path / "s.csv")]) == 1
    assert "there are no parts of" in capsys.readouterr().err


def test_clips_without_a_row_are_named(parts, capsys):
    folder = parts / "clips"
    folder.mkdir()
    for name in "abcdefghi":
        (folder / f"{name}.wav").touch()
    arguments = [str(parts / "s.csv"), "--inference_clip_dir", str(folder)]
    assert join_predictions.main(arguments) == 1
    assert "2 clips of" in (error := capsys.readouterr().err)
    assert "have no row: h.wav, i.wav" in error
    (folder / "a.wav").unlink()
    for name in "hi":
        (folder / f"{name}.wav").unlink()
    assert join_predictions.main(arguments) == 1
    assert "have a row but no file: a.wav" in capsys.readouterr().err
