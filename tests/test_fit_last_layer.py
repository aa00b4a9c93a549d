"""Solving the last layer of a checkpoint: the folder, its scores, and errors."""

import csv
import json

import numpy as np
import pytest
import tensorflow as tf
from helpers import SMALL_HPARAMS, run_main, values_of

from tagger.errors import UserError
from tagger.runs.checkpoint_files import fingerprint
from tagger.training import last_layer
from tools import export_model
from tools.fit_last_layer import fitting
from tools.tag import scoring

CLASS_NAMES = ("Loud", "Noise", "Tone")  # The checkpoint has only the last two.


@pytest.fixture(scope="module")
def class_map(tmp_path_factory):
    path = tmp_path_factory.mktemp("classes") / "class_map.csv"
    path.write_text("".join(f"{i},{name}\n" for i, name in enumerate(CLASS_NAMES)))
    return path


def solve(dataset, checkpoint, class_map, out, **options):
    fitting.fit_last_layer(
        checkpoint=str(checkpoint),
        class_map_path=str(class_map),
        clip_dir=str(dataset.clip_dir),
        train_dir=str(out),
        **{
            "csv_path": str(dataset.csv_path),
            "c": None,
            "num_folds": 3,
            "group_by": "",
            "hparam_overrides": {},
            "mixed_precision": False,
        }
        | options,
    )


@pytest.fixture(scope="module")
def solved(dataset, trained, class_map, tmp_path_factory):
    """A solved train_dir; do not change it."""
    out = tmp_path_factory.mktemp("solved") / "run"
    solve(dataset, trained / "model.ckpt-5", class_map, out)
    return out


def test_the_other_layers_are_those_of_the_checkpoint(trained, solved):
    source, found = (
        values_of(str(path))
        for path in (trained / "model.ckpt-5", solved / "model.ckpt-0")
    )
    last = {name for name in found if name.startswith("fully_connected/")}
    assert {found[name].shape[-1] for name in last} == {len(CLASS_NAMES)}
    assert found["global_step"] == 0
    for name in found.keys() - last - {"global_step"}:
        np.testing.assert_array_equal(found[name], source[name])
    records = [
        json.loads((run / "hparams.json").read_text()) for run in (trained, solved)
    ]
    assert records[1]["class_names"] == list(CLASS_NAMES)
    assert records[0]["run"] != records[1]["run"]
    for name in ("model", "hparams"):
        assert records[0][name] == records[1][name]


def test_two_runs_give_equal_weights(
    dataset, trained, class_map, solved, tmp_path, capsys
):
    solve(dataset, trained / "model.ckpt-5", class_map, tmp_path / "again")
    assert "3-fold cross-validation" in (output := capsys.readouterr().out)
    assert "Overall lwlrap" in output
    first, second = (
        values_of(str(run / "model.ckpt-0")) for run in (solved, tmp_path / "again")
    )
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])


