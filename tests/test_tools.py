"""The make_* tools as commands."""

import csv
import re
import wave

import numpy as np
import pytest
from conftest import ROOT, run_program

from tools import make_demo_data, make_validation_split


def run(tool: str, *arguments: object, stdin: bytes | None = None):
    return run_program(
        tool,
        *arguments,
        input=stdin,
        capture_output=True,
        timeout=60,
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('fname,labels\na,Meow\nb,"Bark,Zip"\n', b"0,Bark\n1,Meow\n2,Zip\n"),
        ("\ufefffname,aso_ids,label\r\na,/m/1,Bark\r\n\r\n", b"0,Bark\n"),
    ],
)
def test_a_class_map_is_the_labels_in_order(text, expected):
    done = run("make_class_map.py", stdin=text.encode())
    assert (done.returncode, done.stdout) == (0, expected), done.stderr


@pytest.mark.parametrize(
    "tool",
    [
        "make_class_map.py",
        "tools.make_demo_data",
        "tools.make_validation_split",
        "tools.join_predictions",
        "kaggle/pack.py",
    ],
)
def test_wrong_arguments_are_answered_with_the_usage(tool):
    done = run(tool, "--wrong")
    assert (done.returncode, done.stdout) == (2, b"")
    assert re.split(r"[/.]", tool.removesuffix(".py"))[-1] in done.stderr.decode()
    assert b"Traceback" not in done.stderr


def test_a_class_map_of_something_else_is_one_line():
    done = run("make_class_map.py", stdin=b"a,b\n1,2\n")
    assert done.returncode == 1
    assert done.stdout == b""
    assert done.stderr.startswith(b"error: stdin:1: expected a header")
    assert done.stderr.count(b"\n") == 1


def rows_of(path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file))


@pytest.fixture
def multi_label_csv(tmp_path):
    """A thousand clips of 20 classes, some with two labels, and a third column."""
    rng = np.random.default_rng(0)
    lines = ["fname,labels,license"]
    for index in range(1000):
        labels = {f"C{index % 20}"}
        if rng.random() < 0.2:
            labels.add(f"C{rng.integers(20)}")
        lines.append(f'{index:04d}.wav,"{",".join(sorted(labels))}",CC0')
    path = tmp_path / "curated.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def counts_of(rows) -> dict[str, int]:
    counts: dict[str, int] = {}
    for row in rows:
        for label in row[1].split(","):
            counts[label] = counts.get(label, 0) + 1
    return counts


def test_a_split_keeps_every_share_within_a_clip(multi_label_csv, tmp_path):
    out = tmp_path / "out"
    done = run("tools.make_validation_split", multi_label_csv, "--out_dir", out)
    assert done.returncode == 0, done.stderr
    assert done.stderr == b""
    header, *rows = rows_of(multi_label_csv)
    train, validation = (
        rows_of(out / f"curated_{part}.csv") for part in ("train", "validation")
    )
    assert train[0] == validation[0] == header
    assert sorted(train[1:] + validation[1:]) == sorted(rows)
    assert train[1:] != sorted(train[1:])
    everything, part = counts_of(rows), counts_of(validation[1:])
    for name, count in everything.items():
        assert abs(part.get(name, 0) - 0.1 * count) <= 1, name


def test_folds_cover_every_clip_once(multi_label_csv, tmp_path):
    done = run(
        "tools.make_validation_split",
        multi_label_csv,
        "--out_dir",
        tmp_path,
        "--folds",
        4,
    )
    assert done.returncode == 0, done.stderr
    _, *rows = rows_of(multi_label_csv)
    validations = []
    for fold in range(1, 5):
        train = rows_of(tmp_path / f"curated_fold{fold}_train.csv")[1:]
        validation = rows_of(tmp_path / f"curated_fold{fold}_validation.csv")[1:]
        assert sorted(train + validation) == sorted(rows)
        for name, count in counts_of(rows).items():
            assert abs(counts_of(validation)[name] - count / 4) <= 1, (fold, name)
        validations += validation
    assert sorted(validations) == sorted(rows)


