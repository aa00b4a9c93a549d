"""Archives of tagged recordings: adding, continuing, settings, search, tables."""

import csv
import os
import sqlite3

import numpy as np
import pytest
from helpers import write_wav

from recordings import annotations, archive, decoding
from recordings.archive import Archive, Settings
from recordings.segments import Tags
from recordings.thresholds import Rule
from tagger.errors import UserError
from tagger.hparams import Hparams
from tools.tag import archived, results, scoring
from tools.tag.results import Outputs

SETTINGS = Settings("/a/model.ckpt-1", 7, ["A", "B"], Hparams(), False)
RNG = np.random.default_rng(0)


def random_tags(num_examples: int, doubt: str = "") -> Tags:
    scores = RNG.uniform(0, 1, [num_examples, 2])
    embeddings = np.abs(RNG.normal(size=[num_examples, 1024])).astype(np.float32)
    return Tags(num_examples / 2 + 0.5, scores, embeddings, None, doubt)


@pytest.fixture
def base(tmp_path):
    with Archive(str(tmp_path / "a.db"), SETTINGS) as opened:
        yield opened


def test_what_is_added_is_found(base, tmp_path):
    added = {}
    for name, size in (("a \udcff.wav", 130), ("b.wav", 1)):
        path = os.fsencode(tmp_path / name)
        open(path, "wb").close()
        added[os.fsdecode(path)] = random_tags(size, "is silent")
    for path, tags in added.items():
        assert base.find(path) is None
        base.add(path, tags)
    with Archive(base.path) as again:
        assert again.settings == SETTINGS
        assert again.settings.description == "model.ckpt-1 00000007"
        files = list(again.files())
        assert [file.path for file in files] == sorted(added)
        for file in files:
            expected, tags = added[file.path], again.tags(file)
            assert again.find(file.path) == file
            assert (tags.seconds, tags.doubt) == (expected.seconds, "is silent")
            np.testing.assert_allclose(tags.scores, expected.scores, rtol=1e-3)


def test_a_file_is_replaced_if_it_changes(base, tmp_path):
    path = tmp_path / "a.wav"
    for size, modified in ((3, 1), (2, 1), (2, 2)):
        path.write_bytes(b"x" * size)
        os.utime(path, ns=(0, modified))
        assert base.find(str(path)) is None
        base.add(str(path), random_tags(size))
        (file,) = base.files()
        assert len(base.tags(file).scores) == size
    path.unlink()
    assert base.find(str(path)) is None
    base.add(str(path), None, "a: no such file \udcff")
    (file,) = base.files()
    assert (file.seconds, file.error) == (None, "a: no such file \udcff")
    assert base.find(str(path)) == file
    assert base.similarities(np.ones([1, 1024]))[0].size == 0  # no examples remain


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"checkpoint": "/b", "fingerprint": 8}, "checkpoint /b, not /a/model.ckpt-1"),
        ({"class_names": ["A", "C"]}, "class 1 is C, not B"),
        ({"hparams": Hparams(mel_bands=64)}, "mel_bands=64, not 96"),
        ({"mixed_precision": True}, "mixed_precision"),
    ],
)
def test_other_settings_are_an_error(base, change, message):
    with pytest.raises(UserError, match=f"--archive: .*a.db has other .*{message}"):
        Archive(base.path, SETTINGS._replace(**change))
    renamed = {"checkpoint": "/b", "hparams": Hparams(lr=1.0)}
    Archive(base.path, SETTINGS._replace(**renamed)).__exit__()


def test_files_that_are_no_archives(tmp_path):
    path = tmp_path / "a.db"
    with pytest.raises(UserError, match="--archive: there is no file"):
        Archive(str(path))
    path.write_text("not a database" * 100)
    with pytest.raises(UserError, match="--archive: .*a.db: file is not a database"):
        Archive(str(path), SETTINGS)
    path.unlink()
    sqlite3.connect(path).execute("CREATE TABLE t (x)")
    for settings in (SETTINGS, None):
        with pytest.raises(UserError, match="a.db is no archive of tools.tag"):
            Archive(str(path), settings)
    with pytest.raises(UserError, match="--archive: .*unable to open"):
        Archive(str(tmp_path / "none" / "a.db"), SETTINGS)


def test_similarities_are_cosines(base, monkeypatch):
    monkeypatch.setattr(archive, "BLOCK_EXAMPLES", 4)
    tags = {name: random_tags(size) for name, size in (("a", 9), ("b", 3), ("c", 0))}
    for name, value in tags.items():
        base.add(name, value)
    queries = np.abs(RNG.normal(size=[2, 1024])).astype(np.float32)
    embeddings = np.concatenate([value.embeddings for value in tags.values()])
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    expected = unit @ (queries / np.linalg.norm(queries, axis=1, keepdims=True)).T
    files, numbers, values = base.similarities(queries)
    np.testing.assert_allclose(values, expected.max(axis=1), atol=1e-3)
    assert files.tolist() == [1] * 9 + [2] * 3
    assert numbers.tolist() == [*range(9), *range(3)]
    np.testing.assert_allclose(
        base.scores(1)[2],
        np.concatenate([value.scores[:, 1] for value in tags.values()]),
        rtol=1e-3,
    )


