"""Thresholds of the classes, and best:EVAL_DIR in all programs."""

import shutil

import pytest
from helpers import SMALL_HPARAMS, run_main
from test_kaggle import run_pack

from tagger.errors import UserError
from tagger.runs import eval_folder, results
from tagger.runs.eval_folder import EvalFolder
from tools import export_model
from tools.tag import __main__ as tag


def test_thresholds_are_read_as_they_were_written(tmp_path):
    thresholds = {'Bär, "x"': 0.1 + 0.2, "Rare": 1e-9, "<b>": 1.0}
    results.write_thresholds(str(tmp_path), thresholds)
    path = str(tmp_path / results.THRESHOLDS_FILE)
    assert results.read_thresholds(path, "--thresholds") == thresholds
    found = results.order_thresholds(thresholds, ["Rare", 'Bär, "x"', "<b>"], "")
    assert found.tolist() == [1e-9, 0.1 + 0.2, 1.0]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", 1),
        ("A,0.5\n", 1),
        ("class,threshold,\n", 1),
        ("class,threshold\nA\n", 2),
        ("class,threshold\nA,0.5,1\n", 2),
        ("class,threshold\nA,high\n", 2),
        ("class,threshold\nA,nan\n", 2),
        ("class,threshold\nA,0.5\n\nB,-0.1\n", 4),
        ("class,threshold\nA,1.01\n", 2),
        ("class,threshold\nA,0.5\n A ,0.5\n", 3),
    ],
)
def test_wrong_thresholds_are_named(tmp_path, text, line):
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=f"^{path}:{line}: .*$"):
        results.read_thresholds(str(path), "--thresholds")


def test_a_missing_file_of_thresholds_names_the_flag():
    with pytest.raises(UserError, match="--thresholds: .* none.csv"):
        results.read_thresholds("none.csv", "--thresholds")


def test_every_program_takes_the_best_checkpoint(dataset, trained, tmp_path, capsys):
    run = shutil.copytree(trained, tmp_path / "run")
    eval_dir = tmp_path / "eval"
    eval_dir.mkdir()
    text = results.describe_run(str(eval_dir), str(run), 7)
    (eval_dir / eval_folder.CONTENTS_FILE).write_text(text)
    for step, overall in ((2, 0.9), (4, 0.5)):
        marker = EvalFolder(str(eval_dir)).marker(step)
        marker.write_text(f"Overall lwlrap = {overall:.6f}\n")
    best, out = f"best:{eval_dir}", tmp_path / "out"
    start = dataset.train_flags(
        out,
        hparams=f"{SMALL_HPARAMS},warmstart=1",
        warmstart_checkpoint=best,
        max_steps=1,
    )
    uses = [
        lambda: run_main(dataset.inference_flags(best, out / "p.csv")),
        lambda: run_main(start),
        lambda: tag.load(best),
        lambda: export_model.export(
            checkpoint=best,
            class_map_path=str(dataset.class_map_path),
            export_dir=str(out / "export"),
            hparam_overrides={},
        ),
        lambda: run_pack(out / "pack", dataset, best),
    ]
    for use in uses:
        use()
        output = capsys.readouterr()
        assert "step 2, overall lwlrap 0.900000\n" in output.err
        # Each prints the hyperparameters that differ from the defaults, once.
        assert output.err.count("mobilenet-v1, hyperparameters: mel_bands=16, ") == 1
        assert "hyperparameters" not in output.out
    for name in ("p.csv", "model.ckpt-1.index", "export", "pack"):
        assert (out / name).exists()
    shutil.rmtree(out)
    for path in run.glob("model.ckpt-2.*"):
        path.unlink()
    for use in uses[:2]:
        assert use() == 1
        assert f"{run}/model.ckpt-2, the best of" in capsys.readouterr().err
    for use in uses[2:]:
        with pytest.raises(UserError, match="model.ckpt-2, the best of"):
            use()


def test_training_keeps_the_best_checkpoint_of_an_evaluation(dataset, tmp_path):
    run, eval_dir = tmp_path / "run", tmp_path / "run" / "evals" / "a"
    flags = {"hparams": SMALL_HPARAMS, "checkpoint_steps": 1, "keep_checkpoints": 2}
    assert run_main(dataset.train_flags(run, max_steps=1, **flags)) == 0
    assert run_main(dataset.eval_flags(run, eval_dir)) == 0
    best, _ = EvalFolder(eval_dir).best()
    assert run_main(dataset.train_flags(run, max_steps=4, **flags)) == 0
    kept = {int(path.stem.split("-")[1]) for path in run.glob("model.ckpt-*.index")}
    assert kept == {best, 1, 3, 4}  # It was resumed from 1.
