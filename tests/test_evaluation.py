"""Evaluation: results, restarts, several evaluators, waiting, and bad input."""

import json
import os
import re
import shutil

import numpy as np
import pytest
import tensorflow as tf
from helpers import SMALL_HPARAMS, run_main, save_without_finite_scores
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2

import evaluation
from tagger import hparams
from tagger.errors import UserError
from tagger.metrics.lwlrap import Lwlrap
from tagger.options import EvalOptions
from tagger.runs import checkpoint_files, checkpoints
from tagger.runs.eval_folder import EvalFolder
from tagger.runs.run import Run
from tagger.terminal import files
from tools import score
from tools.report import diagnosis

STEPS = [0, 2, 4, 5]  # of the checkpoints in `trained`


def run_eval(dataset, train_dir, eval_dir, **flags) -> int:
    return run_main(dataset.eval_flags(train_dir, eval_dir, **flags))


def evaluated_steps(eval_dir) -> list[int]:
    return sorted(int(path.stem[5:]) for path in eval_dir.glob("eval-*.txt"))


def overall_of(eval_dir, step: int) -> float:
    return float((eval_dir / f"eval-{step}.txt").read_text().split()[-1])


def options(**values) -> EvalOptions:
    unused = dict(class_map_path="", eval_clip_dir="", eval_csv_path="")
    return EvalOptions(**unused | dict(train_dir="", eval_dir="") | values)


@pytest.fixture(scope="module")
def results(dataset, trained, tmp_path_factory):
    """An eval_dir with all results of `trained`; do not change it."""
    eval_dir = tmp_path_factory.mktemp("results") / "eval"
    assert run_eval(dataset, trained, eval_dir) == 0
    return eval_dir


@pytest.fixture
def eval_dir(results, tmp_path):
    """A copy of `results` for a test that changes it."""
    return shutil.copytree(results, tmp_path / "eval")


@pytest.fixture
def run(trained, tmp_path):
    """A copy of `trained` for a test that changes it."""
    return shutil.copytree(trained, tmp_path / "run")


def test_every_checkpoint_has_a_marker_and_scalars(results):
    assert evaluated_steps(results) == STEPS
    *by_class, overall = [
        line.split(" = ") for line in (results / "eval-5.txt").read_text().splitlines()
    ]
    assert overall[0] == "Overall lwlrap"
    assert {name for name, _ in by_class} == {"Lwlrap(Noise)", "Lwlrap(Tone)"}
    values = [float(value) for _, value in by_class]
    assert values == sorted(values, reverse=True)
    events = EventAccumulator(str(results)).Reload()
    assert [event.step for event in events.Tensors("Lwlrap-5%")] == STEPS
    scalars = [tf.make_ndarray(e.tensor_proto) for e in events.Tensors("Lwlrap")]
    expected = [overall_of(results, step) for step in STEPS]
    np.testing.assert_allclose(scalars, expected, atol=1e-6)


def test_background_clips_do_not_change_the_lwlrap(dataset, trained, tmp_path):
    header, background, *rows = dataset.csv_path.read_text().splitlines()
    results = []
    for first in ([], [background.split(",")[0] + ",_background_"]):
        csv, eval_dir = tmp_path / "clips.csv", tmp_path / str(len(first))
        csv.write_text("\n".join([header, *first, *rows]) + "\n")
        assert run_eval(dataset, trained, eval_dir, eval_csv_path=csv) == 0
        results.append((eval_dir / "eval-5.txt").read_text())
    assert results[0] == results[1]


def test_the_scores_of_the_best_step_are_kept(dataset, trained, results):
    arrays = np.load(results / "scores-best.npz")
    best, _ = EvalFolder(str(results)).best()
    assert arrays["step"] == best
    lwlrap = Lwlrap(arrays["class_names"].tolist())
    lwlrap.accumulate(arrays["labels"], arrays["scores"])
    assert f"{lwlrap}\n" == (results / f"eval-{best}.txt").read_text()
    assert sorted(arrays["clips"]) == [f"{n:02d}.wav" for n in range(12)]


