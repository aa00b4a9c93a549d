"""Scoring detections by events."""

import csv
import math

import numpy as np
import pytest
import soundfile

from recordings.annotations import Event
from recordings.events import (
    ALL_CLASSES,
    EventScores,
    Result,
    format_scores,
    match,
    score_events,
)
from tagger.errors import UserError
from tools import score_detections


def draw_events(rng: np.random.Generator, number: int) -> list[Event]:
    starts, lengths = rng.uniform(0, 60, number), rng.uniform(0.05, 4, number)
    labels = rng.choice(["Bell", "Dog", "Rain"], number)
    return [
        Event(float(s), float(s + n), str(label))
        for s, n, label in zip(starts, lengths, labels)
    ]


@pytest.mark.parametrize("seed", range(5))
def test_matches_agree_with_the_rule_for_all_pairs(seed):
    rng = np.random.default_rng(seed)
    events, detections = draw_events(rng, 40), draw_events(rng, 60)
    right, found = set(), set()
    for start, end, label in detections:
        for event in events:
            shared = min(end, event.end) - max(start, event.start)
            enough = min(0.25, (event.end - event.start) / 2)
            if event.label == label and shared >= enough:
                right.add((start, end, label))
                found.add(event)
    assert 0 < len(right) < 60
    assert match(events, detections) == (found, right)


@pytest.mark.parametrize(
    ("start", "end", "is_right"),
    [
        *((0, 1.25, True), (0, 1.2, False), (3.75, 7, True), (2, 2.1, False)),
        *((7, 8.05, True), (7, 8.0, False)),  # The second event is short.
    ],
)
def test_a_quarter_of_a_second_or_half_of_an_event_is_enough(start, end, is_right):
    events = [Event(1, 4, "Dog"), Event(8, 8.1, "Dog")]
    found, right = match(events, [Event(start, end, "Dog")])
    assert (len(found), len(right)) == (is_right, is_right)


def test_precision_counts_detections_and_recall_counts_events():
    events = [Event(0, 4, "Dog"), Event(5, 6, "Dog"), Event(8, 9, "Dog")]
    detections = [
        *(Event(0, 1, "Dog"), Event(2, 3, "Dog")),  # two of one event
        *(Event(5, 9, "Dog"), Event(20, 21, "Dog")),  # one of two events; false
    ]
    scores = score_events([Result(events, detections, 1800)])
    assert scores == {
        "Dog": EventScores(3, 3, 4, 3, 1800),
        ALL_CLASSES: EventScores(3, 3, 4, 3, 1800),
    }
    assert scores["Dog"].precision == 3 / 4
    assert scores["Dog"].recall == 1
    assert scores["Dog"].f1 == pytest.approx(6 / 7)
    assert scores["Dog"].false_alarms_per_hour == 2


@pytest.mark.parametrize(
    ("events", "detections", "values"),
    [
        ([Event(0, 1, "Dog")], [], (math.nan, 0, 0)),
        ([], [Event(0, 1, "Dog")], (0, math.nan, math.nan)),
        ([Event(0, 1, "Dog")], [Event(5, 6, "Dog")], (0, 0, 0)),
    ],
)
def test_values_without_events_or_detections(events, detections, values):
    scores = score_events([Result(events, detections, 60)])["Dog"]
    found = (scores.precision, scores.recall, scores.f1)
    np.testing.assert_array_equal(found, values)


def test_counts_agree_with_sed_eval():
    """Where no detection is of two events, and none shares only a part of one.

    Computed by sed_eval 0.2.1: EventBasedMetrics(t_collar=.2, percentage_of_length=.5).
    """
    events = [
        *(Event(1, 3, "Dog"), Event(2, 2.4, "Bell"), Event(5, 9, "Dog")),
        *(Event(8, 8.3, "Bell"), Event(12, 14, "Rain"), Event(20, 21, "Dog")),
    ]
    detections = [
        *(Event(1.1, 2.9, "Dog"), Event(2.05, 2.4, "Bell"), Event(5, 9.1, "Dog")),
        *(Event(8, 8.3, "Rain"), Event(12, 14, "Bell"), Event(16, 17, "Dog")),
        *(Event(30, 31, "Bell"), Event(20, 20.9, "Dog")),
    ]
    scores = score_events([Result(events, detections, 60)])
    sed_eval = {"Bell": (2, 3, 1), "Dog": (3, 4, 3), "Rain": (1, 1, 0)}
    for label, (num_reference, num_system, num_true) in sed_eval.items():
        found = scores[label]
        assert (found.num_events, found.num_detections) == (num_reference, num_system)
        assert found.num_found == found.num_right == num_true
    assert [scores[label].f1 for label in sed_eval] == pytest.approx([0.4, 6 / 7, 0])
    assert scores[ALL_CLASSES].f1 == pytest.approx(0.5714285714285715)


