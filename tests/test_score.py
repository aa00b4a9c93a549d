"""Scoring predictions: the metric, rows and classes that do not fit, the result."""

import csv
import json
import os
import pathlib

import numpy as np
import pytest
from helpers import ROOT, run_main

from tagger.errors import UserError
from tagger.metrics.lwlrap import Lwlrap
from tagger.runs.eval_folder import EvalFolder
from tagger.runs.run import Run
from tools import score as score_lib
from tools.report import diagnosis

LABELS = """fname,labels,usage
a.wav,Bark,Public
b.wav,"Moo,Bark",Public
c.wav,Meow,Private
"""
SCORES = """fname,Bark,Meow,Moo
c.wav,.1,.7,.2
a.wav,.9,.1,.3
b.wav,.5,.8,.5
"""


@pytest.fixture
def score(tmp_path):
    """Scores texts of CSVs, by default SCORES against LABELS."""

    def run(scores=SCORES, labels=LABELS, **options) -> Lwlrap:
        for name, text in (("scores.csv", scores), ("labels.csv", labels)):
            (tmp_path / name).write_text(text)
        return score_lib.score(
            str(tmp_path / "scores.csv"),
            str(tmp_path / "labels.csv"),
            **dict(where="", class_map_path="", out="") | options,
        )

    return run


def expected_lwlrap(labels: np.ndarray, scores: np.ndarray) -> float:
    """The definition of the metric: among equal scores, the last class ranks first."""
    precisions = []
    for truth, row in zip(labels, scores, strict=True):
        ranking = sorted(range(len(row)), key=lambda c: (row[c], c), reverse=True)
        for rank, index in enumerate(ranking, start=1):
            if truth[index]:
                precisions.append(truth[ranking[:rank]].sum() / rank)
    return np.mean(precisions)


@pytest.mark.parametrize("digits", [1, 17])
def test_lwlrap_agrees_with_its_definition(score, capsys, digits):
    rng = np.random.default_rng(digits)
    names = [f"C{index:02d}" for index in range(20)]
    labels = rng.random([300, 20]) < 0.1
    labels[np.arange(300), rng.integers(20, size=300)] = True
    scores = rng.random([300, 20]).round(digits)
    label_rows, score_rows = ["fname,labels"], [f"fname,{','.join(names)}"]
    for clip, (truth, row) in enumerate(zip(labels, scores)):
        found = ",".join(np.array(names)[truth])
        label_rows.append(f'{clip}.wav,"{found}"')
        score_rows.insert(1, f"{clip}.wav,{','.join(map(repr, row.tolist()))}")
    lwlrap = score("\n".join(score_rows), "\n".join(label_rows))
    assert lwlrap.overall_lwlrap() == pytest.approx(
        expected_lwlrap(labels, scores), abs=1e-12
    )
    ties = sum(len(set(row)) < 20 for row in scores.tolist())
    assert f"300 clips, 20 classes; {ties} clips with equal" in capsys.readouterr().err
    assert (ties == 0) == (digits == 17)


def test_where_selects_clips(score):
    # Of the equal scores of b, Moo ranks before Bark.
    assert score().overall_lwlrap() == pytest.approx((1 + 1 / 2 + 2 / 3 + 1) / 4)
    public = score(where="usage=Public")
    assert public.overall_lwlrap() == pytest.approx((1 + 1 / 2 + 2 / 3) / 3)
    assert public.total_num_samples == 2
    without_private = SCORES.replace("c.wav,.1,.7,.2\n", "")
    assert str(score(without_private, where="usage=Public")) == str(public)


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("use=Public", r"COLUMN=VALUE.*\(fname,labels,usage\)"),
        ("usage", "no row"),
        ("usage=public", "no row .*; there are Private,Public$"),
    ],
)
def test_where_without_rows_is_an_error(score, where, message):
    with pytest.raises(UserError, match=f"--where.*{message}"):
        score(where=where)


def test_many_values_are_cut_in_messages(score):
    labels = "fname,labels\n" + "".join(f"{n:04}.wav,Bark\n" for n in range(1000))
    with pytest.raises(UserError, match=r"0000.wav,.*\.\.\. \(1000 values\)$"):
        score(labels=labels, where="fname=a")


def test_the_class_map_decides_the_order(score, tmp_path):
    class_map = tmp_path / "map.csv"
    class_map.write_text("0,Moo\n1,Meow\n2,Bark\n")
    # Of the equal scores of b, Bark ranks before Moo.
    lwlrap = score(class_map_path=str(class_map))
    assert lwlrap.per_class_lwlrap() == pytest.approx([2 / 3, 1, 3 / 4])


