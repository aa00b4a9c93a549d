"""Inference in shards, and joining the parts that they write."""

import csv
import shutil

import numpy as np
import pytest
from helpers import run_main, write_wav

from tagger.errors import UserError
from tools import join_predictions


def join(path) -> int:
    return join_predictions.main(["join_predictions", str(path)])


def scores_of(path) -> dict[str, list[float]]:
    with path.open(newline="") as file:
        header, *rows = csv.reader(file)
    stop = header.index("fingerprint") if "fingerprint" in header else None
    return {row[0]: [float(score) for score in row[1:stop]] for row in rows}


def test_joined_shards_equal_the_scores_of_one_process(dataset, trained, tmp_path):
    whole, joined = tmp_path / "whole.csv", tmp_path / "submission.csv"
    assert run_main(dataset.inference_flags(trained, whole)) == 0
    for shard in (2, 0, 1):
        flags = dataset.inference_flags(trained, joined, inference_shard=f"{shard}/3")
        assert run_main(flags) == 0
        part = scores_of(tmp_path / f"submission-{shard}-of-3.csv")
        assert list(part) == [f"{n:02d}.wav" for n in range(shard, 12, 3)]
    assert not joined.exists()
    assert join(joined) == 0
    expected, actual = scores_of(whole), scores_of(joined)
    assert list(actual) == list(expected)
    np.testing.assert_allclose(
        list(actual.values()), list(expected.values()), atol=1e-6
    )


HEADER = "fname,Bark,Meow,fingerprint\n"


@pytest.fixture(scope="module")
def first_part(dataset, trained, tmp_path_factory):
    """A folder with the first of two parts."""
    folder = tmp_path_factory.mktemp("first")
    hparams = "bneps=0.002,mel_min_hz=30"
    flags = {"inference_shard": "0/2", "hparams": hparams}
    assert run_main(dataset.inference_flags(trained, folder / "s.csv", **flags)) == 0
    return folder


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hparams": "mel_min_hz=30,lr=1,bneps=2e-3"}, None),
        ({"hparams": "mel_min_hz=31,bneps=0.002"}, "hyperparameters"),
        ({"hparams": ""}, "hyperparameters"),
        ({"mixed_precision": True}, "precision"),
        ({"checkpoint": "model.ckpt-4"}, "checkpoints"),
        ({"clips": "other"}, "samples"),
        ({"clips": "fewer"}, "files"),
    ],
)
def test_only_parts_of_one_inference_fit(
    dataset, trained, first_part, tmp_path, change, message
):
    shutil.copy(first_part / "s-0-of-2.csv", tmp_path)
    clip_dir = tmp_path / "clips"
    shutil.copytree(dataset.clip_dir, clip_dir)
    flags = {"hparams": "bneps=0.002,mel_min_hz=30"} | change
    kind = flags.pop("clips", "")
    if kind == "other":
        size = (clip_dir / "00.wav").stat().st_size
        write_wav(clip_dir / "00.wav", np.ones((size - 44) // 2))
    elif kind == "fewer":
        (clip_dir / "11.wav").unlink()
    checkpoint = trained / flags.pop("checkpoint", "model.ckpt-5")
    flags |= {"clip_dir": clip_dir, "inference_shard": "1/2"}
    joined = tmp_path / "s.csv"
    assert run_main(dataset.inference_flags(checkpoint, joined, **flags)) == 0
    if message is None:
        assert join(joined) == 0
        return
    with pytest.raises(UserError) as error:
        join(joined)
    expected = f"{tmp_path}/s-1-of-2.csv has other {message} than {tmp_path}/s-0-of-2"
    assert str(error.value).startswith(expected)
    assert not joined.exists()


@pytest.fixture
def parts(tmp_path):
    """A folder with three parts of the clips a to g."""
    for shard in range(3):
        rows = "".join(f"{name}.wav,0.5,0.1,ab12-7\n" for name in "abcdefg"[shard::3])
        (tmp_path / f"s-{shard}-of-3.csv").write_text(HEADER + rows)
    return tmp_path


def test_parts_without_rows_are_an_error(parts):
    for part in parts.iterdir():
        part.write_text(HEADER)
    with pytest.raises(UserError, match="no rows"):
        join(parts / "s.csv")


def test_rows_are_joined_unchanged(parts, capsys):
    (parts / "other-0-of-2.csv").touch()
    assert join(parts / "s.csv") == 0
    assert "7 clips of 3 parts" in capsys.readouterr().out
    expected = "".join(f"{name}.wav,0.5,0.1\n" for name in "abcdefg")
    assert (parts / "s.csv").read_text() == f"fname,Bark,Meow\n{expected}"


@pytest.mark.parametrize(
    ("part", "text", "message"),
    [
        ("s-1-of-3.csv", None, "s-0-of-3.csv, s-2-of-3.csv$"),
        ("s-0-of-2.csv", "", "s-0-of-2.csv, s-0-of-3.csv"),
        ("s-2-of-3.csv", "", "is not a part"),
        ("s-2-of-3.csv", "fname,Bark,Meow\nc.wav,1,0\n", "is not a part"),
        (
            "s-2-of-3.csv",
            HEADER.replace("Meow", "Moo") + "c.wav,1,0,ab12-7\n",
            "s-2-of-3.csv has other",
        ),
        ("s-1-of-3.csv", HEADER + "b.wav,1,0,cd34-7\n", "s-1-of-3.csv has other"),
        ("s-1-of-3.csv", HEADER + "b.wav,1,ab12-7\n", "b.wav has other columns"),
        ("s-1-of-3.csv", HEADER + "b.wav\n", "b.wav has other columns"),
        ("s-1-of-3.csv", HEADER + 200000 * "x", "s-1-of-3.csv cannot be read"),
        ("s-1-of-3.csv", HEADER + "b.wav,1,0,ab12-7\n", "6 rows in all, but 7"),
        (
            "s-1-of-3.csv",
            HEADER + "b.wav,nan,0,ab12-7\n",
            "of b.wav is not from 0 to 1",
        ),
        ("s-1-of-3.csv", HEADER + "b.wav,1.1,0,ab12-7\n", "of b.wav is not from 0"),
        ("s-1-of-3.csv", HEADER + "b.wav,hello,0,ab12-7\n", "of b.wav is not from 0"),
    ],
)
def test_parts_that_do_not_fit_are_an_error(parts, part, text, message):
    if text is None:
        (parts / part).unlink()
    else:
        (parts / part).write_text(text)
    with pytest.raises(UserError, match=message):
        join(parts / "s.csv")
    assert not (parts / "s.csv").exists()


def test_missing_parts_are_an_error(tmp_path):
    with pytest.raises(UserError, match=r"s\.csv: .* found none"):
        join(tmp_path / "s.csv")
    with pytest.raises(UserError, match=r"s\.csv: there is no folder .*none"):
        join(tmp_path / "none" / "s.csv")
    (tmp_path / "s-0-of-1.csv").mkdir()
    with pytest.raises(UserError, match="s-0-of-1.csv cannot be read: "):
        join(tmp_path / "s.csv")
