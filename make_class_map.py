#!/usr/bin/env python3
"""Creates a class map from a CSV of clips, with the labels in alphabetical order.

    python make_class_map.py < train_curated.csv > my_class_map.csv

The CSV has the columns `fname,labels`, with several labels comma-separated inside
quotes, or the older `fname,aso_ids,label`. The class map has one line index,name per
label, except `_background_`, the label of clips that have no class. The file
class_map.csv is the class map of FSDKaggle2019, in the order of Kaggle's columns.
"""

import csv
import sys
from collections.abc import Sequence

from tagger.data import csv_files
from tagger.errors import UserError
from tagger.terminal import program


def main(argv: Sequence[str]) -> int:
    """Writes the class map of the CSV on stdin to stdout; returns the exit status."""
    if argv[1:] or sys.stdin is None or sys.stdin.isatty():
        raise UserError("expected a CSV on stdin, and no arguments; see --help")
    _, rows = csv_files.read_rows("stdin", contents=sys.stdin.buffer.read())
    names = csv_files.class_names_of(row.labels for row in rows)
    csv.writer(sys.stdout, lineterminator="\n").writerows(enumerate(names))
    return 0


if __name__ == "__main__":
    program.run(main)
