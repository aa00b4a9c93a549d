"""Reading recordings: formats, rates, channels, blocks, and unusable files."""

import errno
import io
import os
import pathlib
import re

import numpy as np
import pytest
import soundfile
import soxr
import wav_corpus

from recordings import decoding, doubts
from tagger.errors import UserError

SECONDS = 6  # two blocks


def sine(rate: int, hz: float = 440.0) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * hz * np.arange(SECONDS * rate) / rate)


def write(path, samples: np.ndarray, rate: int, subtype: str) -> None:
    container = "OGG" if subtype == "OPUS" else None
    soundfile.write(path, samples, rate, subtype, format=container)


def tone_with_bursts() -> np.ndarray:
    """Stereo of more than two blocks, whose MP3 frames have different sizes."""
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, [300000, 2])
    samples *= (np.arange(300000) // 20000 % 2 == 0)[:, np.newaxis]
    return samples + 0.3 * np.sin(0.05 * np.arange(300000))[:, np.newaxis]


def read(path) -> np.ndarray:
    return np.concatenate(list(decoding.read_blocks(str(path))))


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
        (".mp3", 44100, "MPEG_LAYER_III", 5e-2),
        (".opus", 48000, "OPUS", 5e-2),
    ],
)
def test_a_sine_of_any_format(tmp_path, suffix, rate, subtype, tolerance, channels):
    path = tmp_path / f"a{suffix}"
    samples = np.repeat(sine(rate)[:, np.newaxis], channels, axis=1)
    write(path, samples, rate, subtype)
    waveform = read(path)
    assert waveform.dtype == np.float32
    assert waveform.size == pytest.approx(SECONDS * 44100, abs=3000)
    middle = slice(44100, 5 * 44100)  # Resampling has transients at the ends.
    np.testing.assert_allclose(waveform[middle], sine(44100)[middle], atol=tolerance)


def test_channels_are_averaged(tmp_path):
    left, right = sine(44100), sine(44100, 1000)
    soundfile.write(tmp_path / "a.wav", np.stack([left, right], 1), 44100, "FLOAT")
    np.testing.assert_allclose(read(tmp_path / "a.wav"), (left + right) / 2, atol=1e-6)


@pytest.mark.parametrize(
    ("suffix", "rate", "subtype"),
    [
        (".wav", 44100, "PCM_16"),
        (".wav", 48000, "PCM_16"),
        (".flac", 44100, "PCM_16"),
        (".mp3", 44100, "MPEG_LAYER_III"),
        (".mp3", 22050, "MPEG_LAYER_III"),
        (".ogg", 44100, "VORBIS"),
        (".opus", 48000, "OPUS"),
    ],
)
def test_blocks_are_read_as_one_piece(tmp_path, monkeypatch, suffix, rate, subtype):
    path = tmp_path / f"a{suffix}"
    write(path, tone_with_bursts(), rate, subtype)
    # soundfile reads all samples at once, without seeking in between.
    expected, _ = soundfile.read(path, dtype="float32")
    expected = expected.mean(axis=1)
    if rate != 44100:
        expected = soxr.resample(expected, rate, 44100)
    for size in (2**20, decoding.BLOCK_SAMPLES, 7777):
        monkeypatch.setattr(decoding, "BLOCK_SAMPLES", size)
        np.testing.assert_allclose(read(path), expected, atol=1e-6, err_msg=size)


def test_chunks_of_any_sizes(tmp_path):
    noise = np.random.default_rng(0).normal(size=100000) / 10
    soundfile.write(tmp_path / "a.wav", noise, 48000)
    whole = read(tmp_path / "a.wav")
    sizes = [1, 5000, 3, 20000, 10**6, 5]
    chunks = list(decoding.read_chunks(str(tmp_path / "a.wav"), sizes))
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
        ("empty.wav", b"", "is empty"),
        ("zeros.flac", bytes(1000), "cannot decode"),
        (
            "video.m4a",
            b"\0\0\0\x20ftypM4A " + bytes(100),
            "cannot decode.*ffmpeg -i in.m4a out.flac",
        ),
        ("cut.wav", encoded("WAV")[:132000], "is cut off; only 25%"),
        ("cut.aiff", encoded("AIFF")[:132000], "is cut off; only 25%"),
        ("cut.flac", encoded("FLAC")[:20000], "cannot decode"),
        (
            "nan.wav",
            encoded("WAV", np.array([0, np.nan]), subtype="FLOAT"),
            "not finite",
        ),
        (
            "rate.wav",
            encoded("WAV").replace(b"\x44\xac", b"\1\0"),
            "a sample rate of 1 Hz",
        ),
    ],
    # The bytes contain the time at which they were made.
    ids=lambda value: "contents" if isinstance(value, bytes) else None,
)
def test_an_unusable_file_is_named(tmp_path, name, contents, message):
    (tmp_path / name).write_bytes(contents)
    with pytest.raises(UserError, match=f"{name}.* {message}"):
        read(tmp_path / name)


