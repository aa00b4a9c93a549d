"""The page about an evaluation: escaping, size, features, marks, missing scores."""

import base64
import html
import io
import json
import os
import re
import shutil
import urllib.parse

import matplotlib
import matplotlib.image
import numpy as np
import pytest
from helpers import (
    CLASS_NAMES,
    CLIP_NAME,
    run_main,
    store_contents,
    write_evaluation,
    write_wav,
)

import inputs
from tagger.data import blocks
from tagger.errors import UserError
from tagger.hparams import Hparams, model_hparams
from tagger.runs import checkpoint_files, eval_folder, run_record
from tagger.runs.eval_folder import EvalFolder
from tools.report import diagnosis
from tools.report.page import comparison_section, make_page, spectrogram
from tools.report.tables import table_row


def page_of(eval_dir, clip_dir, against="", threshold=0.5) -> str:
    evaluation = diagnosis.read_evaluation(str(eval_dir))
    return make_page(
        evaluation,
        diagnosis.class_results(evaluation),
        eval_dir=str(eval_dir),
        clip_dir=str(clip_dir),
        thresholds=np.full(len(evaluation.class_names), threshold),
        thresholds_title="Thresholds <i>",
        against=str(against),
    )


def test_the_page_escapes_names_and_needs_nothing_else(tmp_path, capsys):
    eval_dir = tmp_path / "eval"
    write_evaluation(eval_dir, 1)
    write_evaluation(tmp_path / "<i>", 2)
    clips = tmp_path / "clips"
    clips.mkdir()
    name = CLIP_NAME.format(0)
    write_wav(clips / name, 3000 * np.sin(np.arange(50000) / 9))
    page = page_of(eval_dir, clips, tmp_path / "<i>")
    assert "<script>alert" not in page
    assert "<img src=x" not in page
    assert "<i>" not in page
    assert html.escape(CLASS_NAMES[1]) in page
    assert page.count("<script>") == 1
    assert page.count("<audio") == 30
    assert f'src="../clips/{urllib.parse.quote(name)}"' in page
    assert not re.search(r"https?://|url\(|@import", page)
    data = json.loads(re.search(r"const data = (.*);", page)[1])
    assert [found["name"] for found in data["classes"]] == CLASS_NAMES[:3]
    assert data["progress"][0] == [0, 0.3]
    assert page.count("data:image/png;base64,") == 1
    assert page.count("cannot be read") == 29
    err = capsys.readouterr().err
    assert re.search(r"^warning: --clip_dir: 29 clips .*clips$", err, re.MULTILINE)


def test_background_clips(tmp_path):
    clips, eval_dir = tmp_path / "clips", tmp_path / "eval"
    write_evaluation(eval_dir, 1)
    clips.mkdir()
    write_wav(clips / CLIP_NAME.format(7), 3000 * np.sin(np.arange(50000) / 9))
    assert "background.</p>" not in page_of(eval_dir, clips)
    assert "false alarms</button>" not in page_of(eval_dir, clips)
    with np.load(eval_dir / eval_folder.SCORES_FILE) as file:
        arrays = dict(file)
    arrays["labels"][[7, 8]] = 0
    arrays["scores"][[7, 8]] = [[0.1] * 4, [0.1, 0.99, 0.1, 0.1]]
    np.savez(eval_dir / eval_folder.SCORES_FILE, **arrays)
    page = page_of(eval_dir, clips)
    assert "4 classes, 2 of them background." in page
    assert "false alarms</button>" in page
    first = page.split('<div class="clip">')[1]
    assert html.escape(CLIP_NAME.format(8)) in first
    assert "precision 0.010<br>labels: _background_<br>" in first


def test_a_folder_without_the_clips_is_an_error(tmp_path):
    write_evaluation(tmp_path / "eval", 1)
    with pytest.raises(UserError, match="--clip_dir"):
        page_of(tmp_path / "eval", tmp_path)


