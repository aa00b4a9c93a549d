"""Training: start, stop, resuming, repeatability, and learning."""

import json
import os
import re
import shutil
import signal

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import SMALL_HPARAMS, parse_hparams, run_main, values_of
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import model
import train
from tagger.data.clips import read_class_map
from tagger.hparams import Hparams, model_hparams
from tagger.runs import checkpoint_files, checkpoints, run_record
from tagger.runs.run import Run
from tagger.terminal import progress
from tagger.training.trainer import Trainer


def losses_of(text: str) -> dict[int, float]:
    found = re.findall(r"^step (\d+): loss (\S+?)(?:,|$)", text, re.MULTILINE)
    return {int(step): float(loss) for step, loss in found}


def new_trainer(text: str = SMALL_HPARAMS) -> Trainer:
    keras.utils.set_random_seed(5)
    return train.define_trainer(
        num_classes=2,
        hparams=parse_hparams(text),
        epoch_num_batches=1,
    )


@pytest.mark.parametrize("options", ["", "bn_ramp=1"])
def test_resumed_steps_equal_uninterrupted_steps(tmp_path, options):
    text = f"{SMALL_HPARAMS},lrdecay=0.5,decay_epochs=2,{options}"
    rng = np.random.default_rng(0)
    batches = [
        (
            tf.constant(rng.normal(size=(4, 20, 16)), tf.float32),
            tf.constant(rng.integers(0, 2, (4, 2)), tf.float32),
        )
        for _ in range(6)
    ]
    whole, first, second = (new_trainer(text) for _ in range(3))
    expected = [whole.train_step(*batch) for batch in batches]
    actual = [first.train_step(*batch) for batch in batches[:3]]
    values = checkpoints.training_values(first.network, first.optimizer)
    prefix = Run(tmp_path).save(values, 3)
    assert Run(tmp_path).resume(second.network, second.optimizer) == prefix
    actual += [second.train_step(*batch) for batch in batches[3:]]
    np.testing.assert_array_equal(np.array(actual), np.array(expected))
    rates = [float(result.learning_rate) for result in expected]
    np.testing.assert_allclose(rates, [1e-3, 1e-3, 5e-4, 5e-4, 25e-5, 25e-5])
    for name, variable in whole.variables.items():
        np.testing.assert_array_equal(second.variables[name], variable, err_msg=name)


def test_the_files_of_a_run(trained):
    steps = [checkpoint_files.checkpoint_step(p) for p in Run(trained).checkpoints()]
    assert steps == [0, 2, 4, 5]
    record = json.loads((trained / "hparams.json").read_text())
    assert record["class_names"] == ["Noise", "Tone"]
    assert record["hparams"]["mel_bands"] == 16
    assert values_of(str(trained / "model.ckpt-4"))["global_step"] == 4
    events = EventAccumulator(str(trained)).Reload()
    assert set(events.Tags()["tensors"]) == {
        "_hparams_/session_start_info",
        "examples_per_second",
        "learning_rate",
        "loss",
    }
    assert [event.step for event in events.Tensors("loss")] == [1, 2, 3, 4, 5]
    rate = tf.make_ndarray(events.Tensors("learning_rate")[0].tensor_proto)
    assert rate == pytest.approx(1e-3)


def test_the_same_seed_gives_the_same_run(dataset, trained, tmp_path, capsys):
    flags = dict(hparams=SMALL_HPARAMS, checkpoint_steps=2, seed=3)
    again = tmp_path / "again"
    assert run_main(dataset.train_flags(again, max_steps=5, **flags)) == 0
    losses = losses_of(capsys.readouterr().out)
    assert list(losses) == [1, 2, 3, 4, 5]
    expected, actual = (values_of(str(d / "model.ckpt-5")) for d in (trained, again))
    assert expected.keys() == actual.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(actual[name], value, err_msg=name)


