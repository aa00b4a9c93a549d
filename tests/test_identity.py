"""Folders of runs and evaluations that users move, copy, rename, edit or damage."""

import json
import os
import pathlib
import shutil
import tempfile

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import values_of
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tagger.errors import UserError
from tagger.hparams import MODEL_HPARAMS, Hparams
from tagger.runs import checkpoint_files, checkpoints, run_record
from tagger.runs.checkpoint_files import (
    DATA_SUFFIX,
    INDEX_SUFFIX,
    UnreadableError,
    list_checkpoints,
)
from tagger.runs.eval_folder import EvalFolder
from tagger.runs.run import LOCK_FILE, Run

SUFFIXES = (INDEX_SUFFIX, DATA_SUFFIX)
CLIPS = {"clips": 3, "names": 1, "lengths": 2, "samples": 3, "labels": 4}
TRAINING = {
    "train_scopes": [],
    "seed": None,
    "mixed_precision": False,
    "devices": 1,
    "clips": CLIPS,
}


def write_run(folder, **training) -> Run:
    """Writes the record of a run, as training does."""
    folder.mkdir(exist_ok=True)
    run = Run(folder)
    run.write_record(
        model_name="mobilenet-v1",
        hparams=Hparams(),
        class_names=["A", "B"],
        training=TRAINING | training,
    )
    return run


def save(run: Run, *steps: int, value: float = 0.0) -> None:
    """Saves tiny checkpoints, whose contents depend on the step and the value."""
    for step in steps:
        values = {"x": np.float32(step + value), "global_step": np.int64(step)}
        run.save(values, step)


def rename(folder, step: int, new: int) -> None:
    for suffix in SUFFIXES:
        old = folder / f"model.ckpt-{step}{suffix}"
        old.rename(folder / f"model.ckpt-{new}{suffix}")


def copy(source, folder, step: int) -> None:
    for suffix in SUFFIXES:
        shutil.copy(source / f"model.ckpt-{step}{suffix}", folder)


def contents_of(run: Run, /, **changes) -> dict:
    """What is evaluated, as in `evaluation.py`."""
    values = {name: getattr(Hparams(), name) for name in MODEL_HPARAMS}
    contents = {"clips": CLIPS, "class_names": ["A", "B"], "mixed_precision": False}
    contents |= {"run": run.id, "model": "mobilenet-v1", "hparams": values}
    return contents | changes


def evaluate(eval_dir, run: Run) -> list[int]:
    """Evaluates what has no result; returns these steps. The lwlrap is step / 100."""
    eval_dir.mkdir(exist_ok=True)
    folder = EvalFolder(eval_dir, run.directory)
    folder.check(contents_of(run), write=True)
    folder.adopt_results()
    steps = []
    for prefix, crc32 in folder.without_result(run.checkpoints()):
        step = checkpoint_files.checkpoint_step(prefix)
        text = f"Overall lwlrap = {step / 100:.6f}\n"
        folder.write_result(step, text, crc32=crc32, scores=np.array([step]))
        steps.append(step)
    return steps


@pytest.fixture
def run(tmp_path) -> Run:
    """A run with the checkpoints 10, 20 and 30, and an evaluation of it, in "eval"."""
    run = write_run(tmp_path / "run")
    save(run, 10, 20, 30)
    assert evaluate(tmp_path / "eval", run) == [10, 20, 30]
    assert evaluate(tmp_path / "eval", run) == []
    return run


def swap(folder, first: int, second: int) -> None:
    for old, new in ((first, 99), (second, first), (99, second)):
        rename(folder, old, new)


