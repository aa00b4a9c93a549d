"""Chooses the thresholds of detections by annotated events.

Letters for shapes: E examples, C classes, T thresholds.
"""

import os
import sys
from collections.abc import Mapping, Sequence

import numpy as np
import scipy.ndimage
import scipy.special
import scipy.stats

from recordings.annotations import Event
from recordings.events import (
    ALL_CLASSES,
    EventScores,
    Result,
    format_scores,
    score_events,
)
from recordings.segments import Tags, find_segments
from recordings.thresholds import Rule, order_thresholds, write_thresholds
from tagger.errors import UserError
from tagger.hparams import Hparams
from tagger.terminal.files import make_folder
from tagger.terminal.progress import print_result

# benchmarks/detector.py measures these values.
GAP_SECONDS = 0.5
MIN_SECONDS = 1.2
MEAN_SECONDS = 1.0
STEP = 0.25  # between thresholds, as logits
LOGITS = np.arange(-4, 4 + STEP, STEP)  # scores from .02 to .98
# Chance changes an F1 of some tens of events by some hundredths. So F1 is smoothed over
# neighbouring thresholds, and the highest threshold that is nearly as good as the best
# one is chosen, which has fewer false alarms.
WIDTH, CLASS_WIDTH = 0.35, 0.5  # of the smoothing, as logits
TOLERANCE = 0.02
# A class with this many events has a threshold halfway between its own best one and
# that of all classes.
HALFWAY_EVENTS = 30
MIN_EVENTS = 10  # of all classes together
PRIOR = 0.5  # right, and as many wrong detections, that Jeffreys's prior adds
# That a precision is at least the wanted one. Of many thresholds, the lowest with the
# wanted precision often has it by chance. With 0.8, the precision on held-out clips of
# FSDKaggle2019 was the wanted one. With 0.5, it was 0.2 lower.
CONFIDENCE = 0.8


def confident_precision(right: np.ndarray, count: np.ndarray) -> np.ndarray:
    """The precision that is exceeded with CONFIDENCE, by Jeffreys's prior.

    Args:
      right: number of right detections.
      count: number of detections.
    """
    return scipy.stats.beta.ppf(1 - CONFIDENCE, right + PRIOR, count - right + PRIOR)


def detect(
    tags: Tags, class_names: Sequence[str], hparams: Hparams, rule: Rule
) -> list[Event]:
    """The detections of a recording; see `find_segments`."""
    found = find_segments(tags, class_names, hparams, rule)
    return [Event(start, end, class_name) for start, end, class_name, _ in found]


def score_rule(
    scored: Sequence[tuple[Tags, Sequence[Event]]],
    class_names: Sequence[str],
    hparams: Hparams,
    rule: Rule,
) -> dict[str, EventScores]:
    """The scores of each class, see `score_events`, if a rule applies to recordings."""
    return score_events(
        Result(events, detect(tags, class_names, hparams, rule), tags.seconds)
        for tags, events in scored
    )


def choose_rules(
    scored: Sequence[tuple[Tags, Sequence[Event]]],
    class_names: Sequence[str],
    hparams: Hparams,
    *,
    precision: float | None = None,
) -> dict[str, Rule]:
    """Chooses when each class is detected.

    Args:
      scored: the scores of recordings, of networks that were not trained on these,
        and their events.
      class_names: C names.
      hparams: hyperparameters of the features.
      precision: wanted precision; None: thresholds are chosen by F1.

    Raises:
      UserError: there are too few events.
    """
    number = sum(len(events) for _, events in scored)
    if number < MIN_EVENTS:
        raise UserError(
            f"too few events for thresholds: {number}; at least {MIN_EVENTS} are needed"
        )
    times = (GAP_SECONDS, MIN_SECONDS, MEAN_SECONDS)
    rules = [
        Rule(float(threshold), *times) for threshold in scipy.special.expit(LOGITS)
    ]
    table = [score_rule(scored, class_names, hparams, rule) for rule in rules]
    common = _best_logit(table, ALL_CLASSES, WIDTH, precision)
    chosen = {}
    for name in class_names:
        logit = common
        if name in table[0] and (events := table[0][name].num_events):
            own = _best_logit(table, name, CLASS_WIDTH, precision)
            logit += events / (events + HALFWAY_EVENTS) * (own - common)
        threshold = float(scipy.special.expit(logit))
        chosen[name] = Rule(threshold, *times)
    return chosen


def _best_logit(
    table: Sequence[Mapping[str, EventScores]],
    name: str,
    width: float,
    precision: float | None,
) -> float:
    """The best of LOGITS for a class with events, or for all classes.

    Args:
      table: the scores at each of T thresholds; a class without events and detections
        may be missing.
      name: the class, or ALL_CLASSES.
      width: standard deviation of the smoothing of F1, as logit.
      precision: wanted precision, see `confident_precision`; None: F1.
    """
    rows = [scores[name] for scores in table]
    if precision is None:
        f1 = _smoothed([row.f1 for row in rows], width)
        tolerance = TOLERANCE if name == ALL_CLASSES else 0
        return float(LOGITS[np.flatnonzero(f1 >= f1.max() - tolerance)[-1]])
    right = np.array([row.num_right for row in rows])
    count = np.array([row.num_detections for row in rows])
    reached = confident_precision(right, count)
    index = np.flatnonzero(reached >= precision)
    return float(LOGITS[index[0] if index.size else reached.argmax()])


def _smoothed(values: Sequence[float], width: float) -> np.ndarray:
    """Values at LOGITS, float64 [T], smoothed by a Gaussian function."""
    return scipy.ndimage.gaussian_filter1d(values, width / STEP, mode="nearest")


def write_chosen_rules(
    path: str,
    scored: Sequence[tuple[Tags, Sequence[Event]]],
    class_names: Sequence[str],
    hparams: Hparams,
    *,
    precision: float | None,
    checkpoint: str,
) -> None:
    """Writes a CSV of thresholds, and prints the scores that detections have with them.

    Args:
      path: path of the CSV.
      scored, class_names, hparams, precision: see `choose_rules`.
      checkpoint: see `write_thresholds`.

    Raises:
      UserError: see `choose_rules`, or the CSV cannot be written.
    """
    rules = choose_rules(scored, class_names, hparams, precision=precision)
    folder, name = os.path.split(path)
    make_folder(folder or ".", "--thresholds")
    write_thresholds(folder, rules, checkpoint, name)
    ordered = order_thresholds(rules, class_names, "--thresholds")
    scores = score_rule(scored, class_names, hparams, ordered)
    print_result(f"detections with {path}:\n{format_scores(scores)}")
    reached = scores[ALL_CLASSES].precision
    if precision is not None and not reached >= precision:
        print(
            f"warning: --precision: {precision:g} is not reached, but {reached:.3f}",
            file=sys.stderr,
        )
