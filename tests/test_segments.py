"""The parts of a recording in which a class was detected, and their files."""

import csv

import numpy as np
import pytest

from recordings import segments, tables
from recordings.thresholds import Rule
from tagger.data import csv_files
from tagger.hparams import Hparams
from tools.tag import results


def test_segments_merge_neighbouring_examples():
    scores = np.array([[0.9, 0], [0.5, 0], [0.4, 0.7], [0, 0], [0, 0], [0.6, 1]])
    tags = segments.Tags(3.2, scores, None, None)
    assert segments.find_segments(tags, ["A", "B"], Hparams(), Rule(0.5)) == [
        (0, 1.5, "A", 0.9),
        (1, 2, "B", 0.7),
        (2.5, 3.2, "A", 0.6),  # The recording ends before the example.
        (2.5, 3.2, "B", 1),
    ]
    assert (
        segments.find_segments(tags, ["A", "B"], Hparams(), Rule(1.0))[0].class_name
        == "B"
    )
    found = segments.find_segments(
        tags, ["A", "B"], Hparams(), Rule(np.array([0.6, 0.71]))
    )
    assert found == [(0, 1, "A", 0.9), (2.5, 3.2, "A", 0.6), (2.5, 3.2, "B", 1)]


def test_gaps_are_closed_and_short_segments_left_out():
    """Examples of 1 s every 0.5 s."""
    scores = np.array([[1, 1, 0, 1, 0, 0, 1, 0, 1, 0, 0, 0, 1, 1, 1]], float).T
    tags = segments.Tags(7.7, scores, None, None)

    def find(*times: float) -> list[tuple[float, float]]:
        found = segments.find_segments(tags, ["A"], Hparams(), Rule(0.5, *times))
        return [(start, end) for start, end, *_ in found]

    assert find(0.49, 0) == [(0, 1.5), (1.5, 2.5), (3, 4), (4, 5), (6, 7.7)]
    assert find(0.5, 0) == [(0, 2.5), (3, 5), (6, 7.7)]
    assert find(1, 0) == [(0, 5), (6, 7.7)]
    assert find(0, 1.5) == [(0, 1.5), (6, 7.7)]
    assert find(0, 2) == [(6, 7.7)]  # The recording ends before the example.
    assert find(0.5, 2.1) == [(0, 2.5)]
    assert find(9, 9) == []


def test_scores_are_means_over_neighbouring_examples():
    """Examples of 1 s every 0.5 s; the first and the last one are repeated."""
    scores = np.array([[0.8, 0.2, 0.2, 0, 0.9, 0, 0.6, 0.6, 0.9]]).T
    tags = segments.Tags(5, scores, None, None)

    def find(threshold: float, mean_seconds: float) -> list[tuple[float, float, float]]:
        rule = Rule(threshold, 0, 0, mean_seconds)
        found = segments.find_segments(tags, ["A"], Hparams(), rule)
        return [(start, end, pytest.approx(score)) for start, end, _, score in found]

    means = np.array([1.8, 1.2, 0.4, 1.1, 0.9, 1.5, 1.2, 2.1, 2.4]) / 3
    for mean_seconds in (1, 1.5):
        assert find(0.5, mean_seconds) == [
            *((0, 1, means[0]), (2.5, 3.5, means[5]), (3.5, 5, means[8]))
        ]
    assert find(0.85, 0.9) == find(0.85, 0) == [(2, 3, 0.9), (4, 5, 0.9)]


@pytest.mark.parametrize(("num_examples", "threshold"), [(0, 0), (0, 0.5), (3, 0.5)])
def test_no_segments(num_examples, threshold):
    tags = segments.Tags(2, np.zeros([num_examples, 1]), None, None)
    rule = Rule(threshold, 1, 1, 1)
    assert segments.find_segments(tags, ["A"], Hparams(), rule) == []


def test_a_label_track(tmp_path):
    path = tmp_path / "a.txt"
    tables.write_label_track(path, [segments.Segment(1, 2.5, "Bär", 0.987)])
    assert path.read_text() == "1.000\t2.500\tBär 0.99\n"


@pytest.mark.parametrize("letter", ["\udcff", "\n", "\r", "\t", "\x1b", "\u2028"])
def test_files_can_be_read_if_a_name_is_unprintable(tmp_path, letter):
    segment = segments.Segment(1, 2.5, f"A{letter}B", 0.987)
    tables.write_label_track(tmp_path / "a.txt", [segment])
    assert (tmp_path / "a.txt").read_text(encoding="utf-8").split("\t") == [
        *("1.000", "2.500", "A?B 0.99\n")
    ]
    row = tables.segment_row(f'f,"ü"{letter}.wav', segment._replace(class_name="A"))
    csv_files.write_csv(tmp_path / "a.csv", [tables.SEGMENT_HEADER, row])
    with (tmp_path / "a.csv").open(encoding="utf-8", newline="") as file:
        _, found = csv.reader(file)
    assert found == ['f,"ü"?.wav', "1.000", "2.500", "A", "0.987000"]


def test_embeddings_of_several_files(tmp_path):
    found = [("a\udcff", np.ones([3, 4])), ("b", np.ones([1, 4]))]
    results.write_embeddings(tmp_path / "e.npz", found, Hparams())
    arrays = np.load(tmp_path / "e.npz")
    assert arrays["files"].tolist() == ["a\udcff", "b"]  # a name that is not UTF-8
    assert arrays["file_index"].tolist() == [0, 0, 0, 1]
    assert arrays["start"].tolist() == [0, 0.5, 1, 0]
    assert arrays["embeddings"].shape == (4, 4)
