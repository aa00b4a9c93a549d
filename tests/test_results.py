"""best:EVAL_DIR in all programs."""

import shutil

import pytest
from helpers import SMALL_HPARAMS, run_main, store_contents
from test_kaggle import run_pack

from tagger.errors import UserError
from tagger.runs.eval_folder import EvalFolder
from tools import export_model
from tools.tag import scoring


def test_every_program_takes_the_best_checkpoint(dataset, trained, tmp_path, capsys):
    run = shutil.copytree(trained, tmp_path / "run")
    eval_dir = tmp_path / "eval"
    eval_dir.mkdir()
    store_contents(eval_dir, run)
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
        lambda: scoring.load(best),
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
    for use in uses:
        use()
        error = capsys.readouterr().err
        assert f"note: {run}/model.ckpt-2, the best of {eval_dir} " in error
        assert "step 4, overall lwlrap 0.500000\n" in error
    shutil.rmtree(out)
    for path in run.glob("model.ckpt-4.*"):
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