@pytest.mark.parametrize(
    ("change", "evaluated", "best"),
    [
        (lambda folder: save(Run(folder), 20, value=0.5), [20], 30),
        (lambda folder: save(Run(folder), 30, value=0.5), [30], 30),
        (lambda folder: rename(folder, 30, 5), [5], 20),
        (lambda folder: rename(folder, 10, 30), [30], 30),
        (lambda folder: swap(folder, 20, 30), [20, 30], 30),
        (lambda folder: save(Run(folder), 40), [40], 40),
        (lambda folder: (folder / "model.ckpt-30.index").unlink(), [], 20),
        (lambda folder: (folder / "model.ckpt-30.index").write_text("x"), [30], 30),
        (lambda folder: os.utime(folder / "model.ckpt-30.index", (0, 0)), [], 30),
    ],
    ids=[
        *("retrain", "retrain-best", "rename", "replace", "swap", "more", "delete"),
        *("damage", "touch"),
    ],
)
def test_a_result_counts_while_its_checkpoint_is_there(
    run, tmp_path, change, evaluated, best
):
    folder, eval_dir = tmp_path / "run", tmp_path / "eval"
    change(folder)
    # Results that are out of date count neither for best: nor for the report.
    current = {10, 20, 30} - set(evaluated)
    assert EvalFolder(eval_dir, folder).results().keys() == current
    existing = map(checkpoint_files.checkpoint_step, Run(folder).checkpoints())
    found, _ = EvalFolder(eval_dir, folder).best()
    assert found == max(current & set(existing))
    assert evaluate(eval_dir, Run(folder)) == evaluated
    found, _ = EvalFolder(eval_dir, folder).best()
    assert found == best
    with np.load(eval_dir / "scores-best.npz") as arrays:
        step, crc32 = int(arrays["step"]), int(arrays["fingerprint"])
    if evaluated and best in evaluated:
        prefix = f"{folder}/model.ckpt-{best}"
        assert (step, crc32) == (best, checkpoint_files.fingerprint(prefix))


def test_the_best_of_an_evaluation_never_is_a_replaced_checkpoint(
    run, tmp_path, capsys
):
    best = f"best:{tmp_path}/eval"
    assert Run.find(best, "--flag").prefix == f"{tmp_path}/run/model.ckpt-30"
    save(run, 30, value=0.5)
    capsys.readouterr()
    assert Run.find(best, "--flag").prefix == f"{tmp_path}/run/model.ckpt-20"
    error = capsys.readouterr().err
    assert f"note: {tmp_path}/run/model.ckpt-30, the best of " in error
    assert "step 20, overall lwlrap 0.200000" in error
    assert evaluate(tmp_path / "eval", run) == [30]
    assert Run.find(best, "--flag").prefix == f"{tmp_path}/run/model.ckpt-30"


def test_results_of_earlier_versions_count_for_the_present_checkpoints(
    run, tmp_path, capsys
):
    eval_dir = tmp_path / "eval"
    (eval_dir / "fingerprints.txt").unlink()
    contents = json.loads((eval_dir / "evaluated.json").read_text())
    old = {"train_dir": contents["train_dir"], "run": contents["run"]}
    (eval_dir / "evaluated.json").write_text(json.dumps(old | {"clips_crc32": 7}))
    (tmp_path / "run" / "model.ckpt-10.index").unlink()
    capsys.readouterr()
    assert evaluate(eval_dir, run) == []
    assert f"note: 3 results in {eval_dir} " in capsys.readouterr().err
    assert json.loads((eval_dir / "evaluated.json").read_text()) == contents
    # From now on, they are those of these checkpoints.
    save(run, 10, 20, value=0.5)
    assert evaluate(eval_dir, run) == [10, 20]
    assert capsys.readouterr().err == ""


