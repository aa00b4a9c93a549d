"""Probabilities for scores: the regression, its CSV, what is printed and written."""

import csv

import numpy as np
import pytest
import scipy.special
from helpers import CLASS_NAMES, write_evaluation

from recordings import calibration, decoding, segments
from recordings.class_tables import ordered
from tagger.errors import UserError
from tagger.hparams import Hparams
from tools.report import __main__ as report
from tools.report import diagnosis
from tools.tag import results, scoring
from tools.tag.results import Outputs


def drawn_clips(seed, slope=0.5, intercept=-1.0, num_clips=20000):
    """Labels drawn with the probabilities of a calibration, and the scores."""
    rng = np.random.default_rng(seed)
    scores = rng.uniform(0, 1, num_clips)
    logits = np.log(scores) - np.log1p(-scores)
    probabilities = 1 / (1 + np.exp(-(slope * logits + intercept)))
    return (rng.uniform(size=num_clips) < probabilities).astype(np.float32), scores


def test_the_calibration_of_drawn_labels():
    labels, scores = drawn_clips(1)
    found = calibration.calibrate(labels, scores, 10)
    assert found == pytest.approx([0.5, -1], abs=0.05)
    labels, scores = drawn_clips(2)
    probabilities = calibration.probabilities(found[np.newaxis], scores[:, np.newaxis])
    probabilities = probabilities[:, 0]
    for low in np.arange(0, 0.6, 0.1):
        part = (probabilities >= low) & (probabilities < low + 0.1)
        assert labels[part].mean() == pytest.approx(
            probabilities[part].mean(), abs=0.04
        )


def test_scores_of_0_and_1_have_probabilities():
    found, scores = np.array([[1, 0], [np.nan] * 2]), np.array([[0, 0.5], [1, 0.5]])
    low, high = calibration.probabilities(found, scores)
    assert [low[0], high[0]] == pytest.approx([1e-6, 1 - 1e-6], rel=1e-9)
    assert np.isnan([low[1], high[1]]).all()
    # A class without errors has a finite solution.
    labels = np.repeat([1.0, 0.0], 10)
    assert 0 < calibration.calibrate(labels, labels, 10)[0] < 10


@pytest.mark.parametrize("num_positives", [0, 9, 11, 20])
def test_too_few_clips_with_or_without_the_class(num_positives):
    labels = (np.arange(20) < num_positives).astype(np.float32)
    assert np.isnan(calibration.calibrate(labels, labels, 10)).all()


def test_each_class_of_the_checkpoint_needs_a_row(tmp_path):
    path = tmp_path / "c.csv"
    path.write_text("slope,class,intercept\n,Rare,\n0.5,Owl,-2e-9\n")
    found = calibration.read_calibrations(str(path), "--calibration")
    values = np.array(ordered(found, ["Owl", "Rare"], "--calibration", "row"))
    np.testing.assert_array_equal(values, [[0.5, -2e-9], [np.nan, np.nan]])
    with pytest.raises(UserError, match="--calibration: no row for 1 class.*Wren"):
        ordered(found, ["Owl", "Wren", "Rare"], "--calibration", "row")
    with pytest.raises(UserError, match="--calibration: 1 class .*Rare"):
        ordered(found, ["Owl"], "--calibration", "row")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("class,threshold\nA,0.5\n", 1),
        ("class,slope,intercept\nA,1\n", 2),
        ("class,slope,intercept\nA,1,\n", 2),
        ("class,slope,intercept\nA,steep,0\n", 2),
        ("class,slope,intercept\nA,nan,0\n", 2),
        ("class,slope,intercept\nA,1,inf\n", 2),
        ("slope,intercept,class\n1,2,A\n1\n", 3),
        ("class,slope,intercept\nA,1,0\nA,1,0\n", 3),
    ],
)
def test_wrong_calibrations_are_named(tmp_path, text, line):
    path = tmp_path / "c.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=f"^{path}:{line}: .*$"):
        calibration.read_calibrations(str(path), "--calibration")


def test_the_report_writes_a_calibration(tmp_path, capsys):
    labels, scores, _ = write_evaluation(tmp_path / "eval", 1)
    evaluation = diagnosis.read_evaluation(str(tmp_path / "eval"))
    path = tmp_path / "new" / "c.csv"
    report.write_calibrations(str(path), evaluation)
    out, err = capsys.readouterr()
    assert out == f"{path} written: 3 classes\n"
    assert "1 class with fewer than 10 clips, or fewer than 10 others, such as" in err
    found = calibration.read_calibrations(str(path), "")
    assert list(found) == CLASS_NAMES
    expected = calibration.calibrate(labels[:, 0], scores[:, 0], 10)
    assert found["Bark"].tolist() == expected.tolist()
    assert np.isnan(found["Unused"]).all()
    rows = list(csv.reader(path.open()))
    assert rows[0] == ["class", "slope", "intercept", "clips", "positives"]
    assert rows[1][3:] == ["40", str(int(labels[:, 0].sum()))]
    assert rows[-1] == ["Unused", "", "", "40", "0"]
    own = evaluation._replace(fingerprint=0x0A1B2C3D)
    report.write_calibrations(str(path), own)
    found = calibration.read_calibrations(str(path), "--calibration")
    assert found.checkpoints == {"model.ckpt-20 0a1b2c3d"}
    capsys.readouterr()
    found.report_other_checkpoint("model.ckpt-9 0a1b2c3d")
    assert capsys.readouterr().err == ""
    found.report_other_checkpoint("model.ckpt-20 00000000")
    assert f"warning: --calibration: {path} is for model.ckpt-20 0a1b2c3d, not for" in (
        capsys.readouterr().err
    )


def test_a_calibration_of_no_class_is_not_written(tmp_path):
    write_evaluation(tmp_path / "eval", 1)
    evaluation = diagnosis.read_evaluation(str(tmp_path / "eval"))
    few = evaluation._replace(
        labels=evaluation.labels[:9], scores=evaluation.scores[:9]
    )
    with pytest.raises(UserError, match="--calibration: no class has 10 clips"):
        report.write_calibrations(str(tmp_path / "c.csv"), few)
    assert not (tmp_path / "c.csv").exists()


CALIBRATIONS = np.array([[1, 0], [np.nan, np.nan], [2, -1]])


def test_probabilities_are_printed_and_written(tmp_path, monkeypatch, capsys):
    def fake_tag(path, *arguments, **options):
        if path == "bad":
            raise UserError("bad: cannot be read")
        scores = np.array([[0.1, 0.2, 0.5], [0.3, 0.2, 0.9]])
        return segments.Tags(1.0, scores, None, None)

    monkeypatch.setattr(results, "tag", fake_tag)
    tagger = scoring.Tagger(["A", "B", "C"], Hparams(), None, CALIBRATIONS)
    sounds = [decoding.Sound(name, name) for name in ("a", "bad")]
    outputs = Outputs(files=str(tmp_path / "f.csv"))
    rule = results.Rule(np.array([0.2, 0.7, 0.7]))
    assert results.tag_files(sounds, tagger, outputs, rule=rule, top=3) == 1
    assert capsys.readouterr().out.splitlines()[1:] == [
        f"* 0.7000  p={scipy.special.expit(2 * np.log(0.7 / 0.3) - 1):.2f}  C",
        "* 0.2000  p=0.20  A",
        "  0.2000  p=-     B",
    ]
    header, row, failed = csv.reader((tmp_path / "f.csv").open())
    assert header[4:] == ["p(A)", "p(B)", "p(C)"]
    assert row[4:] == ["0.2000", "", "0.6670"]
    assert failed[4:] == ["", "", ""]
