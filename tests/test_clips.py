"""Readers of class maps, clip CSVs and WAV headers."""

import os
import struct

import numpy as np
import pytest
from conftest import ROOT, write_wav

import clips
from clips import InputProblems

SAMPLES = np.arange(-3, 4, dtype="<i2").tobytes()  # 7 samples
PCM = struct.pack("<HHIIHH", 1, 1, 44100, 88200, 2, 16)
EXTENSIBLE = (
    struct.pack("<HHIIHHHHIH", 0xFFFE, 1, 44100, 88200, 2, 16, 22, 16, 4, 1)
    + clips.GUID_TAIL
)


def chunk(name: bytes, body: bytes, size: int | None = None, pad: bool = True) -> bytes:
    length = len(body) if size is None else size
    padding = b"\0" if pad and len(body) % 2 else b""
    return name + struct.pack("<I", length) + body + padding


def riff(*chunks: bytes, size: int | None = None) -> bytes:
    body = b"WAVE" + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(body) if size is None else size) + body


FMT = chunk(b"fmt ", PCM)
DATA = chunk(b"data", SAMPLES)

VALID = {
    "plain": riff(FMT, DATA),
    "extensible": riff(chunk(b"fmt ", EXTENSIBLE), DATA),
    "format of 18 bytes": riff(chunk(b"fmt ", PCM + b"\0\0"), DATA),
    "junk before the format": riff(chunk(b"JUNK", b"\0" * 28), FMT, DATA),
    "list before the samples": riff(FMT, chunk(b"LIST", b"INFOabcd"), DATA),
    "odd list with pad": riff(FMT, chunk(b"LIST", b"INFOabc"), DATA),
    "odd list without pad": riff(FMT, chunk(b"LIST", b"INFOabc", pad=False), DATA),
    "list after the samples": riff(FMT, DATA, chunk(b"LIST", b"INFOabcd")),
    "odd list after the samples": riff(FMT, DATA, chunk(b"LIST", b"INFOabc")),
    "trailing bytes": riff(FMT, DATA) + b"xyz",
    "odd samples with pad": riff(FMT, chunk(b"data", SAMPLES + b"x")),
    "odd samples without pad": riff(FMT, chunk(b"data", SAMPLES + b"x", pad=False)),
    "wrong size of all": riff(FMT, DATA, size=0),
    "piped, 2**32-1": riff(FMT, chunk(b"data", SAMPLES, size=2**32 - 1)),
    "piped, 2**31-1": riff(FMT, chunk(b"data", SAMPLES, size=2**31 - 1)),
    "piped, 0": riff(FMT, chunk(b"data", SAMPLES, size=0), size=0),
    "piped, 0 and 2**32-1": riff(FMT, chunk(b"data", SAMPLES, size=0), size=2**32 - 1),
}


@pytest.mark.parametrize("name", VALID)
def test_valid_wavs_give_their_samples(tmp_path, name):
    path = tmp_path / "clip.wav"
    path.write_bytes(VALID[name])
    offset, num_samples = clips.read_wav_header(str(path))
    assert num_samples == 7
    assert VALID[name][offset : offset + 14] == SAMPLES


def test_empty_and_one_sample_wavs(tmp_path):
    path = tmp_path / "clip.wav"
    path.write_bytes(riff(FMT, chunk(b"data", b"")))
    assert clips.read_wav_header(str(path))[1] == 0
    path.write_bytes(riff(FMT, chunk(b"data", b""), chunk(b"LIST", b"INFO")))
    assert clips.read_wav_header(str(path))[1] == 0
    path.write_bytes(riff(FMT, chunk(b"data", b"")) + b"xyz")  # after the last chunk
    assert clips.read_wav_header(str(path))[1] == 0
    path.write_bytes(riff(FMT, chunk(b"data", b"ab")))
    assert clips.read_wav_header(str(path))[1] == 1


def fmt(code=1, channels=1, rate=44100, bits=16) -> bytes:
    return chunk(b"fmt ", struct.pack("<HHIIHH", code, channels, rate, 0, 0, bits))


INVALID = {
    "8 bits": (riff(fmt(bits=8), DATA), "has 8 bits a sample"),
    "24 bits": (riff(fmt(bits=24), DATA), "has 24 bits a sample"),
    "32 bits": (riff(fmt(bits=32), DATA), "has 32 bits a sample"),
    "float": (riff(fmt(code=3, bits=32), DATA), "is floating point"),
    "mu-law": (riff(fmt(code=7, bits=8), DATA), "is mu-law"),
    "MP3 in WAV": (riff(fmt(code=0x55), DATA), "of format 0x0055"),
    "stereo": (riff(fmt(channels=2), DATA), "has 2 channels"),
    "48 kHz": (riff(fmt(rate=48000), DATA), "has a rate of 48000 Hz"),
    "RF64": (b"RF64" + riff(FMT, DATA)[4:], "is of the kind RF64"),
    "cut off": (riff(FMT, DATA)[:-2], "promises 14 bytes of samples, the file holds"),
    "no samples": (riff(FMT), "no samples"),
    "no format": (riff(DATA), "before their format"),
    "short format": (riff(chunk(b"fmt ", b"\1\0"), DATA), "fmt chunk of only 2 bytes"),
    "empty": (b"", "is empty"),
    "text": (b"fname,labels\n" * 9, "is not a WAV file"),
    "two bytes": (b"RI", "is not a WAV file"),
}