def test_without_the_folder_of_the_clips_the_page_has_no_players(tmp_path, capsys):
    write_evaluation(tmp_path / "eval", 1)
    page = page_of(tmp_path / "eval", "")
    assert page.count('<div class="clip">') == 30
    assert not re.search("<img|<audio|cannot be read", page)
    assert capsys.readouterr().err == ""


def write_run(tmp_path, model_name="mobilenet-v1", **hparams) -> Hparams:
    """Writes a run, an evaluation of it and a clip; returns the hyperparameters."""
    run, eval_dir = tmp_path / "run", tmp_path / "eval"
    run.mkdir()
    hparams = model_hparams(model_name, hparams)
    run_record.write_record(
        str(run), model_name=model_name, hparams=hparams, class_names=CLASS_NAMES
    )
    write_evaluation(eval_dir, 1)
    store_contents(eval_dir, run)
    noise = np.random.default_rng(0).uniform(-9000, 9000, 44100)
    write_wav(tmp_path / CLIP_NAME.format(0), noise * np.linspace(0, 1, 44100))
    return hparams


@pytest.mark.parametrize(
    ("model_name", "overrides", "num_bands"),
    [("yamnet", {}, 64), ("mobilenet-v1", {"frontend": "pcen"}, 96)],
)
def test_pictures_show_the_features_of_the_run(
    tmp_path, capsys, model_name, overrides, num_bands
):
    hparams = write_run(tmp_path, model_name, **overrides)
    page = page_of(tmp_path / "eval", tmp_path)
    assert "note:" not in capsys.readouterr().err
    (encoded,) = re.findall(r"data:image/png;base64,([^\"]*)", page)
    picture = matplotlib.image.imread(io.BytesIO(base64.b64decode(encoded)))
    waveform = inputs.clip_to_waveform(
        str(tmp_path / CLIP_NAME.format(0)), np.int64(44), np.int64(44100)
    )
    features = inputs.waveform_to_log_mel_spectrogram(waveform, hparams).numpy()
    assert features.shape[1] == num_bands
    shares = (features - features.min()) / np.ptp(features)
    expected = matplotlib.colormaps["viridis"](shares.T[::-1])
    np.testing.assert_allclose(picture, expected, atol=0.02)