def test_all_problems_are_counted(score, tmp_path):
    scores = """fname,Bark,Meow,Bark,Dog
a.wav,0,hello,0,1
a.wav,0,1,0,nan
b.wav,0,1,0
x.wav,0,1,0,
y.wav,0,1,0,1
"""
    class_map = tmp_path / "map.csv"
    class_map.write_text("0,Bark\n1,Meow\n2,Moo\n")
    with pytest.raises(UserError) as error:
        score(scores, class_map_path=str(class_map))
    path = tmp_path / "scores.csv"
    assert error.value.problems == [
        f"{path}: 1 class without a column, e.g. Moo",
        f"{path}: 1 column of unknown classes, e.g. Dog",
        f"{path}: 1 column with an earlier name, e.g. Bark",
        f"{path}: 1 row without exactly 5 fields, e.g. line 4",
        f"{path}: 1 clip without a row (see --where), e.g. c.wav",
        f"{path}: 2 rows of unknown clips, e.g. x.wav",
        f"{path}: 1 row of a clip with an earlier row, e.g. a.wav",
        f"{path}: 3 cells without a finite number, e.g. 'hello' for Meow in line 2",
    ]


@pytest.mark.parametrize("text", ["", "fname\na.wav\n", "clip,Bark\na.wav,1\n"])
def test_a_csv_without_scores_is_an_error(score, text):
    with pytest.raises(UserError, match="expected a header fname,CLASS"):
        score(text)


def test_a_long_header_is_cut_in_messages(score):
    names = [f"Class_{index}" for index in range(80)]
    with pytest.raises(UserError, match=r"Class_7,.*\.\.\. \(81 columns\)$") as error:
        score(labels=",".join(["fname", *names]) + "\n")
    assert len(str(error.value)) < 300


def test_a_label_without_scores_is_an_error(score):
    with pytest.raises(UserError, match="label Purr of a.wav is not in the classes"):
        score(labels="fname,labels\na.wav,Purr\n", scores="fname,Bark\na.wav,1\n")


def test_a_class_without_labels_is_noted(score, capsys):
    assert "Lwlrap(Meow) = 0.000000" in str(score(where="usage=Public"))
    assert "label Meow;" in capsys.readouterr().err


def test_the_result_is_that_of_an_evaluation(dataset, trained, tmp_path):
    """With the predictions of inference, whose clips have another order."""
    checkpoint, predictions = trained / "model.ckpt-5", tmp_path / "predictions.csv"
    assert run_main(dataset.inference_flags(checkpoint, predictions)) == 0
    assert run_main(dataset.eval_flags(trained, tmp_path / "eval")) == 0
    out = tmp_path / "out"
    for _ in range(2):  # The second result replaces the first.
        score_lib.score(
            str(predictions),
            str(dataset.csv_path),
            where="",
            class_map_path=str(dataset.class_map_path),
            out=str(out),
        )
    evaluated = (tmp_path / "eval" / "eval-5.txt").read_text()
    assert (out / "eval-0.txt").read_text() == evaluated
    assert EvalFolder(out).best()[0] == 0
    found = diagnosis.read_evaluation(str(out))
    assert found.clips == [f"{number:02d}.wav" for number in range(12)]
    assert found.class_names == ["Noise", "Tone"]
    with open(predictions, newline="") as file:
        _, *rows = csv.reader(file)
    np.testing.assert_array_equal(found.scores, [list(map(float, r[1:])) for r in rows])


def test_a_folder_with_results_of_an_evaluation_is_an_error(score, tmp_path):
    (tmp_path / "eval-7.txt").write_text("Overall lwlrap = 0.500000\n")
    with pytest.raises(UserError, match="has results of a run"):
        score(out=str(tmp_path))
    (tmp_path / "eval-7.txt").unlink()
    EvalFolder(tmp_path, tmp_path / "run").check({"run": "abc"}, write=True)
    with pytest.raises(UserError, match="has results of a run"):
        score(out=str(tmp_path))
    assert not (tmp_path / "eval-0.txt").exists()


def test_a_result_of_predictions_is_not_adopted_by_an_evaluation(
    dataset, trained, tmp_path, capsys, score
):
    score(out=str(tmp_path))
    contents = json.loads((tmp_path / "evaluated.json").read_text())
    assert contents == {"run": "none", "scores_of": [str(tmp_path / "scores.csv")]}
    assert run_main(dataset.eval_flags(trained, tmp_path)) == 1
    assert "--eval_dir" in capsys.readouterr().err
    with pytest.raises(UserError, match="no results of single checkpoints"):
        Run.find(f"best:{tmp_path}", "--checkpoint")


def test_a_report_needs_scores_from_0_to_1(score, tmp_path):
    logits = SCORES.replace(".9", "-3.5")
    assert score(logits)
    with pytest.raises(UserError, match="--out .*from -3.5 to 0.8"):
        score(logits, out=str(tmp_path / "out"))


@pytest.mark.skipif("TAGGER_FSDKAGGLE2019_DIR" not in os.environ, reason="no such data")
def test_a_published_submission():
    folder = pathlib.Path(os.environ["TAGGER_FSDKAGGLE2019_DIR"])
    paths = [
        str(folder / name)
        for name in ("submission_v3.csv", "test_post_competition.csv")
    ]
    options = dict(class_map_path=str(ROOT / "class_map.csv"), out="")
    lwlrap = score_lib.score(*paths, where="usage=Public", **options)
    assert lwlrap.overall_lwlrap() == pytest.approx(0.566204417, abs=1e-9)
    with pytest.raises(UserError, match="3361 clips without a row"):
        score_lib.score(*paths, where="", **options)
