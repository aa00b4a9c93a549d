"""Making a data set from annotated recordings and background."""

import csv
import pathlib
import shutil

import numpy as np
import pytest
import soundfile

from recordings.annotations import Event, is_heard, read_annotations
from recordings.decoding import find_sounds
from tagger.data.clips import read_class_map
from tagger.data.csv_files import BACKGROUND
from tagger.errors import UserError
from tagger.hparams import SAMPLE_RATE
from tools.make_dataset import conversion
from tools.make_dataset.dataset import make_dataset
from tools.make_dataset.sources import Recording, find_recordings

RATE = 8000


def write_sound(path: pathlib.Path, seconds: float, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = np.random.default_rng(seed).uniform(-0.5, 0.5, round(seconds * RATE))
    soundfile.write(path, samples, RATE)


@pytest.fixture
def sounds(tmp_path):
    """Two annotated recordings, and one of background."""
    root = tmp_path / "sounds"
    write_sound(root / "a.flac", 4)
    write_sound(root / "deep" / "b.wav", 2, seed=1)
    write_sound(root / "quiet" / "c.wav", 1, seed=2)
    (root / "a.txt").write_text(
        "0.5\t1.5\tDog\n1.9\t2.8\tCat\n2.1\t2.3\tDog\n2.9\t3.05\tCat\n"
    )
    (root / "deep" / "b.txt").write_text("")
    return root


def make(sounds, out, *, clip_seconds=1.0, skip=False, **sources) -> list[str]:
    """Makes a data set; annotations and background are in SOUNDS by default."""
    defaults = {"annotations": sounds, "background": sounds / "quiet"}
    texts = {name: str(path) for name, path in (sources or defaults).items()}
    found = find_recordings(str(sounds), **texts)
    return make_dataset(found, out, clip_seconds=clip_seconds, skip=skip)


def rows_of(path) -> list[list[str]]:
    with open(path, newline="") as file:
        return list(csv.reader(file))


def files_in(folder: pathlib.Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_clips_have_the_labels_that_are_heard(sounds, tmp_path, capsys):
    out = tmp_path / "out"
    assert make(sounds, out) == []
    assert "ignored" not in capsys.readouterr().err
    assert rows_of(out / "clips.csv") == [
        ["fname", "labels", "recording", "start"],
        ["a.flac__0001.wav", "Dog", "a.flac", "0.000"],
        ["a.flac__0002.wav", "Dog", "a.flac", "1.000"],
        ["a.flac__0003.wav", "Cat,Dog", "a.flac", "2.000"],
        ["a.flac__0004.wav", "_background_", "a.flac", "3.000"],
        ["deep__b.wav__0001.wav", "_background_", "deep/b.wav", "0.000"],
        ["deep__b.wav__0002.wav", "_background_", "deep/b.wav", "1.000"],
        ["_background___c.wav.wav", "_background_", "_background_/c.wav", "0.000"],
    ]
    assert rows_of(out / "events.csv") == [
        ["fname", "start", "end", "label"],
        ["a.flac__0001.wav", "0.500", "1.000", "Dog"],
        ["a.flac__0002.wav", "0.000", "0.500", "Dog"],
        ["a.flac__0003.wav", "0.000", "0.800", "Cat"],
        ["a.flac__0003.wav", "0.100", "0.300", "Dog"],
        ["a.flac__0003.wav", "0.900", "1.000", "Cat"],
    ]
    assert read_class_map(str(out / "class_map.csv")) == ["Cat", "Dog"]
    events = read_annotations(str(out / "events.csv"), find_sounds(str(out / "audio")))
    assert len(events) == 3


def test_parts_of_events_are_heard():
    """The result is that of a comparison of each event with each clip."""
    rng = np.random.default_rng(0)
    times = [*np.arange(0, 60, 0.7), 60.0]
    starts, lengths = rng.uniform(0, 59, 200), rng.exponential(1, 200) + 0.01
    events = [Event(s, min(s + n, 60), f"{s}") for s, n in zip(starts, lengths)]
    labelled = Recording("", "", events=events).label_clips(times)
    for start, end, (labels, parts) in zip(times, times[1:], labelled):
        expected = {event.label for event in events if is_heard(event, start, end)}
        assert {*labels} == expected or (expected, labels) == (set(), [BACKGROUND])
        assert all(0 <= part.start < part.end <= end - start + 1e-9 for part in parts)
    found = {label for labels, _ in labelled for label in labels}
    assert found >= {event.label for event in events}  # No event is lost.


def test_folders_of_background(sounds, tmp_path):
    """They are recognised by name, as a folder of SOUNDS, or by a flag."""
    (sounds / "quiet").rename(sounds / BACKGROUND)
    make(sounds, tmp_path / "named", annotations=sounds)
    shutil.copytree(sounds / BACKGROUND, tmp_path / "elsewhere")
    shutil.rmtree(sounds / BACKGROUND)
    flags = {"annotations": sounds, "background": tmp_path / "elsewhere"}
    make(sounds, tmp_path / "flag", **flags)
    first, second = (rows_of(tmp_path / n / "clips.csv") for n in ("named", "flag"))
    assert sorted(first) == sorted(second)
    # Without annotations, the other folders are labels.
    (sounds / "a.flac").unlink()
    make(sounds, tmp_path / "labels", background=tmp_path / "elsewhere")
    assert rows_of(tmp_path / "labels" / "clips.csv")[1:] == [
        ["deep__b.wav__0001.wav", "deep", "deep/b.wav"],
        ["deep__b.wav__0002.wav", "deep", "deep/b.wav"],
        ["_background___c.wav.wav", "_background_", "_background_/c.wav"],
    ]
    with pytest.raises(UserError, match="--background: there is no folder none"):
        make(sounds, tmp_path / "labels", background="none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="--background: there are no recordings in"):
        make(sounds, tmp_path / "labels", background=tmp_path / "empty")


def test_recordings_without_annotations_are_an_error(sounds, tmp_path):
    (sounds / "deep" / "b.txt").unlink()
    write_sound(sounds / "Dog,_background_" / "d.wav", 1)
    with pytest.raises(UserError) as error:
        make(sounds, tmp_path / "out")
    for problem, name in zip(error.value.problems, ("d.wav", "b.wav")):
        assert f"{name}: has no annotations; " in problem
    assert len(error.value.problems) == 2
    assert len(make(sounds, tmp_path / "out", skip=True)) == 2
    assert len(rows_of(tmp_path / "out" / "clips.csv")) == 6
    with pytest.raises(
        UserError, match="d.wav: has other labels than _background_: Dog"
    ):
        make(sounds, tmp_path / "new", background=sounds / "quiet")


def test_unprintable_labels_are_an_error(sounds, tmp_path):
    (sounds / "a.txt").write_text("1\t2\tDo\x07g\n")
    with pytest.raises(UserError, match=r"a.txt:1: .*Do\\x07g"):
        make(sounds, tmp_path / "out")


@pytest.mark.parametrize(
    "text", ["0.5\t1.5\tCow\n", "2.5\t3.5\tDog\n", "", "0\t4\t_background_\n"]
)
def test_changed_annotations_are_followed(sounds, tmp_path, monkeypatch, capsys, text):
    out = tmp_path / "out"
    make(sounds, out)
    (sounds / "a.txt").write_text(text)
    capsys.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr(conversion.decoding, "read_blocks", None)
        make(sounds, out)  # Nothing is decoded.
    assert "0 written, 3 unchanged, 0 removed" in capsys.readouterr().out
    make(sounds, tmp_path / "new")
    assert files_in(out) == files_in(tmp_path / "new")


def test_annotations_and_folders_replace_one_another(sounds, tmp_path):
    shutil.move(sounds / "a.flac", sounds / "deep")
    for kind in ({}, {"background": sounds / "quiet"}, {}):
        make(sounds, tmp_path / "out", **kind)
        make(sounds, tmp_path / "new", **kind)
        assert files_in(tmp_path / "out") == files_in(tmp_path / "new")
        assert (tmp_path / "out" / "events.csv").exists() == (not kind)
        shutil.rmtree(tmp_path / "new")


def test_ultrasound_is_noted_once(tmp_path, capsys):
    sounds = tmp_path / "sounds"
    (sounds / "Bat").mkdir(parents=True)
    for name, hz in (("bat", 40000), ("bird", 4000)):
        samples = np.sin(2 * np.pi * hz * np.arange(96000) / 96000) / 2
        samples[:2000] += 0.1  # The rest is silent at 44.1 kHz.
        soundfile.write(sounds / "Bat" / f"{name}.wav", samples, 96000)
    for number in (1, 0):
        make(sounds, tmp_path / "out", clip_seconds=10, csv_path="")
        err = capsys.readouterr().err
        assert err.count("bat.wav: 100% of its energy is above 22050 Hz") == number
        assert err.count("note:") == number


def test_only_annotated_clips_are_used(sounds, tmp_path):
    write_sound(tmp_path / "r" / "long.wav", 6)
    write_sound(tmp_path / "r" / "other.wav", 2)
    reviewed = tmp_path / "reviewed.csv"
    reviewed.write_text(
        "file,start,end,label\n/x/r/long.wav,1,2,Dog\n/x/r/long.wav,3,4,_background_\n"
        "/x/r/long.wav,1.5,2,_background_\n"
    )
    sources = {"annotations": str(reviewed), "only_annotated": True}
    make(tmp_path / "r", tmp_path / "new", **sources)
    _, *rows = rows_of(tmp_path / "new" / "clips.csv")
    assert [row[1:] for row in rows] == [
        ["Dog", "long.wav", "1.000"],
        ["_background_", "long.wav", "3.000"],
    ]
    _, *events = rows_of(tmp_path / "new" / "events.csv")
    assert [row[1:] for row in events] == [["0.000", "1.000", "Dog"]]


def test_only_labelled_clips_are_written(sounds, tmp_path):
    """A review labels few clips of long recordings."""
    write_sound(tmp_path / "r" / "long.wav", 6)
    reviewed, out = tmp_path / "reviewed.csv", tmp_path / "out"
    sources = {"annotations": str(reviewed), "only_annotated": True}
    for rows, expected in (
        (("1,2,Dog", "3,4,_background_"), (2, 4)),
        (("3,4,_background_", "5,6,Rain"), (4, 6)),
        (("3,4,_background_", "5,6,Cat"), (4, 6)),
    ):
        lines = [f"long.wav,{row}\n" for row in rows]
        reviewed.write_text("file,start,end,label\n" + "".join(lines))
        make(tmp_path / "r", out, **sources)
        names = {f"long.wav__{number:04d}.wav" for number in expected}
        assert {path.name for path in (out / "audio").iterdir()} == names
        assert {row[0] for row in rows_of(out / "clips.csv")[1:]} == names
    del sources["only_annotated"]
    make(tmp_path / "r", out, **sources)
    assert len(list((out / "audio").iterdir())) == 6


def test_a_silent_clip_that_loses_its_label(tmp_path, capsys):
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, 3 * SAMPLE_RATE)
    samples[SAMPLE_RATE : 2 * SAMPLE_RATE] = 0
    (tmp_path / "r").mkdir()
    soundfile.write(tmp_path / "r" / "a.wav", samples, SAMPLE_RATE)
    sources = {"annotations": tmp_path / "r", "only_annotated": True}
    for lines, num_silent in (("0\t2\tDog\n", 1), ("0\t1\tDog\n", 0)):
        (tmp_path / "r" / "a.txt").write_text(lines)
        for name in ("out", f"new{num_silent}"):
            make(tmp_path / "r", tmp_path / name, **sources)
            assert capsys.readouterr().err.count("1 silent clip") == num_silent
        assert files_in(tmp_path / "out") == files_in(tmp_path / name)
