"""Checkpoints: format, atomicity, retention, restoring, warm starts, locks."""

import errno
import os
import pathlib
import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import store_contents, values_of

import model
from tagger.errors import UserError
from tagger.hparams import Hparams
from tagger.runs import checkpoint_files, checkpoints, eval_folder, retention
from tagger.runs.checkpoint_files import CheckpointError, UnreadableError
from tagger.runs.eval_folder import EvalFolder
from tagger.runs.run import Run
from tagger.runs.warm_start import plan_warm_start
from tagger.terminal import files
from train import define_trainer

pytestmark = pytest.mark.usefixtures("whole_network")


def variables_of(**values) -> dict[str, tf.Variable]:
    variables = {name.replace("__", "/"): tf.Variable(v) for name, v in values.items()}
    variables["global_step"] = tf.Variable(0, dtype=tf.int64)
    return variables


def test_a_saved_checkpoint_is_restored(tmp_path):
    saved = variables_of(Conv__weights=[1.0, 2.0], beta1_power=0.5)
    saved["global_step"].assign(7)
    prefix = Run(tmp_path).save(saved, 7)
    assert prefix == str(tmp_path / "model.ckpt-7")
    restored = variables_of(Conv__weights=[0.0, 0.0], beta1_power=0.0)
    checkpoints.restore(prefix, restored)
    for name, variable in saved.items():
        np.testing.assert_array_equal(restored[name], variable)
    assert sorted(os.listdir(tmp_path)) == [
        "checkpoint",
        "model.ckpt-7.data-00000-of-00001",
        "model.ckpt-7.index",
    ]


def test_the_state_file_is_relative_and_tensorflow_reads_it(tmp_path):
    for step in (0, 100):
        Run(tmp_path / ".").save(variables_of(x=1.0), step)
    text = (tmp_path / "checkpoint").read_text()
    assert 'all_model_checkpoint_paths: "model.ckpt-0"' in text
    assert str(tmp_path) not in text
    moved = tmp_path.with_name(tmp_path.name + "-moved")
    tmp_path.rename(moved)
    assert tf.train.latest_checkpoint(moved) == str(moved / "model.ckpt-100")


def network_and_adam() -> tuple[keras.Model, keras.optimizers.Optimizer]:
    network = model.define_model("mobilenet-v1", num_classes=80, hparams=Hparams())
    adam = model.define_optimizer(Hparams(), epoch_num_batches=1)
    adam.build(network.trainable_weights)
    return network, adam


def test_checkpoints_pass_to_tensorflow_1s_saver_and_back(tmp_path):
    """A Saver, as in the original, restores our checkpoints, and we restore its."""
    network, adam = network_and_adam()
    adam.iterations.assign(12)
    for number, moment in enumerate(
        checkpoints.optimizer_variables(network, adam).values()
    ):
        moment.assign(tf.fill(moment.shape, float(number)))
    prefix = Run(tmp_path).save(checkpoints.training_values(network, adam), 12)
    ours = values_of(prefix)
    assert len(ours) == 306
    assert ours["global_step"] == 12
    assert ours["beta1_power"] == np.float32(0.9**13)
    assert ours["beta2_power"] == np.float32(0.999**13)
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        theirs = {
            name: tf.compat.v1.get_variable(
                name,
                value.shape,
                value.dtype,
                tf.compat.v1.zeros_initializer(),
                use_resource=False,
            )
            for name, value in ours.items()
        }
        saver = tf.compat.v1.train.Saver()
        saver.restore(session, prefix)
        values = session.run(theirs)
        session.run([v.assign(v + tf.ones_like(v)) for v in theirs.values()])
        saver.save(session, str(tmp_path / "model.ckpt"), global_step=13)
    for name, value in ours.items():
        np.testing.assert_array_equal(values[name], value)
    assert Run(tmp_path).checkpoints()[-1] == str(tmp_path / "model.ckpt-13")
    newest = str(tmp_path / "model.ckpt-13")
    assert checkpoints.restore_training(newest, network, adam) == []
    assert adam.iterations.numpy() == 13
    values = checkpoints.training_values(network, adam)
    restored = values_of(Run(tmp_path / ".").save(values, 13))
    for name in set(ours) - {"beta1_power", "beta2_power"}:
        np.testing.assert_array_equal(restored[name], ours[name] + 1, err_msg=name)