def test_the_lowest_and_the_highest_sample_rate(tmp_path):
    for rate, is_valid in ((999, 0), (1000, 1), (768000, 1), (768001, 0)):
        path = tmp_path / f"{rate}.wav"
        soundfile.write(path, np.zeros(rate), rate)
        if is_valid:
            assert read(path).size == pytest.approx(44100, abs=100)
        else:
            with pytest.raises(UserError, match=f"{path}: .* {rate} Hz"):
                read(path)


def test_a_missing_file_is_named(tmp_path):
    for path in (tmp_path, tmp_path / "none.wav"):
        with pytest.raises(UserError, match=f"{path}: there is no such file"):
            read(path)


def test_a_file_without_permission_is_named(tmp_path, monkeypatch):
    (tmp_path / "a.wav").write_bytes(encoded("WAV"))
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # also for root
    with pytest.raises(UserError, match=f"{tmp_path}/a.wav: .*permission"):
        read(tmp_path / "a.wav")


def test_a_mean_that_is_not_finite_is_reported(tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, np.full([9, 2], 3e38), 44100, subtype="FLOAT")
    with pytest.raises(UserError, match="not finite"):
        read(path)


def test_a_file_with_a_header_without_sizes_is_not_cut_off(tmp_path):
    contents = bytearray(encoded("WAV"))
    contents[4:8] = contents[40:44] = b"\xff" * 4
    (tmp_path / "a.wav").write_bytes(contents)
    assert read(tmp_path / "a.wav").size == SECONDS * 44100


@pytest.mark.parametrize("name", sorted({*wav_corpus.VALID} - {"second_data_after"}))
def test_wavs_are_read_like_clips(tmp_path, name):
    (tmp_path / "a.wav").write_bytes(wav_corpus.VALID[name])
    samples = np.frombuffer(wav_corpus.SAMPLES, "<i2")
    np.testing.assert_array_equal(read(tmp_path / "a.wav"), samples / 2**15)


@pytest.mark.parametrize("subtype", ["PCM_24", "FLOAT", "ULAW"])
def test_a_killed_recorder_of_any_format_is_read_to_the_end(tmp_path, subtype):
    samples = np.stack([sine(44100), sine(44100, 1000)], 1)
    soundfile.write(tmp_path / "whole.wav", samples, 44100, subtype)
    contents = bytearray((tmp_path / "whole.wav").read_bytes())
    start = contents.index(b"data") + 8
    contents[4:8] = (start - 8).to_bytes(4, "little")
    contents[start - 4 : start] = bytes(4)
    (tmp_path / "killed.wav").write_bytes(contents)
    whole = read(tmp_path / "whole.wav")
    np.testing.assert_array_equal(read(tmp_path / "killed.wav")[: whole.size], whole)


@pytest.mark.parametrize(
    "name", [name for name in wav_corpus.INVALID if name.startswith("no_samples")]
)
def test_other_chunks_are_not_samples(tmp_path, name):
    (tmp_path / "a.wav").write_bytes(wav_corpus.INVALID[name][0])
    assert not list(decoding.read_blocks(str(tmp_path / "a.wav")))


