"""Inference: rows, scores, averages, and clips that cannot be read."""

import csv
import os
import shutil

import numpy as np
import pytest
import tensorflow as tf
from helpers import SMALL_HPARAMS, run_main, save_without_finite_scores, write_wav

import inference
import inputs
import model
from tagger.data import blocks, wav
from tagger.errors import UserError


def read(path) -> tuple[list[str], list[str], np.ndarray]:
    with path.open(newline="") as file:
        header, *rows = list(csv.reader(file))
    return header, [r[0] for r in rows], np.array([r[1:] for r in rows], float)


def test_every_clip_has_a_row_of_mean_scores(dataset, trained, tmp_path):
    out = tmp_path / "new_folder" / "submission.csv"
    assert run_main(dataset.inference_flags(trained, out)) == 0
    header, names, scores = read(out)
    assert header == ["fname", "Noise", "Tone"]
    assert names == [f"{index:02d}.wav" for index in range(12)]
    assert ((scores >= 0) & (scores <= 1)).all()
    network, hparams = model.load_network(str(trained / "model.ckpt-5"), header[1:])
    for name, row in zip(names, scores, strict=True):
        path = str(dataset.clip_dir / name)
        examples = inputs.wav_to_examples(path, hparams)
        expected = tf.reduce_mean(tf.sigmoid(network(examples)), axis=0)
        np.testing.assert_allclose(row, expected, atol=1e-6)


def test_scores_are_written_shortly_and_keep_their_order(tmp_path):
    near = np.nextafter(0.1, 1)
    rows = [np.array(row) for row in ([0, 1e-320, 2.5e-12], [0.1, near, 1])]
    out = tmp_path / "out.csv"
    inference._write_predictions(out, ["a", "b"], "XYZ", rows, None)
    np.testing.assert_array_equal(read(out)[2], rows)
    assert out.read_text().splitlines()[1] == "a,0.0,1e-320,2.5e-12"
    assert max(map(len, out.read_text().split(","))) < 25


def test_several_checkpoints_are_averaged(dataset, trained, tmp_path):
    narrow = tmp_path / "narrow"
    hparams = f"{SMALL_HPARAMS},width=0.5"
    assert run_main(dataset.train_flags(narrow, hparams=hparams, max_steps=1)) == 0
    paths = [trained / "model.ckpt-0", trained / "model.ckpt-5", narrow]
    parts = []
    for number, path in enumerate(paths):
        out = tmp_path / f"{number}.csv"
        assert run_main(dataset.inference_flags(path, out)) == 0
        parts.append(read(out)[2])
    out = tmp_path / "all.csv"
    all_paths = ",".join(map(str, paths))
    assert run_main(dataset.inference_flags(all_paths, out)) == 0
    np.testing.assert_allclose(read(out)[2], np.mean(parts, axis=0), rtol=1e-12)


def test_a_checkpoint_that_is_given_twice_counts_twice(dataset, trained, tmp_path):
    first, newest = trained / "model.ckpt-0", trained / "model.ckpt-5"
    scores = []
    for number, given in enumerate((first, newest, f"{newest},{first},{trained}")):
        out = tmp_path / f"{number}.csv"
        assert run_main(dataset.inference_flags(given, out)) == 0
        scores.append(read(out)[2])
    expected = (scores[0] + 2 * scores[1]) / 3
    np.testing.assert_allclose(scores[2], expected, rtol=1e-12)


def test_unreadable_clips_get_zeros_and_are_listed(dataset, trained, tmp_path, capsys):
    folder = tmp_path / "test"
    folder.mkdir()
    for name in ("01.wav", "05.wav"):
        shutil.copy(dataset.clip_dir / name, folder / name)
    (folder / "00_text.wav").write_text("not audio")
    (folder / "02_folder.wav").mkdir()
    (folder / "notes.txt").write_text("ignored")
    (folder / "03.WAV").write_text("ignored")
    write_wav(folder / "09_empty.wav", np.zeros(0))
    out = tmp_path / "submission.csv"
    assert run_main(dataset.inference_flags(trained, out, clip_dir=folder)) == 1
    _, names, scores = read(out)
    assert names == ["00_text.wav", "01.wav", "02_folder.wav", "05.wav", "09_empty.wav"]
    np.testing.assert_array_equal(scores.any(axis=1), [False, True, False, True, False])
    errors = capsys.readouterr().err
    assert "1 sound file not named *.wav" in errors
    assert f"{folder} has 1 sub-folder;" in errors
    listed = errors.splitlines()[-3:]
    assert "00_text.wav" in listed[0]
    assert "02_folder.wav" in listed[1]
    assert "09_empty.wav: has no samples" in listed[2]