def test_a_checkpoint_without_the_optimizers_state(tmp_path):
    network, adam = network_and_adam()
    values = checkpoints.network_variables(network) | {"global_step": np.int64(3)}
    prefix = Run(tmp_path).save(values, 3)
    missing = checkpoints.restore_training(prefix, network, adam)
    assert len(missing) == 2 * 83
    assert "Conv/weights/Adam_1" in missing
    assert adam.iterations.numpy() == 3


def test_complete_checkpoints_are_listed_by_number(tmp_path):
    for step in (100, 20, 3):
        Run(tmp_path).save(variables_of(x=1.0), step)
    (tmp_path / "model.ckpt-4.index").touch()
    (tmp_path / "model.ckpt-5.data-00000-of-00001").touch()
    (tmp_path / ".saving-6-1").mkdir()
    (tmp_path / "other.index").touch()
    names = [os.path.basename(p) for p in Run(tmp_path).checkpoints()]
    assert names == ["model.ckpt-3", "model.ckpt-20", "model.ckpt-100"]
    assert Run(tmp_path / "none").checkpoints() == []
    with Run(tmp_path).open_to_train():
        pass
    assert not (tmp_path / ".saving-6-1").exists()


def test_find_checkpoint(tmp_path):
    with pytest.raises(CheckpointError, match="--flag: there is no complete"):
        Run.find(str(tmp_path), "--flag")
    with pytest.raises(CheckpointError, match="--flag: there is no checkpoint"):
        Run.find(str(tmp_path / "model.ckpt-1"), "--flag")
    for step in (9, 10):
        prefix = Run(tmp_path).save(variables_of(x=1.0), step)
    assert Run.find(str(tmp_path), "--flag").prefix == prefix
    assert Run.find(prefix, "--flag").prefix == prefix
    assert Run.find(prefix + ".index", "--flag").prefix == prefix


def test_names_of_checkpoints():
    assert checkpoint_files.checkpoint_step("a/b/model.ckpt-1200") == 1200
    with pytest.raises(CheckpointError, match="model.ckpt-N, but got x/model.ckpt"):
        checkpoint_files.checkpoint_step("x/model.ckpt")


def steps_in(directory) -> list[int]:
    """The steps of the complete checkpoints in a folder."""
    prefixes = Run(directory).checkpoints()
    return [checkpoint_files.checkpoint_step(prefix) for prefix in prefixes]


def test_one_old_checkpoint_per_15_minutes_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(retention, "MAX_TO_KEEP", 2)
    for step in range(6):
        prefix = Run(tmp_path).save(variables_of(x=1.0), step)
        os.utime(prefix + ".index", (600 * step, 600 * step))
    # With one per 10 minutes, the newest two and those of minutes 0 and 20 remain.
    assert steps_in(tmp_path) == [0, 2, 4, 5]


def write_evaluation(eval_dir, train_dir, **overall: float) -> None:
    """Writes results as evaluation does; s2=0.5 is the lwlrap of step 2."""
    eval_dir.mkdir(parents=True)
    train_dir.mkdir(exist_ok=True)
    store_contents(eval_dir, train_dir)
    for step, value in overall.items():
        path = EvalFolder(eval_dir).marker(int(step[1:]))
        path.write_text(f"Lwlrap(A) = 1.0\nOverall lwlrap = {value:.6f}\n")


def test_the_newest_and_the_best_checkpoints_are_kept(tmp_path):
    write_evaluation(tmp_path / "a" / "eval", tmp_path, s1=0.9, s2=0.8)
    write_evaluation(tmp_path / "eval", tmp_path, s1=0.5, s2=0.8, s3=0.8)
    for step in range(7):
        Run(tmp_path).save(variables_of(x=1.0), step, keep=2)
    assert steps_in(tmp_path) == [1, 3, 5, 6]


def test_the_best_checkpoint_of_a_linked_evaluation_is_kept(tmp_path):
    run, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    write_evaluation(elsewhere / "deep", run, s1=0.9, s2=0.8)
    (run / "eval").symlink_to(elsewhere)
    for name in ("loop", "again"):
        (run / name).symlink_to(run)
    (elsewhere / "back").symlink_to(tmp_path)
    for step in range(5):
        Run(run).save(variables_of(x=1.0), step, keep=1)
    assert steps_in(run) == [1, 4]


