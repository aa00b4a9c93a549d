"""Reading recordings: formats, rates, channels, blocks, and files that are no use."""

import io
import os

import numpy as np
import pytest
import soundfile

from tagger import recordings

SECONDS = 4


def sine(rate: int, hz: float = 440.0) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * hz * np.arange(SECONDS * rate) / rate)


def read(path) -> np.ndarray:
    return np.concatenate(list(recordings.read_blocks(str(path))))


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize(
    ("suffix", "rate", "subtype", "tolerance"),
    [
        (".wav", 44100, "PCM_16", 1e-4),
        (".wav", 48000, "PCM_24", 1e-4),
        (".wav", 8000, "PCM_U8", 1e-2),
        (".wav", 96000, "FLOAT", 1e-4),
        (".flac", 48000, "PCM_16", 1e-4),
        (".aiff", 22050, "PCM_16", 1e-4),
        (".ogg", 44100, "VORBIS", 5e-2),
        (".mp3", 22050, "MPEG_LAYER_III", 5e-2),
    ],
)
def test_a_sine_of_any_format(tmp_path, suffix, rate, subtype, tolerance, channels):
    path = tmp_path / f"a{suffix}"
    samples = np.repeat(sine(rate)[:, np.newaxis], channels, axis=1)
    soundfile.write(path, samples, rate, subtype=subtype)
    waveform = read(path)
    assert waveform.dtype == np.float32
    assert waveform.size == pytest.approx(SECONDS * 44100, abs=3000)
    middle = slice(44100, 2 * 44100)  # Resampling has transients at the ends.
    np.testing.assert_allclose(waveform[middle], sine(44100)[middle], atol=tolerance)


def test_channels_are_averaged(tmp_path):
    left, right = sine(44100), sine(44100, 1000)
    soundfile.write(tmp_path / "a.wav", np.stack([left, right], 1), 44100, "FLOAT")
    np.testing.assert_allclose(read(tmp_path / "a.wav"), (left + right) / 2, atol=1e-6)


def test_blocks_are_resampled_as_one_piece(tmp_path, monkeypatch):
    noise = np.random.default_rng(0).normal(size=100000) / 10
    soundfile.write(tmp_path / "a.wav", noise, 48000)
    whole = read(tmp_path / "a.wav")
    monkeypatch.setattr(recordings, "BLOCK_SAMPLES", 777)
    np.testing.assert_array_equal(read(tmp_path / "a.wav"), whole)
    sizes = [1, 5000, 3, 20000, 10**6, 5]
    chunks = list(recordings.read_chunks(str(tmp_path / "a.wav"), sizes))
    rest = whole.size - sum(sizes[:4])
    assert [chunk.size for chunk in chunks] == [*sizes[:4], rest, 0]
    np.testing.assert_array_equal(np.concatenate(chunks), whole)


def encoded(suffix: str, samples: np.ndarray | None = None, **options) -> bytes:
    file = io.BytesIO()
    samples = sine(44100) if samples is None else samples
    soundfile.write(file, samples, 44100, format=suffix, **options)
    return file.getvalue()


@pytest.mark.parametrize(
    ("name", "contents", "message"),
    [
        ("text.mp3", b"hello\n" * 100, "cannot decode"),
        ("empty.wav", b"", "cannot decode"),
        ("zeros.flac", bytes(1000), "cannot decode"),
        ("video.m4a", b"\0\0\0\x20ftypM4A " + bytes(100), "cannot decode"),
        ("cut.wav", encoded("WAV")[:90000], "is cut off; only 2[56]%"),
        ("cut.aiff", encoded("AIFF")[:90000], "is cut off; only 2[56]%"),
        ("cut.flac", encoded("FLAC")[:20000], "cannot decode"),
        ("cut.mp3", encoded("MP3")[:9000], "is cut off"),
        (
            "nan.wav",
            encoded("WAV", np.array([0, np.nan]), subtype="FLOAT"),
            "not finite",
        ),
        ("rate.wav", encoded("WAV").replace(b"\x44\xac", b"\1\0"), "a rate of 1 Hz"),
    ],
)
def test_an_unusable_file_is_named(tmp_path, name, contents, message):
    (tmp_path / name).write_bytes(contents)
    with pytest.raises(ValueError, match=f"{name}.* {message}"):
        read(tmp_path / name)


def test_a_missing_file_is_named(tmp_path):
    for path in (tmp_path, tmp_path / "none.wav"):
        with pytest.raises(ValueError, match=f"{path}: there is no such file"):
            read(path)


def test_a_header_without_sizes_is_no_cut(tmp_path):
    contents = bytearray(encoded("WAV"))
    contents[4:8] = contents[40:44] = b"\xff" * 4
    (tmp_path / "a.wav").write_bytes(contents)
    assert read(tmp_path / "a.wav").size == SECONDS * 44100


def test_sounds_are_found_by_their_extensions(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "loop").symlink_to(tmp_path)
    for name in ("b/2.MP3", "b/ü.wav", "a.flac", "notes.txt", ".hidden.wav", "c.m4a"):
        (tmp_path / name).touch()
    sounds, num_others = recordings.find_sounds(str(tmp_path))
    assert [name for _, name in sounds] == ["a.flac", "c.m4a", "b/2.MP3", "b/ü.wav"]
    assert all(os.path.samefile(path, tmp_path / name) for path, name in sounds)
    assert num_others == 1
