"""Reading class maps, CSVs of clips, and WAV headers."""

import os
import re
import time

import numpy as np
import pytest
import wav_corpus
from helpers import ROOT, write_wav
from wav_corpus import INVALID, SAMPLES, VALID, VALID_LENGTHS

from tagger.data import clips, csv_files, wav
from tagger.errors import UserError

NOBODY = 65534  # the number of a user without permissions


@pytest.mark.parametrize("name", VALID)
def test_valid_wavs_give_their_samples(tmp_path, name):
    path = tmp_path / "clip.wav"
    path.write_bytes(VALID[name])
    offset, num_samples, _ = wav.read_wav_header(str(path))
    assert num_samples == wav_corpus.NUM_SAMPLES
    assert VALID[name][offset : offset + len(SAMPLES)] == SAMPLES


@pytest.mark.parametrize("name", VALID_LENGTHS)
def test_wavs_of_all_lengths(tmp_path, name):
    contents, expected = VALID_LENGTHS[name]
    path = tmp_path / "clip.wav"
    path.write_bytes(contents)
    assert wav.read_wav_header(str(path))[1] == expected


@pytest.mark.parametrize("name", INVALID)
def test_invalid_wavs_report_what_is_wrong_and_expected(tmp_path, name):
    contents, message = INVALID[name]
    path = tmp_path / "clip.wav"
    path.write_bytes(contents)
    with pytest.raises(UserError, match=re.escape(message)) as error:
        wav.read_wav_header(str(path))
    assert str(path) in str(error.value)
    assert "expected a 16-bit PCM WAV file, 44.1 kHz, mono" in str(error.value)


def test_a_large_empty_file_is_read_quickly(tmp_path):
    path = tmp_path / "clip.wav"
    path.write_bytes(wav_corpus.riff(wav_corpus.FMT))
    os.truncate(path, 2**36)  # sparse
    with pytest.raises(UserError, match="no samples"):
        wav.read_wav_header(str(path))


def test_missing_files_and_folders_are_named(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        wav.read_wav_header(str(tmp_path / "missing.wav"))
    with pytest.raises(UserError, match="is a folder"):
        wav.read_wav_header(str(tmp_path))
    os.mkfifo(tmp_path / "pipe.wav")
    with pytest.raises(UserError, match="is not a regular file"):
        wav.read_wav_header(str(tmp_path / "pipe.wav"))


@pytest.fixture
def forbidden(tmp_path):
    """A WAV without read permission. Root becomes another user during the test."""
    path = tmp_path / "clip.wav"
    path.write_bytes(VALID["plain"])
    path.chmod(0)
    user = os.geteuid()
    if user == 0:
        os.seteuid(NOBODY)
    yield path
    os.seteuid(user)


def test_a_file_without_permission_is_named(forbidden):
    with pytest.raises(UserError, match="clip.wav: cannot be read: Permission denied"):
        wav.read_wav_header(str(forbidden))


def read_rows(tmp_path, contents: str | bytes):
    path = tmp_path / "clips.csv"
    path.write_bytes(contents if isinstance(contents, bytes) else contents.encode())
    return csv_files.read_rows(str(path))


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


def test_names_with_spaces_and_any_letters(tmp_path):
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
        ("fname,labels\n,Bark\n", "clips.csv:2: expected the name of a clip"),
        (
            "fname,labels\na.wav,X\na.wav,X\n",
            "clips.csv:3: clip a.wav is also in line 2",
        ),
        ("fname,labels\na.wav,X\n./a.wav,Y\n", "clips.csv:3: .* also in line 2"),
        (
            'fname,labels\na.wav,"X,_background_"\n',
            "clips.csv:2: clip a.wav has other labels than _background_: X,_back",
        ),
        ("fname,labels,labels\na.wav,X,Y\n", "clips.csv:1: the column labels"),
        ("fname,labels,fname\na.wav,X,b.wav\n", "clips.csv:1: the column fname"),
        ("fname,labels\n/etc/a.wav,X\n", "but got '/etc/a.wav'"),
        ("fname,labels\nx/../../a.wav,X\n", "but got 'x/../../a.wav'"),
        ('fname,labels\na.wav,"Bark,Me\now"\n', "csv:2: .* control .*'Me.now'$"),
        ('fname,"the\nlabels"\na.wav,X\n', "but got fname,the labels"),
        (b"fname,labels\na.wav,X\n\xff.wav,X\n", "clips.csv:3: not in UTF-8"),
        ('fname,labels\na.wav,"X\nb.wav,X\n', "clips.csv:2: not a CSV"),
        ('fname,labels\na.wav,"X\n"\nb.wav,\n', "clips.csv:4: clip b.wav has no"),
    ],
)
def test_bad_csvs_name_the_line(tmp_path, contents, message):
    with pytest.raises(UserError, match=message):
        read_rows(tmp_path, contents)