def test_the_checkpoint_that_training_resumed_from_is_kept(tmp_path):
    network, adam = network_and_adam()
    values = checkpoints.training_values(network, adam)
    Run(tmp_path).save(values, 0)
    run = Run(tmp_path)
    run.resume(network, adam)
    for step in range(1, 4):
        run.save(values, step, keep=2)
    assert steps_in(tmp_path) == [0, 2, 3]


@pytest.mark.parametrize("suffix", [".index", ".data-00000-of-00001"])
@pytest.mark.parametrize("size", [0, -1, None])
def test_damaged_checkpoints_do_not_count_as_kept(tmp_path, suffix, size):
    """Empty, one byte too short, or with another byte."""
    for step in (10, 20, 30, 40):
        prefix = Run(tmp_path).save(variables_of(x=np.ones(99)), step)
        if step in (20, 40):
            path = pathlib.Path(prefix + suffix)
            contents = bytearray(path.read_bytes())
            contents[20] ^= 1
            path.write_bytes(contents if size is None else contents[:size])
    # Training resumes from 30.
    for step, kept in ((32, [10, 20, 30, 32, 40]), (33, [30, 32, 33, 40])):
        Run(tmp_path).save(variables_of(x=np.ones(99)), step, keep=3)
        assert steps_in(tmp_path) == kept
        newest = str(tmp_path / f"model.ckpt-{step}")
        assert tf.train.latest_checkpoint(tmp_path) == newest
        assert "ckpt-40" not in (tmp_path / "checkpoint").read_text()
    Run(tmp_path).save(variables_of(x=np.ones(99)), 40, keep=3)
    assert steps_in(tmp_path) == [32, 33, 40]
    checkpoints.restore(f"{tmp_path}/model.ckpt-40", variables_of(x=np.zeros(99)))


def test_the_best_checkpoint_of_an_evaluation(tmp_path, capsys):
    run, eval_dir = tmp_path / "run", tmp_path / "run" / "eval"
    write_evaluation(eval_dir, run, s1=0.5, s2=0.75, s3=0.75)
    for step in range(4):
        Run(run).save(variables_of(x=1.0), step)
    moved = tmp_path / "moved"
    run.rename(moved)
    found = Run.find(f"best:{moved}/eval", "--checkpoint").prefix
    assert found == f"{moved}/model.ckpt-3"
    assert "step 3, overall lwlrap 0.750000" in capsys.readouterr().err
    (moved / "model.ckpt-3.index").unlink()
    found = Run.find(f"best:{moved}/eval", "--checkpoint").prefix
    assert found == f"{moved}/model.ckpt-2"
    notes = capsys.readouterr().err.splitlines()[:2]
    assert re.match("note: .*/model.ckpt-3, .* 0.750000, was deleted or", notes[0])
    assert "step 2, overall lwlrap 0.750000" in notes[1]
    for path in moved.glob("model.ckpt-*.index"):
        path.unlink()
    with pytest.raises(CheckpointError, match="--checkpoint: .*-3, .* was deleted"):
        Run.find(f"best:{moved}/eval", "--checkpoint")
    (moved / "eval" / eval_folder.CONTENTS_FILE).write_text("{")
    with pytest.raises(CheckpointError, match="evaluated.json is damaged"):
        Run.find(f"best:{moved}/eval", "--checkpoint")
    with pytest.raises(CheckpointError, match="no results in none"):
        Run.find("best:none", "--checkpoint")


def test_damaged_checkpoints_are_unreadable_and_change_nothing(tmp_path):
    prefix = Run(tmp_path).save(variables_of(a=np.ones(999), b=2.0), 1)
    data = pathlib.Path(prefix + ".data-00000-of-00001")
    restored = variables_of(a=np.zeros(999), b=0.0)
    whole = data.read_bytes()
    damages = [whole[:500], bytes([whole[0] ^ 255]) + whole[1:], b""]
    for damage in damages:
        data.write_bytes(damage)
        with pytest.raises(UnreadableError, match="model.ckpt-1 cannot be read"):
            checkpoints.restore(prefix, restored)
        assert not restored["a"].numpy().any()
        assert restored["b"].numpy() == 0
    data.write_bytes(whole)
    pathlib.Path(prefix + ".index").write_bytes(b"nonsense")
    with pytest.raises(UnreadableError):
        checkpoints.restore(prefix, restored)
    data.unlink()
    with pytest.raises(UnreadableError):
        checkpoints.restore(prefix, restored)