@pytest.mark.parametrize(("fraction", "num_clips"), [(0.05, 1), (0.3, 4), (0.5, 7)])
def test_the_partial_lwlrap_is_that_of_one_clip_more_than_its_share(
    dataset, trained, tmp_path, monkeypatch, fraction, num_clips
):
    sizes = []

    class Counted(Lwlrap):
        def accumulate(self, truth, scores):
            super().accumulate(truth, scores)
            sizes.append(self.total_num_samples)

    monkeypatch.setattr(evaluation, "PARTIAL_FRACTION", fraction)
    monkeypatch.setattr(evaluation, "RUNNING_PRINT_SECONDS", float("inf"))
    monkeypatch.setattr(evaluation, "Lwlrap", Counted)
    assert run_eval(dataset, trained, tmp_path) == 0
    assert sizes == [12, num_clips] * len(STEPS)


def test_the_hparams_tab_joins_training_and_evaluation(trained, results):
    trials = []
    for folder in (trained, results):
        events = EventAccumulator(str(folder)).Reload()
        metadata = events.SummaryMetadata("_hparams_/session_start_info")
        data = plugin_data_pb2.HParamsPluginData.FromString(
            metadata.plugin_data.content
        )
        trials.append(data.session_start_info)
    assert trials[0].group_name == trials[1].group_name
    assert trials[1].group_name == f"run in {os.path.realpath(trained.parent)}"
    for trial in trials:
        assert trial.hparams["lr"].number_value == 1e-3
        assert trial.hparams["batch_size"].number_value == 4
        assert trial.hparams["opt"].string_value == "adam"
        assert len(trial.hparams) == len(hparams.FIELDS)


def test_a_restart_evaluates_steps_without_a_marker(
    dataset, trained, results, eval_dir, capsys, monkeypatch
):
    monkeypatch.setattr(evaluation, "RUNNING_PRINT_SECONDS", -1)
    (eval_dir / "eval-4.txt").unlink()
    (eval_dir / "eval-99.txt").touch()  # not a result
    assert run_eval(dataset, trained, eval_dir) == 0
    output = capsys.readouterr().out
    assert "step 4, all 12 clips" in output
    assert (results / "eval-4.txt").read_text() in output
    assert "step 4, 7 of 12 clips" in output
    assert "step 5" not in output


@pytest.mark.parametrize(
    "form", ["model.ckpt-4", "model.ckpt-4.data-00000-of-00001", "best:"]
)
def test_only_the_named_checkpoint_is_evaluated(
    dataset, trained, results, tmp_path, capsys, monkeypatch, form
):
    checkpoint, step = str(trained / form), 4
    if form == "best:":
        checkpoint, (step, _) = f"best:{results}", EvalFolder(results, trained).best()
    monkeypatch.delattr(evaluation.time, "sleep")
    flags = dict(eval_checkpoint=checkpoint, eval_timeout_secs=600)
    for _ in range(2):  # The second time, the existing result is printed.
        assert run_eval(dataset, "", tmp_path, **flags) == 0
        result = (results / f"eval-{step}.txt").read_text()
        assert capsys.readouterr().out.endswith(result)
    assert evaluated_steps(tmp_path) == [step]
    assert (tmp_path / f"eval-{step}.txt").read_text() == result
    assert EvalFolder(tmp_path, trained).best()[0] == step
    assert run_eval(dataset, trained, tmp_path) == 0
    assert evaluated_steps(tmp_path) == STEPS


def test_a_named_checkpoint_that_cannot_be_read_is_an_error(
    dataset, run, tmp_path, capsys
):
    (run / "model.ckpt-4.data-00000-of-00001").write_bytes(b"damaged")
    flags = dict(eval_checkpoint=run / "model.ckpt-4")
    assert run_eval(dataset, "", tmp_path, **flags) == 1
    assert "model.ckpt-4" in capsys.readouterr().err.splitlines()[-1]
    assert run_eval(dataset, "", tmp_path, eval_checkpoint=run / "none") == 1
    assert "--eval_checkpoint" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    "other", [{"train_dir": "run"}, {"eval_every_k": 2}, {"eval_shard": "0/2"}]
)
def test_named_checkpoints_exclude_a_selection(dataset, tmp_path, capsys, other):
    (name,) = other
    flags = dict(train_dir="", eval_dir=tmp_path / "eval", eval_checkpoint="a")
    assert run_main(dataset.eval_flags(**flags | other)) == 1
    err = capsys.readouterr().err
    assert re.fullmatch(f"error: --eval_checkpoint .*--{name} .*exclusive\n", err)
    assert not (tmp_path / "eval").exists()


