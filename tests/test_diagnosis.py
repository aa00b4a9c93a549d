"""What an evaluation says about its classes: values, pairs, comparison."""

import pickle
import zipfile

import numpy as np
import pytest
from helpers import CLASS_NAMES, write_evaluation
from sklearn.metrics import average_precision_score, f1_score

from tagger.errors import UserError
from tagger.runs import eval_folder
from tools.report import diagnosis


def test_the_values_of_a_class(tmp_path):
    labels, scores, lwlrap = write_evaluation(tmp_path / "eval", 1)
    found = diagnosis.class_results(diagnosis.read_evaluation(str(tmp_path / "eval")))
    for index in range(3):
        result = found[index]
        truth, score = labels[:, index], scores[:, index]
        assert result.name == CLASS_NAMES[index]
        assert result.num_clips == truth.sum()
        assert result.lwlrap == pytest.approx(lwlrap.per_class_lwlrap()[index])
        expected = average_precision_score(truth, score)
        assert result.average_precision == pytest.approx(expected)
        by_threshold = {t: f1_score(truth, score >= t) for t in score}
        assert result.f1 == pytest.approx(max(by_threshold.values()))
        assert by_threshold[result.threshold] == pytest.approx(result.f1)
    assert found[3].num_clips == 0
    assert np.isnan(found[3].average_precision)


def test_false_alarms_on_background(tmp_path):
    labels = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 0], [0, 0, 0]], np.float32)
    scores = np.array([[0.6, 0.1, 0], [0.1, 0.5, 0], [0.7, 0.4, 1], [0.2, 0.5, 1]])
    evaluation = diagnosis.Evaluation(0, ["A", "B", "C"], [], labels, scores, labels)
    found = diagnosis.class_results(evaluation)
    assert [row.threshold for row in found[:2]] == [0.6, 0.5]
    assert [row.false_alarms for row in found[:2]] == [0.5, 0.5]
    assert np.isnan(found[2].false_alarms)
    assert diagnosis.macro_means(found)["false_alarms"] == 0.5
    evaluation = diagnosis.Evaluation(
        0, ["A", "B", "C"], [], labels[:2], scores[:2], labels[:2]
    )
    assert np.isnan(diagnosis.class_results(evaluation)[0].false_alarms)


def test_macro_means(tmp_path):
    """The class without clips does not count."""
    labels, scores, lwlrap = write_evaluation(tmp_path / "eval", 1)
    found = diagnosis.class_results(diagnosis.read_evaluation(str(tmp_path / "eval")))
    means = diagnosis.macro_means(found)
    assert means["lwlrap"] == pytest.approx(lwlrap.per_class_lwlrap()[:3].mean())
    expected = average_precision_score(labels[:, :3], scores[:, :3], average="macro")
    assert means["average_precision"] == pytest.approx(expected)
    assert "threshold" not in means


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"labels": None}, "read: 'labels"),
        ({"labels": np.array([{}])}, "read: .*pickle"),
        ({"labels": np.zeros(80)}, r"labels has type float64 and shape \[80\]"),
        ({"labels": np.full([40, 4], 0.5)}, "labels has values"),
        ({"labels": np.zeros([40, 4], complex)}, "labels has type complex"),
        ({"scores": np.zeros([40, 5])}, r"scores has shape \[40, 5\].* 4 classes"),
        ({"scores": np.full([40, 4], np.nan)}, "scores has values"),
        ({"scores": np.full([40, 4], 1.5)}, "scores has values"),
        ({"step": np.array([1, 2])}, r"step has type int64 and shape \[2\]"),
        ({"step": np.array("x")}, "step has type <U1"),
        ({"step": np.array(1e300)}, "step has type float64"),
        ({"fingerprint": np.array("x")}, "fingerprint has type <U1"),
        ({"class_names": np.arange(4)}, "class_names has type int64"),
        ({"class_names": np.array(list("abc"))}, "40 clips and 3 classes"),
        ({"clips": np.array(["a.wav"] * 39)}, "39 clips and 4 classes"),
        ({"clips": np.array(["../secret.wav"] * 40)}, "'../secret.wav' is not"),
        ({"clips": np.array(["/etc/passwd"] * 40)}, "'/etc/passwd' is not"),
    ],
)
def test_foreign_arrays_are_one_line(tmp_path, arrays, message):
    write_evaluation(tmp_path / "eval", 1)
    path = tmp_path / "eval" / eval_folder.SCORES_FILE
    stored = dict(np.load(path)) | arrays
    stored = {name: array for name, array in stored.items() if array is not None}
    np.savez(path, **stored)
    with pytest.raises(UserError, match=f"^{path} cannot be .*{message}"):
        diagnosis.read_evaluation(str(tmp_path / "eval"))


def npy(header: str) -> bytes:
    """The contents of an NPY file without values."""
    text = header.ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


@pytest.mark.parametrize(
    "member",
    [
        b"",
        b"no array",
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (10**30,)}"),
        npy(f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({10**13},)}}"),
        npy(f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({10**30},)}}"),
        npy("[" * 100),
    ],
)
def test_foreign_contents_are_one_line(tmp_path, member):
    write_evaluation(tmp_path / "eval", 1)
    path = tmp_path / "eval" / eval_folder.SCORES_FILE
    with zipfile.ZipFile(path) as file:
        members = {name: file.read(name) for name in file.namelist()}
    with zipfile.ZipFile(path, "w") as file:
        for name, contents in (members | {"labels.npy": member}).items():
            file.writestr(name, contents)
    with pytest.raises(UserError, match=f"^{path} cannot be "):
        diagnosis.read_evaluation(str(tmp_path / "eval"))