def test_a_missing_variable_is_named(tmp_path):
    prefix = Run(tmp_path).save(variables_of(a=1.0), 1)
    wanted = variables_of(a=0.0, b=5.0)
    with pytest.raises(CheckpointError, match="is missing 1 of 3 variables, e.g. b"):
        checkpoints.restore(prefix, wanted)
    assert wanted["a"].numpy() == 0


def test_another_shape_names_the_variable(tmp_path):
    prefix = Run(tmp_path).save(variables_of(fc__weights=[1.0]), 1)
    with pytest.raises(CheckpointError, match=r"fc/weights has shape \[1\] .* \[2\]"):
        checkpoints.restore(prefix, variables_of(fc__weights=[1.0, 2.0]))


def test_an_unwritable_folder_is_an_oserror(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write checkpoint model.ckpt-1 in"):
        Run(tmp_path / "file").save(variables_of(x=1.0), 1)


SHAPES = {
    "Conv/weights": (3, 3, 1, 16),
    "Conv/BatchNorm/gamma": (16,),
    "Conv_1/weights": (1, 1, 16, 64),
    "Conv_10/weights": (1, 1, 64, 64),
    "SeparableConv2d_1/depthwise_weights": (3, 3, 64, 1),
    "fully_connected/weights": (64, 10),
    "fully_connected/biases": (10,),
}
EVERYTHING = list(SHAPES)
FULLY_CONNECTED = ["fully_connected/weights", "fully_connected/biases"]
CONVOLUTIONS = [name for name in SHAPES if name not in FULLY_CONNECTED]


@pytest.mark.parametrize(
    ("include", "exclude", "restored"),
    [
        ([], [], EVERYTHING),
        ([], ["fully_connected"], CONVOLUTIONS),
        (["fully_connected"], [], FULLY_CONNECTED),
        # Scopes match from the start of the name: Conv also matches Conv_1 and Conv_10.
        (["Conv"], [], [name for name in SHAPES if name.startswith("Conv")]),
        (["Conv/"], [], ["Conv/weights", "Conv/BatchNorm/gamma"]),
        (["Conv_1/"], [], ["Conv_1/weights"]),
        (["Conv_1"], [], ["Conv_1/weights", "Conv_10/weights"]),
        # Scopes do not match in the middle: weights alone would match no name.
        ([".*weights"], [], [name for name in SHAPES if name.endswith("weights")]),
        (["Conv/", "fully_connected"], [], [*EVERYTHING[:2], *FULLY_CONNECTED]),
        # Includes first, then excludes.
        (["Conv"], ["Conv_1", ".*/BatchNorm"], ["Conv/weights"]),
        (["(Conv|SeparableConv2d)_1/"], [], [EVERYTHING[2], EVERYTHING[4]]),
    ],
)
def test_scopes_choose_variables(include, exclude, restored):
    plan = plan_warm_start(
        SHAPES, SHAPES, include_scopes=include, exclude_scopes=exclude
    )
    assert plan.restored == restored
    skipped = sum(plan.skipped.values(), [])
    assert set(skipped) == set(SHAPES) - set(restored)


OTHER_CLASSES = SHAPES | {"fully_connected/weights": (64, 80)}


@pytest.mark.parametrize(
    ("stored", "include", "exclude", "message"),
    [
        (SHAPES, ["Convolution"], [], "--warmstart_include_scopes: 'Convolution'"),
        (SHAPES, [], ["weights"], "--warmstart_exclude_scopes: 'weights' matches no"),
        (SHAPES, ["Conv("], [], "'Conv\\(' is not a regular expression"),
        (SHAPES, ["Conv/"], ["Conv"], "nothing to restore"),
        ({"other": (1,)}, [], [], "nothing to restore"),
        (OTHER_CLASSES, [], [], "--warmstart_exclude_scopes=fully_connected/"),
    ],
)
def test_impossible_warm_starts_name_the_flag(stored, include, exclude, message):
    with pytest.raises(UserError, match=message):
        plan_warm_start(SHAPES, stored, include_scopes=include, exclude_scopes=exclude)


def test_the_suggested_flag_excludes_only_what_it_must():
    stored = SHAPES | {"Conv_1/weights": (1, 1, 8, 64)}
    with pytest.raises(UserError, match=r"exclude_scopes=f,Conv_1/$"):
        plan_warm_start(SHAPES, stored, include_scopes=[], exclude_scopes=["f"])
    plan = plan_warm_start(
        SHAPES, stored, include_scopes=[], exclude_scopes=["f", "Conv_1/"]
    )
    assert "Conv_10/weights" in plan.restored


def test_the_report_lists_skipped_variables_and_reasons():
    stored = {name: shape for name, shape in SHAPES.items() if "gamma" not in name}
    report = plan_warm_start(
        SHAPES, stored, include_scopes=["Conv", "f"], exclude_scopes=["Conv_1/"]
    ).report("run/model.ckpt-9")
    first, *lines = report.splitlines()
    assert first.startswith("warm start from run/model.ckpt-9: 4 of 7 variables")
    assert lines == [
        "  skipped, not in the checkpoint: Conv/BatchNorm/gamma",
        "  skipped, in --warmstart_exclude_scopes: Conv_1/",
        "  skipped, not in --warmstart_include_scopes: SeparableConv2d_1/",
    ]


def test_the_report_of_a_warm_start_is_short():
    shapes = {f"Conv_{n}/{kind}": (1,) for n in range(100) for kind in ("a", "b")}
    (line,) = (
        plan_warm_start(shapes, shapes, include_scopes=[], exclude_scopes=[])
        .report("run/model.ckpt-9")
        .splitlines()
    )
    assert "200 of 200 variables" in line
    _, line = (
        plan_warm_start(shapes, shapes, include_scopes=["Conv_0/a"], exclude_scopes=[])
        .report("run/model.ckpt-9")
        .splitlines()
    )
    assert line.endswith(
        ": Conv_0/b, Conv_1/, Conv_2/, Conv_3/, Conv_4/, Conv_5/, "
        "Conv_6/, Conv_7/, and 92 more"
    )


def test_without_locks_there_is_a_warning(tmp_path, monkeypatch, capsys):
    def no_locks(*arguments):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(files.fcntl, "flock", no_locks)
    with Run(tmp_path).open_to_train():
        pass
    assert "has no locks" in capsys.readouterr().err


def test_unfinished_files_of_killed_processes_are_deleted(tmp_path):
    (tmp_path / ".saving-3-1234").mkdir()
    for name in (".checkpoint.abc.tmp", ".hparams.json.abc.tmp", "checkpoint"):
        (tmp_path / name).touch()
    with Run(tmp_path).open_to_train():
        pass
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint", ".lock"}


def test_the_umask_decides_who_can_read_and_write_a_file(tmp_path):
    umask = os.umask(0o022)
    try:
        files.write_whole(tmp_path / "file", "")
        with files.locked(tmp_path / "lock", AssertionError()):
            pass
    finally:
        os.umask(umask)
    modes = [path.stat().st_mode & 0o777 for path in tmp_path.iterdir()]
    assert modes == [0o644] * 2


def test_only_one_process_can_train_in_a_folder(tmp_path):
    with Run(tmp_path).open_to_train():
        second = Run(tmp_path).open_to_train()
        with pytest.raises(UserError, match="another process is training in"):
            second.__enter__()
    with Run(tmp_path).open_to_train():
        pass


@pytest.mark.parametrize("name", ["Conv/weights", "Conv/weights/Adam_1"])
def test_the_first_variable_that_is_not_finite_is_named(name):
    trainer = define_trainer(num_classes=2, hparams=Hparams(), epoch_num_batches=1)
    trainer.check_finite()
    variable = trainer.variables[name]
    variable.assign(tf.fill(variable.shape, np.nan))
    with pytest.raises(UserError, match=f"step 0: {name} is not finite"):
        trainer.check_finite()
