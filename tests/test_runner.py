"""The command line: flags, errors, help, and the tables in docs/."""

import ast
import os
import pathlib
import re
import subprocess
import sys
import time

import pytest
import wav_corpus
from conftest import ROOT, run_main, table_of_page

import runner
from tagger import hparams, program

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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "--mode must be one of train, eval, inference; --help lists"),
        ("--mode=fly", "but got 'fly'"),
        ("--mod=train", "Unknown command line flag 'mod'"),
        (TRAIN + "extra", "'extra'"),
        (TRAIN + "--max_steps=many", "--max_steps=many: expected a whole number"),
        (TRAIN + "--max_steps=-1", "--max_steps"),
        (
            TRAIN + "--seed=2147483648",
            "--seed=2147483648: 2147483648 is not an integer in the range",
        ),
        (TRAIN + "--checkpoint_steps=0", "--checkpoint_steps"),
        (TRAIN + "--model=resnet", "--model must be one of mobilenet-v1"),
        (TRAIN + "--hparams=lr=-1", "lr must be 0 or more, but got -1.0"),
        (
            TRAIN + "--hparams=lr=1 --hparams=bn=0",
            "--hparams is given twice; join its values by commas",
        ),
        (TRAIN + "--hparams=warmstart=1", "needs --warmstart_checkpoint"),
        (TRAIN + "--warmstart_checkpoint=k", "needs --hparams warmstart=1"),
        (
            TRAIN + "--warmstart_exclude_scopes=k --hparams=warmstart=0",
            "--warmstart_exclude_scopes needs --hparams warmstart=1",
        ),
        (TRAIN.replace("--train_dir=t", ""), "needs --train_dir"),
        (EVAL.replace("--eval_csv_path=c", ""), "needs --eval_csv_path"),
        (EVAL + "--eval_shard=2/2", "--eval_shard"),
        (EVAL + "--eval_shard=half", "--eval_shard must be i/n"),
        (EVAL + "--eval_every_k=0", "--eval_every_k"),
        (INFERENCE + "--inference_shard=3/3", "--inference_shard i/n must have i from"),
        (TRAIN + "--data_service=host:1", "--data_service must be grpc://host:port"),
        (TRAIN + "--devices=GPU0", "--devices must be such as GPU:0,GPU:1 or CPU:0"),
        (TRAIN + "--devices=GPU:0,GPU:0", "--devices names a device twice"),
        (TRAIN + "--devices=GPU:0,CPU:0", "--devices must be GPUs or CPUs"),
        (EVAL + "--eval_timeout_secs=-2", "--eval_timeout_secs"),
        (INFERENCE + "--inference_checkpoint=,", "--inference_checkpoint names no"),
        (INFERENCE.replace("--class_map_path=m", ""), "needs --class_map_path"),
    ],
)
def test_wrong_flags_are_one_line_that_names_them(arguments, message, capsys):
    assert run_main(arguments.split()) == 1
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("error: ")
    assert output.err.count("\n") == 1
    assert message in output.err


@pytest.mark.parametrize("arguments", ["--help", "--mode=train"])
def test_help_and_wrong_flags_need_no_tensorflow_and_little_time(arguments):
    program = f"""
import sys, runner
status = runner.main([{arguments!r}])
loaded = {{"tensorflow", "inputs", "train", "numpy.testing"}} & set(sys.modules)
sys.exit(9 if loaded else status)
"""
    seconds = []
    for _ in range(3):  # The best of them, as others may use the machine.
        started = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True
        )
        seconds.append(time.monotonic() - started)
        assert done.returncode == (0 if arguments == "--help" else 1), done.stderr
    assert min(seconds) < 2


def test_help_shows_every_flag_under_its_mode(capsys):
    assert run_main(["--help"]) == 0
    text = capsys.readouterr().out
    for title, group in runner.FLAGS.items():
        section = text.split(f"\n{title}:\n")[1].split("\n\n")[0]
        for flag in group:
            assert f"  --{flag.name}" in section
    assert "--checkpoint_steps=100" in text