def test_the_class_map_of_the_data_set():
    names = clips.read_class_map(str(ROOT / "class_map.csv"))
    assert len(names) == 80
    assert names == sorted(names)
    assert names[0] == "Accelerating_and_revving_and_vroom"
    assert names[-1] == "Zipper_(clothing)"


def test_many_classes_are_read_quickly(tmp_path):
    names = [f"Class_{index}" for index in range(20000)]
    (tmp_path / "map.csv").write_text(
        "".join(f"{index},{name}\n" for index, name in enumerate(names))
    )
    write_wav(tmp_path / "0.wav", np.zeros(9))
    for number in range(1, 500):
        os.link(tmp_path / "0.wav", tmp_path / f"{number}.wav")
    rows = [f'{number}.wav,"{names[number]},{names[-1]}"\n' for number in range(500)]
    (tmp_path / "clips.csv").write_text("".join(["fname,labels\n", *rows]))
    started = time.process_time()
    found, table = read_clips(
        csv_path=tmp_path / "clips.csv",
        clip_dir=tmp_path,
        class_map_path=tmp_path / "map.csv",
    )
    assert time.process_time() - started < 1
    assert found == names
    expected = [index for number in range(500) for index in (number, 19999)]
    np.testing.assert_array_equal(np.nonzero(table.labels)[1], expected)


def test_quoted_class_names(tmp_path):
    path = tmp_path / "map.csv"
    path.write_text('0,"Bark, loud"\n1,"Gasp"\n')
    assert clips.read_class_map(str(path)) == ["Bark, loud", "Gasp"]


def test_accents_are_composed(tmp_path):
    (tmp_path / "map.csv").write_text("0,Cafe\u0301\n")
    assert clips.read_class_map(str(tmp_path / "map.csv")) == ["Café"]
    _, rows = read_rows(tmp_path, "fname,labels\ne\u0301.wav,Cafe\u0301\n")
    # Names of files stay as they are.
    assert [(row.fname, row.labels) for row in rows] == [("e\u0301.wav", ("Café",))]


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ("", "empty"),
        ("index,name\n0,Bark\n", "map.csv:1: expected 0,name but got index,name"),
        ("fname,labels\na.wav,Bark\n", "got fname,labels; this is a CSV of clips"),
        ("1,Bark\n", "map.csv:1: expected index 0, but got '1'"),
        ("0,Bark\n2,Meow\n", "map.csv:2: expected index 1, but got '2'"),
        ("0,Bark\n1,Bark\n", "map.csv:2: class Bark appears twice"),
        ("0,Bark\n1\n", "map.csv:2: expected 1,name but got 1"),
        ('0,"Bark\n"\n1,"Me\now"\n', "map.csv:3: .* control .*'Me.now'$"),
        ("0,\x1b[2JBark\n", "map.csv:1: expected the name .* without control"),
        ("0,Bark\n1,_background_\n", "map.csv:2: _background_ is the label"),
    ],
)
def test_bad_class_maps_name_the_line(tmp_path, contents, message):
    path = tmp_path / "map.csv"
    path.write_text(contents)
    with pytest.raises(UserError, match=message):
        clips.read_class_map(str(path))


def read_clips(**kwargs: object):
    paths = {name: str(path) for name, path in kwargs.items()}
    return clips.read_clips(
        **paths, flag_prefix="train", check_class_map=lambda names: None
    )


def problems_of(**kwargs: object) -> list[str]:
    with pytest.raises(UserError) as error:
        read_clips(**kwargs)
    return error.value.problems


def test_all_problems_of_all_files_are_reported_at_once(tmp_path):
    (tmp_path / "clips").mkdir()
    write_wav(tmp_path / "clips" / "good.wav", np.zeros(9))
    (tmp_path / "clips" / "bad.wav").write_bytes(INVALID["stereo"][0])
    write_wav(tmp_path / "clips" / "empty.wav", np.zeros(0))
    (tmp_path / "map.csv").write_text("0,Bark\n2,Meow\n")
    (tmp_path / "clips.csv").write_text(
        "fname,labels\ngood.wav,Bark\nbad.wav,Bark\ngone.wav,Bark\ngood2.wav,Purr\n"
        "good.wav,Bark\n,Bark\ngood.wav\nlost.wav,\n\0.wav,Bark\nempty.wav,Bark\n"
    )
    problems = problems_of(
        csv_path=tmp_path / "clips.csv",
        clip_dir=tmp_path / "clips",
        class_map_path=tmp_path / "map.csv",
    )
    assert f"{tmp_path}/map.csv:2: expected index 1, but got '2'" in problems
    (tmp_path / "map.csv").write_text("0,Bark\n")
    problems = problems_of(
        csv_path=tmp_path / "clips.csv",
        clip_dir=tmp_path / "clips",
        class_map_path=tmp_path / "map.csv",
    )
    expected = [
        (3, "2 channels"),
        (4, "gone.wav: there is no such file"),
        (5, "label Purr of good2.wav is not in the class map"),
        (5, "good2.wav: there is no such file"),
        (6, "clip good.wav is also in line 2"),
        (7, "expected the name of a clip"),
        (8, "expected 2 fields"),
        (9, "clip lost.wav has no labels"),
        (9, "lost.wav: there is no such file"),
        (10, "null"),
        (11, "empty.wav: has no samples"),
    ]
    for line, text in expected:
        where = f"{tmp_path}/clips.csv:{line}: "
        assert any(p.startswith(where) and text in p for p in problems), text
    assert len(problems) == len(expected)


