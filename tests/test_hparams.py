"""Hyperparameters: defaults, derived sizes, parsing, and hparams.json."""

import dataclasses
import re

import numpy as np
import pytest
from helpers import parse_hparams, section_of

from tagger import hparams
from tagger.errors import UserError
from tagger.hparams import Hparams
from tagger.runs import run_record
from tagger.runs.run import Run
from tagger.terminal import files


def test_defaults_equal_those_of_the_baseline():
    expected = {
        "stft_window_seconds": 0.025,
        "stft_hop_seconds": 0.010,
        "mel_bands": 96,
        "mel_min_hz": 20,
        "mel_max_hz": 20000,
        "mel_gain": 1.0,  # not in the baseline
        "mel_log_offset": 0.001,
        "example_window_seconds": 1.0,
        "example_hop_seconds": 0.5,
        "batch_size": 64,
        "global_pool": "mean",
        "dropout": 0.0,
        "lsmooth": 0.0,
        "weights_init_stddev": 0.0,
        "bn": 1,
        "bndecay": 0.9997,
        "bneps": 0.001,
        "warmstart": 0,
        "opt": "adam",
        "lr": 1e-4,
        "adam_eps": 1e-8,
        "lrdecay": 0.0,
        "decay_epochs": 2.5,
    }
    actual = dataclasses.asdict(Hparams())
    assert actual == actual | expected


def test_options_beyond_the_baseline_are_off_by_default():
    defaults = Hparams()
    options = ("bn_ramp", "cosine", "gain_db", "freq_masks", "time_masks")
    for name in options:
        assert getattr(defaults, name) == 0
    assert defaults.frontend == "log"
    assert defaults.width == 1


def test_derived_sizes():
    default = Hparams()
    assert default.stft_window_samples == 1102  # 1102.5 rounds to even
    assert default.stft_hop_samples == 441
    assert default.fft_length == 2048
    assert default.example_window_frames == 100
    assert default.example_hop_frames == 50
    odd = Hparams(stft_window_seconds=0.032, stft_hop_seconds=0.016)
    assert (odd.stft_window_samples, odd.stft_hop_samples) == (1411, 706)
    # As in the original, which multiplies by the rounded 1 / stft_hop_seconds.
    rounded = Hparams(example_window_seconds=0.235, example_hop_seconds=0.235)
    assert (rounded.example_window_frames, rounded.example_hop_frames) == (24, 24)
    rounded = Hparams(stft_hop_seconds=0.002, example_hop_seconds=0.175)
    assert rounded.example_hop_frames == 88
    yamnet = hparams.model_hparams("yamnet", {})
    assert (yamnet.example_window_frames, yamnet.example_hop_frames) == (96, 48)


def test_the_window_of_a_checkpoint_trained_under_python_2():
    (text,) = re.findall(
        r"`--hparams (stft_window_seconds=\S+)`",
        section_of("docs/model.md", "Features"),
    )
    window = parse_hparams(text)
    assert (window.stft_window_samples, window.fft_length) == (1103, 2048)


@pytest.mark.parametrize(
    ("num_samples", "num_frames", "num_examples"),
    [
        (0, 1, 1),
        (1, 1, 1),
        (1101, 1, 1),
        (1102, 1, 1),
        (1102 + 440, 1, 1),
        (1102 + 441, 2, 1),
        (1102 + 441 * 49, 50, 1),
        (1102 + 441 * 50, 51, 2),
        (15 * 44100, 1498, 30),
    ],
)
def test_frames_and_examples_of_a_clip(num_samples, num_frames, num_examples):
    default = Hparams()
    assert default.num_frames(num_samples) == num_frames
    assert default.num_examples(num_samples) == num_examples
    assert default.num_examples(np.array([num_samples])) == [num_examples]


