"""WAV files of every kind: those that must be read, and those that must be rejected.

    python tests/wav_corpus.py OUT_DIR

This writes them to the folders `valid/` and `invalid/`, to test other programs.
"""

import pathlib
import struct
import sys

NUM_SAMPLES = 7
SAMPLES = struct.pack(f"<{NUM_SAMPLES}h", -32768, -3, -1, 0, 1, 3, 32767)
# The GUID of a sub-format in WAVE_FORMAT_EXTENSIBLE, after its two bytes of code.
GUID_TAIL = bytes.fromhex("000000001000800000aa00389b71")
UNKNOWN = 2**32 - 1  # the size in the header if a program writes to a pipe


def chunk(name: bytes, body: bytes, size: int | None = None, pad: bool = True) -> bytes:
    """A RIFF chunk; `size` replaces the size in its header."""
    length = len(body) if size is None else size
    padding = b"\0" if pad and len(body) % 2 else b""
    return name + struct.pack("<I", length) + body + padding


def riff(*chunks: bytes, size: int | None = None, kind: bytes = b"RIFF") -> bytes:
    """A RIFF/WAVE file of chunks; `size` replaces the size in its header."""
    body = b"WAVE" + b"".join(chunks)
    return kind + struct.pack("<I", len(body) if size is None else size) + body


def fmt(
    code: int = 1,
    *,
    channels: int = 1,
    rate: int = 44100,
    bits: int = 16,
    extension: bytes = b"",
) -> bytes:
    """A format chunk."""
    frame = channels * bits // 8
    head = struct.pack("<HHIIHH", code, channels, rate, rate * frame, frame, bits)
    return chunk(b"fmt ", head + extension)


def extensible(code: int = 1, guid_tail: bytes = GUID_TAIL, **format: int) -> bytes:
    """A format chunk of WAVE_FORMAT_EXTENSIBLE."""
    extension = struct.pack("<HHIH", 22, format.get("bits", 16), 4, code) + guid_tail
    return fmt(0xFFFE, extension=extension, **format)


def list_chunk(text: bytes, pad: bool = True) -> bytes:
    """A LIST chunk with a title, such as editors write."""
    return chunk(b"LIST", b"INFOINAM" + struct.pack("<I", len(text)) + text, pad=pad)


def killed(*chunks: bytes, size: int | None = None) -> bytes:
    """The file of a killed recorder: samples, but a header without any.

    Args:
      chunks: the chunks before the samples.
      size: the size in the RIFF header; None: that of the header.
    """
    header = riff(*chunks, chunk(b"data", b""), size=size)
    return header + SAMPLES


FMT, DATA = fmt(), chunk(b"data", SAMPLES)
NO_DATA = chunk(b"data", b"")
BEXT = chunk(b"bext", b"\0" * 602)
ODD, EVEN = b"A title", b"A title."

