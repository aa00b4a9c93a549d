"""The command line: flags, errors, help, and the tables in docs/."""

import ast
import os
import pathlib
import re

import pytest
import tensorflow as tf
import wav_corpus
from helpers import ROOT, parse_hparams, run_main, table_of_page

import evaluation
import inference
import runner
import train
from tagger import hparams
from tagger.errors import UserError
from tagger.options import FIELDS, MODES
from tagger.runs import run_record
from tagger.terminal import program

TRAIN = (
    "--mode=train --class_map_path=m --train_clip_dir=d --train_csv_path=c "
    "--train_dir=t "
)
EVAL = (
    "--mode=eval --class_map_path=m --eval_clip_dir=d --eval_csv_path=c "
    "--train_dir=t --eval_dir=e "
)
INFERENCE = (
    "--mode=inference --class_map_path=m --inference_clip_dir=d "
    "--inference_checkpoint=k --predictions_csv_path=p "
)
COMMANDS = {"train": TRAIN, "eval": EVAL, "inference": INFERENCE}


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ("", "--mode must be one of train, eval, inference"),
        ("--mode=fly", "--mode=fly"),
        ("--mod=train", "'mod'"),
        (TRAIN + "extra", "'extra'"),
        (TRAIN + "--max_steps=many", "--max_steps=many"),
        (TRAIN + "--max_steps=-1", "--max_steps=-1"),
        (TRAIN + "--seed=2147483648", "--seed=2147483648"),
        (TRAIN + "--checkpoint_steps=0", "--checkpoint_steps=0"),
        (TRAIN + f"--epoch_num_batches={10**20}", f"--epoch_num_batches={10**20}"),
        (TRAIN + "--model=resnet", "--model=resnet"),
        (TRAIN + "--hparams=lr=-1", "lr must be 0 or more, but got -1.0"),
        (TRAIN + "--hparams=lr=1 --hparams=bn=0", "--hparams=bn=0"),
        (TRAIN + "--hparams=warmstart=1", "needs --warmstart_checkpoint"),
        (TRAIN + "--warmstart_checkpoint=k", "--warmstart_checkpoint needs"),
        (
            TRAIN + "--warmstart_exclude_scopes=k --hparams=warmstart=0",
            "--warmstart_exclude_scopes needs --hparams warmstart=1",
        ),
        (TRAIN.replace("--train_dir=t", ""), "needs --train_dir"),
        (EVAL.replace("--eval_csv_path=c", ""), "needs --eval_csv_path"),
        ("--mode=eval", "--train_dir or --eval_checkpoint, --eval_dir"),
        (EVAL + "--eval_shard=2/2", "--eval_shard=2/2"),
        (EVAL + "--eval_shard=half", "--eval_shard=half"),
        (EVAL + "--eval_every_k=0", "--eval_every_k=0"),
        (EVAL + "--eval_timeout_secs=-2", "--eval_timeout_secs=-2"),
        (TRAIN + "--data_service=host:1", "--data_service=host:1"),
        (TRAIN + "--train_dir=gs://bucket/run", "--train_dir=gs://bucket/run"),
        ("--mode=eval --eval_dir=gs://bucket/eval", "--eval_dir=gs://bucket/eval"),
        (TRAIN + "--devices=GPU0", "--devices="),
        (TRAIN + "--devices=GPU:0,GPU:0", "--devices="),
        (TRAIN + "--devices=GPU:0,CPU:0", "--devices="),
        (TRAIN + "--devices=CPU:0,CPU:00", "--devices="),
        (TRAIN + "--warmstart_include_scopes=Conv/,", "--warmstart_include_scopes="),
        (INFERENCE + "--inference_shard=3/3", "--inference_shard=3/3"),
        (INFERENCE + "--inference_checkpoint=,", "--inference_checkpoint"),
        (INFERENCE.replace("--class_map_path=m", ""), "needs --class_map_path"),
    ],
)
def test_wrong_flags_are_named(arguments, named, capsys, monkeypatch):
    monkeypatch.setattr(program, "start_tensorflow", pytest.fail)
    assert run_main(arguments.split()) == 1
    output = capsys.readouterr()
    assert output.out == ""
    assert named in output.err.splitlines()[0]
    assert "Traceback" not in output.err


