"""Making a data set from recordings."""

import io
import os
import pathlib
import re
import shutil
import tempfile
from collections.abc import Sequence

import numpy as np
import pytest
import soundfile
from helpers import section_of
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tagger.data.clips import read_class_map, read_clips
from tagger.data.csv_files import read_rows
from tagger.errors import UserError
from tagger.hparams import SAMPLE_RATE
from tagger.terminal import files
from tools.make_dataset import conversion, dataset, sources
from tools.make_dataset.__main__ import MAX_CLIP_SECONDS

NO_CUT = MAX_CLIP_SECONDS
KINDS = ("written", "unchanged", "removed")


def noise(seconds: float, rate: int = 44100, channels: int = 1) -> np.ndarray:
    size = (round(seconds * rate), channels)
    return np.random.default_rng(0).uniform(-0.5, 0.5, size)


@pytest.fixture
def sounds(tmp_path):
    """Recordings of three classes."""
    root = tmp_path / "sounds"
    for name, samples, rate in (
        ("Dog, Rain/a b.flac", noise(2, 48000, 2), 48000),
        ('Bär "x"/deep/ü.mp3', noise(3, 22050), 22050),
        ('Bär "x"/1.wav', noise(1), 44100),
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(root / name, samples, rate)
    return root


def make(sounds, out, csv="", clip_seconds=NO_CUT, skip=False) -> list[str]:
    found = sources.find_recordings(str(sounds), csv_path=str(csv))
    return dataset.make_dataset(found, out, clip_seconds=clip_seconds, skip=skip)


def files_in(folder: pathlib.Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def new_files(folder, sounds, *arguments) -> dict[str, bytes]:
    """The files of a new data set."""
    shutil.rmtree(folder / "new", ignore_errors=True)
    make(sounds, folder / "new", *arguments)
    return files_in(folder / "new")


def check_equals_new(out, sounds, *arguments) -> None:
    """Checks that OUT has the files of a new data set, byte for byte."""
    assert files_in(out) == new_files(out.parent, sounds, *arguments)


@pytest.fixture
def decoded(monkeypatch) -> list[str]:
    """The file names of recordings that were decoded to check them."""
    names = []

    def measure(path, measure=conversion.measure):
        names.append(os.path.basename(path))
        return measure(path)

    monkeypatch.setattr(conversion, "measure", measure)
    return names


def check_is_empty(out) -> None:
    """Checks that a run has left nothing in a new OUT but its lock."""
    assert not out.exists() or [path.name for path in out.iterdir()] == [".lock"]


def fields_of(out) -> list[tuple[str, ...]]:
    return [row.fields for row in read_rows(str(out / "clips.csv"))[1]]


def test_a_folder_per_class(sounds, tmp_path):
    out = tmp_path / "out"
    assert make(sounds, out) == []
    assert fields_of(out) == [
        ('Bär "x"__1.wav.wav', 'Bär "x"', 'Bär "x"/1.wav'),
        ('Bär "x"__deep__ü.mp3.wav', 'Bär "x"', 'Bär "x"/deep/ü.mp3'),
        ("Dog, Rain__a b.flac.wav", "Dog,Rain", "Dog, Rain/a b.flac"),
    ]
    names, clips = read_clips(
        csv_path=str(out / "clips.csv"),
        clip_dir=str(out / "audio"),
        class_map_path=str(out / "class_map.csv"),
        flag_prefix="train",
        check_class_map=lambda names: None,
    )
    assert names == ['Bär "x"', "Dog", "Rain"]
    assert clips.num_samples[[0, 2]].tolist() == [44100, 2 * 44100]


def test_a_wav_of_the_right_kind_is_copied_exactly(sounds, tmp_path):
    samples = np.rint(32768 * noise(1)).astype(np.int16)
    samples[5:8, 0] = -32768, 32767, 0
    soundfile.write(sounds / 'Bär "x"' / "1.wav", samples, 44100)
    make(sounds, tmp_path / "out")
    path = tmp_path / "out" / "audio" / 'Bär "x"__1.wav.wav'
    copied, rate = soundfile.read(path, dtype="int16")
    assert rate == 44100
    np.testing.assert_array_equal(copied, samples[:, 0])


def test_loud_recordings_become_quieter(tmp_path):
    (tmp_path / "sounds" / "Loud").mkdir(parents=True)
    path = tmp_path / "sounds" / "Loud" / "a.wav"
    loud = 6 * noise(2)
    soundfile.write(path, loud, 44100, subtype="FLOAT")
    make(tmp_path / "sounds", tmp_path / "out", clip_seconds=1)
    clips = [
        soundfile.read(tmp_path / "out" / "audio" / f"Loud__a.wav__000{n}.wav")[0]
        for n in (1, 2)
    ]
    joined = np.concatenate(clips)
    assert np.abs(joined).max() == pytest.approx(1, abs=1 / 32768)
    gain = joined @ loud[:, 0] / (loud[:, 0] @ loud[:, 0])
    np.testing.assert_allclose(joined, gain * loud[:, 0], atol=2 / 32768)


def test_long_recordings_are_cut_into_equal_clips(sounds, tmp_path, capsys):
    silent_end = np.concatenate([noise(1.2), np.zeros([44100, 1])])
    soundfile.write(sounds / "Dog, Rain" / "c.wav", silent_end, 44100)
    make(sounds, tmp_path / "out", clip_seconds=0.7)
    assert "1 silent clip left out" in capsys.readouterr().err
    audio = tmp_path / "out" / "audio"
    frames = {path.name: soundfile.info(path).frames for path in audio.iterdir()}
    assert [frames[f"Dog, Rain__a b.flac__000{n}.wav"] for n in (1, 2, 3)] == [
        29400
    ] * 3
    # 2.2 s make four clips, of which the last one is silent and left out.
    names = [name for name in frames if "c.wav" in name]
    assert sorted(names) == [f"Dog, Rain__c.wav__000{n}.wav" for n in (1, 2, 3)]
    assert len(fields_of(tmp_path / "out")) == len(frames)


def test_further_recordings_are_added(sounds, tmp_path, capsys):
    out = tmp_path / "out"
    make(sounds, out)
    times = {path: path.stat().st_mtime_ns for path in (out / "audio").iterdir()}
    (sounds / "Ant").mkdir()
    soundfile.write(sounds / "Ant" / "1.wav", noise(1), 44100)
    make(sounds, out)
    expected = counts(1, 3, 0)
    assert expected in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in times} == times
    names = ["Ant", 'Bär "x"', "Dog", "Rain"]
    assert read_class_map(str(out / "class_map.csv")) == names
    check_equals_new(out, sounds)


def rename_label(sounds, out):
    (sounds / 'Bär "x"').rename(sounds / "Bear")


def move(sounds, out):
    (sounds / 'Bär "x"' / "1.wav").rename(sounds / "Dog, Rain" / "1.wav")


def copy(sounds, out):
    shutil.copy(sounds / 'Bär "x"' / "1.wav", sounds / "Dog, Rain" / "1.wav")


def move_one_of_two(sounds, out):
    """Two recordings have equal contents; both disappear, and one appears elsewhere."""
    move(sounds, out)
    (sounds / "Dog, Rain" / "2.wav").unlink()


def replace(sounds, out):
    """The new file has the size and the modification time of the old one."""
    path = sounds / 'Bär "x"' / "1.wav"
    status = path.stat()
    soundfile.write(path, noise(1)[::-1], 44100)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert path.stat().st_size == status.st_size


def exchange(sounds, out):
    """Only the times of the inodes differ."""
    first, second = sounds / 'Bär "x"' / "1.wav", sounds / "Dog, Rain" / "2.wav"
    first.rename(sounds / "third.wav")
    second.rename(first)
    (sounds / "third.wav").rename(second)


def touch(sounds, out):
    os.utime(sounds / 'Bär "x"' / "1.wav", (0, 0))


def delete(sounds, out):
    (sounds / 'Bär "x"' / "1.wav").unlink()


def counts(*numbers: int) -> str:
    return "recordings: " + ", ".join(f"{n} {k}" for n, k in zip(numbers, KINDS)) + "; "


@pytest.mark.parametrize(
    ("change", "numbers"),
    [
        (rename_label, (2, 2, 2)),
        (move, (1, 3, 1)),
        (copy, (1, 4, 0)),
        (move_one_of_two, (1, 2, 2)),
        (replace, (1, 3, 0)),
        (exchange, (2, 2, 0)),
        (touch, (0, 4, 0)),
        (delete, (0, 3, 1)),
    ],
)
def test_changes_are_followed(sounds, tmp_path, decoded, capsys, change, numbers):
    out = tmp_path / "out"
    soundfile.write(sounds / "Dog, Rain" / "2.wav", noise(1) / 2, 44100)
    if change is move_one_of_two:
        shutil.copy(sounds / "Dog, Rain" / "2.wav", sounds / 'Bär "x"' / "1.wav")
    for path in (sounds / 'Bär "x"' / "1.wav", sounds / "Dog, Rain" / "2.wav"):
        os.utime(path, (1e9, 1e9))
    make(sounds, out)
    change(sounds, out)
    for count in (numbers, (0, sum(numbers[:2]), 0)):
        decoded.clear()
        capsys.readouterr()
        make(sounds, out)
        assert capsys.readouterr().out.startswith(f"{counts(*count)}{out} has ")
        # Only contents that are new are decoded to check them.
        assert decoded == ["1.wav"] * (change is replace and count == numbers)
        check_equals_new(out, sounds)


def test_another_clip_length(sounds, tmp_path, decoded, capsys):
    """One recording has a silent clip."""
    out = tmp_path / "out"
    samples = np.concatenate([noise(1.2), np.zeros([44100, 1])])
    soundfile.write(sounds / "Dog, Rain" / "c.wav", samples, 44100)
    make(sounds, out, "", 0.7)
    assert sorted(decoded) == ["1.wav", "a b.flac", "c.wav", "ü.mp3"]
    # The recordings have 1, 2, 2.2 and 3 s.
    for seconds, changed in ((0.72, 0), (0.4, 4), (2.1, 4), (NO_CUT, 2), (0.7, 4)):
        decoded.clear()
        capsys.readouterr()
        make(sounds, out, "", seconds)
        assert counts(changed, 4 - changed, 0) in capsys.readouterr().out
        assert decoded == []
        check_equals_new(out, sounds, "", seconds)


def test_other_files_are_kept(sounds, tmp_path):
    out = tmp_path / "out"
    make(sounds, out)
    names = ("audio/mine.wav", "mine.txt", "clips_train.csv")
    for name in names:
        (out / name).write_text("mine")
    rename_label(sounds, out)
    (out / "audio" / "Bear__1.wav.wav").write_text("mine")
    make(sounds, out)
    for name in names:
        assert (out / name).read_text() == "mine"
        (out / name).unlink()
    check_equals_new(out, sounds)  # The name of a clip is replaced.


def test_sounds_that_are_missing_change_nothing(sounds, tmp_path):
    make(sounds, tmp_path / "out")
    before = files_in(tmp_path / "out")
    shutil.rmtree(sounds)
    with pytest.raises(UserError, match="SOUNDS: there is no folder"):
        make(sounds, tmp_path / "out")
    sounds.mkdir()
    with pytest.raises(UserError, match="SOUNDS: there are no recordings"):
        make(sounds, tmp_path / "out", skip=True)
    assert files_in(tmp_path / "out") == before


def test_a_recording_that_becomes_unusable(sounds, tmp_path, capsys):
    out = tmp_path / "out"
    make(sounds, out)
    before = files_in(out)
    (sounds / 'Bär "x"' / "1.wav").write_text("text")
    with pytest.raises(UserError, match="1.wav: libsndfile"):
        make(sounds, out)
    assert files_in(out) == before
    (problem,) = make(sounds, out, skip=True)
    assert "1.wav: libsndfile" in problem
    assert counts(0, 2, 1) in capsys.readouterr().out
    check_equals_new(out, sounds, "", NO_CUT, True)


def test_all_problems_are_reported_at_once(sounds, tmp_path):
    (sounds / "Dog, Rain" / "text.mp3").write_text("text")
    soundfile.write(sounds / "Dog, Rain" / "silent.wav", np.zeros(9), 44100)
    soundfile.write(sounds / "Dog, Rain" / "none.wav", np.zeros(0), 44100)
    stereo = noise(1) * [1, -1]
    soundfile.write(sounds / "Dog, Rain" / "cancels.wav", stereo, 44100)
    out = tmp_path / "out"
    expected = [
        "cancels.wav: is silent",
        "none.wav: has no samples",
        "silent.wav: is silent",
        "text.mp3: libsndfile cannot decode",
    ]
    with pytest.raises(UserError) as error:
        make(sounds, out)
    check_is_empty(out)
    for problems in (error.value.problems, make(sounds, out, skip=True)):
        assert len(problems) == len(expected)
        for problem, text in zip(problems, expected):
            assert text in problem
    assert len(fields_of(out)) == 3


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a.wav", "is not in a sub-folder"),
        (" , /a.wav", "is not in a sub-folder"),
        ("Dog/a\nb.wav", "unprintable"),
        ("Dog/a\u2028b.wav", "unprintable"),
        (f"Dog/{'ü' * 110}.wav", r"has 229 bytes; at most 220"),
        (b"Dog/\xff.wav", "unprintable"),
        ("Dog__a.wav/b.wav", "names of the clips of"),
    ],
)
def test_unusable_names(tmp_path, name, message):
    root = tmp_path / "sounds"
    for path in (
        root / "Dog" / "a.wav__b.wav",
        root
        / (name if isinstance(name, str) else name.decode(errors="surrogateescape")),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(bytes(path), noise(1), 44100)
    with pytest.raises(UserError, match=message):
        make(root, tmp_path / "out")
    check_is_empty(tmp_path / "out")


def test_nothing_usable_leaves_nothing(tmp_path):
    (tmp_path / "sounds" / "Dog").mkdir(parents=True)
    (tmp_path / "sounds" / "Dog" / "a.wav").write_text("text")
    (tmp_path / "sounds" / "b.wav").write_text("text")
    with pytest.raises(UserError) as error:
        make(tmp_path / "sounds", tmp_path / "out", skip=True)
    # Both problems of a recording are reported.
    for problem, text in zip(error.value.problems, ("sub-folder", "b.wav", "a.wav")):
        assert text in problem
    assert len(error.value.problems) == 3
    check_is_empty(tmp_path / "out")


def test_recordings_with_unusable_names_are_skipped(sounds, tmp_path):
    soundfile.write(sounds / "without label.wav", noise(1), 44100)
    (problem,) = make(sounds, tmp_path / "out", skip=True)
    assert "without label.wav: is not in a sub-folder" in problem
    assert len(fields_of(tmp_path / "out")) == 3
    # With nothing new, the data set is as before.
    assert make(sounds, tmp_path / "out", skip=True) == [problem]
    assert len(fields_of(tmp_path / "out")) == 3


def test_finished_recordings_are_kept(sounds, tmp_path, monkeypatch, decoded):
    def write_clips(path, *arguments, write=dataset.write_clips):
        if path.endswith("b.flac"):
            raise UserError("changed")
        return write(path, *arguments)

    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(dataset, "write_clips", write_clips)
        with pytest.raises(UserError, match="^changed$"):
            make(sounds, out)
    assert not (out / "clips.csv").exists()
    times = {path: path.stat().st_mtime_ns for path in (out / "audio").iterdir()}
    assert len(times) == 2
    decoded.clear()
    make(sounds, out)
    assert decoded == []
    assert {path: path.stat().st_mtime_ns for path in times} == times
    check_equals_new(out, sounds)


class Killed(BaseException):
    """The process is killed."""


def kill_at(patch: pytest.MonkeyPatch, number: int) -> None:
    """Lets all calls fail that replace or delete a file, from this one on."""
    calls = []

    def failing(function):
        def call(*arguments, **options):
            calls.append(function)
            if len(calls) >= number:
                raise Killed
            return function(*arguments, **options)

        return call

    patch.setattr(os, "cpu_count", lambda: 1)  # one thread
    for name in ("replace", "unlink"):
        patch.setattr(os, name, failing(getattr(os, name)))


@pytest.mark.parametrize("first", [True, False])
def test_a_run_can_be_killed_at_any_time(sounds, tmp_path, monkeypatch, first):
    """It is run again with the same recordings, or with those before the change."""
    changed, earlier, out = tmp_path / "changed", tmp_path / "earlier", tmp_path / "out"
    shutil.copytree(sounds, changed)
    rename_label(changed, out)
    # Its clips have the names and the size of the clips of another recording, but the
    # last one is silent.
    samples = noise(2, 48000, 2)[::-1]
    samples[48000:] = 0
    soundfile.write(changed / "Dog, Rain__a b.flac", samples, 48000)
    csv = tmp_path / "labels.csv"
    names = ("Bear/1.wav", "Bear/deep/ü.mp3", '"Dog, Rain__a b.flac"')
    csv.write_text("fname,labels\n" + "".join(f"{name},Wet\n" for name in names))
    if not first:
        make(sounds, earlier, "", 1)
    next_runs = [((changed, csv, 1), new_files(tmp_path, changed, csv, 1))]
    next_runs += [((sounds, "", 1), new_files(tmp_path, sounds, "", 1))]
    number, killed = 0, True
    while killed:
        number += 1
        for (folder, *arguments), expected in next_runs:
            shutil.rmtree(out, ignore_errors=True)
            if not first:
                shutil.copytree(earlier, out)
            with monkeypatch.context() as patch:
                kill_at(patch, number)
                try:
                    make(changed, out, csv, 1)
                    killed = False
                except Killed:
                    pass
            if (out / "clips.csv").exists():  # It never describes other clips.
                assert files_in(out) in (files_in(earlier), next_runs[0][1])
            make(folder, out, *arguments)
            assert files_in(out) == expected
    assert number > 8


@pytest.mark.parametrize("name", ["a\u00a0b\u3000c.wav", "\u200b\ue000.wav"])
def test_ordinary_names_are_kept(tmp_path, name):
    (tmp_path / "sounds" / "Dog").mkdir(parents=True)
    soundfile.write(tmp_path / "sounds" / "Dog" / name, noise(1), 44100)
    make(tmp_path / "sounds", tmp_path / "out")
    assert fields_of(tmp_path / "out") == [(f"Dog__{name}.wav", "Dog", f"Dog/{name}")]


def test_labels_from_a_csv(sounds, tmp_path):
    csv = tmp_path / "labels.csv"
    csv.write_text(
        'fname,labels\nDog\\, Rain/a b.flac,Wet\n"Bär ""x""/1.wav","e\u0301,f"\n'
    )
    with pytest.raises(UserError, match="fields"):
        make(sounds, tmp_path / "out", csv)
    csv.write_text(
        'fname,labels\n"Dog, Rain/a b.flac",Wet\n"Bär ""x""/1.wav","e\u0301,f"\n'
    )
    make(sounds, tmp_path / "out", csv)
    assert [labels for _, labels, _ in fields_of(tmp_path / "out")] == ["Wet", "é,f"]


@pytest.mark.parametrize(
    "names",
    [
        "start,end",
        "Begin Time (s),End Time (s)",
        "onset,offset",
        "event_onset,event_offset",
        "Start_Time, ENDTIME",
        "start_seconds,end_seconds",
        "Start (s),End (s)",
        "t_start,stop",
        "Start Time [s],End Time [s]",
        "tmin,tmax",
        "from,to",
        "label_start,label_end",
        "start_millis,end_millis",
        "start_frame,end_frame",
        "start_sample,Stop (samples)",
        "my onset,my_offset",
    ],
)
def test_times_in_a_csv_are_an_error(sounds, tmp_path, names):
    csv = tmp_path / "labels.csv"
    # The file of an annotated recording is named several times.
    csv.write_text(f"{names},fname,labels\n" + "0,1,Dog/a.wav,Wet\n" * 2)
    with pytest.raises(UserError) as error:
        make(sounds, tmp_path / "out", csv)
    (line,) = str(error.value).splitlines()
    assert line.startswith(f"{csv}: ")
    assert ", ".join(name.strip() for name in names.split(",")) in line
    assert "fname and labels" in line
    check_is_empty(tmp_path / "out")


def test_other_columns_of_a_csv_are_ignored(sounds, tmp_path):
    csv = tmp_path / "labels.csv"
    header = "fname,labels,recording time,weekend,start_date,Begin File,sender,s"
    csv.write_text(header + '\n"Dog, Rain/a b.flac",Wet,,,,,,\n')
    make(sounds, tmp_path / "out", csv)
    assert len(fields_of(tmp_path / "out")) == 1


def test_two_labels_can_be_links_to_one_folder(sounds, tmp_path):
    (sounds / "Wet").symlink_to(sounds / "Dog, Rain")
    make(sounds, tmp_path / "out")
    rows = [row for row in fields_of(tmp_path / "out") if "b.flac" in row[0]]
    assert [labels for _, labels, _ in rows] == ["Dog,Rain", "Wet"]


def test_unprintable_labels_are_an_error(sounds, tmp_path):
    csv = tmp_path / "labels.csv"
    csv.write_bytes(b'fname,labels\n"Dog, Rain/a b.flac","Wet\rDog"\n')
    with pytest.raises(UserError, match=r"labels.csv:2: .* control .*Wet\\rDog"):
        make(sounds, tmp_path / "out", csv)


def test_a_recording_that_the_csv_names_is_missing(sounds, tmp_path):
    csv = tmp_path / "labels.csv"
    csv.write_text("fname,labels\nnone.wav,Wet\n")
    with pytest.raises(UserError, match="none.wav: there is no such file"):
        make(sounds, tmp_path / "out", csv)


def test_a_csv_that_names_a_recording_twice(sounds, tmp_path):
    csv = tmp_path / "labels.csv"
    csv.write_text("fname,labels\na/b.wav,Wet\na/./b.wav,Dry\n")
    with pytest.raises(UserError, match=r"labels.csv:3: .*a/./b.wav .* line 2"):
        make(sounds, tmp_path / "out", csv)


def test_changed_labels_are_followed(sounds, tmp_path, decoded, capsys):
    out, csv = tmp_path / "out", tmp_path / "labels.csv"
    header = 'fname,labels\n"Bär ""x""/1.wav",Wet\n'
    csv.write_text(header + '"Dog, Rain/a b.flac","Wet,Dog"\n')
    make(sounds, out, csv)
    for labels in ("Dog,Wet", "Cat"):
        decoded.clear()
        csv.write_text(header + f'"Dog, Rain/a b.flac","{labels}"\n')
        make(sounds, out, csv)
        assert counts(0, 2, 0) in capsys.readouterr().out
        assert decoded == []
        check_equals_new(out, sounds, csv)
    make(sounds, out)
    assert counts(1, 2, 0) in capsys.readouterr().out
    check_equals_new(out, sounds)


def test_a_folder_with_other_files_is_an_error(sounds, tmp_path):
    with pytest.raises(UserError, match="OUT must be new"):
        make(sounds, tmp_path)


def test_two_processes_do_not_write_at_once(sounds, tmp_path):
    out = tmp_path / "out"
    make(sounds, out)
    before = files_in(out)
    rename_label(sounds, out)
    with (
        files.locked(out / ".lock", AssertionError()),
        pytest.raises(UserError, match="OUT: another process"),
    ):
        make(sounds, out)
    assert files_in(out) == before


def test_a_damaged_manifest_is_one_error(sounds, tmp_path):
    out = tmp_path / "out"
    make(sounds, out)
    path = out / dataset.MANIFEST
    contents = path.read_bytes()
    for damaged in (contents[:-9], b"[1]\n" + contents, b"\xff", b"{}\n"):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=f"^{path} is damaged; delete {out} .*$"):
            make(sounds, out)