def test_flags_of_another_mode_are_told(capsys):
    assert run_main((INFERENCE + "--seed=3").split()) == 1
    errors = capsys.readouterr().err
    assert "warning: --seed has no effect in --mode inference" in errors
    assert "--class_map_path: there is no file m" in errors


def test_what_the_user_sets_in_the_environment_stays(monkeypatch):
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "0")
    program.set_environment()
    assert os.environ["TF_ENABLE_ONEDNN_OPTS"] == "0"


def test_the_recipe_runs(tmp_path):
    """A few steps of both acts on synthetic clips, to a submission of all classes."""
    done = subprocess.run(
        [ROOT / "recipes" / "published_baseline.sh", "--smoke", tmp_path],
        env=os.environ | {"PYTHON": sys.executable},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    assert "83 of 83 trainable variables restored" in done.stderr
    submission = (tmp_path / "submission.csv").read_text().splitlines()
    assert len(submission) == 13
    assert len(submission[0].split(",")) == 81


def test_the_recipe_has_the_published_values():
    text = (ROOT / "recipes" / "published_baseline.sh").read_text()
    noisy, curated = re.findall(r'--hparams "batch_size=\$batch_size,(.*)"', text)
    assert noisy == "lr=1e-4,dropout=0.8,lsmooth=0.3,global_pool=max"
    expected = (
        "lr=3e-3,lrdecay=0.94,dropout=0.6,lsmooth=0.1,global_pool=max,warmstart=1"
    )
    assert curated == expected
    for act in (noisy, curated):
        hparams.parse_hparams(act)
    # 10 epochs of 9,148 batches and 100 of 1,217, of 64 examples.
    for line in ("noisy_steps=91480", "curated_steps=121700", "batch_size=64"):
        assert f"\n{line}\n" in text


def test_the_documentation_lists_every_flag_with_its_default():
    listed = {row[0]: row[1:] for row in table_of_page("docs/reference.md", "Flags")}
    expected = {}
    for title, group in runner.FLAGS.items():
        for flag in group:
            unset = flag.default is False or flag.default in ("", None)
            default = "" if unset else f"`{flag.default}`"
            modes = title.removeprefix("--mode ").replace(" and --mode ", ", ")
            expected[f"`--{flag.name}`"] = [modes.lower(), default, flag.help]
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
    table = re.findall(
        r"^\| (\d\.\d+) \| (\d\.\d+\.\d+) \| (\d\.\d+\.\d+) \|$",
        (ROOT / "docs" / "reference.md").read_text(),
        re.MULTILINE,
    )
    assert list(map(list, table)) == expected


def test_the_documentation_counts_the_corpus():
    valid = len(wav_corpus.VALID) + len(wav_corpus.VALID_LENGTHS)
    text = f"{valid} valid, {len(wav_corpus.INVALID)} not"
    assert text in (ROOT / "docs" / "reliability.md").read_text()


MODES = {"train", "evaluation", "inference"}
WITHOUT_TENSORFLOW = {"clips", "hparams", "lwlrap", "plots", "progress", "runner"}


def imports_of(path: pathlib.Path) -> set[str]:
    """The modules that are imported when a module is, by their first names."""
    modules = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            modules |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            modules.add(node.module.split(".")[0])
    return modules


@pytest.mark.parametrize("path", sorted(ROOT.glob("*.py")), ids=lambda path: path.stem)
def test_imports_run_one_way(path):
    modules = imports_of(path)
    assert not modules & MODES
    if path.stem in WITHOUT_TENSORFLOW or path.stem.startswith("make_"):
        assert "tensorflow" not in modules
        own = {module for module in modules if (ROOT / f"{module}.py").exists()}
        assert own <= WITHOUT_TENSORFLOW | {"make_class_map"}
    if path.stem not in {"export_model", "data_service"}:
        assert "runner" not in modules