def test_contradictions_are_named_also_in_a_folder_with_a_run(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(program, "start_tensorflow", pytest.fail)
    run_record.write_record(
        tmp_path, model_name="yamnet", hparams=hparams.Hparams(), class_names=["A"]
    )
    folder = f"--train_dir={tmp_path} "
    flags = TRAIN.replace("--train_dir=t ", folder) + "--hparams=cosine=1,lrdecay=0.5"
    assert run_main(flags.split()) == 1
    assert "cosine=1 and lrdecay" in capsys.readouterr().err


def test_hyperparameters_may_fit_only_those_of_the_run(tmp_path):
    paths = dict.fromkeys(["class_map_path", "train_clip_dir", "train_csv_path"], "")
    options = MODES["train"](
        **paths,
        train_dir=str(tmp_path),
        hparams={"freq_masks": 1, "freq_mask_bands": 100},
    )
    with pytest.raises(UserError, match="freq_mask_bands"):
        options.check()
    run_record.write_record(
        tmp_path,
        model_name="yamnet",
        hparams=hparams.Hparams(mel_bands=128),
        class_names=["A"],
    )
    options.check()


@pytest.mark.parametrize(
    ("mode", "module", "function"),
    [
        ("train", train, "train"),
        ("eval", evaluation, "evaluate"),
        ("inference", inference, "predict"),
    ],
)
def test_each_mode_takes_its_flags_with_their_defaults(
    mode, module, function, monkeypatch
):
    taken = []
    monkeypatch.setattr(module, function, taken.append)
    given = dict(re.findall(r"--(\w+)=(\w)(?: |$)", COMMANDS[mode]))
    given |= {"inference_checkpoint": ("k",)} if mode == "inference" else {}
    assert run_main(COMMANDS[mode].split()) == 0
    assert taken == [MODES[mode](**given)]


@pytest.mark.parametrize(
    ("command", "values"),
    [
        (TRAIN, {"seed": 2**31 - 1, "max_steps": 0, "checkpoint_steps": 1}),
        (TRAIN, {"seed": 0}),
        (EVAL, {"eval_timeout_secs": -1, "eval_every_k": 1}),
    ],
)
def test_numbers_may_have_the_lowest_and_the_highest_value(
    command, values, monkeypatch
):
    taken = []
    monkeypatch.setattr(train, "train", taken.append)
    monkeypatch.setattr(evaluation, "evaluate", taken.append)
    flags = [f"--{name}={value}" for name, value in values.items()]
    assert run_main([*command.split(), *flags]) == 0
    assert {name: getattr(taken[0], name) for name in values} == values


@pytest.mark.parametrize("options", MODES.values())
def test_options_have_no_order(options):
    with pytest.raises(TypeError, match="takes 1 positional argument"):
        options("class_map.csv")


@pytest.mark.parametrize("mode", MODES)
def test_each_required_flag_is_named_if_it_is_missing(mode, capsys):
    required = [name for name, f in FIELDS[mode].items() if f.metadata["required"]]
    assert run_main([f"--mode={mode}"]) == 1
    errors = re.sub(r" or --\w+", "", capsys.readouterr().err)
    assert re.findall(r"--(\w+)", errors) == ["mode", *required]
    assert sorted(required) == sorted(re.findall(r"--(\w+)=\w(?: |$)", COMMANDS[mode]))


@pytest.mark.parametrize("flag", ["--help", "-h", "--helpshort"])
def test_help_groups_the_flags_by_mode(flag, capsys):
    with pytest.raises(SystemExit) as exit:
        program.run(runner.main, ["runner.py", flag], help_text=runner.help_text)
    assert exit.value.code == 1
    output = capsys.readouterr().out
    assert output.startswith(runner.__doc__)
    listed, titles = {}, []
    for line in output[len(runner.__doc__) :].splitlines():
        if flag := re.match(r"  --(?:\[no\])?(\w+): (\(required\) )?", line):
            listed[flag[1]] = (titles[-1], bool(flag[2]))
        elif line and not line.startswith(" "):
            titles.append(line)
    everywhere = "flags of all modes:"
    assert titles == [
        everywhere,
        "--mode train:",
        "--mode train and eval:",
        "--mode eval:",
        "--mode inference:",
    ]
    expected = {"mode": (everywhere, True)}
    for name, field in runner.ALL_FIELDS.items():
        modes = [mode for mode in MODES if name in FIELDS[mode]]
        title = everywhere if len(modes) == 3 else f"--mode {' and '.join(modes)}:"
        expected[name] = (title, field.metadata["required"])
    assert listed == expected
    for title in titles:  # The required flags come first.
        marks = [required for group, required in listed.values() if group == title]
        assert marks == sorted(marks, reverse=True)
    assert re.search(r"--checkpoint_steps: Steps [^-]*\(default:\s+100\)", output)


def test_flags_of_another_mode_are_reported(capsys):
    assert run_main((INFERENCE + "--seed=3").split()) == 1
    errors = capsys.readouterr().err
    assert "warning: --seed has no effect in --mode inference" in errors
    assert "--class_map_path: there is no file m" in errors


def test_flags_are_read_from_a_file(tmp_path, capsys):
    path = tmp_path / "flags.txt"
    path.write_text(INFERENCE.replace(" ", "\n"))
    assert run_main([f"--flagfile={path}"]) == 1
    assert "--class_map_path: there is no file m" in capsys.readouterr().err


def test_an_error_of_tensorflow_keeps_its_traceback(monkeypatch, capsys):
    def fail(options):
        raise tf.errors.InternalError(None, None, "it broke")

    monkeypatch.setattr(train, "train", fail)
    assert run_main(TRAIN.split()) == 1
    errors = capsys.readouterr().err
    assert errors.startswith("Traceback")
    assert "it broke" in errors


def test_environment_variables_of_the_user_are_unchanged(monkeypatch):
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "0")
    program.set_environment()
    assert os.environ["TF_ENABLE_ONEDNN_OPTS"] == "0"