def test_subfolders_are_counted(tmp_path, capsys):
    for name in ("a.wav", "b/c.wav", "b/d/e.wav", "f/g.wav"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "loop").symlink_to("loop")
    assert inference.list_wavs(str(tmp_path)) == ["a.wav"]
    assert f"{tmp_path} has 2 sub-folders;" in capsys.readouterr().err
    (tmp_path / "a.wav").unlink()
    with pytest.raises(UserError, match="--inference_clip_dir: .* no .*wav"):
        inference.list_wavs(str(tmp_path))
    assert "2 sub-folders" in capsys.readouterr().err
    assert inference.list_wavs(str(tmp_path / "f")) == ["g.wav"]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("num_bytes", [100, 12000])
def test_a_clip_that_is_cut_off_later_gets_zeros(
    dataset, trained, tmp_path, capsys, monkeypatch, num_bytes
):
    monkeypatch.setattr(blocks, "BLOCK_EXAMPLES", 1)
    folder = tmp_path / "test"
    shutil.copytree(dataset.clip_dir, folder)
    read_wav_headers = wav.read_wav_headers

    def read_and_cut(paths):
        headers = read_wav_headers(paths)
        with open(folder / "04.wav", "r+b") as file:
            file.truncate(num_bytes)
        return headers

    monkeypatch.setattr("inference.read_wav_headers", read_and_cut)
    out = tmp_path / "submission.csv"
    assert run_main(dataset.inference_flags(trained, out, clip_dir=folder)) == 1
    _, names, scores = read(out)
    np.testing.assert_array_equal(scores.any(axis=1), [n != "04.wav" for n in names])
    assert "04.wav" in capsys.readouterr().err.splitlines()[-1]


def test_the_name_of_a_clip_need_not_be_utf_8(dataset, trained, tmp_path):
    folder = tmp_path / "test"
    folder.mkdir()
    shutil.copy(dataset.clip_dir / "00.wav", os.fsencode(folder) + b"/\xff.wav")
    out = tmp_path / "submission.csv"
    assert run_main(dataset.inference_flags(trained, out, clip_dir=folder)) == 0
    assert out.read_bytes().splitlines()[1].startswith(b"\xff.wav,0.")


def test_the_clip_of_a_score_that_is_not_finite_is_named(
    dataset, trained, tmp_path, capsys
):
    save_without_finite_scores(str(trained / "model.ckpt-5"), tmp_path)
    shutil.copy(trained / "hparams.json", tmp_path)
    out = tmp_path / "out.csv"
    assert run_main(dataset.inference_flags(tmp_path, out)) == 1
    assert "00.wav are not finite" in capsys.readouterr().err.splitlines()[-1]
    assert not out.exists()


def test_a_folder_of_only_unreadable_clips(dataset, trained, tmp_path):
    folder = tmp_path / "test"
    folder.mkdir()
    (folder / "a.wav").touch()
    out = tmp_path / "submission.csv"
    assert run_main(dataset.inference_flags(trained, out, clip_dir=folder)) == 1
    assert out.read_text() == "fname,Noise,Tone\na.wav,0.0,0.0\n"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inference_checkpoint": "none"}, "--inference_checkpoint: "),
        ({"inference_checkpoint": "."}, "--inference_checkpoint: "),
        ({"predictions_csv_path": "."}, "--predictions_csv_path: "),
        ({"predictions_csv_path": "file/x.csv"}, "--predictions_csv_path: "),
        ({"inference_clip_dir": "none"}, "--inference_clip_dir: "),
        ({"inference_clip_dir": "."}, "--inference_clip_dir: "),
        ({"class_map_path": "none.csv"}, "--class_map_path: "),
        ({"hparams": "bn=0"}, "is missing 3 of 8 variables"),
    ],
)
def test_wrong_flags_are_reported_in_one_line(
    dataset, trained, tmp_path, capsys, monkeypatch, change, message
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    flags = dataset.inference_flags(trained, tmp_path / "x.csv")
    flags += [f"--{name}={value}" for name, value in change.items()]
    assert run_main(flags) == 1
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "x.csv").exists()


def test_the_name_of_a_part():
    assert inference.part_path("a/b.csv", 0, 1) == "a/b.csv"
    assert inference.part_path("a/b.csv", 1, 3) == "a/b-1-of-3.csv"
