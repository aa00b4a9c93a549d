"""Atomic file writing, JSON files, file locks, and making folders."""

import contextlib
import errno
import fcntl
import json
import os
import pathlib
import sys
import uuid
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, BinaryIO

from tagger.errors import UserError

# Errors of file systems without locks, such as some network drives.
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


def make_folder(path: str, flag: str) -> None:
    """Makes a folder, if it does not exist yet, and checks that it is writable.

    Raises:
      UserError: it cannot be made, or is not writable; the message names the flag.
    """
    if os.path.exists(path) and not os.path.isdir(path):
        raise UserError(f"{flag}: {path} is a file, not a folder")
    try:
        os.makedirs(path, exist_ok=True)
    except OSError as error:
        raise UserError(f"{flag}: cannot make {path}: {error.strerror}") from None
    if not os.access(path, os.W_OK | os.X_OK):
        raise UserError(f"{flag}: cannot write in {path}")


def write_whole(path: pathlib.Path, contents: str | bytes) -> None:
    """Writes a file atomically, even if the process is killed. Text becomes UTF-8.

    Raises:
      UserError: it cannot be written; the message names the file.
    """
    if isinstance(contents, str):
        contents = contents.encode("utf-8", "surrogateescape")
    with atomic(path) as file:
        file.write(contents)


@contextlib.contextmanager
def atomic(path: pathlib.Path) -> Iterator[BinaryIO]:
    """Yields a temporary file, which replaces the path at the end of the block.

    If the path is a symbolic link, the file that it points to is replaced.

    Raises:
      UserError: it cannot be written; the message names the file.
    """
    target = pathlib.Path(os.path.realpath(path))
    temporary = target.parent / f".{target.name}.{uuid.uuid4().hex[:8]}.tmp"
    try:
        # Unlike tempfile, this gives the file the permissions that the umask allows.
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        with open(descriptor, "w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def write_json(path: pathlib.Path, values: Mapping[str, Any]) -> None:
    """Writes an object to a JSON file, atomically.

    Raises:
      UserError: it cannot be written; the message names the file.
    """
    write_whole(path, json.dumps(values, indent=2) + "\n")


def read_json(path: pathlib.Path) -> dict[str, Any] | None:
    """Reads an object from a JSON file; None if there is no such file.

    Raises:
      UserError: it cannot be read, or is not an object; the message names the file.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:  # not in UTF-8, or not JSON
        raise UserError(f"{path} is damaged: {error}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path} is damaged: it must have an object")
    return values


def read_text(path: pathlib.Path) -> str:
    """The text of a file; "" if it does not exist. Other problems are a UserError."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None


def append_lines(path: pathlib.Path, lines: Iterable[str]) -> None:
    """Appends all lines at once. Other processes may do the same at the same time.

    Raises:
      UserError: the file cannot be written; the message names it.
    """
    try:
        with open(path, "ab", buffering=0) as file:
            # The last line may be incomplete.
            file.write("".join(f"\n{line}" for line in lines).encode() + b"\n")
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from None


@contextlib.contextmanager
def locked(path: str | os.PathLike[str], error: Exception) -> Iterator[None]:
    """Locks a file until the end of the block or of the process.

    The contents of the file are unchanged: it may be a link to another one. Warns if
    the file system has no locks.

    Raises:
      The given error: another process has locked it.
      UserError: it cannot be opened.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as problem:
        raise UserError(f"cannot lock {path}: {problem.strerror}") from None
    with open(descriptor, "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise error from None
        except OSError as problem:
            if problem.errno not in NO_LOCKS:
                raise
            print(
                f"warning: the file system of {path} has no locks; make sure that no "
                f"other process writes there",
                file=sys.stderr,
            )
        yield
