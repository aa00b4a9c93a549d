"""Evaluation: markers, events, shares, restarts, and unreadable checkpoints."""

import csv
import os
import re
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
from conftest import run_main
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2

import evaluation
from tagger import checkpoints, hparams, plots


def run_eval(dataset, train_dir, eval_dir, **flags) -> int:
    return run_main(dataset.eval_flags(train_dir, eval_dir, **flags))


def markers(eval_dir) -> list[str]:
    return sorted(path.name for path in eval_dir.glob("eval-*.txt"))


@pytest.fixture
def run(trained, tmp_path):
    """A train_dir that a test may change."""
    copy = tmp_path / "run"
    shutil.copytree(trained, copy)
    return copy


def test_every_checkpoint_gets_a_marker_events_and_a_row(
    dataset, run, tmp_path, capsys
):
    eval_dir = tmp_path / "eval"
    assert run_eval(dataset, run, eval_dir) == 0
    assert markers(eval_dir) == [f"eval-{step}.txt" for step in (0, 2, 4, 5)]
    lines = (eval_dir / "eval-5.txt").read_text().splitlines()
    assert [line.split(" = ")[0] for line in lines[-1:]] == ["Overall lwlrap"]
    assert {line.split(" = ")[0] for line in lines[:-1]} == {
        "Lwlrap(Noise)",
        "Lwlrap(Tone)",
    }
    assert "\n".join(lines) in capsys.readouterr().out
    with (eval_dir / "lwlrap.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["0", "2", "4", "5"]
    assert list(rows[0]) == ["step", "overall", "Noise", "Tone"]
    assert rows[-1]["overall"] == lines[-1].split(" = ")[1]
    events = EventAccumulator(str(eval_dir)).Reload()
    assert [event.step for event in events.Tensors("Lwlrap-5%")] == [0, 2, 4, 5]
    value = tf.make_ndarray(events.Tensors("Lwlrap")[-1].tensor_proto)
    assert float(value) == pytest.approx(float(rows[-1]["overall"]), abs=1e-6)
    table = events.Tensors("per_class_table")[-1]
    text = tf.make_ndarray(table.tensor_proto).item().decode()
    assert f"| Tone | {rows[-1]['Tone']} | 8 |" in text
    picture = tf.make_ndarray(events.Tensors("per_class")[-1].tensor_proto)[2]
    png = (eval_dir / "per_class-5.png").read_bytes()
    np.testing.assert_array_equal(tf.io.decode_png(picture), tf.io.decode_png(png))
    assert {path.name for path in eval_dir.glob("*.png")} == {
        "lwlrap.png",
        *[f"per_class-{step}.png" for step in (0, 2, 4, 5)],
    }


def test_a_trial_of_tensorboard_has_the_scalars_of_both_folders(dataset, run, tmp_path):
    """The HParams tab joins folders by the name of the trial."""
    eval_dir = tmp_path / "elsewhere"
    assert run_eval(dataset, run, eval_dir, eval_every_k=9) == 0
    trials = []
    for folder in (run, eval_dir):
        events = EventAccumulator(str(folder)).Reload()
        metadata = events.SummaryMetadata("_hparams_/session_start_info")
        data = plugin_data_pb2.HParamsPluginData.FromString(
            metadata.plugin_data.content
        )
        trials.append(data.session_start_info)
    assert trials[1].group_name == f"run in {os.path.realpath(tmp_path)}"
    for trial in trials:
        assert trial.hparams["lr"].number_value == 1e-3
        assert trial.hparams["batch_size"].number_value == 4
        assert trial.hparams["opt"].string_value == "adam"
        assert len(trial.hparams) == len(hparams.FIELDS)


def test_a_picture_compares_with_the_best_of_the_others(
    dataset, run, tmp_path, capsys, monkeypatch
):
    eval_dir = tmp_path / "eval"
    eval_dir.mkdir()
    values = "Lwlrap(Tone) = 0.900000\nLwlrap(Gone) = 0.100000\n"
    for step, overall in ((0, "0.500000"), (2, "0.999000"), (5, "0.999000")):
        (eval_dir / f"eval-{step}.txt").write_text(
            f"{values}Overall lwlrap = {overall}\n"
        )
    drawn = []

    def draw(*values, **named):
        drawn.append(named)
        return plots.per_class_picture(*values, **named)

    monkeypatch.setattr(
        evaluation,
        "plots",
        SimpleNamespace(**vars(plots) | {"per_class_picture": draw}),
    )
    assert run_eval(dataset, run, eval_dir) == 0
    (picture,) = drawn
    assert picture["title"].startswith("step 4: overall lwlrap 0.")
    assert picture["other_title"] == "best of the others: step 2, 0.999000"
    np.testing.assert_array_equal(picture["other_values"], [np.nan, 0.9])
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == "best so far: step 2, overall lwlrap 0.999000"


def test_a_restart_skips_what_has_a_marker(dataset, run, tmp_path, capsys):
    eval_dir = tmp_path / "eval"
    eval_dir.mkdir()
    for step in (0, 2, 5):
        (eval_dir / f"eval-{step}.txt").write_text("Overall lwlrap = 0.500000\n")
    assert run_eval(dataset, run, eval_dir) == 0
    output = capsys.readouterr()
    assert "step 4, all 12 clips" in output.out
    assert "step 5" not in output.out
    assert "1 checkpoint evaluated; " in output.err
    assert "4,0." in (eval_dir / "lwlrap.csv").read_text()
    assert "5,0.500000,," in (eval_dir / "lwlrap.csv").read_text()


def test_shards_share_the_work_and_the_table_is_whole(dataset, run, tmp_path):
    eval_dir = tmp_path / "eval"
    assert run_eval(dataset, run, eval_dir, eval_shard="1/2") == 0
    assert markers(eval_dir) == ["eval-2.txt", "eval-5.txt"]
    assert run_eval(dataset, run, eval_dir, eval_shard="0/2") == 0
    assert len((eval_dir / "lwlrap.csv").read_text().splitlines()) == 5


@pytest.mark.parametrize(
    ("share", "expected"),
    [
        (evaluation.Share(), "abcdefg"),
        (evaluation.Share(3, 0, 1), "adg"),
        (evaluation.Share(1, 0, 2), "aceg"),
        (evaluation.Share(1, 1, 2), "bdf"),
        (evaluation.Share(2, 1, 2), "cg"),
        (evaluation.Share(9, 1, 2), ""),
    ],
)
def test_shares(share, expected):
    assert "".join(share.of(list("abcdefg"))) == expected


def test_an_unreadable_checkpoint_is_told_and_skipped(dataset, run, tmp_path, capsys):
    with open(run / "model.ckpt-2.data-00000-of-00001", "r+b") as file:
        file.truncate(100)
    eval_dir = tmp_path / "eval"
    assert run_eval(dataset, run, eval_dir) == 0
    assert markers(eval_dir) == [f"eval-{step}.txt" for step in (0, 4, 5)]
    errors = capsys.readouterr().err
    assert errors.count("skipped: checkpoint") == 1
    assert "model.ckpt-2 cannot be read" in errors


def test_a_checkpoint_that_does_not_fit_is_an_error(dataset, run, tmp_path, capsys):
    (run / "hparams.json").unlink()
    assert run_eval(dataset, run, tmp_path / "eval", hparams="bn=0") == 1
    errors = capsys.readouterr().err.splitlines()
    assert any("there is no" in line and "hparams.json" in line for line in errors)
    assert "lacks 27 of 56 variables" in errors[-1]


def test_one_folder_may_serve_a_trainer_and_its_evaluator(dataset, run):
    with checkpoints.locked(run):  # as a running trainer holds it
        assert run_eval(dataset, run, run) == 0
    assert len(markers(run)) == 4


def test_a_restart_completes_the_table(dataset, run, tmp_path):
    eval_dir = tmp_path / "eval"
    assert run_eval(dataset, run, eval_dir) == 0
    table = (eval_dir / "lwlrap.csv").read_text()
    (eval_dir / "lwlrap.csv").unlink()
    (eval_dir / "eval-99.txt").touch()  # no results of ours, so it is no row
    assert run_eval(dataset, run, eval_dir) == 0
    assert (eval_dir / "lwlrap.csv").read_text() == table


def test_a_clip_that_vanishes_stops_evaluation_with_its_name(
    dataset, run, tmp_path, capsys, monkeypatch
):
    clip_dir = tmp_path / "clips"
    shutil.copytree(dataset.clip_dir, clip_dir)
    monkeypatch.setattr(
        evaluation, "_report_empty_classes", lambda *_: (clip_dir / "03.wav").unlink()
    )
    assert run_eval(dataset, run, tmp_path / "eval", eval_clip_dir=clip_dir) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert "a clip can no longer be read" in error
    assert "03.wav" in error
    assert markers(tmp_path / "eval") == []


def test_the_running_values_are_printed(dataset, run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(evaluation, "RUNNING_PRINT_SECONDS", -1)
    assert run_eval(dataset, run, tmp_path / "eval", eval_every_k=9) == 0
    assert "step 0, 7 of 12 clips:\nLwlrap(" in capsys.readouterr().out


def test_a_folder_that_cannot_be_made_names_its_flag(dataset, run, tmp_path, capsys):
    (tmp_path / "file").touch()
    assert run_eval(dataset, run, tmp_path / "file") == 1
    assert "--eval_dir:" in capsys.readouterr().err


def test_new_checkpoints_are_waited_for(run, tmp_path, monkeypatch):
    arriving = {}
    for step in (4, 5):
        for path in run.glob(f"model.ckpt-{step}.*"):
            arriving.setdefault(step, []).append((path, path.read_bytes()))
            path.unlink()
    clock = [0.0]

    def sleep(seconds):
        clock[0] += seconds
        if clock[0] >= 8 and arriving:
            for path, contents in arriving.pop(min(arriving)):
                path.write_bytes(contents)

    monkeypatch.setattr(evaluation.time, "sleep", sleep)
    monkeypatch.setattr(evaluation.time, "monotonic", lambda: clock[0])
    found = []
    for prefix in evaluation._pending_checkpoints(
        str(run), str(tmp_path), evaluation.Share(), timeout_secs=60
    ):
        found.append(prefix[-1])
        (tmp_path / f"eval-{prefix[-1]}.txt").touch()
    assert "".join(found) == "0245"
    assert 68 <= clock[0] < 90  # It left a minute after the last.


def test_a_folder_with_results_of_other_clips_is_refused(
    dataset, run, tmp_path, capsys
):
    eval_dir = tmp_path / "eval"
    assert run_main(dataset.eval_flags(run, eval_dir)) == 0
    csv_path = tmp_path / "others.csv"
    csv_path.write_text("fname,labels\n00.wav,Tone\n01.wav,Noise\n")
    flags = dataset.eval_flags(run, eval_dir, eval_csv_path=csv_path)
    assert run_main(flags) == 1
    assert "has results of other clips" in capsys.readouterr().err.splitlines()[-1]
    moved = tmp_path / "moved"
    shutil.copytree(run, moved)
    assert run_main(dataset.eval_flags(moved, eval_dir)) == 0
    assert f"has results of checkpoints in {run}" in capsys.readouterr().err


def test_scores_that_tell_no_clip_from_another_are_told(
    dataset, run, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(evaluation, "ALIKE", 2.0)
    assert run_main(dataset.eval_flags(run, tmp_path / "eval")) == 0
    assert "all clips have nearly the same scores" in capsys.readouterr().err


def test_ctrl_c_tells_what_was_evaluated(dataset, run, tmp_path, capsys, monkeypatch):
    def interrupt(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(evaluation.time, "sleep", interrupt)
    flags = dataset.eval_flags(run, tmp_path / "eval", eval_timeout_secs=-1)
    assert run_main(flags) == 130
    lines = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"\d checkpoints evaluated; results are in .*/eval", lines[-3])
    assert lines[-2].startswith("best so far: step ")
    assert lines[-1] == "stopped by SIGINT"


def test_a_folder_without_checkpoints_is_an_error(dataset, tmp_path, capsys):
    assert run_eval(dataset, tmp_path / "none", tmp_path / "eval") == 1
    assert "--train_dir: there is no whole checkpoint" in capsys.readouterr().err


def test_another_class_map_is_an_error(dataset, run, tmp_path, capsys):
    other = tmp_path / "map.csv"
    other.write_text("0,Tone\n1,Noise\n")
    flags = dataset.eval_flags(run, tmp_path / "eval")
    assert run_main([*flags, f"--class_map_path={other}"]) == 1
    assert "class 0 is Tone, but was Noise" in capsys.readouterr().err


def test_scores_that_are_not_finite_stop_with_the_clip(dataset, run, tmp_path, capsys):
    prefix = str(run / "model.ckpt-5")
    reader = tf.train.load_checkpoint(prefix)
    values = {n: tf.Variable(reader.get_tensor(n)) for n in checkpoints.shapes(prefix)}
    values["fully_connected/biases"].assign([np.nan, 0])
    checkpoints.save(run, values, 5)
    assert run_eval(dataset, run, tmp_path / "eval") == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert "are not finite" in error
    assert ".wav" in error
    assert "eval-5.txt" not in markers(tmp_path / "eval")


def test_classes_without_clips_are_told(dataset, run, tmp_path, capsys):
    one_class = tmp_path / "one.csv"
    one_class.write_text("fname,labels\n00.wav,Tone\n03.wav,Tone\n")
    flags = dataset.eval_flags(run, tmp_path / "eval", eval_every_k=9)
    assert run_main([*flags, f"--eval_csv_path={one_class}"]) == 0
    assert "no clip is labelled Noise" in capsys.readouterr().err
    marker = (tmp_path / "eval" / "eval-0.txt").read_text()
    assert "Lwlrap(Noise) = 0.000000" in marker
