"""Files that appear whole or not at all, locks, and folders."""

import errno
import fcntl
import os
import pathlib
import sys
import tempfile
from typing import IO

# What file systems without locks answer, network drives among them.
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


def make_folder(path: str, flag: str) -> None:
    """Makes a folder that files can be written into, where it is not there yet.

    Raises:
      OSError: it cannot be made or written into; the message names the flag.
    """
    if os.path.exists(path) and not os.path.isdir(path):
        raise NotADirectoryError(f"{flag}: {path} is a file, not a folder")
    try:
        os.makedirs(path, exist_ok=True)
    except OSError as error:
        raise OSError(f"{flag}: cannot make {path}: {error.strerror}") from None
    if not os.access(path, os.W_OK | os.X_OK):
        raise PermissionError(f"{flag}: cannot write in {path}")


def write_whole(path: pathlib.Path, contents: str | bytes) -> None:
    """Writes a file that appears whole or not at all, even when killed; text as UTF-8.

    Raises:
      OSError: it cannot be written; the message names it.
    """
    try:
        _write_and_rename(pathlib.Path(path), contents)
    except OSError as error:
        raise OSError(f"cannot write {path}: {error.strerror or error}") from None


def _write_and_rename(path: pathlib.Path, contents: str | bytes) -> None:
    if isinstance(contents, str):
        contents = contents.encode("utf-8", "surrogateescape")
    descriptor, temporary = tempfile.mkstemp(
        prefix=f".{path.name}.", suffix=".tmp", dir=path.parent
    )
    try:
        with open(descriptor, "wb") as file:
            file.write(contents)
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)  # mkstemp's 0600 hides it from others.
        os.replace(temporary, path)
    except BaseException:
        pathlib.Path(temporary).unlink(missing_ok=True)
        raise


def lock(file: IO, kind: int) -> None:
    """Locks an open file as fcntl.flock does; a warning where there are no locks."""
    try:
        fcntl.flock(file, kind)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        print(
            f"warning: the file system of {file.name} has no locks, so nothing keeps "
            f"two processes from writing there at once",
            file=sys.stderr,
        )