@pytest.fixture
def field(tmp_path):
    """Two annotated recordings of a minute, and one that is not annotated."""
    folder = tmp_path / "field"
    folder.mkdir()
    for name in ("a", "b", "other"):
        soundfile.write(folder / f"{name}.flac", np.zeros(60 * 8000), 8000)
    (folder / "a.txt").write_text("1\t2\tDog\n5\t6\tBell\n")
    (folder / "b.txt").write_text("1\t2\tDog\n")
    return folder


def write_detections(field, *rows) -> str:
    path = field.parent / "detections.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([("file", "start", "end", "class", "score"), *rows])
    return str(path)


@pytest.mark.parametrize("named", [True, False])
def test_the_table(field, named, capsys):
    """A recording without detections counts, and one without annotations does not."""
    path = write_detections(
        field,
        *((field / "a.flac", 1.5, 3, "Dog", 0.9), (field / "a.flac", 8, 9, "Cat", 0.9)),
        (field / "other.flac", 8, 9, "Dog", 0.9),
    )
    recordings = [str(field)] if named else []
    results = score_detections.read_results(path, recordings, str(field))
    assert "1 recording with detections ignored" in capsys.readouterr().err
    table = format_scores(score_events(results))
    header, *lines = table.splitlines()
    assert header.split()[:3] == ["class", "events", "detections"]
    assert [line.split() for line in lines] == [
        ["Bell", "1", "0", "-", "0.000", "0.000", "0.0"],
        ["Cat", "0", "1", "0.000", "-", "-", "30.0"],
        ["Dog", "2", "1", "1.000", "0.500", "0.667", "0.0"],
        ["all", "classes", "3", "2", "0.500", "0.333", "0.400", "30.0"],
    ]


def test_no_detections_at_all(field):
    results = score_detections.read_results(write_detections(field), [], str(field))
    assert score_events(results)[ALL_CLASSES] == (3, 0, 0, 0, 120)


def test_recordings_that_are_not_beside_the_annotations(field, tmp_path):
    path = write_detections(field)
    labels = tmp_path / "labels" / "labels.csv"
    labels.parent.mkdir()
    labels.write_text("file,start,end,label\na.flac,1,2,Dog\n")
    with pytest.raises(UserError, match=f"no recordings in {labels.parent}"):
        score_detections.read_results(path, [], str(labels))
    (result,) = score_detections.read_results(path, [str(field)], str(labels))
    assert result == ([(1, 2, "Dog")], [], 60)


def test_detections_of_an_unknown_recording(field):
    path = write_detections(field, ("none.flac", 1, 2, "Dog", 0.9))
    with pytest.raises(UserError, match="none.flac fits no recording"):
        score_detections.read_results(path, [], str(field))


def test_detections_of_many_unknown_recordings_are_one_line(field):
    rows = [(f"{index // 2}.flac", 1, 2, "Dog", 0.9) for index in range(20)]
    path = write_detections(field, *rows)
    with pytest.raises(UserError) as error:
        score_detections.read_results(path, [], str(field))
    (problem,) = error.value.problems
    assert problem.endswith("10 names fit no recording, such as 0.flac, 1.flac, 2.flac")


def test_a_recording_of_unknown_length(field, monkeypatch):
    monkeypatch.setattr(score_detections, "read_duration", lambda path: math.inf)
    with pytest.raises(UserError, match="a.flac: its header has no length"):
        score_detections.read_results(write_detections(field), [], str(field))