@pytest.mark.parametrize("name", INVALID)
def test_invalid_wavs_say_what_and_what_is_expected(tmp_path, name):
    contents, message = INVALID[name]
    path = tmp_path / "clip.wav"
    path.write_bytes(contents)
    with pytest.raises(ValueError, match=message) as error:
        clips.read_wav_header(str(path))
    assert str(path) in str(error.value)
    assert "expected a 16-bit PCM WAV file, 44.1 kHz, mono" in str(error.value)


def test_missing_files_and_folders_are_named(tmp_path):
    with pytest.raises(ValueError, match="no such file"):
        clips.read_wav_header(str(tmp_path / "missing.wav"))
    with pytest.raises(ValueError, match="is a folder"):
        clips.read_wav_header(str(tmp_path))
    os.mkfifo(tmp_path / "pipe.wav")
    with pytest.raises(ValueError, match="is not a regular file"):
        clips.read_wav_header(str(tmp_path / "pipe.wav"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_named(tmp_path):
    path = tmp_path / "clip.wav"
    path.write_bytes(VALID["plain"])
    path.chmod(0)
    with pytest.raises(ValueError, match="Permission denied"):
        clips.read_wav_header(str(path))


def read_rows(tmp_path, contents: str | bytes):
    path = tmp_path / "clips.csv"
    path.write_bytes(contents if isinstance(contents, bytes) else contents.encode())
    return clips.read_rows(str(path))


@pytest.mark.parametrize(
    "contents",
    [
        'fname,labels\na.wav,Bark\nb.wav,"Bark,Meow"\n',
        'fname,labels\r\na.wav,Bark\r\nb.wav,"Bark,Meow"\r\n',
        '\ufefffname,labels\n\na.wav,Bark\nb.wav,"Bark,Meow"',
        'fname,aso_ids,label\na.wav,/m/1,Bark\nb.wav,"/m/1,/m/2","Bark,Meow"\n',
        'fname,labels,freesound_id,license\na.wav,Bark,1,x\nb.wav,"Bark,Meow",2,y\n',
    ],
)
def test_the_csvs_of_the_data_set(tmp_path, contents):
    _, rows = read_rows(tmp_path, contents)
    assert [(row.fname, row.labels) for row in rows] == [
        ("a.wav", ("Bark",)),
        ("b.wav", ("Bark", "Meow")),
    ]


def test_names_with_spaces_and_letters_of_any_kind(tmp_path):
    _, rows = read_rows(tmp_path, "fname,labels\nein Bär.wav,Bark\nd/犬.wav,Bark\n")
    assert [row.fname for row in rows] == ["ein Bär.wav", "d/犬.wav"]


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ("", "empty"),
        ("fname,labels\n", "no clips"),
        ("a.wav,Bark\n", "clips.csv:1: expected a header"),
        ("fname,labels\na.wav\n", "clips.csv:2: expected 2 fields"),
        ("fname,labels\na.wav,Bark,Meow\n", "clips.csv:2: expected 2 fields"),
        ("fname,labels\na.wav,\n", "clips.csv:2: clip a.wav has no labels"),
        ("fname,labels\n,Bark\n", "the clip has no name"),
        ("fname,labels\na.wav,X\na.wav,X\n", "clips.csv:3: clip a.wav is there twice"),
        ("fname,labels\n/etc/a.wav,X\n", "relative to the folder"),
        ("fname,labels\nx/../../a.wav,X\n", "may not lie outside"),
        (b"fname,labels\na.wav,X\n\xff.wav,X\n", "clips.csv:3: not in UTF-8"),
        ('fname,labels\na.wav,"X\nb.wav,X\n', "clips.csv:2: not a CSV"),
        ('fname,labels\na.wav,"X\n"\nb.wav,\n', "clips.csv:4: clip b.wav has no"),
    ],
)
def test_bad_csvs_name_the_line(tmp_path, contents, message):
    with pytest.raises(InputProblems, match=message):
        read_rows(tmp_path, contents)


def test_the_class_map_of_the_data_set():
    names = clips.read_class_map(str(ROOT / "class_map.csv"))
    assert len(names) == 80
    assert names == sorted(names)
    assert names[0] == "Accelerating_and_revving_and_vroom"
    assert names[-1] == "Zipper_(clothing)"


