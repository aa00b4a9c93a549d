"""Reads WAV headers: the offset, the number and a checksum of the samples."""

import os
import stat
import struct
import zlib
from collections.abc import Callable, Sequence
from typing import BinaryIO, NamedTuple

from tagger.errors import UserError
from tagger.hparams import SAMPLE_RATE
from tagger.terminal.progress import in_parallel

BYTES_PER_SAMPLE = 2  # 16-bit PCM
HEADER_THREADS = 16  # more than cores, because reading headers waits for the disk
# Format codes, from Microsoft's "Multiple Channel Audio Data and WAVE Files".
FORMAT_PCM = 0x0001
FORMAT_EXTENSIBLE = 0xFFFE
FORMAT_NAMES = {0x0003: "floating point", 0x0006: "A-law", 0x0007: "mu-law"}
# The 14 bytes that follow the format code in the GUIDs of WAVE_FORMAT_EXTENSIBLE.
GUID_TAIL = bytes.fromhex("000000001000800000aa00389b71")
# Sizes that programs write before they know the size. They correct it at the end,
# unless they write to a pipe or are killed.
UNKNOWN_SIZES = (0, 0x7FFFFFFF, 0x7FFFF000, 0xFFFFFFFF)
FORMAT_CHUNK_BYTES = 40  # of WAVE_FORMAT_EXTENSIBLE, the longest form
# Extensions of sound files that libsndfile, which the tools use, cannot read.
UNREADABLE_EXTENSIONS = (
    *(".m4a", ".m4b", ".mp4", ".aac", ".ac3", ".wma", ".amr", ".3gp", ".webm", ".mka"),
    *(".ape", ".wv"),
)
SOUND_EXTENSIONS = (
    *(".wav", ".bwf", ".rf64", ".w64", ".aif", ".aiff", ".aifc", ".au", ".snd", ".caf"),
    *(".flac", ".mp1", ".mp2", ".mp3", ".ogg", ".oga", ".opus"),
    *(".sph", ".nist", ".voc", ".sf", ".ircam", ".paf", ".svx", ".8svx", ".avr"),
    *UNREADABLE_EXTENSIONS,
)
PROBE_BYTES = 4096  # A block of most file systems; 46 ms of sound.
MAX_CHUNKS = 1000  # Real files have about ten. A file of zeros would have millions.
EXPECTED_WAV = (
    "expected a 16-bit PCM WAV file, 44.1 kHz, mono; tools.make_dataset converts others"
)


class WavHeader(NamedTuple):
    """The samples of a WAV file: offset in bytes, their number, and their `probe`."""

    data_offset: int
    num_samples: int
    probe: int


def read_wav_headers(paths: Sequence[str]) -> list[WavHeader | UserError]:
    """Reads headers in parallel; the result for an invalid file is a UserError."""
    return in_parallel(
        read_wav_header,
        paths,
        what="checking WAV headers",
        unit="clip",
        threads=HEADER_THREADS,
    )