def test_the_longest_clip_is_documented_and_fits_into_a_wav_file():
    section = section_of("docs/own-recordings.md", "Creating a data set")
    hours = re.search(r"more than (\d+) hours are always cut", section)[1]
    assert int(hours) * 3600 == MAX_CLIP_SECONDS < 2**32 / (2 * SAMPLE_RATE)


CLIP = 220 / SAMPLE_RATE  # seconds


def recording(*parts: np.ndarray) -> bytes:
    """A WAV file."""
    file = io.BytesIO()
    soundfile.write(file, np.concatenate(parts), SAMPLE_RATE, format="WAV")
    return file.getvalue()


LOUD = noise(CLIP)
RECORDINGS = st.sampled_from(
    [recording(LOUD), recording(LOUD, 0 * LOUD, -LOUD), b"text"]
)
# The clips of the last two would have equal names.
NAMES = st.sampled_from(["Dog/a.wav", "Cat/a/b.wav", "Cat/a__b.wav"])
LINES = ["0\t0.004\tDog", "0.006\t0.008\tCat", "0.011\t0.014\t_background_"]
TRACKS = st.sets(st.sampled_from(LINES))
TABLES = st.dictionaries(NAMES, st.sampled_from(["Dog", '"Cat,Dog"']), min_size=1)
# The source of the labels, the folder of background, clip_seconds and skip.
OPTIONS = st.sampled_from(
    [
        ("only_annotated", "", CLIP, True),
        ("annotations", "", CLIP, True),
        ("annotations", "Cat", CLIP, False),
        ("folders", "", CLIP, False),
        ("folders", "Cat", NO_CUT, True),
        ("csv", "", CLIP, True),
    ]
)