def test_an_evaluator_that_is_killed_between_its_files_loses_nothing(run, tmp_path):
    eval_dir, path = tmp_path / "eval", tmp_path / "eval" / "fingerprints.txt"
    text = path.read_text()
    # eval-30.txt is new, but its fingerprint is not there yet, or is incomplete.
    path.write_text(text[: text.index("\n30 ") + 6])
    assert evaluate(eval_dir, run) == []
    save(run, 30, value=0.5)
    (eval_dir / "eval-30.txt").write_text("Overall lwlrap = 0.900000\n")
    assert evaluate(eval_dir, run) == [30]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"clips": CLIPS | {"clips": 2}}, "2 clips, not 3"),
        ({"clips": CLIPS | {"names": 0}}, "other names of the clips"),
        ({"clips": CLIPS | {"samples": 0}}, "other samples of the clips"),
        ({"clips": CLIPS | {"lengths": 0, "labels": 0}}, "other lengths and labels"),
        ({"class_names": ["A", "C"]}, "class 1 is C, not B"),
        ({"class_names": ["A"]}, "1 classes, not 2"),
        ({"model": "yamnet"}, "model yamnet, not mobilenet-v1"),
        ({"mixed_precision": True}, "mixed_precision True, not False"),
        ({"hparams": {"bn": 0, "mel_bands": 96}}, "bn=0, not 1, unlike"),
        ({"run": "b"}, "has another run, unlike"),
    ],
)
def test_other_values_of_an_evaluation_are_named(run, tmp_path, changes, message):
    folder = EvalFolder(tmp_path / "eval", run.directory)
    before = (tmp_path / "eval" / "evaluated.json").read_text()
    with pytest.raises(UserError, match=f"^--eval_dir: .*{message}.*{tmp_path}/eval"):
        folder.check(contents_of(run, **changes), write=True)
    assert (tmp_path / "eval" / "evaluated.json").read_text() == before
    # Before the run starts, only some values are known.
    known = {"clips": CLIPS, "class_names": ["A", "B"], "mixed_precision": False}
    folder.check(known, write=False)


def test_both_folders_can_move_together_or_alone(run, tmp_path):
    both = tmp_path / "both"
    both.mkdir()
    (tmp_path / "run").rename(both / "run")
    (tmp_path / "eval").rename(both / "eval")
    assert evaluate(both / "eval", Run(both / "run")) == []
    assert Run.find(f"best:{both}/eval", "--flag").prefix.endswith("-30")
    (both / "run").rename(tmp_path / "moved")
    assert evaluate(both / "eval", Run(tmp_path / "moved")) == []
    assert Run.find(f"best:{both}/eval", "--flag").prefix.startswith(f"{tmp_path}/mov")


def test_results_do_not_count_for_a_copy_beside_the_run(run, tmp_path):
    copied = Run(shutil.copytree(tmp_path / "run", tmp_path / "copy"))
    with pytest.raises(UserError, match=f"{tmp_path}/copy, not {tmp_path}/run"):
        evaluate(tmp_path / "eval", copied)
    # If another run took the place of the first, the copy was moved.
    shutil.rmtree(tmp_path / "run")
    save(write_run(tmp_path / "run"), 10)
    assert evaluate(tmp_path / "eval", copied) == []


@pytest.mark.parametrize(
    "name",
    ["evaluated.json", "hparams.json"],
)
@pytest.mark.parametrize(
    "text",
    [
        *("", "[", "[]", "null", "7", '"a"', "[" * 99999, "\udcff", '{"a": 1e999}'),
        '{"train_dir": 7, "run": []}',
        '{"train_dir": {"a": "b"}, "model": ["yamnet"]}',
        '{"model": "yamnet", "hparams": [], "class_names": []}',
        '{"model": "yamnet", "hparams": {"lr": "x"}, "class_names": []}',
        '{"model": "yamnet", "hparams": {"lr": [[]]}, "class_names": []}',
        '{"model": "yamnet", "hparams": {}, "class_names": {}, "run": 1}',
        '{"model": "yamnet", "hparams": {}, "class_names": [["A"]]}',
        '{"model": "yamnet", "hparams": {}, "class_names": [], "training": 1}',
        '{"model": "yamnet", "hparams": {}, "class_names": [], '
        '"training": {"train_scopes": [1]}}',
    ],
)
def test_damaged_files_are_one_line(run, tmp_path, name, text):
    folder = "eval" if name == "evaluated.json" else "run"
    path = tmp_path / folder / name
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    try:
        Run.find(f"best:{tmp_path}/eval", "--flag")
        evaluate(tmp_path / "eval", Run(tmp_path / "run"))
    except UserError as error:
        assert str(path) in str(error) or f"{tmp_path}/eval;" in str(error)
        assert len(error.problems) == 1
        return
    assert name == "evaluated.json"  # It had no values that could be compared.