@pytest.mark.parametrize(
    ("hz", "rate", "max_hz", "expected"),
    [
        (30000, 96000, 22050, "100% of its energy is above 22050 Hz"),
        (15000, 96000, 22050, ""),
        (15000, 96000, 7500, "100% of its energy is above 7500 Hz"),
        (15000, 15000, 7500, ""),
        (0, 96000, 22050, ""),
    ],
)
def test_energy_above_the_range(tmp_path, hz, rate, max_hz, expected):
    samples = np.sin(2 * np.pi * hz * np.arange(rate // 4) / rate)
    soundfile.write(tmp_path / "a.wav", samples / 2, rate)
    described = doubts.describe_range(str(tmp_path / "a.wav"), max_hz)
    assert described.startswith(expected)
    assert bool(described) == bool(expected)


def test_the_share_of_the_energy_above_the_range(tmp_path):
    times = np.arange(96000) / 96000
    for weight, expected in ((1, "80%"), (0.4, "")):
        samples = np.sin(2e4 * np.pi * times) / 2 + weight * np.sin(6e4 * np.pi * times)
        soundfile.write(tmp_path / "a.wav", samples / 2, 96000)
        assert doubts.describe_range(str(tmp_path / "a.wav"), 22050)[:3] == expected


def test_durations(tmp_path):
    soundfile.write(tmp_path / "a.flac", np.zeros(8000), 16000)
    assert decoding.read_duration(str(tmp_path / "a.flac")) == 0.5
    with pytest.raises(UserError, match="b.flac: there is no such file"):
        decoding.read_duration(str(tmp_path / "b.flac"))


def test_an_mp3_file_with_a_wrong_length_is_read_to_its_end(tmp_path):
    contents = encoded("MP3")
    (tmp_path / "a.mp3").write_bytes(contents[: len(contents) // 2])
    assert read(tmp_path / "a.mp3").size == pytest.approx(SECONDS * 22050, abs=9000)


def test_sounds_are_found_by_their_extensions(tmp_path, capsys):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "loop").symlink_to(tmp_path)
    for name in ("b/2.MP3", "b/ü.wav", "a.flac", "notes.txt", ".hidden.wav", "c.m4a"):
        (tmp_path / name).touch()
    sounds = decoding.find_sounds(str(tmp_path))
    assert [name for _, name in sounds] == ["a.flac", "c.m4a", "b/2.MP3", "b/ü.wav"]
    assert all(os.path.samefile(path, tmp_path / name) for path, name in sounds)
    assert capsys.readouterr().err == f"{tmp_path}: 1 other file ignored\n"


def test_symbolic_links_are_followed(tmp_path):
    store, sounds = tmp_path / "store", tmp_path / "sounds"
    (store / "deep").mkdir(parents=True)
    (store / "deep" / "1.wav").touch()
    (store / "back").symlink_to(sounds)
    sounds.mkdir()
    (sounds / "a.wav").symlink_to(store / "deep" / "1.wav")
    for name in "bc":  # Both are read.
        (sounds / name).symlink_to(store)
    found = decoding.find_sounds(str(sounds))
    assert [name for _, name in found] == ["a.wav", "b/deep/1.wav", "c/deep/1.wav"]


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    (tmp_path / "b").mkdir()

    def scandir(path, scan=os.scandir):
        if os.path.basename(path) == "b":
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(UserError, match=f"cannot read {tmp_path}/b: Permission denied"):
        decoding.find_sounds(str(tmp_path))


def test_files_folders_and_patterns(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("d/a.wav", "d/e/b.mp3", "[1].wav", "c.flac", "f/b.mp3"):
        path = pathlib.Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()

    def found(*arguments):
        return [tuple(sound) for sound in decoding.find_files(arguments)]

    assert found("d", "[1].wav", "*.flac", "./c.flac") == [
        ("d/a.wav", "a.wav"),
        ("d/e/b.mp3", "e/b.mp3"),
        ("[1].wav", "[1].wav"),
        ("c.flac", "c.flac"),
    ]
    assert found("[df]") == [*found("d"), ("f/b.mp3", "b.mp3")]
    assert found("**/b.mp3") == [("d/e/b.mp3", "b.mp3"), ("f/b.mp3", "b.mp3")]
    # What is missing is reported when it is read.
    assert found("none.wav", "c.flac")[0] == ("none.wav", "none.wav")
    pathlib.Path("empty").mkdir()
    pathlib.Path("empty/notes.txt").touch()
    capsys.readouterr()
    assert found("empty", "c.flac") == found("c.flac")
    *_, note = capsys.readouterr().err.splitlines()
    assert re.match("note: empty: ", note)
    for nothing in ("none.wav", "*.xyz", "empty"):
        with pytest.raises(UserError, match="no sound file"):
            found(nothing)