def test_an_unknown_label_is_reported_once(tmp_path, dataset):
    path = tmp_path / "clips.csv"
    path.write_text("fname,labels\n00.wav,tone\n01.wav,Noise\n02.wav,tone\n")
    (problem,) = problems_of(
        csv_path=path, clip_dir=dataset.clip_dir, class_map_path=dataset.class_map_path
    )
    assert problem.startswith(f"{path}:2: label tone of 00.wav ")
    assert "2 clips" in problem


def test_background_clips_have_no_class(tmp_path, dataset):
    path = tmp_path / "clips.csv"
    path.write_text("fname,labels\n00.wav,_background_\n01.wav,Noise\n")
    _, table = read_clips(
        csv_path=path, clip_dir=dataset.clip_dir, class_map_path=dataset.class_map_path
    )
    np.testing.assert_array_equal(table.labels, [[0, 0], [1, 0]])


def test_a_folder_without_the_clips_is_reported_once(tmp_path, dataset):
    (problem,) = problems_of(
        csv_path=dataset.csv_path,
        clip_dir=tmp_path,
        class_map_path=dataset.class_map_path,
    )
    assert problem.startswith("--train_clip_dir: none of the 12 clips ")


def test_missing_inputs_name_their_flags():
    text = str(problems_of(csv_path="no", clip_dir="no", class_map_path="no"))
    for flag in ("--train_csv_path", "--train_clip_dir", "--class_map_path"):
        assert flag in text


def test_the_table_of_clips(dataset):
    names, table = read_clips(
        csv_path=dataset.csv_path,
        clip_dir=dataset.clip_dir,
        class_map_path=dataset.class_map_path,
    )
    assert names == ["Noise", "Tone"]
    np.testing.assert_array_equal(table.labels[:3], [[0, 1], [1, 0], [1, 1]])
    np.testing.assert_array_equal(table.data_offsets, 44)
    taken = table.take(np.array([2, 0]))
    assert taken.paths == [table.paths[2], table.paths[0]]
    assert taken.num_samples[0] == table.num_samples[2]


def clips_of(folder, names, samples, labels=None) -> clips.Clips:
    """Writes clips with these samples to a folder, and makes their table."""
    paths = []
    for name, values in zip(names, samples, strict=True):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        paths.append(write_wav(folder / name, values))
    labels = np.eye(len(names), dtype=np.float32) if labels is None else labels
    return clips.make_clips(paths, wav.read_wav_headers(paths), labels)


def test_the_identity_of_clips_does_not_depend_on_their_order_or_folder(tmp_path):
    names, samples = ["x/a.wav", "y/a.wav", "b.wav"], np.arange(30000).reshape(3, -1)
    table = clips_of(tmp_path / "first", names, samples)
    identity = table.identity(str(tmp_path / "first"))
    assert identity["clips"] == 3
    assert table.take(np.array([2, 0, 1])).identity(f"{tmp_path}/first/") == identity
    os.rename(tmp_path / "first", tmp_path / "second")
    moved = clips_of(tmp_path / "second", names, samples)
    assert moved.identity(str(tmp_path / "second")) == identity


@pytest.mark.parametrize("position", [0, 5000, 9999])
def test_the_identity_knows_samples(tmp_path, position):
    samples = np.tile(np.arange(10000), [2, 1])
    first = clips_of(tmp_path, ["a.wav", "b.wav"], samples).identity(str(tmp_path))
    samples[1, position] += 1
    second = clips_of(tmp_path, ["a.wav", "b.wav"], samples).identity(str(tmp_path))
    assert {name for name in first if first[name] != second[name]} == {"samples"}


@pytest.mark.parametrize(
    ("names", "length", "labels", "different"),
    [
        (["a.wav", "c.wav"], 400, [0, 1], {"names"}),
        (["a.wav", "x/b.wav"], 400, [0, 1], {"names"}),
        (["a.wav", "b.wav"], 401, [0, 1], {"lengths", "samples"}),
        (["a.wav", "b.wav"], 400, [1, 0], {"labels"}),
    ],
)
def test_the_identity_knows_names_lengths_and_labels(
    tmp_path, names, length, labels, different
):
    first, second = tmp_path / "1", tmp_path / "2"
    expected = clips_of(first, ["a.wav", "b.wav"], np.zeros([2, 400]))
    expected = expected.identity(str(first))
    samples = [np.zeros(400), np.zeros(length)]
    labels = np.eye(2, dtype=np.float32)[labels]
    found = clips_of(second, names, samples, labels).identity(str(second))
    assert {name for name in found if found[name] != expected[name]} == different