def test_a_named_checkpoint_that_was_renamed_is_reported_once(
    dataset, run, tmp_path, capsys
):
    for path in run.glob("model.ckpt-4.*"):
        path.rename(run / path.name.replace("-4", "-7"))
    flags = dict(eval_checkpoint=run / "model.ckpt-7")
    assert run_eval(dataset, "", tmp_path, **flags) == 0
    assert capsys.readouterr().err.count("is of step 4; was it renamed?") == 1


def test_the_scores_of_several_checkpoints_are_averaged(
    dataset, trained, run, tmp_path, capsys, monkeypatch
):
    """As those of inference, and with one pass over the features."""
    passes, clip_input = [], evaluation.inputs.clip_input

    def counted(clips, *arguments, **options):
        passes.append(len(clips))
        return clip_input(clips, *arguments, **options)

    monkeypatch.setattr(evaluation.inputs, "clip_input", counted)
    checkpoints = f"{trained / 'model.ckpt-4'},{run}"
    flags = dict(eval_checkpoint=checkpoints)
    assert run_eval(dataset, "", tmp_path / "mean", **flags) == 0
    assert passes == [12]
    output = capsys.readouterr().out
    assert run_main(dataset.inference_flags(checkpoints, tmp_path / "p.csv")) == 0
    lwlrap = score.score(
        str(tmp_path / "p.csv"),
        str(dataset.csv_path),
        where="",
        class_map_path="",
        out="",
    )
    assert output.endswith(f"{lwlrap}\n")
    assert (tmp_path / "mean" / "eval-0.txt").read_text() == f"{lwlrap}\n"
    assert diagnosis.read_evaluation(tmp_path / "mean").step == 0
    contents = json.loads((tmp_path / "mean" / "evaluated.json").read_text())
    names = [name.split()[0] for name in contents["scores_of"]]
    assert names == ["model.ckpt-4", "model.ckpt-5"]


def test_averaged_scores_and_results_of_a_run_are_not_mixed(
    dataset, trained, eval_dir, capsys
):
    flags = dict(eval_checkpoint=f"{trained},{trained}")
    assert run_eval(dataset, "", eval_dir, **flags) == 1
    assert "has results of a run" in capsys.readouterr().err
    assert evaluated_steps(eval_dir) == STEPS


def test_the_later_of_equal_steps_is_best(dataset, trained, tmp_path, capsys):
    for step, overall in zip(STEPS, ("0.5", "0.999", "0.7", "0.999")):
        (tmp_path / f"eval-{step}.txt").write_text(f"Overall lwlrap = {overall}\n")
    assert run_eval(dataset, trained, tmp_path) == 0
    last = capsys.readouterr().err.splitlines()[-1]
    assert "step 5" in last
    assert "0.999" in last


def test_a_checkpoint_that_is_deleted_before_the_network_is_built_is_skipped(
    dataset, run, tmp_path, capsys, monkeypatch
):
    def delete(*arguments):
        for deleted in run.glob("model.ckpt-0.*"):
            deleted.unlink()

    monkeypatch.setattr(Run, "report_misplacement", delete)
    assert run_eval(dataset, run, tmp_path) == 0
    assert evaluated_steps(tmp_path) == STEPS[1:]
    errors = capsys.readouterr().err
    assert f"skipped: cannot read {run}/model.ckpt-0.index: " in errors
    # The hyperparameters are printed once for all checkpoints.
    assert errors.count("mobilenet-v1, hyperparameters: mel_bands=16, ") == 1


def test_a_second_evaluator_of_the_same_part_is_refused(
    dataset, trained, eval_dir, capsys
):
    with files.locked(eval_dir / ".lock-0-of-1", AssertionError()):
        assert run_eval(dataset, trained, eval_dir) == 1
    assert "--eval_shard" in capsys.readouterr().err
    assert run_eval(dataset, trained, eval_dir) == 0


def test_a_mistyped_train_dir_is_reported_at_once(dataset, tmp_path, capsys):
    eval_dir = tmp_path / "eval"
    assert run_eval(dataset, tmp_path / "none", eval_dir) == 1
    assert "--train_dir: there is no folder" in capsys.readouterr().err
    assert not eval_dir.exists()


