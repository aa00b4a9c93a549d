"""Scores detections by the annotated events that they find.

A detection is right if an event of its class is heard in it (`annotations.is_heard`),
which is then found. So precision counts detections, and recall counts events.
"""

import collections
import math
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from recordings.annotations import Event, is_heard

ALL_CLASSES = "all classes"
HEADER = "events  detections  precision  recall     F1  false alarms/h"


class Result(NamedTuple):
    """The events and the detections of a recording, and its duration."""

    events: Collection[Event]
    detections: Collection[Event]
    seconds: float


class EventScores(NamedTuple):
    """How many events were found, and how many detections are right.

    Attributes:
      num_events: number of events.
      num_found: number of them that were found.
      num_detections: number of detections.
      num_right: number of them that are right.
      seconds: duration of the recordings.
    """

    num_events: int
    num_found: int
    num_detections: int
    num_right: int
    seconds: float

    @property
    def precision(self) -> float:
        """Share of the detections that are right; NaN without detections."""
        return _ratio(self.num_right, self.num_detections)

    @property
    def recall(self) -> float:
        """Share of the events that were found; NaN without events."""
        return _ratio(self.num_found, self.num_events)

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall; NaN without events."""
        if not self.num_right:
            return _ratio(0, self.num_events)
        return 2 / (1 / self.precision + 1 / self.recall)

    @property
    def false_alarms_per_hour(self) -> float:
        """Number of detections per hour that are not right."""
        return _ratio(3600 * (self.num_detections - self.num_right), self.seconds)


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.nan


def match(
    events: Iterable[Event], detections: Iterable[Event]
) -> tuple[set[Event], set[Event]]:
    """The events of a recording that were found, and the detections that are right."""
    found, right = set(), set()
    later = sorted(events, reverse=True)
    current = []  # Events that this detection, or a later one, may share time with
    for detection in sorted(detections):
        while later and later[-1].start < detection.end:
            current.append(later.pop())
        current = [event for event in current if event.end > detection.start]
        heard = {
            event
            for event in current
            if event.label == detection.label
            and is_heard(event, detection.start, detection.end)
        }
        found |= heard
        right |= {detection} if heard else set()
    return found, right


def score_events(results: Iterable[Result]) -> dict[str, EventScores]:
    """Scores each class with events or detections, by name, and last ALL_CLASSES."""
    counters, total = [collections.Counter() for _ in range(4)], 0.0
    for events, detections, seconds in results:
        found, right = match(events, detections)
        total += seconds
        for counter, items in zip(counters, (events, found, detections, right)):
            counter.update(item.label for item in items)
    return {
        label: EventScores(*(counter[label] for counter in counters), total)
        for label in sorted(counters[0] | counters[2])
    } | {ALL_CLASSES: EventScores(*(c.total() for c in counters), total)}


def format_scores(scores: Mapping[str, EventScores]) -> str:
    """A table with a line for each class. Values without a meaning are a dash."""
    width = max(map(len, scores))
    lines = [f"{'class':{width}}  {HEADER}"]
    for name, found in scores.items():
        precision, recall, f1 = (
            "-" if math.isnan(value) else f"{value:.3f}"
            for value in (found.precision, found.recall, found.f1)
        )
        lines.append(
            f"{name:{width}}  {found.num_events:6}  {found.num_detections:10}  "
            f"{precision:>9}  {recall:>6}  {f1:>5}  {found.false_alarms_per_hour:14.1f}"
        )
    return "\n".join(lines)
