"""Makes a class map from a CSV of clips: the labels in alphabetical order, with
indices.

    python make_class_map.py < train_curated.csv > class_map.csv

The CSV is `fname,labels` with several labels comma-separated inside quotes, or the
older `fname,aso_ids,label`. The class_map.csv beside this file is that of
FSDKaggle2019, whose order is that of Kaggle's columns.
"""

import csv
import sys

from tagger import clips

WRONG_USAGE = 2  # exit status, as argparse has it


def main() -> int:
    """Reads a CSV on stdin, writes a class map on stdout; returns the exit status."""
    if len(sys.argv) > 1 or sys.stdin.isatty():
        print(__doc__.strip(), file=sys.stderr)
        return 0 if sys.argv[1:] in (["--help"], ["-h"]) else WRONG_USAGE
    try:
        _, rows = clips.read_rows("stdin", contents=sys.stdin.buffer.read())
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    names = sorted({label for row in rows for label in row.labels})
    csv.writer(sys.stdout, lineterminator="\n").writerows(enumerate(names))
    return 0


if __name__ == "__main__":
    sys.exit(main())