def test_all_programs_give_the_same_scores(dataset, class_map, solved, tmp_path):
    flags = dataset.inference_flags(
        solved, tmp_path / "scores.csv", class_map_path=class_map
    )
    assert run_main(flags) == 0
    with (tmp_path / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    expected = np.array([[float(row[name]) for name in CLASS_NAMES] for row in rows])
    assert expected[:, 0].max() < 0.5 < expected[:, 1:].max()
    tagger = scoring.load(str(solved))
    export_model.export(
        checkpoint=str(solved),
        class_map_path=str(class_map),
        export_dir=str(tmp_path / "export"),
        hparam_overrides={},
    )
    exported = tf.saved_model.load(str(tmp_path / "export" / "saved_model"))
    for row, scores in zip(rows, expected):
        path = str(dataset.clip_dir / row["fname"])
        tags = scoring.tag(path, tagger)
        np.testing.assert_allclose(tags.scores.mean(axis=0), scores, atol=1e-6)
        samples = tf.audio.decode_wav(tf.io.read_file(path))[0][:, 0]
        np.testing.assert_allclose(exported(samples)["clip_scores"], scores, atol=1e-5)


def test_training_resumes_from_it(dataset, trained, class_map, tmp_path, capsys):
    out = tmp_path / "run"
    solve(dataset, trained, class_map, out, c=0.1, num_folds=0)
    assert "cross-validation" not in capsys.readouterr().out
    flags = {
        "class_map_path": class_map,
        "max_steps": 1,
        "train_scopes": "fully_connected",
    }
    before = fingerprint(f"{out}/model.ckpt-0")
    assert run_main(dataset.train_flags(out, **flags)) == 0
    assert fingerprint(f"{out}/model.ckpt-0") == before
    printed = capsys.readouterr().err
    assert f"resuming from {out}/model.ckpt-0" in printed
    assert "reset to 0" in printed
    flags |= {"class_map_path": class_map}
    assert (
        run_main(dataset.eval_flags(out, tmp_path / "eval", class_map_path=class_map))
        == 0
    )
    warm = {
        "hparams": f"{SMALL_HPARAMS},warmstart=1",
        "warmstart_checkpoint": out / "model.ckpt-0",
    }
    assert (
        run_main(
            dataset.train_flags(
                tmp_path / "warm", **flags, **warm, warmstart_moving_averages=True
            )
        )
        == 0
    )


def test_recordings_are_not_divided(dataset, trained, class_map, tmp_path):
    """Twelve clips of two recordings cannot be three folds."""
    text = dataset.csv_path.read_text().splitlines()
    for column, group_by in (("recording", ""), ("place", "place")):
        rows = [text[0] + f",{column}"]
        rows += [f"{row},{index % 2}" for index, row in enumerate(text[1:])]
        path = tmp_path / f"{column}.csv"
        path.write_text("\n".join(rows) + "\n")
        options = {"csv_path": str(path), "group_by": group_by}
        with pytest.raises(UserError, match="in 2 groups"):
            solve(dataset, trained, class_map, tmp_path / "out", **options)
        solve(dataset, trained, class_map, tmp_path / column, **options, num_folds=2)
    with pytest.raises(UserError, match="--group_by: .* speaker"):
        solve(dataset, trained, class_map, tmp_path / "out", group_by="speaker")


def test_a_checkpoint_of_the_original_needs_hyperparameters(
    dataset, trained, class_map, tmp_path
):
    from tagger.hparams import parse_overrides

    for path in trained.glob("model.ckpt-5.*"):
        (tmp_path / path.name).symlink_to(path)
    overrides = parse_overrides(SMALL_HPARAMS)
    solve(dataset, tmp_path, class_map, tmp_path / "out", hparam_overrides=overrides)
    assert (
        json.loads((tmp_path / "out/hparams.json").read_text())["hparams"]["mel_bands"]
        == 16
    )


def test_a_folder_with_checkpoints_is_refused(dataset, trained, class_map, solved):
    with pytest.raises(UserError, match="--train_dir: there are checkpoints"):
        solve(dataset, trained, class_map, solved)


def test_clips_with_doubtful_labels_are_left_out(
    dataset, trained, class_map, tmp_path, monkeypatch, capsys
):
    def first_is_doubtful(scores, labels):
        return np.arange(len(labels)) == 0

    monkeypatch.setattr(last_layer, "doubtful", first_is_doubtful)
    solve(dataset, trained, class_map, tmp_path / "a", c=0.1, skip_doubtful=True)
    printed = capsys.readouterr().out
    assert "skipped 1 of 12 clips" in printed
    assert "00.wav" in printed
    assert "examples of 11 clips" in printed
    text = dataset.csv_path.read_text().splitlines()
    (tmp_path / "rest.csv").write_text("\n".join([text[0], *text[2:]]) + "\n")
    options = {"csv_path": str(tmp_path / "rest.csv"), "c": 0.1, "num_folds": 0}
    solve(dataset, trained, class_map, tmp_path / "b", **options)
    first, second = (values_of(str(tmp_path / f"{run}/model.ckpt-0")) for run in "ab")
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])
