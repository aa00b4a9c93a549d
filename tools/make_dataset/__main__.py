"""Makes a data set for the tagger from recordings of any format.

    python -m tools.make_dataset SOUNDS OUT
    python -m tools.make_dataset SOUNDS OUT --csv labels.csv --clip_seconds 10
    python -m tools.make_dataset SOUNDS OUT --annotations SOUNDS --background quiet

SOUNDS has one sub-folder for each class, with its recordings. A folder with commas in
its name gives several labels. With --csv, a CSV with the columns fname and labels names
the recordings in SOUNDS and their labels instead. With --annotations, these are label
tracks of Audacity, selection tables of Raven or CSVs with times: each clip has the
labels that are heard in it, or _background_.

This writes OUT/audio/*.wav (16 bit, 44.1 kHz, mono), OUT/clips.csv with the columns
fname, labels and recording, and OUT/class_map.csv. With --annotations, clips.csv also
has the start of each clip in its recording, and OUT/events.csv has the times of the
labels in the clips. All recordings are checked first. If some cannot be used, all of
these are reported, and OUT remains as it is.

The next run follows recordings and labels that were added, moved, changed or removed:
OUT becomes equal to a new data set. Unchanged recordings are not decoded again.
"""

import pathlib
import sys
from collections.abc import Sequence

from absl import flags

from tagger.errors import UserError
from tagger.terminal import program
from tools.make_dataset.dataset import make_dataset
from tools.make_dataset.sources import find_recordings

FLAGS = flags.FLAGS
MIN_CLIP_SECONDS = 0.1
MAX_CLIP_SECONDS = 12 * 3600  # A WAV file has at most 4 GB.
# Detections of networks whose last layer was fitted to clips of 1 to 5 s did not differ
# clearly. Longer clips cut fewer events apart.
ANNOTATED_CLIP_SECONDS = 5


def define_flags() -> None:
    """Defines the flags of this program."""
    flags.DEFINE_string("csv", "", "CSV with the columns fname and labels.")
    flags.DEFINE_string(
        "annotations", "", "File or folder with labels and times in the recordings."
    )
    flags.DEFINE_string(
        "background", "", "Folder with recordings that have none of the classes."
    )
    flags.DEFINE_bool(
        "only_annotated",
        False,
        "With --annotations, use only clips in which a label is heard, as after a "
        "review with tools.find. The label _background_ is one of them.",
    )
    flags.DEFINE_float(
        "clip_seconds",
        None,
        f"Cut longer recordings into equal clips of at most this length; with "
        f"--annotations {ANNOTATED_CLIP_SECONDS} by default.",
    )
    flags.DEFINE_bool(
        "skip_unusable", False, "Report recordings that cannot be used, and skip them."
    )
    flags.register_validator(
        "clip_seconds",
        lambda seconds: (
            seconds is None or MIN_CLIP_SECONDS <= seconds <= MAX_CLIP_SECONDS
        ),
        message=f"must be from {MIN_CLIP_SECONDS} to {MAX_CLIP_SECONDS}",
    )


def main(argv: Sequence[str]) -> int:
    """Runs the program; returns the exit status."""
    if len(argv) != 3:
        raise UserError("expected two arguments, SOUNDS and OUT; see --help")
    _, sounds, out = argv
    source, target = (pathlib.Path(path).resolve() for path in (sounds, out))
    if target.is_relative_to(source):
        raise UserError(f"OUT must be outside of SOUNDS, but got {out}")
    if source.is_relative_to(target / "audio"):
        raise UserError(f"SOUNDS must be outside of OUT/audio, but got {sounds}")
    if FLAGS.csv and FLAGS.annotations:
        raise UserError("--csv and --annotations are mutually exclusive")
    if FLAGS.only_annotated and not FLAGS.annotations:
        raise UserError("--only_annotated needs --annotations")
    found = find_recordings(
        sounds,
        csv_path=FLAGS.csv,
        annotations=FLAGS.annotations,
        background=FLAGS.background,
        only_annotated=FLAGS.only_annotated,
    )
    longest = ANNOTATED_CLIP_SECONDS if FLAGS.annotations else MAX_CLIP_SECONDS
    problems = make_dataset(
        found,
        pathlib.Path(out),
        clip_seconds=FLAGS.clip_seconds or longest,
        skip=FLAGS.skip_unusable,
    )
    for problem in problems:
        print(f"skipped: {problem}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    define_flags()
    program.run(main)