def test_overrides_have_their_types():
    assert hparams.parse_overrides("lr=3, batch_size=32,global_pool=max,") == {
        "lr": 3.0,
        "batch_size": 32,
        "global_pool": "max",
    }
    assert hparams.parse_overrides("") == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lrr=1", "no hyperparameter 'lrr'; did you mean lr?"),
        ("learning_rate=1", "no hyperparameter 'learning_rate'; did you mean lr?"),
        ("Optimiser=sgd", "no hyperparameter 'Optimiser'; did you mean opt?"),
        ("zzz=1", "no hyperparameter 'zzz'; --hparams help lists them"),
        ("lr", "name=value"),
        ("lr=1,lr=2", "twice"),
        ("lr=fast", "lr must be a number"),
        ("lr=nan", "lr must be finite"),
        ("lr=inf", "lr must be finite, but got inf"),
        ("lr=-1", "lr must be 0 or more, but got -1.0"),
        ("batch_size=1.5", "batch_size must be a whole number"),
        ("batch_size=0", "batch_size must be above 0"),
        ("batch_size=3001", "batch_size .* at most 3000, but got 3001"),
        ("width=0.2", "width must be from 0.25 to 2, but got 0.2"),
        ("width=2,batch_size=1501", "batch_size must be at most 1500 with width=2"),
        ("decay_epochs=1e308", "at most 100000"),
        ("global_pool=median", "mean or max, but got median"),
        ("opt=rmsprop", "adam or sgd"),
        ("bn=2", "bn must be 0 or 1, but got 2"),
        ("bn=true", "bn must be 0 or 1, but got true"),
        ("dropout=1.1", "from 0 to 1"),
        ("mel_max_hz=22051", "at most 22050"),
        ("mel_min_hz=8000,mel_max_hz=8000", "mel_min_hz must be below mel_max_hz"),
        ("stft_hop_seconds=1e-9", "stft_hop_samples of at least 1"),
        ("stft_hop_seconds=2e-311", "stft_hop_seconds"),
        ("example_hop_seconds=0.001", "example_hop_frames of at least 1"),
        ("example_window_seconds=1e9", "at most 60"),
        ("cosine=1,lrdecay=0.5", "cosine=1 and lrdecay"),
        ("frontend=pcen,gain_db=3", "gain_db needs frontend=log"),
        ("freq_masks=1,freq_mask_bands=97", "freq_mask_bands .* at most mel_bands, 96"),
        ("time_masks=1,time_mask_frames=101", "time_mask_frames .* the 100 frames"),
    ],
)
def test_bad_hparams_are_named(text, message):
    with pytest.raises(UserError, match=message):
        parse_hparams(text)


def test_all_bad_hparams_are_named():
    with pytest.raises(UserError) as error:
        hparams.parse_overrides("lrr=1,bn=yes,lr,lr=-1,opt=sgd,opt=adam,mel_bands=0")
    assert [problem.split()[1:3] for problem in error.value.problems] == [
        ["there", "is"],
        ["bn", "must"],
        ["takes", "name=value"],
        ["lr", "must"],
        ["opt", "is"],
        ["mel_bands", "must"],
    ]
    with pytest.raises(UserError) as error:
        Hparams(bn=2, lr=-1, mel_min_hz=9e9)
    assert len(error.value.problems) == 2


@pytest.mark.parametrize(
    ("text", "warning"),
    [
        ("warmup_steps=5", "warmup_steps has no effect without cosine=1"),
        ("warmup_steps=5,cosine=1", ""),
        ("decay_epochs=3", "decay_epochs has no effect without lrdecay above 0"),
        ("decay_epochs=3,lrdecay=0.9", ""),
        ("pcen_r=1", "pcen_r has no effect without frontend=pcen"),
        ("mel_log_offset=1,frontend=pcen", "mel_log_offset .* frontend=log"),
        ("freq_mask_bands=3", "freq_mask_bands .* freq_masks above 0"),
        ("time_mask_frames=3,freq_masks=1", "time_mask_frames .* time_masks above 0"),
        ("time_mask_frames=3,time_masks=1", ""),
        ("bndecay=0.9,bn=0", "bndecay .* bn=1"),
        ("adam_eps=1,opt=sgd", "adam_eps .* opt=adam"),
        ("dropout=0.2", "dropout=0.2 keeps only 20% "),
        ("dropout=0.5", ""),
        ("dropout=0", ""),
        ("lr=1,mel_bands=20", ""),
    ],
)
def test_values_that_may_be_mistakes_are_warnings(text, warning):
    given = hparams.parse_overrides(text)
    found = [*Hparams(**given).warnings(given)]
    assert [*Hparams(**given).warnings([])] == []
    assert len(found) == bool(warning)
    if warning:
        assert re.match(warning, found[0])