def test_examples_do_not_overlap(base):
    base.add("a", random_tags(5))
    base.add("b", random_tags(2)._replace(seconds=1.2))
    files = np.array([1, 1, 1, 2, 2])
    numbers, values = np.array([2, 1, 4, 1, 0]), np.linspace(0.9, 0.5, 5)
    found = base.examples(files, numbers, values, most=10)
    assert [(e.start, e.end, round(e.value, 1)) for e in found] == [
        *((1, 2, 0.9), (2, 3, 0.7)),
        (0.5, 1.2, 0.6),  # The recording ends before the example.
    ]
    assert [os.path.basename(e.path) for e in found] == ["a", "a", "b"]
    assert len(base.examples(files, numbers, values, most=2)) == 2


def read_table(path: str, delimiter: str = ",") -> tuple[list[str], list[list[str]]]:
    """The header and the rows of a table."""
    with open(path, newline="") as file:
        header, *rows = csv.reader(file, delimiter=delimiter)
    return header, rows


@pytest.fixture
def folder(tmp_path):
    """Two recordings and a file that is none."""
    for name in ("x/1.wav", "y/1.wav"):
        (tmp_path / name).parent.mkdir()
        write_wav(tmp_path / name, 3000 * RNG.normal(size=44100))
    (tmp_path / "y" / "2.wav").write_text("no recording")
    return tmp_path


def tag_folder(folder, base, monkeypatch, *, stop_at: str = "", **options) -> int:
    """Tags a folder with random scores; KeyboardInterrupt at a name of a file."""
    tried = []

    def fake_tag(path, tagger, **kept):
        tried.append(os.path.relpath(path, folder))
        if tried[-1] == stop_at:
            raise KeyboardInterrupt
        decoding.read_duration(path)
        return random_tags(3)

    monkeypatch.setattr(results, "tag", fake_tag)
    tagger = scoring.Tagger(["A", "B"], Hparams(), None)
    options = {"retry_failed": False, "top": 0} | options
    found = decoding.find_files([str(folder / "x"), str(folder / "y")])
    try:
        return archived.tag_to_archive(found, tagger, base, **options), tried
    except KeyboardInterrupt:
        return None, tried


def test_the_same_command_continues(base, folder, monkeypatch, capsys):
    arguments = (folder, base, monkeypatch)
    assert tag_folder(*arguments, stop_at="y/1.wav")[1] == ["x/1.wav", "y/1.wav"]
    capsys.readouterr()
    assert tag_folder(*arguments) == (1, ["y/1.wav", "y/2.wav"])
    out, err = capsys.readouterr()
    (line,) = out.splitlines()
    assert line.startswith(f"file 2 of 3: {folder}/y/1.wav (2.0 s); 2.0 s done, ")
    assert line.endswith(" left")
    assert "1 of 3 files are in " in err
    assert "error: " in err and "2.wav" in err
    assert tag_folder(*arguments) == (1, [])
    assert "1 of them failed, see --retry_failed" in capsys.readouterr().err
    assert tag_folder(*arguments, retry_failed=True) == (1, ["y/2.wav"])
    write_wav(folder / "y" / "2.wav", np.ones(9))
    assert tag_folder(*arguments, top=2) == (0, ["y/2.wav"])
    assert len(capsys.readouterr().out.splitlines()) == 3
    assert len(list(base.files())) == 3


def test_tables_of_an_archive(base, folder, monkeypatch):
    tag_folder(folder, base, monkeypatch)
    paths = {
        name: str(folder / f"{name}.txt") for name in ("segments", "files", "raven")
    }
    outputs = Outputs(**paths, audacity=str(folder / "tracks"))
    results.check_outputs(outputs)
    archived.write_archive_tables(base, outputs, Rule(np.array([0.0, 1.0])))
    files = [str(folder / name) for name in ("x/1.wav", "y/1.wav", "y/2.wav")]
    header, rows = read_table(paths["files"])
    assert header == ["file", "seconds", "detections", "status"]
    assert [row[:3] for row in rows] == [
        *([files[0], "2.000", "1"], [files[1], "2.000", "1"], [files[2], "", ""])
    ]
    assert [row[3].split(":")[0] for row in rows] == ["ok", "ok", "failed"]
    _, rows = read_table(paths["segments"])
    assert [row[:4] for row in rows] == [
        [path, "0.000", "2.000", "A"] for path in files[:2]
    ]
    header, rows = read_table(paths["raven"], "\t")
    second = dict(zip(header, rows[1], strict=True))
    assert second["Selection"] == "2"
    assert (second["Begin Time (s)"], second["End Time (s)"]) == ("2.000", "4.000")
    assert (second["Begin File"], second["File Offset (s)"]) == ("1.wav", "0.000")
    tracks = sorted(os.listdir(folder / "tracks"))
    assert tracks == ["x__1.wav.txt", "y__1.wav.txt"]  # A failed file has none.
    calibrations = np.array([[0, 0], [np.nan, np.nan]])
    archived.write_archive_tables(base, outputs, Rule(1.0), calibrations)
    header, rows = read_table(paths["files"])
    assert [row[2] for row in rows] == ["0", "0", ""]
    assert header[4:] == ["p(A)", "p(B)"]
    assert [row[4:] for row in rows] == [["0.5000", ""], ["0.5000", ""], ["", ""]]
    assert not (folder / "tracks" / tracks[0]).read_text()


def test_raven_tables_are_read_as_annotations(base, tmp_path):
    path = str(tmp_path / 'a "b".wav')
    write_wav(path, np.ones(3 * 44100))
    base.add(path, random_tags(5))
    archived.write_archive_tables(
        base, Outputs(raven=str(tmp_path / "t.txt")), Rule(0.0)
    )
    sounds = [decoding.Sound(path, os.path.basename(path))]
    found = annotations.read_annotations(str(tmp_path / "t.txt"), sounds)
    assert found == {path: [(0, 3, "A"), (0, 3, "B")]}