@pytest.mark.parametrize(
    "contents",
    [
        {"clips": [1]},
        {"clips": {"clips": "3"}},
        {"class_names": "AB"},
        {"hparams": 7},
        {"model": None},
    ],
)
def test_edited_contents_are_other_values(run, tmp_path, contents):
    path = tmp_path / "eval" / "evaluated.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | contents))
    with pytest.raises(UserError, match="^--eval_dir: this evaluation has "):
        evaluate(tmp_path / "eval", run)


@pytest.mark.parametrize(
    "name", ["evaluated.json", "fingerprints.txt", "eval-40.txt", ".lock-0-of-1"]
)
def test_folders_in_the_place_of_files_are_one_line(run, tmp_path, name):
    eval_dir, folder = tmp_path / "eval", tmp_path / "eval" / name
    folder.unlink(missing_ok=True)
    folder.mkdir()
    with (
        pytest.raises(UserError, match=f"{folder}: ") as error,
        EvalFolder(eval_dir).locked((0, 1)),
    ):
        evaluate(eval_dir, run)
    assert len(error.value.problems) == 1


def test_names_that_are_not_those_of_results_or_checkpoints(run, tmp_path):
    for name in ("eval-030.txt", "eval-x.txt", "eval-٣.txt"):
        (tmp_path / "eval" / name).write_text("Overall lwlrap = 0.990000\n")
    for name in ("model.ckpt-030", "model.ckpt-٣", "model.ckpt--3", "model.ckpt"):
        for suffix in SUFFIXES:
            (tmp_path / "run" / f"{name}{suffix}").touch()
    assert evaluate(tmp_path / "eval", run) == []
    assert EvalFolder(tmp_path / "eval", tmp_path / "run").best() == (30, 0.3)


def network_and_optimizer() -> tuple[keras.Model, keras.optimizers.Optimizer]:
    """A network of one variable, and the optimizer of its training."""
    value = keras.Input([1])
    network = keras.Model(value, keras.layers.Dense(1, use_bias=False)(value))
    (variable,) = network.weights
    variable._path = "x"
    optimizer = keras.optimizers.SGD()
    optimizer.build(network.trainable_weights)
    return network, optimizer


def resumed(folder) -> str:
    """The name of the checkpoint that training resumes from."""
    run = Run(folder)
    with run.open_to_train():
        return os.path.basename(run.resume(*network_and_optimizer()))


def save_network(run: Run, *steps: int) -> None:
    for step in steps:
        values = {"x": np.full([1, 1], step, np.float32)}
        run.save(values | {"global_step": np.int64(step)}, step)


@pytest.fixture
def run_of_network(tmp_path) -> Run:
    run = write_run(tmp_path / "run")
    save_network(run, 10, 20)
    return run


def test_a_renamed_checkpoint_is_reported_and_not_resumed_from(
    run_of_network, tmp_path, capsys
):
    rename(tmp_path / "run", 10, 30)
    assert resumed(tmp_path / "run") == "model.ckpt-20"
    problem = f"checkpoint {tmp_path}/run/model.ckpt-30 is of step 10"
    assert f"warning: {problem}" in capsys.readouterr().err
    Run.find(tmp_path / "run", "--flag")
    assert f"warning: {problem}" in capsys.readouterr().err
    rename(tmp_path / "run", 20, 40)
    with pytest.raises(UserError, match=problem):
        resumed(tmp_path / "run")
    rename(tmp_path / "run", 30, 10)
    rename(tmp_path / "run", 40, 20)
    assert resumed(tmp_path / "run") == "model.ckpt-20"
    assert capsys.readouterr().err.count("warning") == 1


def test_a_checkpoint_of_another_run_is_reported_and_not_resumed_from(
    run_of_network, tmp_path, capsys
):
    save_network(write_run(tmp_path / "other"), 30)
    copy(tmp_path / "other", tmp_path / "run", 30)
    assert resumed(tmp_path / "run") == "model.ckpt-20"
    error = capsys.readouterr().err
    assert f"{tmp_path}/run/model.ckpt-30 is of another run" in error


