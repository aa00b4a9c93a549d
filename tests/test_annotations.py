"""Annotations of recordings: label tracks, tables of Raven, CSVs."""

import os
import pathlib
import re

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from recordings import annotations
from recordings.decoding import Sound, find_sounds
from tagger.errors import UserError
from tagger.terminal.progress import printable

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
        "\\\t100.0\t2000.0\n2\t10.1\tModel 3\n1\t2\tBär\n"
    )
    assert read({"a.txt": text}) == {
        "a.flac": [
            (1, 2, "Bär"),
            (2, 10.1, "Model 3"),
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


# File name, header, and a valid row.
FORMATS = [
    ("a.txt", "", "1\t2\tDog 0.97"),
    ("a.Table.1.selections.txt", f"{RAVEN_HEADER}Species", "1\tS\t1\t2\t300\tWren"),
    ("a.txt", f"{RAVEN_HEADER}Species\tBegin File", "1\tS\t1\t2\t3\tBär\ta.flac"),
    ("a.txt", "Begin Time (s)\tEnd Time (s)\tSpecies\tFile Offset (s)", "8\t9\tOwl\t3"),
    ("all.csv", "file,start,end,label", 'a.flac,1,2,"Dog,Rain"'),
]
# What may come instead of a field.
FIELDS = st.text(max_size=3) | st.sampled_from(
    [
        *("0", "9.99", "10.05", "11", "1e-320", "-1", "nan", "inf", "1e999", "1_0"),
        *("Dog,Rain", ",", "_background_", "", " ", "\\", "\x00", '"', '"a', "\ufeff"),
        *("\u2028", "a", "../a.flac", "/", "start", "Begin Time (s)", "\t", "\n", "\r"),
    ]
)


@st.composite
def files(draw) -> tuple[str, bytes]:
    """The name and the contents of a file of annotations, with wrong fields."""
    name, header, row = draw(st.sampled_from(FORMATS))
    delimiter = "," if name.endswith(".csv") else "\t"
    lines = [header] if header else []
    for wrong in draw(
        st.lists(st.dictionaries(st.integers(0, 7), FIELDS, max_size=2), max_size=4)
    ):
        fields = row.split(delimiter)
        for index, text in wrong.items():
            fields[index : index + 1] = [text]
        lines.append(delimiter.join(fields))
    end = draw(st.sampled_from(["\n", "\r\n"]))
    contents = end.join(lines).encode("utf-8", "surrogatepass")
    return name, contents + draw(st.just(b"") | st.binary(max_size=2))


@pytest.fixture(scope="module")
def recording(tmp_path_factory) -> str:
    """A recording of 10 s."""
    path = tmp_path_factory.mktemp("recording") / "a.flac"
    soundfile.write(path, np.full(10 * 8000, 0.1), 8000)
    return str(path)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(file=files())
def test_any_file_gives_events_or_problems_with_their_lines(recording, file):
    name, contents = file
    path = os.path.join(os.path.dirname(recording), name)
    pathlib.Path(path).write_bytes(contents)
    try:
        found = annotations.read_annotations(path, [Sound(recording, "a.flac")])
    except UserError as error:
        pattern = rf"{re.escape(path)}:\d+: |--annotations: there are no"
        assert all(re.match(pattern, problem) for problem in error.problems)
        return
    assert list(found) == [recording]
    for start, end, label in found[recording]:
        assert 0 <= start < end <= 10.1
        assert label == label.strip() == printable(label) != ""