def test_a_resumed_run_keeps_its_hyperparameters(dataset, trained, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    values = "lr=1e-4,warmup_steps=1"
    assert run_main(dataset.train_flags(run, max_steps=7, hparams=values)) == 0
    output = capsys.readouterr()
    assert "warning: warmup_steps has no effect without cosine=1\n" in output.err
    assert "remaining" not in output.err
    assert f"resuming from {run}/model.ckpt-5" in output.err
    assert "warning: lr=0.0001 is used, not the 0.001" in output.err
    assert list(losses_of(output.out)) == [6, 7]
    assert Run(run).checkpoints()[-1].endswith("model.ckpt-7")
    record = json.loads((run / "hparams.json").read_text())
    assert (record["hparams"]["lr"], record["hparams"]["mel_bands"]) == (1e-4, 16)
    # Adam's powers continue.
    power = values_of(str(run / "model.ckpt-7"))["beta1_power"]
    assert power == pytest.approx(0.9**8)


def test_resuming_reports_changes_and_keeps_layers_frozen(dataset, tmp_path, capsys):
    run, csv_path = tmp_path / "run", tmp_path / "relabelled.csv"
    flags = dict(hparams=SMALL_HPARAMS, train_scopes="fully_connected")
    assert run_main(dataset.train_flags(run, max_steps=1, **flags)) == 0
    start = values_of(str(run / "model.ckpt-1"))
    csv_path.write_text(dataset.csv_path.read_text().replace('"Tone"', '"Noise"'))
    changed = ["--seed=5", f"--train_csv_path={csv_path}", "--mixed_precision"]
    assert run_main([*dataset.train_flags(run, max_steps=2), *changed]) == 0
    warnings = [
        line
        for line in capsys.readouterr().err.splitlines()
        if line.startswith("warning: resuming with")
    ]
    assert [line.removeprefix("warning: resuming with ") for line in warnings] == [
        "seed 5, not unset",
        "mixed_precision True, not False",
        "other labels of the clips",
    ]
    frozen = values_of(str(run / "model.ckpt-2"))
    unfreeze = [*dataset.train_flags(run, max_steps=3), "--train_scopes=."]
    assert run_main(unfreeze) == 0
    trained = values_of(str(run / "model.ckpt-3"))
    for name in ("Conv/weights", "Conv_1/BatchNorm/beta"):
        np.testing.assert_array_equal(frozen[name], start[name])
        assert not np.array_equal(trained[name], frozen[name])
    name = "fully_connected/weights"
    assert not np.array_equal(frozen[name], start[name])


def test_hyperparameters_without_a_checkpoint_are_replaced(dataset, tmp_path):
    hparams = model_hparams("mobilenet-v1", {"cosine": 1})
    names = read_class_map(dataset.class_map_path)
    run_record.write_record(
        tmp_path, model_name="mobilenet-v1", hparams=hparams, class_names=names
    )
    more = SMALL_HPARAMS + ",lrdecay=0.5"  # It contradicts cosine=1.
    assert run_main(dataset.train_flags(tmp_path, max_steps=1, hparams=more)) == 0
    record = run_record.read_record(tmp_path)
    assert (record.hparams.cosine, record.hparams.lrdecay) == (0, 0.5)


def test_a_damaged_newest_checkpoint_is_skipped(dataset, trained, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    with open(run / "model.ckpt-5.data-00000-of-00001", "r+b") as file:
        file.truncate(1000)
    assert run_main(dataset.train_flags(run, max_steps=4)) == 0
    errors = capsys.readouterr().err
    assert "model.ckpt-5 cannot be read" in errors
    assert "resuming from" in errors
    assert "already at step 4" in errors


def test_a_damaged_newest_checkpoint_is_not_one_of_those_that_are_kept(
    dataset, trained, tmp_path, capsys
):
    run = shutil.copytree(trained, tmp_path / "run")
    (run / "model.ckpt-5.index").rename(run / "model.ckpt-50.index")
    (run / "model.ckpt-5.data-00000-of-00001").rename(
        run / "model.ckpt-50.data-00000-of-00001"
    )
    with open(run / "model.ckpt-50.data-00000-of-00001", "r+b") as file:
        file.write(bytes(1000))  # The length is as before.
    flags = {"max_steps": 7, "checkpoint_steps": 1, "keep_checkpoints": 1}
    assert run_main(dataset.train_flags(run, **flags)) == 0
    errors = capsys.readouterr().err
    assert f"resuming from {run}/model.ckpt-4" in errors
    assert f"done at step 7; checkpoint model.ckpt-7 is in {run}" in errors
    prefixes = Run(run).checkpoints()
    assert [checkpoint_files.checkpoint_step(p) for p in prefixes] == [4, 7, 50]
    assert tf.train.latest_checkpoint(run) == str(run / "model.ckpt-7")
    # The next process may delete the checkpoint that this one started from.
    flags["max_steps"] = 9
    assert run_main(dataset.train_flags(run, **flags)) == 0
    prefixes = Run(run).checkpoints()
    assert [checkpoint_files.checkpoint_step(p) for p in prefixes] == [7, 9, 50]


def test_a_warm_start_restores_only_trainable_variables(
    dataset, trained, tmp_path, capsys
):
    flags = dataset.train_flags(
        tmp_path / "run",
        hparams=SMALL_HPARAMS.replace("lr=1e-3", "warmstart=1,lr=0,mel_min_hz=200"),
        warmstart_checkpoint=trained,
        warmstart_exclude_scopes="fully_connected",
        max_steps=1,
        seed=8,
    )
    assert run_main(flags) == 0
    output = capsys.readouterr().err
    assert "9 of 11 variables restored" in output
    (warning,) = re.findall("^warning: .* trained with .*", output, re.MULTILINE)
    for part in ("mel_min_hz is 200", str(Hparams().mel_min_hz)):
        assert part in warning
    source = values_of(str(trained / "model.ckpt-5"))
    start = values_of(str(tmp_path / "run" / "model.ckpt-0"))
    assert start["global_step"] == 0
    assert not start["Conv/BatchNorm/moving_mean"].any()
    assert not start["Conv/weights/Adam"].any()
    for name in ("Conv/weights", "Conv_1/BatchNorm/beta"):
        np.testing.assert_array_equal(start[name], source[name])
    assert not np.array_equal(
        start["fully_connected/weights"], source["fully_connected/weights"]
    )
    # If there are checkpoints, the run resumes instead.
    assert run_main(flags) == 0
    output = capsys.readouterr().err
    assert "resuming from" in output
    assert "--warmstart_checkpoint is not used" in output


def test_a_warm_start_from_classes_in_another_order(dataset, trained, tmp_path, capsys):
    class_map = tmp_path / "class_map.csv"
    class_map.write_text("0,Tone\n1,Noise\n")
    flags = {
        "hparams": SMALL_HPARAMS + ",warmstart=1",
        "warmstart_checkpoint": trained,
        "class_map_path": class_map,
        "max_steps": 1,
    }
    run = tmp_path / "run"
    assert run_main(dataset.train_flags(run, **flags)) == 1
    assert "--warmstart_exclude_scopes=fully_connected" in capsys.readouterr().err
    assert not Run(run).checkpoints()
    flags["warmstart_exclude_scopes"] = "fully_connected"
    assert run_main(dataset.train_flags(run, **flags)) == 0


def test_a_warm_start_from_another_width(dataset, trained, tmp_path, capsys):
    hparams = SMALL_HPARAMS + ",warmstart=1,width=0.5"
    run = tmp_path / "run"
    flags = dataset.train_flags(run, hparams=hparams, warmstart_checkpoint=trained)
    assert run_main(flags) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert "--warmstart_checkpoint has width=1, not 0.5" in error
    assert not Run(run).checkpoints()


def test_the_moving_averages_can_be_warm_started(dataset, trained, tmp_path):
    flags = dataset.train_flags(
        tmp_path / "run",
        hparams=SMALL_HPARAMS + ",warmstart=1",
        warmstart_checkpoint=trained,
        warmstart_moving_averages=True,
        max_steps=1,
    )
    assert run_main(flags) == 0
    source = values_of(str(trained / "model.ckpt-5"))
    start = values_of(str(tmp_path / "run" / "model.ckpt-0"))
    name = "Conv/BatchNorm/moving_mean"
    np.testing.assert_array_equal(start[name], source[name])
    assert not start["Conv/weights/Adam"].any()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            {"warmstart_include_scopes": "Dense"},
            "'Dense' matches no variable",
        ),
        ({"warmstart_checkpoint": "none/model.ckpt-1"}, "--warmstart_checkpoint"),
    ],
)
def test_impossible_warm_starts_are_reported_in_one_line(
    dataset, trained, tmp_path, capsys, flags, message
):
    flags = {"warmstart_checkpoint": trained} | flags
    hparams = SMALL_HPARAMS + ",warmstart=1"
    run = tmp_path / "run"
    assert run_main(dataset.train_flags(run, hparams=hparams, **flags)) == 1
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert not Run(run).checkpoints()


