"""The files of checkpoints: names, listing, fingerprints.

This module needs no TensorFlow.
"""

import contextlib
import functools
import os
import pathlib
import re
import zlib

from tagger.errors import UserError

NAME = "model.ckpt"
DATA_SUFFIX = ".data-00000-of-00001"
INDEX_SUFFIX = ".index"


class CheckpointError(UserError):
    """A checkpoint is missing, cannot be read, or does not fit the network."""


class UnreadableError(CheckpointError):
    """A checkpoint does not exist, or is damaged."""


def checkpoint_step(prefix: str) -> int:
    """The N of a path that ends in `model.ckpt-N`: the number of training steps."""
    match = re.fullmatch(
        re.escape(NAME) + r"-(0|[1-9][0-9]*)", os.path.basename(prefix)
    )
    if not match:
        raise CheckpointError(f"a checkpoint is named {NAME}-N, but got {prefix}")
    return int(match.group(1))


def checkpoint_prefix(directory: str, step: int) -> str:
    """The path of the checkpoint of a step, without the suffixes of its files."""
    return os.path.join(directory, f"{NAME}-{step}")


def list_checkpoints(directory: str) -> list[str]:
    """The prefixes of the complete checkpoints in a folder, in the order of steps.

    The list is empty if the folder does not exist.
    """
    try:
        names = set(os.listdir(directory))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise UserError(f"cannot read {directory}: {error.strerror}") from None
    prefixes = []
    for name in names:
        prefix = name.removesuffix(INDEX_SUFFIX)
        if prefix != name and prefix + DATA_SUFFIX in names:
            with contextlib.suppress(CheckpointError):
                prefixes.append((checkpoint_step(prefix), prefix))
    return [os.path.join(directory, prefix) for _, prefix in sorted(prefixes)]


def fingerprint(prefix: str) -> int:
    """A number that is equal for equal checkpoints.

    It is the CRC-32 of the index, which contains a checksum of each variable.

    Raises:
      UnreadableError: there is no such checkpoint, or it cannot be read.
    """
    path = prefix + INDEX_SUFFIX
    try:
        status = os.stat(path)
        return _crc32(path, status.st_ino, status.st_mtime_ns, status.st_size)
    except OSError as error:
        raise UnreadableError(f"cannot read {path}: {error.strerror}") from None


def describe(prefix: str, crc32: int | None = None) -> str:
    """The name and the fingerprint of a checkpoint, such as "model.ckpt-7 0a1b2c3d".

    Args:
      prefix: the checkpoint.
      crc32: its fingerprint; None: that of the existing checkpoint.

    Raises:
      UnreadableError: see `fingerprint`.
    """
    crc32 = fingerprint(prefix) if crc32 is None else crc32
    return f"{os.path.basename(prefix)} {crc32:08x}"


@functools.cache
def _crc32(path: str, *status: int) -> int:
    """The CRC-32 of a file. Its status shows when it has changed."""
    return zlib.crc32(pathlib.Path(path).read_bytes())