def test_checkpoints_without_an_id_belong_to_any_run(run_of_network, tmp_path, capsys):
    """As those that the original writes."""
    values = {"x": np.ones([1, 1], np.float32), "global_step": np.int64(30)}
    checkpoints.write(str(tmp_path / "run"), values, 30)
    assert resumed(tmp_path / "run") == "model.ckpt-30"
    assert capsys.readouterr().err == ""


def test_tensorflow_1s_saver_reads_checkpoints_with_an_id(run, tmp_path):
    prefix = str(tmp_path / "run" / "model.ckpt-20")
    assert checkpoints.origin(prefix) == (20, run.record.run)
    assert checkpoints.shapes(prefix) == {"x": (), "global_step": ()}
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        variable = tf.compat.v1.get_variable(
            "x", [], initializer=tf.zeros_initializer(), use_resource=False
        )
        tf.compat.v1.train.Saver().restore(session, prefix)
        assert session.run(variable) == 20


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("global_step", np.zeros(2, np.int64)),
        ("global_step", np.float32(20)),
        (checkpoints.RUN_ID, np.int64(7)),
        (checkpoints.RUN_ID, np.array([b"a", b"b"])),
    ],
)
def test_foreign_values_in_a_checkpoint_are_one_line(tmp_path, name, value):
    prefix = checkpoints.write(str(tmp_path), {"x": np.float32(0), name: value}, 20)
    with pytest.raises(UnreadableError, match=f"ckpt-20 is damaged: {name}"):
        checkpoints.origin(prefix)


def test_a_file_with_another_name_may_have_any_step(run_of_network, tmp_path, capsys):
    for suffix in SUFFIXES:
        (tmp_path / "run" / f"model.ckpt-20{suffix}").rename(tmp_path / f"w{suffix}")
    assert Run.find(tmp_path / "w", "--flag").prefix == str(tmp_path / "w")
    assert capsys.readouterr().err == ""


def test_a_copied_run_is_another_run_once_it_trains(run_of_network, tmp_path, capsys):
    folder = tmp_path / "run"
    first = run_of_network.id
    copied = shutil.copytree(folder, tmp_path / "copy")
    assert Run(copied).id == first
    assert write_run(folder).id == first  # The original resumes.
    assert capsys.readouterr().err == ""
    second = write_run(copied)
    assert second.id not in ("", first)
    assert f"{copied} is a copy of {folder}" in capsys.readouterr().err
    save_network(second, 30)
    # The copied checkpoints still belong to it.
    assert resumed(copied) == "model.ckpt-30"
    (copied / "model.ckpt-30.index").unlink()
    assert resumed(copied) == "model.ckpt-20"
    assert write_run(copied).id == second.id
    assert capsys.readouterr().err == ""
    # Those that it adds do not belong to the original.
    save_network(second, 40)
    copy(copied, folder, 40)
    assert resumed(folder) == "model.ckpt-20"
    assert "is of another run" in capsys.readouterr().err
    # A copy of the copy.
    third = write_run(shutil.copytree(copied, tmp_path / "third"))
    assert third.id not in ("", first, second.id)
    assert third.record.copied_from == [first, second.id]


def test_a_moved_run_is_the_same_run(run_of_network, tmp_path, capsys):
    first = run_of_network.id
    moved = (tmp_path / "run").rename(tmp_path / "moved")
    assert write_run(moved).id == first
    (tmp_path / "link").symlink_to(moved)
    assert write_run(tmp_path / "link").id == first
    # A backup takes the place of the run.
    backup = shutil.copytree(moved, tmp_path / "backup")
    shutil.rmtree(moved)
    backup.rename(moved)
    assert write_run(moved).id == first
    # Another run starts where it was.
    moved.rename(tmp_path / "again")
    save_network(write_run(tmp_path / "moved"), 10)
    assert write_run(tmp_path / "again").id == first
    assert capsys.readouterr().err == ""