@pytest.mark.parametrize(
    ("rate", "max_steps", "message"),
    [
        ("1e30,bn=0", 50, r"step \d+: the loss is"),
        ("1e39", 1, r"step 1: \S+ is not finite"),
    ],
)
def test_a_loss_or_weight_that_is_not_finite_keeps_the_last_good_checkpoint(
    dataset, tmp_path, capsys, rate, max_steps, message
):
    run = tmp_path / "run"
    hparams = SMALL_HPARAMS.replace("lr=1e-3", f"lr={rate},opt=sgd")
    flags = dataset.train_flags(run, hparams=hparams, max_steps=max_steps)
    assert run_main(flags) == 1
    assert re.match(f"error: {message}", capsys.readouterr().err.splitlines()[-1])
    assert [os.path.basename(p) for p in Run(run).checkpoints()] == ["model.ckpt-0"]


def test_bad_inputs_are_all_reported_and_nothing_is_written(dataset, tmp_path, capsys):
    flags = dataset.train_flags(tmp_path / "run")
    csv_path = tmp_path / "bad.csv"
    csv_path.write_text("fname,labels\n00.wav,Purr\ngone.wav,Tone\n")
    assert run_main([*flags, f"--train_csv_path={csv_path}"]) == 1
    errors = capsys.readouterr().err
    assert "bad.csv:2: label Purr" in errors
    assert "gone.wav: there is no such file" in errors
    assert "Traceback" not in errors
    assert not (tmp_path / "run").exists()