def test_ctrl_c_reports_the_best_step(dataset, trained, eval_dir, capsys, monkeypatch):
    def interrupt(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(evaluation.time, "sleep", interrupt)
    assert run_eval(dataset, trained, eval_dir, eval_timeout_secs=-1) == 130
    assert "best so far: step" in capsys.readouterr().err


def test_two_evaluators_share_the_checkpoints(dataset, trained, tmp_path):
    assert run_eval(dataset, trained, tmp_path, eval_shard="1/2") == 0
    assert evaluated_steps(tmp_path) == [2, 5]
    assert run_eval(dataset, trained, tmp_path, eval_shard="0/2") == 0
    assert evaluated_steps(tmp_path) == STEPS


def run_of_steps(folder, *steps: int):
    """A folder that looks as if it had only checkpoints of these steps."""
    folder.mkdir(exist_ok=True)
    for path in folder.glob("model.ckpt-*"):
        path.unlink()
    for step in steps:
        for suffix in (checkpoint_files.INDEX_SUFFIX, checkpoint_files.DATA_SUFFIX):
            (folder / f"model.ckpt-{step}{suffix}").touch()


def own_steps(tmp_path, **values) -> list[int]:
    """The steps that an evaluator chooses from tmp_path / "run"."""
    folders = dict(train_dir=str(tmp_path / "run"), eval_dir=str(tmp_path))
    chosen = evaluation._own_checkpoints(
        options(**folders, **values), Run(tmp_path / "run"), EvalFolder(str(tmp_path))
    )
    return [checkpoint_files.checkpoint_step(prefix) for prefix in chosen]


@pytest.mark.parametrize(
    ("every_k", "shard", "expected"),
    [
        (1, (0, 1), [0, 7, 200, 300, 400, 500, 555]),
        (3, (0, 1), [0, 300, 555]),
        (1, (0, 2), [0, 200, 400, 555]),
        (1, (1, 2), [7, 300, 500]),
        (2, (1, 2), [200, 555]),
        (9, (1, 2), []),
    ],
)
def test_checkpoints_of_an_evaluator(every_k, shard, expected, tmp_path):
    run_of_steps(tmp_path / "run", 0, 7, 200, 300, 400, 500, 555)
    flags = dict(eval_every_k=every_k, eval_shard=shard)
    assert own_steps(tmp_path, **flags) == expected
    assert own_steps(tmp_path, **flags) == expected
    # Deleting some does not change which of the others are chosen.
    run_of_steps(tmp_path / "run", 300, 400, 500, 555)
    if every_k > 1 or shard[1] > 1:
        remaining = [step for step in expected if step >= 300]
        assert own_steps(tmp_path, **flags) == remaining


def test_every_kth_checkpoint_is_evaluated_while_old_ones_are_deleted(tmp_path):
    chosen = set()
    for step in range(0, 1300, 100):
        run_of_steps(tmp_path / "run", *range(max(0, step - 100), step + 1, 100))
        chosen.update(own_steps(tmp_path, eval_every_k=5))
    assert chosen == {0, 500, 1000}


def test_evaluators_agree_on_their_parts_while_old_checkpoints_are_deleted(tmp_path):
    chosen = [[], []]
    for newest in (3, 6, 9):
        for part in (1, 0):  # In between, a checkpoint is deleted and one is added.
            steps = range(newest - part - 2, newest - part + 1)
            run_of_steps(tmp_path / "run", *steps)
            chosen[part] += own_steps(tmp_path, eval_shard=(part, 2))
    assert set(chosen[0]).isdisjoint(chosen[1])
    assert chosen[0] == [2, 4, 6, 8]
    assert chosen[1] == [1, 3, 5, 7]


def test_foreign_lines_in_the_list_of_seen_steps_are_ignored(tmp_path):
    run_of_steps(tmp_path / "run", 0, 1, 2)
    (tmp_path / "steps-seen.txt").write_text(f"1\nx\n{'9' * 5000}\n-3\n0")
    assert own_steps(tmp_path, eval_every_k=2) == [1, 2]


def test_a_list_of_seen_steps_that_cannot_be_written_is_named(tmp_path):
    run_of_steps(tmp_path / "run", 0)
    (tmp_path / "steps-seen.txt").symlink_to(tmp_path / "none" / "steps-seen.txt")
    with pytest.raises(UserError, match=f"cannot write {tmp_path}/steps-seen.txt"):
        own_steps(tmp_path, eval_every_k=2)


def test_waits_for_new_and_changed_checkpoints(run, tmp_path, monkeypatch):
    for path in run.glob("model.ckpt-[45].*"):
        path.rename(tmp_path / path.name)
    clock = [0.0]

    def sleep(seconds):
        clock[0] += seconds
        if clock[0] == 10:
            for path in tmp_path.glob("model.ckpt-[45].*"):
                path.rename(run / path.name)

    monkeypatch.setattr(evaluation.time, "sleep", sleep)
    monkeypatch.setattr(evaluation.time, "monotonic", lambda: clock[0])
    found = []
    for prefix in evaluation._new_checkpoints(
        options(train_dir=str(run), eval_dir=str(tmp_path), eval_timeout_secs=60),
        Run(run),
        EvalFolder(tmp_path),
    ):
        step = checkpoint_files.checkpoint_step(prefix)
        if step != 2:  # This one is treated as unreadable.
            (tmp_path / f"eval-{step}.txt").touch()
        found.append(step)
    assert found == [0, 2, 4, 5]
    assert clock[0] == 70  # one minute after the last


def test_unreadable_checkpoints_are_skipped_until_the_next_start(
    dataset, trained, run, tmp_path, capsys, monkeypatch
):
    (run / "model.ckpt-2.data-00000-of-00001").write_bytes(b"damaged")

    def restore(prefix, variables, restore=checkpoints.restore):
        if prefix.endswith("-4"):
            (run / "model.ckpt-4.data-00000-of-00001").unlink()
        restore(prefix, variables)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "restore", restore)
        assert run_eval(dataset, run, tmp_path) == 0
    assert evaluated_steps(tmp_path) == [0, 5]
    errors = capsys.readouterr().err
    assert errors.count("model.ckpt-2 ") == errors.count("model.ckpt-4 ") == 1
    for path in trained.glob("model.ckpt-*"):
        shutil.copy(path, run)
    assert run_eval(dataset, run, tmp_path) == 0
    assert evaluated_steps(tmp_path) == STEPS