# All of these contain exactly SAMPLES.
VALID = {
    "plain": riff(FMT, DATA),
    "format_of_18_bytes": riff(fmt(extension=b"\0\0"), DATA),
    "extensible": riff(extensible(), DATA),
    "junk_before_format": riff(chunk(b"JUNK", b"\0" * 28), FMT, DATA),
    "odd_junk_before_format": riff(chunk(b"JUNK", b"\0" * 27), FMT, DATA),
    "bext_before_format": riff(BEXT, FMT, DATA),
    "bext_between": riff(FMT, BEXT, DATA),
    "fact_between": riff(FMT, chunk(b"fact", struct.pack("<I", NUM_SAMPLES)), DATA),
    "list_between": riff(FMT, list_chunk(EVEN), DATA),
    "odd_list_between": riff(FMT, list_chunk(ODD), DATA),
    "empty_chunk_between": riff(FMT, chunk(b"PAD ", b""), DATA),
    "everything_before": riff(
        chunk(b"JUNK", b"x"), BEXT, extensible(), list_chunk(ODD), DATA
    ),
    "list_after": riff(FMT, DATA, list_chunk(EVEN)),
    "odd_list_after": riff(FMT, DATA, list_chunk(ODD)),
    "odd_list_without_pad_after": riff(FMT, DATA, list_chunk(ODD, pad=False)),
    "bext_and_list_after": riff(FMT, DATA, BEXT, list_chunk(ODD)),
    "second_data_after": riff(FMT, DATA, chunk(b"data", b"\1\2\3\4")),
    "1_trailing_byte": riff(FMT, DATA) + b"x",
    "3_trailing_bytes": riff(FMT, DATA) + b"xyz",
    "trailing_zeros": riff(FMT, DATA) + bytes(1000),
    "odd_data_with_pad": riff(FMT, chunk(b"data", SAMPLES + b"x")),
    "odd_data_without_pad": riff(FMT, chunk(b"data", SAMPLES + b"x", pad=False)),
    "riff_size_0": riff(FMT, DATA, size=0),
    "riff_size_unknown": riff(FMT, DATA, size=UNKNOWN),
    "riff_size_too_small": riff(FMT, DATA, size=5),
    "data_size_0_from_a_pipe": killed(FMT, size=0),
    "data_size_0_riff_unknown": killed(FMT, size=UNKNOWN),
    "killed": killed(FMT),
    "killed_extensible": killed(extensible()),
    "killed_bext_before": killed(BEXT, FMT),
    "killed_odd_list_before": killed(FMT, list_chunk(ODD)),
    "killed_riff_size_36": killed(chunk(b"JUNK", b"\0" * 28), FMT, size=36),
    "data_size_unknown": riff(FMT, chunk(b"data", SAMPLES, size=UNKNOWN), size=UNKNOWN),
    "data_size_2_31": riff(FMT, chunk(b"data", SAMPLES, size=2**31 - 1)),
    "data_size_unknown_behind_list": riff(
        FMT, list_chunk(ODD), chunk(b"data", SAMPLES, size=UNKNOWN), size=UNKNOWN
    ),
}
# These contain other numbers of samples.
VALID_LENGTHS = {
    "killed_after_one_sample": (riff(FMT, NO_DATA) + b"xyz", 1),
    "one_sample": (riff(FMT, chunk(b"data", b"ab")), 1),
    "100_seconds": (riff(FMT, chunk(b"data", bytes(100 * 88200))), 100 * 44100),
}
# Each file has a part of its error message.
INVALID = {
    "odd_list_without_pad_between": (
        riff(FMT, list_chunk(ODD, pad=False), DATA),
        "has no samples",
    ),
    "8_bits": (riff(fmt(bits=8), DATA), "has 8 bits per sample"),
    "24_bits": (riff(fmt(bits=24), DATA), "has 24 bits per sample"),
    "32_bits": (riff(fmt(bits=32), DATA), "has 32 bits per sample"),
    "24_bits_extensible": (riff(extensible(bits=24), DATA), "has 24 bits per sample"),
    "float": (riff(fmt(3, bits=32), DATA), "is floating point"),
    "float_extensible": (riff(extensible(3, bits=32), DATA), "is floating point"),
    "a_law": (riff(fmt(6, bits=8), DATA), "is A-law"),
    "mu_law": (riff(fmt(7, bits=8), DATA), "is mu-law"),
    "mp3_in_wav": (riff(fmt(0x55), DATA), "is of format 0x0055"),
    "extensible_of_another_kind": (
        riff(extensible(guid_tail=bytes(14)), DATA),
        "has an extensible format that is not PCM",
    ),
    "extensible_too_short": (
        riff(fmt(0xFFFE), DATA),
        "has an extensible format that is not PCM",
    ),
    "stereo": (riff(fmt(channels=2), DATA), "has 2 channels"),
    "no_channels": (riff(fmt(channels=0), DATA), "has 0 channels"),
    "48_khz": (riff(fmt(rate=48000), DATA), "has a sample rate of 48000 Hz"),
    "16_khz": (riff(fmt(rate=16000), DATA), "has a sample rate of 16000 Hz"),
    "rf64": (riff(FMT, DATA, kind=b"RF64"), "has the type RF64, not RIFF"),
    "rifx": (riff(FMT, DATA, kind=b"RIFX"), "has the type RIFX, not RIFF"),
    "cut_off_samples": (
        riff(FMT, DATA)[:-2],
        "is cut off: its header says 14 bytes of samples, but the file has 12",
    ),
    "wrong_size": (
        riff(FMT, chunk(b"data", SAMPLES, size=2**31 - 2)),
        "is cut off: its header says 2147483646 bytes",
    ),
    "no_samples": (riff(FMT, NO_DATA), "has no samples in its data chunk"),
    "no_samples_and_list": (
        riff(FMT, NO_DATA, list_chunk(EVEN)),
        "has no samples in its data chunk",
    ),
    "no_samples_and_bext": (
        riff(FMT, NO_DATA, BEXT, list_chunk(ODD)),
        "has no samples in its data chunk",
    ),
    "no_samples_from_a_pipe": (
        riff(FMT, NO_DATA, size=UNKNOWN),
        "has no samples in its data chunk",
    ),
    "half_a_sample": (
        riff(FMT, chunk(b"data", b"a")),
        "has no samples in its data chunk",
    ),
    "half_a_sample_killed": (
        riff(FMT, NO_DATA) + b"a",
        "has no samples in its data chunk",
    ),
    "cut_off_in_format": (riff(FMT, DATA)[:30], "fmt chunk of only 10 bytes"),
    "cut_off_in_riff": (b"RI", "is not a WAV file"),
    "no_data_chunk": (riff(FMT), "has no samples (no data chunk)"),
    "no_data_but_list": (riff(FMT, list_chunk(EVEN)), "has no samples"),
    "no_format_chunk": (riff(DATA), "has its samples before their format"),
    "nothing_but_riff": (riff(), "has no format (no fmt chunk)"),
    "short_format": (riff(chunk(b"fmt ", b"\1\0"), DATA), "fmt chunk of only 2 bytes"),
    "empty": (b"", "the file is empty"),
    "text": (b"fname,labels\n" * 9, "is not a WAV file"),
    "zeros": (bytes(1000), "is not a WAV file"),
    "mp3": (b"ID3\4\0\0\0\0\0\0" + bytes(100), "is not a WAV file"),
    "avi": (b"RIFF\x24\0\0\0AVI LIST" + bytes(100), "is not a WAV file"),
    "zeros_behind_format": (riff(FMT) + bytes(10**6), "has no samples"),
}


def main() -> None:
    """Writes the corpus."""
    out = pathlib.Path(sys.argv[1])
    contents = {f"valid/{name}": data for name, data in VALID.items()}
    contents |= {f"valid/{name}": data for name, (data, _) in VALID_LENGTHS.items()}
    contents |= {f"invalid/{name}": data for name, (data, _) in INVALID.items()}
    for name, data in contents.items():
        path = out / f"{name}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    print(f"{len(contents)} files in {out}")


if __name__ == "__main__":
    main()
