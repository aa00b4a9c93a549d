"""Scores detections against annotated recordings, per class and overall.

    python -m tools.tag runs/first --segments detections.csv field/
    python -m tools.score_detections detections.csv --annotations field/
    python -m tools.score_detections detections.csv field/ --annotations labels.csv

The first argument is a CSV with the columns file, start, end and class. The others are
the recordings that were tagged, by default those in the folder of the annotations. All
annotated recordings count, also those without detections.

A detection is right if an event of its class is heard in it: 0.25 s of the event, or
half of it. An event of which this is true was found. For each class, this prints the
number of events and detections, the precision (share of the detections that are right),
the recall (share of the events that were found), their harmonic mean F1, and the false
alarms per hour.
"""

import math
import os
import sys
from collections.abc import Sequence

from absl import flags

from recordings.annotations import EXTENSIONS, read_annotations
from recordings.decoding import find_files, find_sounds, read_duration
from recordings.events import Result, format_scores, score_events
from tagger.errors import UserError
from tagger.terminal import program
from tagger.terminal.progress import counted, print_result

FLAGS = flags.FLAGS


def define_flags() -> None:
    """Defines the flags of this program."""
    flags.DEFINE_string(
        "annotations", None, "File or folder with labels and times in the recordings."
    )


def read_results(
    detections: str, recordings: Sequence[str], annotations: str
) -> list[Result]:
    """Reads the annotations and the detections of all annotated recordings.

    Args:
      detections: path of the CSV of detections.
      recordings: sound files, folders and patterns; empty: the folder of the
        annotations.
      annotations: see `read_annotations`.

    Raises:
      UserError: a file cannot be used.
    """
    if recordings:
        sounds = find_files(recordings)
    else:
        is_folder = os.path.isdir(annotations)
        folder = annotations if is_folder else os.path.dirname(annotations) or "."
        sounds = find_sounds(folder, EXTENSIONS)
        if not sounds:
            raise UserError(
                f"there are no recordings in {folder}; give the recordings that were "
                f"tagged as further arguments"
            )
    events = read_annotations(annotations, sounds)
    detected = read_annotations(detections, sounds, "DETECTIONS", may_be_empty=True)
    if ignored := len(detected.keys() - events.keys()):
        print(
            f"{counted(ignored, 'recording')} with detections ignored: not annotated",
            file=sys.stderr,
        )
    results = []
    for path, annotated in events.items():
        seconds = read_duration(path)
        if not math.isfinite(seconds):
            raise UserError(f"{path}: its header has no length; convert it first")
        results.append(Result(annotated, detected.get(path, []), seconds))
    return results


def main(argv: Sequence[str]) -> int:
    """Runs the program; returns the exit status."""
    if len(argv) < 2:
        raise UserError("expected the CSV DETECTIONS; see --help")
    results = read_results(argv[1], argv[2:], FLAGS.annotations)
    print_result(format_scores(score_events(results)))
    return 0


if __name__ == "__main__":
    define_flags()
    program.run(main, required=["annotations"])
