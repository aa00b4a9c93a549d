"""The recordings to tag."""

import os
import pathlib

from recordings.decoding import find_files
from tagger.errors import UserError
from tagger.terminal.files import read_text
from tagger.terminal.progress import printable

PATH_LIST = ".txt"


def find_paths(argument: str) -> list[str]:
    """The absolute paths of recordings: of a list, or as `decoding.find_files`.

    Raises:
      UserError: there are none, or Parquet files cannot contain one.
    """
    if argument.endswith(PATH_LIST):
        paths = [
            line for line in read_text(pathlib.Path(argument)).splitlines() if line
        ]
    else:
        paths = [sound.path for sound in find_files([argument])]
    if not paths:
        raise UserError(f"{argument}: there is no path in it")
    paths = list(dict.fromkeys(map(os.path.abspath, paths)))
    for path in paths:
        if path.encode(errors="replace") != os.fsencode(path):
            raise UserError(f"{printable(path)}: rename it; its path is not in UTF-8")
    return paths