def test_help_lists_all(capsys):
    with pytest.raises(SystemExit) as exit:
        hparams.parse_overrides("help")
    assert exit.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("=")[0] for line in lines] == [*hparams.FIELDS]
    assert "mel_bands=96 bands (above 0, at most 1024)  Number of mel bands" in lines
    assert "lr=0.0001 (0 or more)  Learning rate" in lines


def _read(directory, overrides, class_names=("Bark", "Meow"), **kwargs):
    arguments = {"model_name": "mobilenet-v1"} | kwargs
    _, found = Run(directory).settings(
        overrides=overrides, class_names=class_names, **arguments
    )
    return found


@pytest.fixture
def run_dir(tmp_path):
    run_record.write_record(
        tmp_path,
        model_name="mobilenet-v1",
        hparams=Hparams(mel_bands=64, lr=0.01),
        class_names=["Bark", "Meow"],
    )
    return tmp_path


def test_trained_values_are_used(run_dir, capsys):
    assert _read(run_dir, {}) == Hparams(mel_bands=64, lr=0.01)
    assert _read(run_dir, {"mel_bands": 64}) == Hparams(mel_bands=64, lr=0.01)
    assert capsys.readouterr().err == ""


def test_the_command_line_overrides_with_a_warning(run_dir, capsys):
    assert _read(run_dir, {"mel_bands": 32}) == Hparams(mel_bands=32, lr=0.01)
    warning = capsys.readouterr().err
    assert warning.count("\n") == 1
    assert warning.startswith("warning: mel_bands=32 is used, not the 64 of")
    assert "scores will be wrong" in warning
    _read(run_dir, {"example_hop_seconds": 0.25})
    assert "scores will be wrong" not in capsys.readouterr().err


def test_without_the_file_the_defaults_are_used(tmp_path):
    assert _read(tmp_path, {"lr": 1.0}) == Hparams(lr=1.0)
    assert _read(tmp_path, {}, model_name=None) == Hparams()
    yamnet = hparams.model_hparams("yamnet", {"lr": 1.0})
    assert _read(tmp_path, {"lr": 1.0}, model_name="yamnet") == yamnet
    assert (yamnet.mel_bands, yamnet.fft_length) == (64, 2048)


@pytest.mark.parametrize("resuming", [False, True])
def test_a_missing_file_is_a_warning_if_no_value_is_given(tmp_path, capsys, resuming):
    path = str(tmp_path / "hparams.json")
    for suffix in (".index", ".data-00000-of-00001"):
        (tmp_path / f"model.ckpt-1{suffix}").touch()
    _read(tmp_path, {}, to_train=resuming)
    output = capsys.readouterr()
    assert output.err.startswith(f"warning: there is no {path}; using the defaults")
    for part in ("original", "wrong scores", "--hparams", "hparam_overrides"):
        assert part in output.err
    _read(tmp_path, {"global_pool": "max"}, to_train=resuming)
    output_of_given = capsys.readouterr()
    assert output_of_given.err.startswith(f"note: there is no {path}")
    assert "using the defaults" not in output_of_given.err
    assert output.out == output_of_given.out == ""


def test_the_text_of_hyperparameters_has_the_changed_values():
    assert str(Hparams()) == "defaults"
    assert str(Hparams(lr=0.001, global_pool="max")) == "global_pool=max, lr=0.001"


@pytest.mark.parametrize(
    ("class_names", "message"),
    [
        (["Bark", "Moo"], "--class_map_path.*class 1 is Moo, not Meow"),
        (["Bark", "Meow", "Moo"], "--class_map_path.*3 classes, not 2"),
    ],
)
def test_another_class_map_is_an_error(run_dir, class_names, message):
    with pytest.raises(UserError, match=message):
        _read(run_dir, {}, class_names)


def test_resuming_may_change_training_but_not_the_model(run_dir):
    for suffix in (".index", ".data-00000-of-00001"):
        (run_dir / f"model.ckpt-1{suffix}").touch()
    resumed = _read(run_dir, {"lr": 0.5, "mel_bands": 64}, to_train=True)
    assert resumed == Hparams(mel_bands=64, lr=0.5)
    for change in ({"mel_bands": 32}, {"global_pool": "max"}, {"bn": 0}):
        with pytest.raises(UserError, match="cannot replace the"):
            _read(run_dir, change, to_train=True)
    assert set(hparams.MODEL_HPARAMS) < set(hparams.FIELDS)


