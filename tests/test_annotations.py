"""Annotations of recordings: label tracks, tables of Raven, CSVs."""

import re

import numpy as np
import pytest
import soundfile

from recordings import annotations
from recordings.decoding import find_sounds
from tagger.errors import UserError

RAVEN_HEADER = "Selection\tView\tBegin Time (s)\tEnd Time (s)\tLow Freq (Hz)\t"


@pytest.fixture
def read(tmp_path):
    """Writes files below a folder; reads the annotations of two recordings of 10 s."""
    recordings = tmp_path / "recordings"
    for name in ("a.flac", "sub/b.b.wav"):
        path = recordings / name
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, np.full(10 * 8000, 0.1), 8000)

    def read(files: dict[str, str], source: str = "tracks") -> dict[str, list]:
        for name, text in files.items():
            path = tmp_path / "tracks" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text.encode())
        sounds = find_sounds(str(recordings))
        names = {path: name for path, name in sounds}
        found = annotations.read_annotations(str(tmp_path / source), sounds)
        return {names[path]: events for path, events in found.items()}

    return read


def test_a_label_track(read):
    text = (
        "\ufeff5\t6.5\tDog,Rain\r\n1.000000\t2.000000\tBär 0.97\n"
        "\\\t100.0\t2000.0\n2\t10.0004\tModel 3\n1\t2\tBär\n"
    )
    assert read({"a.txt": text}) == {
        "a.flac": [
            (1, 2, "Bär"),
            (2, 10.0004, "Model 3"),
            (5, 6.5, "Dog"),
            (5, 6.5, "Rain"),
        ]
    }


@pytest.mark.parametrize(
    "name",
    ["b.b.txt", "b.b.wav.txt", "sub/b.b.txt", "sub__b.b.wav.txt", "sub__b.b.TXT"],
)
def test_names_of_label_tracks(read, name):
    assert read({name: "1\t2\tDog\n"}) == {"sub/b.b.wav": [(1, 2, "Dog")]}


def test_recordings_without_events(read):
    files = {"a.txt": "", "b.b.txt": "0\t10\t_background_\n"}
    assert read(files) == {"a.flac": [], "sub/b.b.wav": []}


def test_tables_of_raven(read):
    table = (
        f"{RAVEN_HEADER}Species\n"
        '1\tWaveform 1\t1.5\t2.5\t300\tWren "song"\n'
        '1\tSpectrogram 1\t1.5\t2.5\t300\tWren "song"\n'
    )
    files = {"a.Table.1.selections.txt": table, "b.b.selections.txt": table}
    events = [(1.5, 2.5, 'Wren "song"')]
    assert read(files) == {"a.flac": events, "sub/b.b.wav": events}


def test_a_table_of_raven_for_several_recordings(read):
    columns = "Begin File\tFile Offset (s)\tAnnotation\n"
    rows = "1\tS\t1\t2\t0\ta.flac\t1\tWren\n2\tS\t13\t14.5\t0\tb.b.wav\t3\tOwl\n"
    expected = {"a.flac": [(1, 2, "Wren")], "sub/b.b.wav": [(3, 4.5, "Owl")]}
    table = f"{RAVEN_HEADER}{columns}{rows}"
    assert read({"all.txt": table}, "tracks/all.txt") == expected


@pytest.mark.parametrize("column", ["label", "class", "Label"])
@pytest.mark.parametrize("folder", ["", "/old/recordings/"])
def test_csvs(read, column, folder):
    text = (
        f"file,start,end,{column},score\n{folder}a.flac,1.000,2.000,Dog,0.9\n"
        f'{folder}sub/b.b.wav,3,4,"Dog,Rain",\n'
    )
    assert read({"all.csv": text}) == {
        "a.flac": [(1, 2, "Dog")],
        "sub/b.b.wav": [(3, 4, "Dog"), (3, 4, "Rain")],
    }


def test_all_problems_are_reported_at_once(read):
    files = {
        "a.txt": "x\t2\tDog\n2\t1\tDog\n-1\t2\tDog\nnan\t2\tDog\n1\t2\t\n1\t2\n"
        "1\t2\tDog,_background_\n9\t10.2\tDog\n10\t10.05\tDog\n1\t2\tDog\n",
        "all.csv": "file,start,end,label\nc.wav,1,2,D\nc.wav,1,2,D\na.flac,1,2,D,R\n",
        "columns.csv": "file,onset\n",
        "lost.txt": "1\t2\tDog\n",
        "lost.selections.txt": f"{RAVEN_HEADER}Species\n1\tS\t1\t2\t0\tWren\n",
        "raven.txt": f"{RAVEN_HEADER}Notes\n",
    }
    with pytest.raises(UserError) as error:
        read(files)
    problems = [problem.split("/tracks/")[1] for problem in error.value.problems]
    expected = [
        *("a.txt:1: .*x and 2", "a.txt:2: .*2 and 1", "a.txt:3: .*-1 and 2"),
        *("a.txt:4: .*nan", "a.txt:5: has no labels", "a.txt:6: .*3 fields.*2: 1, 2"),
        *(
            "a.txt:7: has other labels than _background_",
            "a.txt:8: .* 9 to 10.2 s, .*a.flac has 10.000 s",
        ),
        *("a.txt:9: ", "all.csv:4: expected 4 fields", "all.csv:2: .*c.wav fits no"),
        "columns.csv:1: .*start or begin.* and end .* and label or .*got file,onset",
        "lost.selections.txt:2: the name lost fits no recording",
        "lost.txt:1: the name lost fits no recording",
        "raven.txt:1: expected a column label or class",
    ]
    assert len(problems) == len(expected)
    for problem, pattern in zip(problems, expected):
        assert re.match(pattern, problem), problem


def test_a_name_that_fits_several_recordings(read, tmp_path):
    soundfile.write(tmp_path / "recordings" / "a.wav", np.zeros(8000), 8000)
    with pytest.raises(UserError, match="name a fits .*a.flac and .*a.wav"):
        read({"a.txt": "0.1\t0.2\tDog\n"})
    (tmp_path / "tracks" / "a.txt").unlink()
    assert read({"a.wav.txt": "0.1\t0.2\tDog\n"}) == {"a.wav": [(0.1, 0.2, "Dog")]}


def test_other_texts_are_ignored(read, capsys):
    files = {"CONFIG.TXT": "Device ID : 24F3\n", ".a.txt": "", "a.txt": "1\t2\tDog\n"}
    assert list(read(files)) == ["a.flac"]
    assert "CONFIG.TXT is ignored" in capsys.readouterr().err
    with pytest.raises(UserError, match="--annotations: there are no annotations"):
        read({"a.txt": ""}, "tracks/CONFIG.TXT")
    with pytest.raises(UserError, match="--annotations: there is no file or folder"):
        read({}, "nothing")