def problems_of(found, out, clip_seconds, skip) -> Sequence[str]:
    """The problems that a run reports, or that it ends with."""
    try:
        return dataset.make_dataset(found, out, clip_seconds=clip_seconds, skip=skip)
    except UserError as error:
        return error.problems


class AnyOrder(RuleBasedStateMachine):
    """What users do to recordings and their labels between two runs, in any order."""

    def __init__(self):
        super().__init__()
        self.root = pathlib.Path(tempfile.mkdtemp())
        self.sounds, self.out = self.root / "sounds", self.root / "out"
        self.csv = self.root / "labels.csv"
        self.out.mkdir()
        # A run that fails leaves it, so that a first run that fails compares equal.
        (self.out / ".lock").touch()

    def teardown(self):
        shutil.rmtree(self.root)

    @initialize(contents=RECORDINGS, lines=TRACKS, options=OPTIONS)
    def start(self, contents, lines, options):
        self.write("Dog/a.wav", contents, lines)
        self.label({"Dog/a.wav": "Cat"})
        self.choose(options)

    @rule(name=NAMES, contents=RECORDINGS, lines=TRACKS)
    def write(self, name, contents, lines):
        path = self.sounds / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(contents)
        self.annotate(name, lines)

    @rule(name=NAMES)
    def remove(self, name):
        for path in (self.sounds / name, (self.sounds / name).with_suffix(".txt")):
            path.unlink(missing_ok=True)

    @rule(name=NAMES, new=NAMES)
    def rename(self, name, new):
        for suffix in (".wav", ".txt"):
            path = (self.sounds / name).with_suffix(suffix)
            if path.exists():
                target = (self.sounds / new).with_suffix(suffix)
                target.parent.mkdir(parents=True, exist_ok=True)
                path.rename(target)

    @rule(name=NAMES, lines=TRACKS)
    def annotate(self, name, lines):
        if (self.sounds / name).exists():
            track = (self.sounds / name).with_suffix(".txt")
            track.write_text("".join(f"{line}\n" for line in sorted(lines)))

    @rule(labels=TABLES)
    def label(self, labels):
        rows = [f'"{name}",{text}\n' for name, text in labels.items()]
        self.csv.write_text("fname,labels\n" + "".join(rows))

    @rule(number=st.integers(0, 3))
    def lose_a_clip(self, number):
        for path in sorted(self.out.glob("audio/*"))[number : number + 1]:
            path.unlink()

    @rule(options=OPTIONS)
    def choose(self, options):
        self.source, self.background, self.clip_seconds, self.skip = options

    @rule(number=st.integers(1, 12))
    def run_until_killed(self, number):
        self.run(killed_at=number)

    @invariant()
    def run(self, killed_at=0):
        """Makes the data set, which then equals a new one, unless the run is killed.

        Without a kill, it runs after each action.
        """
        is_annotated = self.source in ("annotations", "only_annotated")
        try:
            found = sources.find_recordings(
                str(self.sounds),
                csv_path=str(self.csv) if self.source == "csv" else "",
                annotations=str(self.sounds) if is_annotated else "",
                background=self.background and str(self.sounds / "Cat"),
                only_annotated=self.source == "only_annotated",
            )
        except UserError:
            return
        options = self.clip_seconds, self.skip
        before = files_in(self.out)
        with tempfile.TemporaryDirectory() as new:
            problems = problems_of(found, pathlib.Path(new), *options)
            after = files_in(pathlib.Path(new))
        if "clips.csv" not in after:  # The data set remains as it is.
            after = before
        with pytest.MonkeyPatch.context() as patch:
            if killed_at:
                kill_at(patch, killed_at)
            try:
                assert problems_of(found, self.out, *options) == problems
            except Killed:
                if (self.out / "clips.csv").exists():
                    assert files_in(self.out) in (before, after)
                return
        assert files_in(self.out) == after


AnyOrder.TestCase.settings = settings(
    max_examples=30, stateful_step_count=25, deadline=None, derandomize=True
)
TestAnyOrder = AnyOrder.TestCase
