"""The parts of a recording in which a class was detected, and their files."""

import numpy as np

from tagger import segments
from tagger.hparams import Hparams


def test_segments_merge_neighbouring_examples():
    scores = np.array([[0.9, 0], [0.5, 0], [0.4, 0.7], [0, 0], [0, 0], [0.6, 1]])
    tags = segments.Tags(3.2, scores, None, None)
    assert segments.find_segments(tags, ["A", "B"], Hparams(), 0.5) == [
        (0, 1.5, "A", 0.9),
        (1, 2, "B", 0.7),
        (2.5, 3.2, "A", 0.6),  # The recording ends before the example.
        (2.5, 3.2, "B", 1),
    ]
    assert segments.find_segments(tags, ["A", "B"], Hparams(), 1.0)[0].class_name == "B"
    found = segments.find_segments(tags, ["A", "B"], Hparams(), np.array([0.6, 0.71]))
    assert found == [(0, 1, "A", 0.9), (2.5, 3.2, "A", 0.6), (2.5, 3.2, "B", 1)]


def test_a_label_track(tmp_path):
    path = tmp_path / "a.txt"
    segments.write_label_track(path, [segments.Segment(1, 2.5, "Bär", 0.987)])
    assert path.read_text() == "1.000\t2.500\tBär 0.99\n"