def test_one_seed_gives_one_split(multi_label_csv, tmp_path):
    outputs = []
    for number, seed in enumerate((1, 1, 2)):
        out = tmp_path / str(number)
        arguments = ("--out_dir", out, "--seed", seed, "--fraction", 0.25)
        flags = map(str, (multi_label_csv, *arguments))
        assert make_validation_split.main(list(flags)) == 0
        outputs.append((out / "curated_validation.csv").read_text())
    assert outputs[0] == outputs[1] != outputs[2]


def test_several_csvs_are_split_each_by_itself(multi_label_csv, tmp_path):
    other = tmp_path / "noisy.csv"
    other.write_text(multi_label_csv.read_text())
    out = tmp_path / "out"
    done = run("tools.make_validation_split", multi_label_csv, other, "--out_dir", out)
    assert done.returncode == 0
    assert len(list(out.iterdir())) == 4


def test_shares_that_cannot_be_kept_are_told(tmp_path, capsys):
    path = tmp_path / "small.csv"
    path.write_text(
        "fname,labels\n" + "".join(f"{i}.wav,Bark\n" for i in range(30)) + "x.wav,Moo\n"
    )
    assert make_validation_split.main([str(path), "--out_dir", str(tmp_path)]) == 0
    assert "small: Moo has no clip in validation" in capsys.readouterr().err


def test_a_single_class_can_be_split(tmp_path):
    path = tmp_path / "one.csv"
    path.write_text("fname,labels\n" + "".join(f"{i}.wav,Bark\n" for i in range(30)))
    assert make_validation_split.main([str(path), "--out_dir", str(tmp_path)]) == 0
    assert len(rows_of(tmp_path / "one_validation.csv")) == 4


def test_missed_shares():
    labels = np.array([[1, 0]] * 10 + [[1, 1]] * 10)
    missed = make_validation_split.missed_shares(labels, np.arange(4), 0.2)
    np.testing.assert_allclose(missed, [0, 2])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--fraction", "1"], "--fraction must be between 0 and 1"),
        (["--folds", "1"], "--folds must be 2 or more"),
        (["--seed", "-1"], "--seed must be 0 or more"),
    ],
)
def test_wrong_arguments_of_a_split(multi_label_csv, tmp_path, arguments, message):
    done = run(
        "tools.make_validation_split",
        multi_label_csv,
        "--out_dir",
        tmp_path,
        *arguments,
    )
    assert done.returncode == 1
    assert message in done.stderr.decode()


def test_a_csv_too_small_to_split_is_one_line(tmp_path):
    path = tmp_path / "tiny.csv"
    path.write_text("fname,labels\na.wav,Bark\n")
    done = run("tools.make_validation_split", path, "--out_dir", tmp_path)
    assert done.returncode == 1
    assert b"too few to split" in done.stderr
    assert done.stderr.count(b"\n") == 1
    missing = run("tools.make_validation_split", "none.csv", "--out_dir", tmp_path)
    assert missing.returncode == 1
    assert b"there is no file none.csv" in missing.stderr


def test_the_demo_data_is_small_varied_and_repeatable(tmp_path):
    for name in ("a", "b"):
        assert make_demo_data.main([str(tmp_path / name)]) == 0
    first, second = (
        {
            p.relative_to(tmp_path / n): p.read_bytes()
            for p in (tmp_path / n).rglob("*.*")
        }
        for n in ("a", "b")
    )
    assert first == second
    assert 300_000 < sum(map(len, first.values())) < 10_000_000
    _, *rows = rows_of(tmp_path / "a" / "train_curated.csv")
    lengths = []
    for fname, _ in rows:
        with wave.open(str(tmp_path / "a" / "train_curated" / fname)) as file:
            assert file.getparams()[:3] == (1, 2, 44100)
            lengths.append(file.getnframes() / 44100)
    assert min(lengths) < 0.4
    assert max(lengths) > 1.3
    assert sum("," in labels for _, labels in rows) == 16
    classes = set(counts_of(rows))
    known = {name for _, name in rows_of(ROOT / "class_map.csv")}
    assert len(classes) == 8
    assert classes <= known
