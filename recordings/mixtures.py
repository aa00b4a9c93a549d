"""Mixes the events of recordings with other parts of their background.

Letter for shapes: S samples.
"""

import itertools
from collections.abc import Sequence

import numpy as np

from recordings.annotations import Event
from tagger.hparams import SAMPLE_RATE

# Parts of the background between events. Longer ones are divided.
PART_SECONDS = (1.5, 8.0)
PART_FADE_SECONDS = 0.1  # by which consecutive parts overlap
SOUND_FADE_SECONDS = 0.02
SOUND_SECONDS = 7.5  # from one sound to the next, on average
LEVELS_DB = (-3.0, 15.0)  # of a sound, relative to the background


def mix_events(
    clips: Sequence[tuple[np.ndarray, Sequence[Event]]], rng: np.random.Generator
) -> tuple[np.ndarray, list[Event]]:
    """Joins the backgrounds of clips in random order, and adds their events.

    Events that share time are one sound. All sounds are used about equally often.

    Args:
      clips: the waveform, float32 [S] at 44.1 kHz, and the events of each.
      rng: draws the order, the times and the levels.

    Returns:
      float32 [S], as long as the background of the clips, and its events. Both are
      empty if the clips have no events, or no background.
    """
    sounds, parts = [], []
    for waveform, events in clips:
        groups = _group_overlapping(events)
        times = [
            (group[0].start, max(event.end for event in group)) for group in groups
        ]
        sounds += [
            (_cut(waveform, *span), [_shifted(event, -span[0]) for event in group])
            for span, group in zip(times, groups)
        ]
        edges = [0.0, *itertools.chain(*times), waveform.size / SAMPLE_RATE]
        for start, end in zip(edges[::2], edges[1::2]):
            if end - start >= PART_SECONDS[0]:
                number = int(np.ceil((end - start) / PART_SECONDS[1]))
                parts += np.array_split(_cut(waveform, start, end), number)
    if not sounds or not parts:
        return np.zeros(0, np.float32), []
    mixture = _join([parts[index] for index in rng.permutation(len(parts))])
    slots = np.arange(0, mixture.size, SOUND_SECONDS * SAMPLE_RATE)
    order = itertools.cycle(rng.permutation(len(sounds)).tolist())
    mixed = []
    for slot, index in zip(slots, order):
        sound, events = sounds[index]
        if slot + sound.size > mixture.size:
            continue
        latest = min(slot + SOUND_SECONDS * SAMPLE_RATE, mixture.size) - sound.size
        start = int(rng.uniform(slot, max(slot, latest)))
        place = mixture[start : start + sound.size]
        gain = 10 ** (rng.uniform(*LEVELS_DB) / 20) * _level(place) / _level(sound)
        place += np.float32(gain) * _faded(sound, SOUND_FADE_SECONDS)
        mixed += [_shifted(event, start / SAMPLE_RATE) for event in events]
    return mixture, sorted(mixed)


def _group_overlapping(events: Sequence[Event]) -> list[list[Event]]:
    """Groups of events that share time, in order."""
    groups, end = [], -np.inf
    for event in sorted(events):
        if event.start >= end:
            groups.append([])
        groups[-1].append(event)
        end = max(end, event.end)
    return groups


def _shifted(event: Event, seconds: float) -> Event:
    return event._replace(start=event.start + seconds, end=event.end + seconds)


def _cut(waveform: np.ndarray, start: float, end: float) -> np.ndarray:
    """The samples between two times in seconds."""
    return waveform[round(start * SAMPLE_RATE) : round(end * SAMPLE_RATE)]


def _faded(waveform: np.ndarray, seconds: float) -> np.ndarray:
    """A waveform that is faded in and out, float32 [S]."""
    ramp = (np.arange(waveform.size, dtype=np.float32) + 0.5) / (seconds * SAMPLE_RATE)
    return waveform * np.minimum(1, np.minimum(ramp, ramp[::-1]))


def _join(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Joins waveforms; the end of one fades into the start of the next."""
    overlap = round(PART_FADE_SECONDS * SAMPLE_RATE)
    steps = [part.size - overlap for part in parts]
    joined = np.zeros(sum(steps) + overlap, np.float32)
    for start, part in zip(np.cumsum([0, *steps[:-1]]), parts):
        joined[start : start + part.size] += _faded(part, PART_FADE_SECONDS)
    return joined


def _level(waveform: np.ndarray) -> float:
    """The root mean square; of silence, a small number."""
    return float(np.sqrt(np.mean(np.square(waveform, dtype=np.float64)) + 1e-18))