@pytest.mark.parametrize("to_train", [True, False])
def test_no_other_width_may_be_given(run_dir, to_train, capsys):
    for suffix in (".index", ".data-00000-of-00001"):
        (run_dir / f"model.ckpt-1{suffix}").touch()
    with pytest.raises(UserError, match="width=0.5 cannot replace the 1.0") as error:
        _read(run_dir, {"width": 0.5}, to_train=to_train)
    assert "warmstart" not in str(error.value)
    assert ("--train_dir" in str(error.value)) == to_train
    assert capsys.readouterr().err == ""


def test_values_of_an_earlier_version_are_compared_with_the_defaults():
    earlier = Hparams(bn=0).model_values()
    del earlier["width"]
    for width, expected in ((1, []), (0.5, ["width=0.5, not 1.0"])):
        new = Hparams(bn=0, width=width).model_values()
        assert run_record.changes({"hparams": new}, {"hparams": earlier}) == expected


def test_another_model_is_an_error(run_dir):
    path = run_dir / "hparams.json"
    path.write_text(path.read_text().replace("mobilenet-v1", "resnet"))
    with pytest.raises(UserError, match="resnet"):
        _read(run_dir, {})


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", '{"hparams": {"x": 1}}'),
        '{"model": "yamnet", "hparams": {"x": 1}, "class_names": []}',
        '{"model": "yamnet", "hparams": {"bn": "1"}, "class_names": []}',
        '{"model": "yamnet", "hparams": {"mel_bands": 64.5}, "class_names": []}',
        '{"model": "yamnet", "hparams": {"lr": NaN}, "class_names": []}',
        f'{{"model": "yamnet", "hparams": {{"lr": {10**400}}}, "class_names": []}}',
        '{"model": "yamnet", "hparams": {}, "class_names": ["a\\u001b[2J"]}',
        '{"model": "yamnet", "hparams": {}, "class_names": [""]}',
        '{"model": "yamnet", "hparams": {}, "class_names": null}',
        '{"model": "yamnet", "hparams": {}, "class_names": ["a", null]}',
        '{"model": "yamnets", "hparams": {}, "class_names": []}',
    ],
)
def test_a_damaged_file_is_an_error(tmp_path, text):
    (tmp_path / "hparams.json").write_text(text)
    with pytest.raises(UserError, match="is damaged"):
        _read(tmp_path, {})


def test_values_that_are_not_in_the_file_are_those_of_the_model(tmp_path):
    text = '{"model": "yamnet", "hparams": {"lr": 0.5}, "class_names": []}'
    (tmp_path / "hparams.json").write_text(text)
    expected = hparams.model_hparams("yamnet", {"lr": 0.5})
    assert run_record.read_record(tmp_path).hparams == expected


def test_a_run_that_starts_anew_is_another_run(run_dir):
    first = run_record.read_record(run_dir).run
    values = dict(model_name="yamnet", hparams=Hparams(), class_names=["A"])
    for suffix in (".index", ".data-00000-of-00001"):
        (run_dir / f"model.ckpt-1{suffix}").touch()
    Run(run_dir).write_record(**values)
    assert run_record.read_record(run_dir).run == first != ""
    (run_dir / "model.ckpt-1.index").unlink()
    Run(run_dir).write_record(**values)
    assert run_record.read_record(run_dir).run != first


def test_write_whole_replaces_the_file_that_a_link_points_to(tmp_path):
    path, link = tmp_path / "x.csv", tmp_path / "link.csv"
    link.symlink_to(path)
    files.write_whole(link, "new\n")
    assert path.read_text() == "new\n"
    assert link.is_symlink()


def test_write_whole_leaves_the_old_file_when_it_fails(tmp_path, monkeypatch):
    path = tmp_path / "x.csv"
    files.write_whole(path, "old\n")

    def fail(*arguments):
        raise OSError("disk full")

    monkeypatch.setattr(files.os, "replace", fail)
    with pytest.raises(UserError, match="disk full"):
        files.write_whole(path, "new\n")
    assert path.read_text() == "old\n"
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.csv"]