def test_a_clip_that_is_cut_off_later_is_named(dataset, tmp_path, capsys, monkeypatch):
    clip_dir = tmp_path / "clips"
    shutil.copytree(dataset.clip_dir, clip_dir)

    define = train.define_trainer

    def define_and_cut_off(**arguments):
        with open(clip_dir / "07.wav", "r+b") as file:
            file.truncate(2000)
        return define(**arguments)

    monkeypatch.setattr(train, "define_trainer", define_and_cut_off)
    run = tmp_path / "run"
    flags = dataset.train_flags(run, hparams=SMALL_HPARAMS, train_clip_dir=clip_dir)
    assert run_main(flags) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert "clip was cut off after its header was read" in error
    assert "07.wav" in error
    assert len(Run(run).checkpoints()) == 1


def test_a_second_trainer_exits(dataset, tmp_path, capsys):
    with Run(tmp_path).open_to_train():
        assert run_main(dataset.train_flags(tmp_path, max_steps=1)) == 1
    assert "another process is training in" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_a_checkpoint_and_stops(
    dataset, tmp_path, capsys, monkeypatch, number
):
    run = tmp_path / "run"
    printed = progress.print_result

    def print_and_signal(line: str) -> None:
        printed(line)
        if line.startswith("step 3:"):
            signal.raise_signal(number)

    monkeypatch.setattr(progress, "print_result", print_and_signal)
    flags = dataset.train_flags(run, hparams=SMALL_HPARAMS, checkpoint_steps=10**6)
    assert run_main(flags) == 128 + number
    output = capsys.readouterr()
    last = max(losses_of(output.out))
    assert last in (3, 4)  # The signal came while step 3 was printed.
    assert f"stopped by {number.name} at step {last}" in output.err
    assert Run(run).checkpoints()[-1].endswith(f"model.ckpt-{last}")


def test_mixed_precision_trains_and_keeps_float32(
    dataset, tmp_path, capsys, monkeypatch
):
    define, kinds = model.define_model, []

    def define_and_note(*arguments, **named):
        network = define(*arguments, **named)
        kinds.append(network.get_layer("Conv_1").output.dtype)
        return network

    monkeypatch.setattr(model, "define_model", define_and_note)
    run = tmp_path / "run"
    arguments = dataset.train_flags(run, hparams=SMALL_HPARAMS, max_steps=2, seed=3)
    assert run_main([*arguments, "--mixed_precision"]) == 0
    losses = losses_of(capsys.readouterr().out)
    # There is no comparison with float32, because a small network amplifies errors.
    assert all(0 < loss < 10 for loss in losses.values())
    assert kinds == ["bfloat16"]
    values = values_of(str(run / "model.ckpt-2"))
    kinds = {value.dtype for name, value in values.items() if name != "global_step"}
    assert kinds == {np.dtype(np.float32)}


def test_it_learns(dataset, tmp_path, capsys):
    """The network distinguishes tone and noise after some seconds of training."""
    run, eval_dir = tmp_path / "run", tmp_path / "eval"
    flags = dataset.train_flags(
        run, hparams=SMALL_HPARAMS, max_steps=100, checkpoint_steps=100, seed=1
    )
    assert run_main(flags) == 0
    losses = list(losses_of(capsys.readouterr().out).values())
    assert np.median(losses[-30:]) < 0.5 * np.mean(losses[:5])
    assert run_main(dataset.eval_flags(run, eval_dir)) == 0
    overall = float((eval_dir / "eval-100.txt").read_text().split()[-1])
    assert overall > 0.95
    assert "same ranking" not in capsys.readouterr().err