def test_the_id_without_a_record_is_from_the_checkpoints(run_of_network, tmp_path):
    first = run_of_network.id
    (tmp_path / "run" / "hparams.json").unlink()
    assert Run(tmp_path / "run").id == first
    assert write_run(tmp_path / "run").id == first
    original = tmp_path / "original"
    original.mkdir()
    assert Run(original).id == ""
    for step in (10, 20):
        values = {"x": tf.zeros([step]), "global_step": np.int64(step)}
        checkpoints.write(str(original), values, step)
        crc32 = checkpoint_files.fingerprint(f"{original}/model.ckpt-10")
        assert Run(original).id == f"{crc32:08x}"
    assert write_run(original).id == f"{crc32:08x}"


def test_a_seed_makes_the_id(tmp_path):
    ids = [
        write_run(tmp_path / name, seed=seed, devices=devices).record.run
        for name, seed, devices in (("a", 5, 1), ("b", 5, 1), ("c", 6, 1), ("d", 5, 2))
    ]
    assert ids[0] == ids[1]
    assert len(set(ids)) == 3


@pytest.mark.parametrize(
    ("changes", "warnings"),
    [
        ({}, []),
        ({"seed": 5}, ["seed 5, not unset"]),
        ({"mixed_precision": True}, ["mixed_precision True, not False"]),
        ({"devices": 2}, ["devices 2, not 1"]),
        ({"train_scopes": ["Conv_1/"]}, ["train_scopes Conv_1/, not unset"]),
        ({"clips": CLIPS | {"clips": 4, "names": 0}}, ["4 clips, not 3"]),
        ({"clips": CLIPS | {"labels": 0}}, ["other labels of the clips"]),
        ({"clips": CLIPS | {"samples": 0}}, ["other samples of the clips"]),
        ({"seed": 5, "devices": 2}, ["seed 5, not unset", "devices 2, not 1"]),
    ],
)
def test_resuming_says_what_changed(run, tmp_path, capsys, changes, warnings):
    capsys.readouterr()
    training = TRAINING | changes
    assert Run(tmp_path / "run").resumed_training(training) == training
    expected = [f"warning: resuming with {warning}" for warning in warnings]
    assert capsys.readouterr().err.splitlines() == expected


def test_frozen_layers_stay_frozen(tmp_path, capsys):
    scopes = ["Conv_13/", "fully_connected"]
    save(write_run(tmp_path / "run", train_scopes=scopes), 10)
    run = Run(tmp_path / "run")
    assert run.resumed_training(TRAINING)["train_scopes"] == scopes
    error = capsys.readouterr().err
    assert error.startswith("note: --train_scopes=Conv_13/,fully_connected, as in ")
    everything = TRAINING | {"train_scopes": ["."]}
    assert run.resumed_training(everything) == TRAINING
    error = capsys.readouterr().err
    assert error == (
        "warning: resuming with train_scopes unset, not Conv_13/,fully_connected\n"
    )


def test_a_run_that_trains_all_layers_from_the_start_has_no_scopes(tmp_path, capsys):
    everything = TRAINING | {"train_scopes": ["."]}
    training = Run(tmp_path / "run").resumed_training(everything)
    save(write_run(tmp_path / "run", **training), 10)
    assert Run(tmp_path / "run").resumed_training(TRAINING) == training == TRAINING
    assert capsys.readouterr().err == ""


def test_records_of_earlier_versions_say_nothing_about_the_training(tmp_path, capsys):
    values = {"model_name": "yamnet", "hparams": Hparams(), "class_names": ["A"]}
    run_record.write_record(tmp_path, **values)
    save(Run(tmp_path), 10)
    assert Run(tmp_path).resumed_training(TRAINING) == TRAINING
    assert capsys.readouterr().err == ""


def test_locks_change_nothing_that_a_link_points_to(tmp_path):
    for folder, name in (("run", LOCK_FILE), ("eval", ".lock-0-of-1")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).symlink_to(tmp_path / "mine.txt")
    (tmp_path / "mine.txt").write_text("mine")
    with Run(tmp_path / "run").open_to_train():
        pass
    with EvalFolder(tmp_path / "eval").locked((0, 1)):
        pass
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_a_missing_checkpoint_has_no_fingerprint(tmp_path):
    with pytest.raises(UnreadableError, match="cannot read .*model.ckpt-1.index: "):
        checkpoint_files.fingerprint(f"{tmp_path}/model.ckpt-1")