def test_train_dir_may_be_eval_dir_while_training_runs(dataset, run):
    with Run(run).open_to_train():  # as a running trainer does
        assert run_eval(dataset, run, run, eval_every_k=9) == 0
    assert evaluated_steps(run) == [0]


def test_a_class_without_clips_is_noted(dataset, trained, tmp_path, capsys):
    csv_path = tmp_path / "one_class.csv"
    csv_path.write_text("fname,labels\n00.wav,Tone\n03.wav,Tone\n")
    flags = dict(eval_csv_path=csv_path, eval_every_k=9)
    assert run_eval(dataset, trained, tmp_path, **flags) == 0
    assert "no clip has the label Noise" in capsys.readouterr().err
    assert "Lwlrap(Noise) = 0.000000" in (tmp_path / "eval-0.txt").read_text()


@pytest.mark.parametrize(
    ("hparams", "note"),
    [
        ("bndecay=0.95", "at step 6, .* bndecay=0.95.* factor of .* bn_ramp=1$"),
        ("bndecay=0.95,bn_ramp=1", ""),
        ("bndecay=0", ""),
        ("bn=0", ""),
    ],
)
def test_moving_averages_that_lag_behind_are_noted(
    dataset, tmp_path, capsys, hparams, note
):
    """Only by the measurement, and not at step 0."""
    values = SMALL_HPARAMS.replace("bndecay=0.9,lr=1e-3", f"lr=1e-6,{hparams}")
    values = values.replace("batch_size=4", "batch_size=32")
    flags = dict(hparams=values, max_steps=6)
    assert run_main(dataset.train_flags(tmp_path / "run", **flags)) == 0
    capsys.readouterr()
    assert run_eval(dataset, tmp_path / "run", tmp_path / "eval") == 0
    found = re.findall("^note: .*lag behind.*", capsys.readouterr().err, re.MULTILINE)
    assert len(found) == bool(note)
    if note:
        assert re.search(note, found[0])


def test_frozen_layers_do_not_lag_behind(dataset, run, tmp_path, capsys):
    path = run / "hparams.json"
    record = json.loads(path.read_text())
    for scopes, noted in (([], True), (["fully_connected"], False)):
        record["training"]["train_scopes"] = scopes
        path.write_text(json.dumps(record))
        assert run_eval(dataset, run, tmp_path / str(noted)) == 0
        assert ("lag behind" in capsys.readouterr().err) == noted