def read_wav_header(path: str) -> WavHeader:
    """Locates the samples of a 16-bit PCM, 44.1 kHz, mono RIFF/WAVE file.

    Chunks before and after the samples, odd-sized chunks with their pad byte, bytes
    after the last chunk and WAVE_FORMAT_EXTENSIBLE are allowed. If the size is unknown,
    as in files from a pipe or a killed recorder, the samples end with the file.

    Returns:
      The header; the number of samples is at least 1.

    Raises:
      UserError: the file is invalid; the message states the path, what is wrong and
        what is expected.
    """
    try:
        if "\0" in path:
            raise _bad_wav(path, "has a null character in its name")
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):  # Opening a pipe would block.
            what = "a folder" if stat.S_ISDIR(status.st_mode) else "not a regular file"
            raise _bad_wav(path, f"is {what}")
        with open(path, "rb") as file:
            start, num_bytes = find_samples(file, path, check_format=_check_format)
            crc32 = probe(file, start, num_bytes)
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    if num_bytes < BYTES_PER_SAMPLE:
        raise _bad_wav(path, "has no samples in its data chunk")
    return WavHeader(start, num_bytes // BYTES_PER_SAMPLE, crc32)


def probe(file: BinaryIO, start: int, num_bytes: int) -> int:
    """The CRC-32 of PROBE_BYTES at the start, in the middle and at the end of samples.

    Files with equal samples have equal probes. Reading all samples would take too long.
    """
    last = max(0, num_bytes - PROBE_BYTES)
    crc32 = 0
    for offset in sorted({0, last // 2, last}):
        size = min(PROBE_BYTES, num_bytes)
        crc32 = zlib.crc32(os.pread(file.fileno(), size, start + offset), crc32)
    return crc32


def _bad_wav(path: str, what: str) -> UserError:
    return UserError(f"{path}: {what}; {EXPECTED_WAV}")


def find_samples(
    file: BinaryIO, path: str, *, check_format: Callable[[bytes, str], None]
) -> tuple[int, int]:
    """Locates the samples of a RIFF/WAVE file, whose `fmt ` chunk must come first.

    Args:
      file: the file, at its start.
      path: its path, for messages.
      check_format: called with the contents of the fmt chunk, and the path.

    Returns:
      The offset and the size of the samples, in bytes.

    Raises:
      UserError: this is not a complete RIFF/WAVE file; see `read_wav_header`.
    """
    size = os.fstat(file.fileno()).st_size
    if size == 0:
        raise _bad_wav(path, "the file is empty")
    riff, riff_size, wave = struct.unpack("<4sI4s", file.read(12).ljust(12, b"\0"))
    if riff in (b"RF64", b"RIFX", b"BW64"):
        raise _bad_wav(path, f"has the type {riff.decode()}, not RIFF")
    if riff != b"RIFF" or wave != b"WAVE":
        raise _bad_wav(path, "is not a WAV file")
    position, have_format = 12, False
    for _ in range(MAX_CHUNKS):
        start = position + 8
        if start > size:
            break
        file.seek(position)
        name, chunk_size = struct.unpack("<4sI", file.read(8))
        if name == b"fmt ":
            check_format(file.read(min(chunk_size, FORMAT_CHUNK_BYTES)), path)
            have_format = True
        elif name == b"data" and not have_format:
            raise _bad_wav(path, "has its samples before their format (no fmt chunk)")
        elif name == b"data":
            # A size of 0 means unknown if the RIFF size is unknown, or covers nothing
            # after this header. Otherwise, other chunks may follow.
            header_only = riff_size in UNKNOWN_SIZES or 8 + riff_size <= start
            if chunk_size in UNKNOWN_SIZES and (chunk_size or header_only):
                chunk_size = size - start
            if chunk_size > size - start:
                raise _bad_wav(
                    path,
                    f"is cut off: its header says {chunk_size} bytes of samples, but "
                    f"the file has {size - start}",
                )
            return start, chunk_size
        position = start + chunk_size + chunk_size % 2  # with the pad byte
    missing = "samples (no data chunk)" if have_format else "format (no fmt chunk)"
    raise _bad_wav(path, f"has no {missing}, or is cut off")


def _check_format(chunk: bytes, path: str) -> None:
    if len(chunk) < 16:
        raise _bad_wav(path, f"has a fmt chunk of only {len(chunk)} bytes")
    code, channels, rate, _, _, bits = struct.unpack("<HHIIHH", chunk[:16])
    if code == FORMAT_EXTENSIBLE:
        if len(chunk) < FORMAT_CHUNK_BYTES or chunk[26:40] != GUID_TAIL:
            raise _bad_wav(path, "has an extensible format that is not PCM")
        code = struct.unpack("<H", chunk[24:26])[0]
    if code != FORMAT_PCM:
        raise _bad_wav(path, f"is {FORMAT_NAMES.get(code, f'of format {code:#06x}')}")
    if bits != 8 * BYTES_PER_SAMPLE:
        raise _bad_wav(path, f"has {bits} bits per sample")
    if rate != SAMPLE_RATE:
        raise _bad_wav(path, f"has a sample rate of {rate} Hz")
    if channels != 1:
        raise _bad_wav(path, f"has {channels} channels")