def test_the_recipe_has_the_published_values():
    text = (ROOT / "recipes" / "published_baseline.sh").read_text()
    noisy, curated = re.findall(r"_hparams=\$\{\w+_HPARAMS:-(.*)\}", text)
    assert noisy == "lr=1e-4,dropout=0.8,lsmooth=0.3,global_pool=max"
    assert curated == "lr=3e-3,lrdecay=0.94,dropout=0.6,lsmooth=0.1,global_pool=max"
    assert "$curated_hparams,warmstart=1" in text
    for stage in (noisy, curated):
        parse_hparams(stage)
    # 10 epochs of 9,148 batches and 100 of 1,217, of 64 examples.
    for line in ("noisy_steps=91480", "curated_steps=121700", "batch_size=64"):
        assert f"\n{line}\n" in text


def test_the_documentation_lists_every_flag_with_its_default():
    listed = {row[0]: row[1:] for row in table_of_page("docs/reference.md", "Flags")}
    expected = {}
    for name, field in runner.ALL_FIELDS.items():
        modes = [mode for mode in MODES if name in FIELDS[mode]]
        option = field.metadata
        unset = option["default"] in ("", None, ()) or option["default"] is False
        default = "" if unset else f"`{option['default']}`"
        modes = "all" if len(modes) == len(MODES) else ", ".join(modes)
        expected[f"`--{name}`"] = [modes, default, option["meaning"]]
    assert listed.pop("`--mode`")[:2] == ["all", ""]
    assert listed == expected


def test_the_documentation_lists_every_hyperparameter():
    listed = {
        row[0]: row[1:] for row in table_of_page("docs/reference.md", "Hyperparameters")
    }
    expected = {}
    for name, field in hparams.FIELDS.items():
        default = field.default
        shown = default if isinstance(default, str) else f"{default:g}"
        data = field.metadata
        row = [f"`{shown}`", data["unit"], data["allowed"][0], data["meaning"]]
        expected[f"`{name}`"] = row
    assert listed == expected


def test_the_documentation_lists_the_versions_that_the_matrix_runs():
    script = (ROOT / "tests" / "matrix.sh").read_text()
    versions = re.search(r"VERSIONS='\n(.*?)\n'", script, re.DOTALL)[1]
    expected = [line.split() for line in versions.splitlines()]
    listed = table_of_page("docs/reference.md", "Versions")
    assert [row[:3] for row in listed] == [row[:3] for row in expected]
    for (*_, others), (*_, constraints) in zip(listed, expected):
        assert (constraints.endswith(".txt")) == (f"`{constraints}`" in others)


def test_the_documentation_counts_the_corpus():
    valid = len(wav_corpus.VALID) + len(wav_corpus.VALID_LENGTHS)
    text = f"{valid} valid, {len(wav_corpus.INVALID)} not"
    assert text in (ROOT / "docs" / "reliability.md").read_text()


LAYERS = (
    {"runner"},
    {"train", "evaluation", "inference"},
    {"inputs", "model"},
    {"tagger"},
)
WITHOUT_TENSORFLOW = (
    "hparams",
    "options",
    "run_record",
    "checkpoint_files",
    "eval_folder",
    "errors",
    "clips",
    "wav",
    "lwlrap",
    "files",
)


def imports_of(path: pathlib.Path) -> set[str]:
    """The top-level names of all packages that a module imports anywhere."""
    modules = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            modules.add(node.module.split(".")[0])
    return modules


@pytest.mark.parametrize(
    "path",
    [
        path
        for glob in ("*.py", "tagger/**/*.py", "recordings/*.py")
        for path in ROOT.glob(glob)
    ],
    ids=lambda path: path.stem,
)
def test_imports_go_in_one_direction(path):
    folder = path.relative_to(ROOT).parts[0]
    name = folder if folder in ("tagger", "recordings") else path.stem
    layer = next((n for n, names in enumerate(LAYERS) if name in names), 0)
    allowed = set().union(*LAYERS[layer + 1 :])
    if name in ("tagger", "inputs", "model", "recordings"):
        allowed |= {"tagger"}
    if name == "recordings":
        allowed = {"recordings", "inputs", "model", "tagger"}
    own = {"runner", "recordings", "tools", "kaggle"}.union(*LAYERS)
    assert imports_of(path) & own <= allowed
    if path.stem in WITHOUT_TENSORFLOW or path.stem.startswith("make_"):
        assert not imports_of(path) & {"tensorflow", "keras"}