def test_results_for_other_clips_are_an_error(
    dataset, trained, eval_dir, tmp_path, capsys
):
    csv_path = tmp_path / "other.csv"
    csv_path.write_text("fname,labels\n00.wav,Tone\n01.wav,Noise\n")
    assert run_eval(dataset, trained, eval_dir, eval_csv_path=csv_path) == 1
    assert "--eval_dir" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"hparams": "mel_min_hz=30"}, "mel_min_hz=30.0, not 20.0"),
        ({"mixed_precision": True}, "mixed_precision True, not False"),
        ({"hparams": "lr=5,global_pool=max"}, "global_pool=max, not mean"),
    ],
)
def test_results_for_other_settings_are_an_error(
    dataset, trained, eval_dir, capsys, flags, message
):
    assert run_eval(dataset, trained, eval_dir, **flags) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert f"--eval_dir: this evaluation has {message}, unlike " in last


def test_the_order_of_the_clips_and_training_hparams_do_not_matter(
    dataset, trained, eval_dir, tmp_path
):
    header, *rows = dataset.csv_path.read_text().splitlines()
    csv_path = tmp_path / "reversed.csv"
    csv_path.write_text("\n".join([header, *reversed(rows)]) + "\n")
    clip_dir = shutil.copytree(dataset.clip_dir, tmp_path / "moved")
    flags = dict(eval_csv_path=csv_path, eval_clip_dir=clip_dir, hparams="lr=5")
    assert run_eval(dataset, trained, eval_dir, **flags) == 0


def test_results_for_other_sounds_of_the_same_names_are_an_error(
    dataset, trained, eval_dir, tmp_path, capsys
):
    clip_dir = shutil.copytree(dataset.clip_dir, tmp_path / "clips")
    with open(clip_dir / "03.wav", "r+b") as file:
        samples = file.seek(44) and file.read()
        file.seek(44)
        file.write(samples[::-1])
    assert run_eval(dataset, trained, eval_dir, eval_clip_dir=clip_dir) == 1
    assert "other samples of the clips" in capsys.readouterr().err.splitlines()[-1]


def test_clips_of_one_name_in_two_folders_are_two_clips(
    dataset, trained, tmp_path, capsys
):
    csv_path, clip_dir = tmp_path / "two.csv", tmp_path / "clips"
    for folder, source in (("x", "00.wav"), ("y", "01.wav")):
        (clip_dir / folder).mkdir(parents=True)
        shutil.copy(dataset.clip_dir / source, clip_dir / folder / "a.wav")
    csv_path.write_text("fname,labels\nx/a.wav,Tone\ny/a.wav,Noise\n")
    flags = dict(eval_csv_path=csv_path, eval_clip_dir=clip_dir)
    assert run_eval(dataset, trained, tmp_path / "eval", **flags) == 0
    (clip_dir / "x").rename(clip_dir / "z")
    (clip_dir / "y").rename(clip_dir / "x")
    (clip_dir / "z").rename(clip_dir / "y")
    assert run_eval(dataset, trained, tmp_path / "eval", **flags) == 1
    assert "other lengths and samples" in capsys.readouterr().err.splitlines()[-1]


def test_a_replaced_checkpoint_is_evaluated_again(dataset, run, tmp_path, capsys):
    eval_dir = tmp_path / "eval"
    assert run_eval(dataset, run, eval_dir) == 0
    capsys.readouterr()
    before = (eval_dir / "eval-5.txt").read_text()
    for suffix in (checkpoint_files.INDEX_SUFFIX, checkpoint_files.DATA_SUFFIX):
        shutil.copy(run / f"model.ckpt-0{suffix}", run / f"model.ckpt-5{suffix}")
    assert run_eval(dataset, run, eval_dir) == 0
    output = capsys.readouterr()
    assert f"warning: checkpoint {run}/model.ckpt-5 is of step 0" in output.err
    assert "step 4, all" not in output.out
    assert before != (eval_dir / "eval-5.txt").read_text() in output.out
    assert (eval_dir / "eval-5.txt").read_text() == (
        eval_dir / "eval-0.txt"
    ).read_text()


def test_results_for_another_train_dir_are_an_error(dataset, run, eval_dir, capsys):
    assert run_eval(dataset, run, eval_dir) == 1
    assert "--eval_dir" in capsys.readouterr().err.splitlines()[-1]