def test_quoted_class_names(tmp_path):
    path = tmp_path / "map.csv"
    path.write_text('0,"Bark, loud"\n1,"Gasp"\n')
    assert clips.read_class_map(str(path)) == ["Bark, loud", "Gasp"]


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ("", "empty"),
        ("index,name\n0,Bark\n", "map.csv:1: expected 0,name but got index,name"),
        ("1,Bark\n", "map.csv:1: expected index 0, but got '1'"),
        ("0,Bark\n2,Meow\n", "map.csv:2: expected index 1, but got '2'"),
        ("0,Bark\n1,Bark\n", "class Bark is there twice"),
        ("0,Bark\n1\n", "expected index,name"),
    ],
)
def test_bad_class_maps_name_the_line(tmp_path, contents, message):
    path = tmp_path / "map.csv"
    path.write_text(contents)
    with pytest.raises(InputProblems, match=message):
        clips.read_class_map(str(path))


def test_all_problems_of_all_files_come_at_once(tmp_path):
    (tmp_path / "clips").mkdir()
    write_wav(tmp_path / "clips" / "good.wav", np.zeros(9))
    (tmp_path / "clips" / "bad.wav").write_bytes(INVALID["stereo"][0])
    (tmp_path / "map.csv").write_text("0,Bark\n")
    (tmp_path / "clips.csv").write_text(
        "fname,labels\ngood.wav,Bark\nbad.wav,Bark\ngone.wav,Bark\ngood2.wav,Purr\n"
        "good.wav,Bark\n,Bark\ngood.wav\nlost.wav,\n"
    )
    with pytest.raises(InputProblems) as error:
        clips.read_clips(
            csv_path=str(tmp_path / "clips.csv"),
            clip_dir=str(tmp_path / "clips"),
            class_map_path=str(tmp_path / "map.csv"),
            train_dir="none",
            flag_prefix="train",
        )
    text = "\n".join(error.value.problems)
    assert "clips.csv:3: " in text
    assert "2 channels" in text
    assert "gone.wav: there is no such file" in text
    assert "clips.csv:5: label Purr of good2.wav is not in the class map" in text
    assert "clips.csv:6: clip good.wav is there twice, first in line 2" in text
    assert "clips.csv:7: the clip has no name" in text
    assert "clips.csv:8: expected 2 fields" in text
    assert "clips.csv:9: clip lost.wav has no labels" in text
    assert "clips.csv:9: " + str(tmp_path / "clips" / "lost.wav") in text
    assert len(error.value.problems) == 9


def test_an_unknown_label_is_one_line_with_a_hint(tmp_path, dataset):
    path = tmp_path / "clips.csv"
    path.write_text("fname,labels\n00.wav,tone\n01.wav,Noise\n02.wav,tone\n")
    with pytest.raises(InputProblems) as error:
        clips.read_clips(
            csv_path=str(path),
            clip_dir=str(dataset.clip_dir),
            class_map_path=str(dataset.class_map_path),
            train_dir="none",
            flag_prefix="train",
        )
    (problem,) = error.value.problems
    assert (
        f"{path}:2: label tone of 00.wav and 1 more is not in the class map" in problem
    )
    assert problem.endswith("(did you mean Tone?)")


def test_missing_inputs_name_their_flags(tmp_path):
    with pytest.raises(InputProblems) as error:
        clips.read_clips(
            csv_path="no.csv",
            clip_dir="no_dir",
            class_map_path="no_map.csv",
            train_dir="none",
            flag_prefix="eval",
        )
    text = str(error.value)
    for flag in ("--eval_csv_path", "--eval_clip_dir", "--class_map_path"):
        assert flag in text


def test_the_table_of_clips(dataset):
    names, table = clips.read_clips(
        csv_path=str(dataset.csv_path),
        clip_dir=str(dataset.clip_dir),
        class_map_path=str(dataset.class_map_path),
        train_dir="none",
        flag_prefix="train",
    )
    assert names == ["Noise", "Tone"]
    np.testing.assert_array_equal(table.labels[:3], [[0, 1], [1, 0], [1, 1]])
    np.testing.assert_array_equal(table.data_offsets, 44)
    taken = table.take(np.array([2, 0]))
    assert taken.paths == [table.paths[2], table.paths[0]]
    assert taken.num_samples[0] == table.num_samples[2]


def test_list_wavs(tmp_path):
    with pytest.raises(ValueError, match="no \\*.wav files"):
        clips.list_wavs(str(tmp_path))
    for name in ("b.wav", "a.wav", "notes.txt", "c.mp3"):
        (tmp_path / name).touch()
    assert clips.list_wavs(str(tmp_path)) == ["a.wav", "b.wav"]
    with pytest.raises(FileNotFoundError, match="--inference_clip_dir"):
        clips.list_wavs(str(tmp_path / "none"))