RUNS = st.sampled_from(["run", "other"])
STEPS = st.sampled_from([10, 20, 30])


class AnyOrder(RuleBasedStateMachine):
    """What users do to two runs and an evaluation, in any order.

    The lwlrap of a checkpoint is its only weight, so it shows what was evaluated.
    """

    def __init__(self):
        super().__init__()
        self.root = pathlib.Path(tempfile.mkdtemp())
        self.number = 0

    def teardown(self):
        shutil.rmtree(self.root)

    @initialize()
    def train_and_evaluate(self):
        for step in (10, 20, 30):
            self.train("run", step)
        self.evaluate("run")

    @rule(name=RUNS, step=STEPS)
    def train(self, name, step):
        self.number += 1
        values = {"x": np.float32(self.number / 1000), "global_step": np.int64(step)}
        write_run(self.root / name).save(values, step)

    @rule(name=RUNS, step=STEPS)
    def delete(self, name, step):
        for suffix in SUFFIXES:
            path = self.root / name / f"model.ckpt-{step}{suffix}"
            path.unlink(missing_ok=True)

    @rule(name=RUNS, step=STEPS, new=STEPS)
    def rename(self, name, step, new):
        if (self.root / name / f"model.ckpt-{step}{INDEX_SUFFIX}").exists():
            rename(self.root / name, step, new)

    @rule(step=STEPS)
    def copy_checkpoint(self, step):
        source = self.root / "run"
        if (source / f"model.ckpt-{step}{INDEX_SUFFIX}").exists():
            (self.root / "other").mkdir(exist_ok=True)
            copy(source, self.root / "other", step)

    @rule()
    def copy_run(self):
        if (self.root / "run").exists():
            shutil.rmtree(self.root / "other", ignore_errors=True)
            shutil.copytree(self.root / "run", self.root / "other")

    @rule()
    def swap_runs(self):
        for old, new in (("run", "third"), ("other", "run"), ("third", "other")):
            if (self.root / old).exists():
                (self.root / old).rename(self.root / new)

    @rule(name=RUNS)
    def evaluate(self, name):
        run, eval_dir = Run(self.root / name), self.root / "eval"
        if not run.checkpoints():
            return
        eval_dir.mkdir(exist_ok=True)
        folder = EvalFolder(eval_dir, run.directory)
        try:
            folder.check(contents_of(run), write=True)
        except UserError:
            return  # The results are of the other run.
        folder.adopt_results()
        for prefix, crc32 in folder.without_result(run.checkpoints()):
            value = values_of(prefix)["x"]
            folder.write_result(
                checkpoint_files.checkpoint_step(prefix),
                f"Overall lwlrap = {value:.6f}\n",
                crc32=crc32,
                scores=value,
            )
        steps = map(checkpoint_files.checkpoint_step, run.checkpoints())
        assert set(steps) <= folder.results().keys()

    @invariant()
    def results_are_right_or_refused(self):
        eval_dir = self.root / "eval"
        try:
            folder = EvalFolder(eval_dir, EvalFolder(eval_dir).train_dir())
            prefix = Run.find(f"best:{eval_dir}", "").prefix
        except UserError:
            return
        train_dir, results = os.path.dirname(prefix), folder.results()
        for existing in list_checkpoints(train_dir):
            overall = results.get(checkpoint_files.checkpoint_step(existing))
            assert overall in (None, pytest.approx(values_of(existing)["x"]))
        assert folder.best()[1] == pytest.approx(values_of(prefix)["x"])
        with np.load(eval_dir / "scores-best.npz") as stored:
            step, crc32, scores = map(stored.get, ("step", "fingerprint", "scores"))
        if not folder.change_since(step.item(), crc32.item()):
            assert values_of(f"{train_dir}/model.ckpt-{step}")["x"] == scores


AnyOrder.TestCase.settings = settings(
    max_examples=20, stateful_step_count=8, deadline=None, derandomize=True
)
TestAnyOrder = AnyOrder.TestCase