def test_results_for_an_earlier_run_in_the_same_folder_are_an_error(
    dataset, tmp_path, capsys
):
    run, eval_dir = tmp_path / "run", tmp_path / "eval"
    flags = dict(hparams=SMALL_HPARAMS, max_steps=1)
    assert run_main(dataset.train_flags(run, **flags)) == 0
    assert run_eval(dataset, run, eval_dir) == 0
    earlier = run.rename(tmp_path / "earlier")
    flags = dict(hparams=SMALL_HPARAMS, max_steps=2)
    assert run_main(dataset.train_flags(run, **flags)) == 0
    assert run_eval(dataset, run, eval_dir) == 1
    assert "--eval_dir" in capsys.readouterr().err.splitlines()[-1]
    with pytest.raises(checkpoint_files.CheckpointError, match="another run"):
        Run.find(f"best:{eval_dir}", "--checkpoint")
    shutil.rmtree(run)
    earlier.rename(run)
    flags = dict(hparams=SMALL_HPARAMS, max_steps=3)
    assert run_main(dataset.train_flags(run, **flags)) == 0  # resumes
    assert run_eval(dataset, run, eval_dir) == 0
    assert evaluated_steps(eval_dir) == [0, 1, 3]


def test_a_run_that_starts_after_the_evaluator_is_known(dataset, run, tmp_path):
    eval_dir = tmp_path / "eval"
    other = run.rename(tmp_path / "other")
    run.mkdir()
    assert run_eval(dataset, run, eval_dir) == 1
    run.rmdir()
    other.rename(run)
    assert run_eval(dataset, run, eval_dir) == 0
    assert evaluated_steps(eval_dir) == STEPS


def test_a_deleted_clip_is_named(dataset, trained, tmp_path, capsys, monkeypatch):
    clip_dir = shutil.copytree(dataset.clip_dir, tmp_path / "clips")
    monkeypatch.setattr(  # This is called after the headers were read.
        evaluation, "report_empty_classes", lambda *_: (clip_dir / "03.wav").unlink()
    )
    assert run_eval(dataset, trained, tmp_path, eval_clip_dir=clip_dir) == 1
    assert "03.wav" in capsys.readouterr().err.splitlines()[-1]
    assert evaluated_steps(tmp_path) == []


def test_the_clip_of_a_score_that_is_not_finite_is_named(
    dataset, run, tmp_path, capsys
):
    save_without_finite_scores(str(run / "model.ckpt-0"), run)
    assert run_eval(dataset, run, tmp_path) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert "step 0" in error
    assert ".wav" in error
    assert evaluated_steps(tmp_path) == []


def test_that_no_checkpoint_can_be_read_is_an_error(dataset, run, tmp_path, capsys):
    for path in run.glob("model.ckpt-*.data*"):
        path.write_bytes(b"")
    assert run_eval(dataset, run, tmp_path) == 1
    assert "--train_dir" in capsys.readouterr().err.splitlines()[-1]


def test_a_folder_without_checkpoints_is_an_error(dataset, tmp_path, capsys):
    assert run_eval(dataset, tmp_path / "none", tmp_path / "eval") == 1
    assert "--train_dir" in capsys.readouterr().err.splitlines()[-1]


def test_an_eval_dir_that_is_a_file_is_an_error(dataset, trained, tmp_path, capsys):
    (tmp_path / "file").touch()
    assert run_eval(dataset, trained, tmp_path / "file") == 1
    assert "--eval_dir" in capsys.readouterr().err.splitlines()[-1]


def test_another_class_map_is_an_error(dataset, trained, tmp_path, capsys):
    class_map = tmp_path / "map.csv"
    class_map.write_text("0,Tone\n1,Noise\n")
    flags = dict(class_map_path=class_map)
    assert run_eval(dataset, trained, tmp_path / "eval", **flags) == 1
    assert "--class_map_path" in capsys.readouterr().err
    assert not (tmp_path / "eval").exists()


def test_a_checkpoint_of_another_network_is_an_error(dataset, run, tmp_path, capsys):
    (run / "hparams.json").unlink()
    assert run_eval(dataset, run, tmp_path / "eval", hparams="bn=0") == 1
    assert "is missing 3 of 8 variables" in capsys.readouterr().err.splitlines()[-1]