@pytest.mark.parametrize("contents", [b"", b"text", pickle.dumps([1]), npy("{}")])
def test_foreign_files_are_one_line(tmp_path, contents):
    path = tmp_path / eval_folder.SCORES_FILE
    path.write_bytes(contents)
    with pytest.raises(UserError, match=f"^{path} cannot be read: "):
        diagnosis.read_evaluation(str(tmp_path))


def test_curves_have_thresholds():
    labels = np.array([[1], [0], [1], [0]], np.float32)
    scores = np.array([[0.9], [0.81234], [0.7], [0.1]])
    evaluation = diagnosis.Evaluation(0, ["A"], [], labels, scores, labels)
    (curve,) = diagnosis.class_curves(evaluation)
    assert curve["thresholds"] == [0.1, 0.7, 0.812, 0.9]
    assert curve["precision"] == [0.5, 0.6667, 0.5, 1]
    assert curve["recall"] == [1, 1, 0.5, 0.5]
    assert curve["best"] == 1  # F1: 2/3, 4/5, 1/2, 2/3
    assert curve["clips"] == 2


def test_the_curve_of_few_clips_among_many():
    """Each of the five clips is a point of the curve."""
    labels, scores = np.zeros([2, 5000, 1])
    labels[:5] = 1
    scores[:, 0] = np.linspace(1, 0, 5000)
    evaluation = diagnosis.Evaluation(0, ["A"], [], labels, scores, labels)
    (curve,) = diagnosis.class_curves(evaluation)
    assert curve["recall"] == [1, 1, 0.8, 0.6, 0.4, 0.2]
    assert curve["precision"] == [5 / 5000, 1, 1, 1, 1, 1]
    assert curve["best"] == 1


def test_a_long_curve_has_the_best_point(tmp_path):
    write_evaluation(tmp_path / "eval", 1, num_clips=4000)
    evaluation = diagnosis.read_evaluation(str(tmp_path / "eval"))
    found = diagnosis.class_results(evaluation)
    for result, curve in zip(found, diagnosis.class_curves(evaluation)):
        best = curve["best"]
        assert 90 < len(curve["recall"]) <= diagnosis.CURVE_POINTS + 1
        assert curve["thresholds"][best] == pytest.approx(result.threshold, rel=0.005)
        assert curve["recall"][best] == pytest.approx(result.recall, abs=1e-4)
        assert curve["precision"][best] == pytest.approx(result.precision, abs=1e-4)


def test_confused_pairs():
    labels = np.array([[1, 0, 0], [1, 0, 0], [0, 1, 1]], np.float32)
    scores = np.array([[0.5, 0.9, 0.1], [0.5, 0.6, 0.7], [0.1, 0.2, 0.3]])
    evaluation = diagnosis.Evaluation(1, ["A", "B", "C"], [], labels, scores, labels)
    assert diagnosis.confused_pairs(evaluation) == [
        ("A", "B", 2, 1.0),
        ("A", "C", 1, 0.5),
    ]


def test_two_evaluations_are_compared(tmp_path):
    *_, first = write_evaluation(tmp_path / "a", 1)
    *_, second = write_evaluation(tmp_path / "b", 2)
    differences = diagnosis.compare(
        *(diagnosis.read_evaluation(str(tmp_path / name)) for name in "ab")
    )
    names = [row.name for row in differences]
    assert names == [diagnosis.ALL_CLASSES, *CLASS_NAMES[:3]]
    assert [row.num_clips for row in differences] == [40, 19, 13, 13]
    for values, lwlrap in (("first", first), ("second", second)):
        found = [getattr(row, values) for row in differences]
        expected = [lwlrap.overall_lwlrap(), *lwlrap.per_class_lwlrap()[:3]]
        assert found == pytest.approx(expected)
    for row in differences:
        assert row.difference == pytest.approx(row.first - row.second)
        assert row.low <= row.difference <= row.high
    write_evaluation(tmp_path / "c", 1, num_clips=39)
    first, third = (diagnosis.read_evaluation(str(tmp_path / name)) for name in "ac")
    other_labels = first._replace(labels=1 - first.labels)
    other_classes = first._replace(class_names=first.class_names[::-1])
    for other, named in (
        (third, "39 clips"),
        (other_labels, "labels"),
        (other_classes, "classes"),
    ):
        with pytest.raises(UserError, match=named):
            diagnosis.compare(first, other)


def test_missing_results_are_named(tmp_path):
    with pytest.raises(UserError, match="scores-best.npz"):
        diagnosis.read_evaluation(str(tmp_path))
    write_evaluation(tmp_path / "eval", 1)
    path = tmp_path / "eval" / eval_folder.SCORES_FILE
    whole = path.read_bytes()
    for damaged in (
        b"",
        b"x",
        whole[: len(whole) // 2],
        whole.replace(b"\0" * 9, b"?"),
    ):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=f"{path} cannot be read"):
            diagnosis.read_evaluation(str(tmp_path / "eval"))


def test_the_interval_of_a_bootstrap():
    """For equal numbers of labels, it is that of the mean of a normal sample."""
    num_clips = 2000
    gains = np.random.default_rng(1).uniform(0, 1, [num_clips, 1])
    labels = np.ones([num_clips, 1], np.float32)
    names = [str(number) for number in range(num_clips)]
    first, second = (
        diagnosis.Evaluation(0, ["A"], names, labels, labels, precisions)
        for precisions in (gains, np.zeros_like(gains))
    )
    row = diagnosis.compare(first, second)[1]
    half = 1.96 * gains.std() / np.sqrt(num_clips)
    assert row.low == pytest.approx(gains.mean() - half, abs=half / 10)
    assert row.high == pytest.approx(gains.mean() + half, abs=half / 10)