def test_pictures_show_the_start_of_long_clips(tmp_path, monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK_EXAMPLES", 2)
    size, _ = blocks.block_samples(Hparams())
    noise = np.random.default_rng(0).uniform(-9000, 9000, 9 * size)
    long, start = (
        write_wav(tmp_path / f"{number}.wav", noise[: number * size])
        for number in (9, 1)
    )
    assert spectrogram(long, Hparams()) == spectrogram(start, Hparams()) != ""


@pytest.mark.parametrize(
    ("missing", "reason"),
    [
        ("eval/evaluated.json", "cannot be used"),
        ("run", "does not exist"),
        ("run/hparams.json", "there is no"),
    ],
)
def test_pictures_of_an_unknown_run_have_the_default_features(
    tmp_path, capsys, missing, reason
):
    write_run(tmp_path, "yamnet")
    path = tmp_path / missing
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    if missing == "run/hparams.json":  # as beside checkpoints of the original
        (tmp_path / "eval" / eval_folder.CONTENTS_FILE).unlink()
        store_contents(tmp_path / "eval", tmp_path / "run")
    page = page_of(tmp_path / "eval", tmp_path)
    err = capsys.readouterr().err
    (note,) = re.findall(r"^note: the spectrograms have .*default.*", err, re.MULTILINE)
    assert reason in note
    assert str(path) in note
    clip = str(tmp_path / CLIP_NAME.format(0))
    assert spectrogram(clip, Hparams()) in page


def table_rows(page: str, number: int) -> list[list[str]]:
    """The cells of the rows of a table of the page, as HTML without marks of cells."""
    rows = re.findall(r"<tr.*?</tr>", page.split("<table>")[1 + number], re.DOTALL)
    return [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in rows[1:]]


def test_values_from_few_clips_are_marked(tmp_path):
    """The classes have 11, 8, 8 and 0 clips."""
    write_evaluation(tmp_path / "eval", 1, num_clips=24)
    write_evaluation(tmp_path / "other", 2, num_clips=24)
    write_wav(tmp_path / CLIP_NAME.format(0), np.ones(44100))
    page = page_of(tmp_path / "eval", tmp_path, tmp_path / "other")
    classes, detected, compared, pairs = (
        table_rows(page, number) for number in range(4)
    )
    few = [html.escape(name) for name in CLASS_NAMES[1:3]]
    for rows in (classes[:-1], compared, pairs):
        for name, *cells in rows:
            values = [cell for cell in cells if re.match(r"-?\d\.\d{3}", cell)]
            assert {"†" in value for value in values} <= {name in few}
    assert [row[1] for row in classes[:-1]] == ["11", "8", "8", "0"]
    assert "†" not in "".join(classes[-1])
    *notes, total = [row[-1] for row in detected]
    assert notes == ["", *["fewer than 10 clips"] * 3]
    assert detected[1][2:9] == [""] * 7
    assert total == ""
    assert page.count("fewer than 10 clips of") == 3
    curves = json.loads(re.search(r"const data = (.*);", page)[1])["classes"]
    assert [curve["clips"] for curve in curves] == [11, 8, 8]
    assert [len(curve["calibration"]) > 0 for curve in curves] == [True, False, False]

    write_evaluation(tmp_path / "large", 1)
    page = page_of(tmp_path / "large", tmp_path)
    assert "†" not in page
    assert "fewer than 10 clips of" not in page


def test_a_comparison_names_the_better_evaluation(tmp_path):
    for name in ("right", "wrong"):
        labels, *_ = write_evaluation(tmp_path / name, 1)
        path = tmp_path / name / eval_folder.SCORES_FILE
        scores = labels if name == "right" else 1 - labels
        np.savez(path, **dict(np.load(path)) | {"scores": scores})
    for first, second, better in (
        ("right", "wrong", "this"),
        ("wrong", "right", "the other"),
        ("right", "right", ""),
    ):
        evaluation = diagnosis.read_evaluation(str(tmp_path / first))
        section = comparison_section(evaluation, str(tmp_path / second))
        assert {row[-1] for row in table_rows(section, 0)} == {better}


def test_classes_without_a_threshold_have_a_note(tmp_path):
    write_evaluation(tmp_path / "eval", 1)
    page = page_of(tmp_path / "eval", "", threshold=1.0)
    notes = [row[-1] for row in table_rows(page, 1)]
    assert notes == [*["no such threshold"] * 3, "fewer than 10 clips", ""]
    assert "Thresholds &lt;i&gt;" in page


def test_calibration_of_a_class(tmp_path):
    labels, scores, _ = write_evaluation(tmp_path / "eval", 1)
    (curve, *_) = diagnosis.class_curves(diagnosis.read_evaluation(tmp_path / "eval"))
    parts = np.minimum(5 * scores[:, 0], 4).astype(int)
    expected = [
        (scores[parts == part, 0].mean(), labels[parts == part, 0].mean())
        for part in np.unique(parts)
    ]
    np.testing.assert_allclose(curve["calibration"], expected, atol=1e-4)


def test_the_last_row_has_means(tmp_path):
    write_evaluation(tmp_path / "eval", 1)
    write_wav(tmp_path / CLIP_NAME.format(0), np.ones(44100))
    page = page_of(tmp_path / "eval", tmp_path)
    foot = re.search(r"<tfoot>(.*?)</tfoot>", page, re.DOTALL)[1]
    cells = re.findall(r"<td[^>]*>(.*?)</td>", foot)
    found = diagnosis.class_results(diagnosis.read_evaluation(str(tmp_path / "eval")))
    lwlrap, recall = (
        np.mean([getattr(result, name) for result in found[:3]])
        for name in ("lwlrap", "recall")
    )
    assert cells[:3] == ["mean", "", f"{lwlrap:.3f}"]
    assert (cells[4], cells[6]) == ("", f"{recall:.3f}")


def test_names_can_break_after_underscores():
    row = table_row(["A_<b>_c", 1])
    assert "<td>A_<wbr>&lt;b&gt;_<wbr>c</td>" in row


@pytest.mark.parametrize("killed", [False, True])
def test_scores_of_another_step_than_the_best(
    dataset, trained, tmp_path, capsys, killed
):
    """The printed remedy works."""
    eval_dir = tmp_path / "eval"
    flags = dataset.eval_flags(trained, eval_dir)

    def warning_after_evaluation() -> str:
        assert run_main(flags) == 0
        capsys.readouterr()
        page_of(eval_dir, dataset.clip_dir)
        return capsys.readouterr().err

    assert warning_after_evaluation() == ""
    best, _ = EvalFolder(str(eval_dir)).best()
    if killed:  # before eval-N.txt was written
        EvalFolder(str(eval_dir)).marker(best).unlink()
    else:  # Two evaluators ended at the same time.
        with np.load(eval_dir / eval_folder.SCORES_FILE) as arrays:
            step = 4 if best != 4 else 2
            crc32 = checkpoint_files.fingerprint(f"{trained}/model.ckpt-{step}")
            other = dict(arrays) | {"step": step, "fingerprint": crc32}
        np.savez(eval_dir / eval_folder.SCORES_FILE, **other)
    page_of(eval_dir, dataset.clip_dir)
    err = capsys.readouterr().err
    assert "evaluation again" in err
    named = re.findall(r"delete (eval-\d+\.txt)", err)
    assert named == [] if killed else [f"eval-{best}.txt"]
    for name in named:
        assert warning_after_evaluation() != ""
        (eval_dir / name).unlink()
    assert warning_after_evaluation() == ""


def test_scores_of_a_checkpoint_that_is_gone(dataset, trained, tmp_path, capsys):
    run, eval_dir = shutil.copytree(trained, tmp_path / "run"), tmp_path / "eval"
    flags = dataset.eval_flags(run, eval_dir)
    assert run_main(flags) == 0
    best, _ = EvalFolder(eval_dir, run).best()
    evaluation = diagnosis.read_evaluation(str(eval_dir))
    crc32 = checkpoint_files.fingerprint(f"{run}/model.ckpt-{best}")
    assert evaluation.checkpoint == f"model.ckpt-{best} {crc32:08x}"
    # Another checkpoint takes its place.
    other = 0 if best else 2
    for suffix in (checkpoint_files.INDEX_SUFFIX, checkpoint_files.DATA_SUFFIX):
        shutil.copy(
            run / f"model.ckpt-{other}{suffix}", f"{run}/model.ckpt-{best}{suffix}"
        )
    with pytest.raises(UserError, match="checkpoint was replaced; run the eval"):
        page_of(eval_dir, dataset.clip_dir)
    with pytest.raises(UserError, match="--against .* checkpoint was replaced"):
        comparison_section(evaluation, str(eval_dir))
    for path in run.glob(f"model.ckpt-{best}.*"):
        path.unlink()
    capsys.readouterr()
    page_of(eval_dir, dataset.clip_dir)
    assert "warning: the best step is " in capsys.readouterr().err
    for path in run.glob("model.ckpt-*"):
        path.unlink()
    page_of(eval_dir, dataset.clip_dir)
    error = capsys.readouterr().err
    assert f"scores of step {best}, whose checkpoint was deleted" in error
    shutil.rmtree(run)
    page_of(eval_dir, dataset.clip_dir)
    assert "warning: the checkpoints are not known: " in capsys.readouterr().err


def test_a_large_evaluation_is_a_small_page(tmp_path):
    write_evaluation(tmp_path / "eval", 1, num_clips=4000)
    noise = np.random.default_rng(0).uniform(-30000, 30000, 4 * 44100)
    first = write_wav(tmp_path / CLIP_NAME.format(0), noise)
    for number in range(1, 4000):
        os.link(first, tmp_path / CLIP_NAME.format(number))
    page = page_of(tmp_path / "eval", tmp_path)
    assert page.count("data:image/png;base64,") == 30
    assert len(page) < 10e6
