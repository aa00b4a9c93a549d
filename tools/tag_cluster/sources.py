"""The recordings to tag: local files, and remote files that PyArrow reads.

The path of a remote file is a URI, such as s3://bucket/night%201/a.flac?region=eu-west-1.
"""

import contextlib
import os
import pathlib
import re
import shutil
import tempfile
import urllib.parse
from collections.abc import Iterator
from typing import Any

from recordings import archive
from recordings.decoding import Sound, find_files, select_sounds
from tagger.errors import UserError
from tagger.terminal.files import read_text
from tagger.terminal.progress import printable

PATH_LIST = ".txt"
PASSWORD = re.compile(r"(?<=://)[^/]*:[^/]*@")
COPY_BYTES = 2**24  # for each request to the server

# Size and time of modification, in ns; None if there is no such file.
Status = tuple[int | None, int | None]


def is_remote(path: str) -> bool:
    """Whether a path is a URI."""
    return "://" in path


def find_paths(argument: str) -> list[str]:
    """The absolute paths or URIs of recordings: of a list, a folder, or a file.

    Raises:
      UserError: there are none, they cannot be listed, a URI has a password, or Parquet
        files cannot contain a path.
    """
    _check_no_password(argument)
    if argument.partition("?")[0].endswith(PATH_LIST):
        with local_copy(argument) as name:
            text = read_text(pathlib.Path(name))
        paths = [line for line in text.splitlines() if line]
    elif is_remote(argument):
        paths = _find_remote(argument)
    else:
        paths = [sound.path for sound in find_files([argument])]
    if not paths:
        raise UserError(f"{argument}: there is no path in it")
    paths = [path if is_remote(path) else os.path.abspath(path) for path in paths]
    for path in paths:
        if path.encode(errors="replace") != os.fsencode(path):
            raise UserError(f"{printable(path)}: rename it; its path is not in UTF-8")
        _check_no_password(path)
    return list(dict.fromkeys(paths))


def _check_no_password(path: str) -> None:
    if PASSWORD.search(path):
        raise UserError(
            f"{PASSWORD.sub('', path)}: the URI must have no password, because it is "
            f"in the results; set it in the environment"
        )


def _find_remote(uri: str) -> list[str]:
    """The URI of a file, or of the sound files in a folder, without hidden ones.

    Raises:
      UserError: it does not exist, or cannot be read.
    """
    from pyarrow.fs import FileSelector, FileType

    with _opened(uri) as (file_system, folder):
        if file_system.get_file_info(folder).type == FileType.File:
            return [uri]
        found = file_system.get_file_info(FileSelector(folder, recursive=True))
    start, question_mark, options = uri.partition("?")
    sounds = []
    for file in found:
        name = file.path.removeprefix(folder).strip("/")
        if file.type == FileType.File and "/." not in f"/{name}":
            path = f"{start.rstrip('/')}/{urllib.parse.quote(name)}"
            sounds.append(Sound(path + question_mark + options, name))
    return sorted(sound.path for sound in select_sounds(uri, sounds))


def file_status(path: str) -> Status:
    """The size and the time of modification of a local or remote file.

    Raises:
      UserError: a remote file system cannot be read.
    """
    if not is_remote(path):
        return archive.file_status(path)
    with _opened(path) as (file_system, name):
        file = file_system.get_file_info(name)
    return file.size, file.mtime_ns


@contextlib.contextmanager
def local_copy(path: str) -> Iterator[str]:
    """Yields the path of a file to read: for a URI, of a temporary copy.

    Raises:
      UserError: it cannot be copied. UserErrors of the block have the URI in place of
        the path of the copy.
    """
    if not is_remote(path):
        yield path
        return
    suffix = os.path.splitext(path.partition("?")[0])[1]
    with tempfile.NamedTemporaryFile(suffix=suffix) as copy:
        with _opened(path) as (file_system, name):
            with file_system.open_input_stream(name) as file:
                shutil.copyfileobj(file, copy, COPY_BYTES)
            copy.flush()
        try:
            yield copy.name
        except UserError as error:
            raise UserError(str(error).replace(copy.name, path)) from None


@contextlib.contextmanager
def _opened(uri: str) -> Iterator[tuple[Any, str]]:
    """Yields PyArrow's file system of a URI, and the path there.

    Raises:
      UserError: for the errors of PyArrow, also in the block; the message has the URI.
    """
    import pyarrow.fs

    try:
        yield pyarrow.fs.FileSystem.from_uri(uri)
    except FileNotFoundError:
        raise UserError(f"{uri}: there is no such file") from None
    except (OSError, pyarrow.ArrowException) as error:
        raise UserError(f"{uri}: {error}") from None
