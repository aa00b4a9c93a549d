"""Making a data set from recordings."""

import numpy as np
import pytest
import soundfile

from tagger import files
from tagger.clips import InputProblems, read_class_map, read_clips, read_rows
from tools import make_dataset

NO_CUT = make_dataset.MAX_CLIP_SECONDS


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
    found = make_dataset.find_recordings(str(sounds), str(csv))
    return make_dataset.make_dataset(found, out, clip_seconds=clip_seconds, skip=skip)


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
        train_dir=str(tmp_path / "none"),
        flag_prefix="train",
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
    before = fields_of(out)
    times = {path: path.stat().st_mtime_ns for path in (out / "audio").iterdir()}
    (sounds / "Ant").mkdir()
    soundfile.write(sounds / "Ant" / "1.wav", noise(1), 44100)
    make(sounds, out)
    assert "1 recording added; 3 were already there" in capsys.readouterr().out
    assert fields_of(out) == [*before, ("Ant__1.wav.wav", "Ant", "Ant/1.wav")]
    assert read_class_map(str(out / "class_map.csv")) == [
        "Ant",
        'Bär "x"',
        "Dog",
        "Rain",
    ]
    assert {path: path.stat().st_mtime_ns for path in times} == times


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
    with pytest.raises(InputProblems) as error:
        make(sounds, out)
    assert not out.exists()
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
    with pytest.raises(InputProblems, match=message):
        make(root, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_nothing_usable_leaves_nothing(tmp_path):
    (tmp_path / "sounds" / "Dog").mkdir(parents=True)
    (tmp_path / "sounds" / "Dog" / "a.wav").write_text("text")
    (tmp_path / "sounds" / "b.wav").write_text("text")
    with pytest.raises(InputProblems) as error:
        make(tmp_path / "sounds", tmp_path / "out", skip=True)
    # Both problems of a recording are reported.
    for problem, text in zip(error.value.problems, ("sub-folder", "b.wav", "a.wav")):
        assert text in problem
    assert len(error.value.problems) == 3
    assert not (tmp_path / "out").exists()


def test_recordings_with_unusable_names_are_skipped(sounds, tmp_path):
    soundfile.write(sounds / "without label.wav", noise(1), 44100)
    (problem,) = make(sounds, tmp_path / "out", skip=True)
    assert "without label.wav: is not in a sub-folder" in problem
    assert len(fields_of(tmp_path / "out")) == 3
    # With nothing new, the data set is as before.
    assert make(sounds, tmp_path / "out", skip=True) == [problem]
    assert len(fields_of(tmp_path / "out")) == 3


@pytest.mark.parametrize("error", [ValueError("changed"), KeyboardInterrupt()])
def test_finished_recordings_are_kept(sounds, tmp_path, monkeypatch, error):
    audio = tmp_path / "out" / "audio"
    audio.mkdir(parents=True)
    (audio / ".a.wav.0123.tmp").touch()

    def write_clips(usable, audio, write=make_dataset.write_clips):
        if usable.recording.name.endswith("b.flac"):
            raise error
        return write(usable, audio)

    with monkeypatch.context() as patch:
        patch.setattr(make_dataset, "write_clips", write_clips)
        if isinstance(error, ValueError):
            assert make(sounds, tmp_path / "out") == ["changed"]
        else:
            with pytest.raises(KeyboardInterrupt):
                make(sounds, tmp_path / "out")
    assert len(fields_of(tmp_path / "out")) == 2
    assert make(sounds, tmp_path / "out") == []
    assert len(fields_of(tmp_path / "out")) == len(list(audio.iterdir())) == 3


@pytest.mark.parametrize("name", ["a\u00a0b\u3000c.wav", "\u200b\ue000.wav"])
def test_ordinary_names_are_kept(tmp_path, name):
    (tmp_path / "sounds" / "Dog").mkdir(parents=True)
    soundfile.write(tmp_path / "sounds" / "Dog" / name, noise(1), 44100)
    make(tmp_path / "sounds", tmp_path / "out")
    assert fields_of(tmp_path / "out") == [(f"Dog__{name}.wav", "Dog", f"Dog/{name}")]


def test_clips_of_earlier_recordings_are_not_replaced(sounds, tmp_path):
    make(sounds, tmp_path / "out")
    soundfile.write(sounds / "Dog, Rain__a b.flac", noise(1), 44100)
    csv = tmp_path / "labels.csv"
    csv.write_text('fname,labels\n"Dog, Rain__a b.flac",Dog\n')
    with pytest.raises(InputProblems, match="clips of Dog, Rain/a b.flac"):
        make(sounds, tmp_path / "out", csv)


def test_another_clips_csv_is_an_error(sounds, tmp_path):
    (tmp_path / "clips.csv").write_text("fname,labels,license\na.wav,Dog,CC0\n")
    with pytest.raises(ValueError, match="must have the columns fname, labels, rec"):
        make(sounds, tmp_path)


def test_labels_from_a_csv(sounds, tmp_path):
    csv = tmp_path / "labels.csv"
    csv.write_text(
        'fname,labels\nDog\\, Rain/a b.flac,Wet\n"Bär ""x""/1.wav","e\u0301,f"\n'
    )
    with pytest.raises(ValueError, match="fields"):
        make(sounds, tmp_path / "out", csv)
    csv.write_text(
        'fname,labels\n"Dog, Rain/a b.flac",Wet\n"Bär ""x""/1.wav","e\u0301,f"\n'
    )
    make(sounds, tmp_path / "out", csv)
    assert [labels for _, labels, _ in fields_of(tmp_path / "out")] == ["Wet", "é,f"]


def test_unprintable_labels_are_an_error(sounds, tmp_path):
    csv = tmp_path / "labels.csv"
    csv.write_bytes(b'fname,labels\n"Dog, Rain/a b.flac","Wet\rDog"\n')
    with pytest.raises(InputProblems, match=r"a b.flac: .*Wet\\rDog"):
        make(sounds, tmp_path / "out", csv)


def test_a_recording_that_the_csv_names_is_missing(sounds, tmp_path):
    csv = tmp_path / "labels.csv"
    csv.write_text("fname,labels\nnone.wav,Wet\n")
    with pytest.raises(InputProblems, match="none.wav: there is no such file"):
        make(sounds, tmp_path / "out", csv)


def test_a_csv_that_names_a_recording_twice(sounds, tmp_path):
    csv = tmp_path / "labels.csv"
    csv.write_text("fname,labels\na/b.wav,Wet\na/./b.wav,Dry\n")
    with pytest.raises(InputProblems, match=r"labels.csv:3: .*a/./b.wav .* line 2"):
        make(sounds, tmp_path / "out", csv)


def test_changed_labels_are_an_error(sounds, tmp_path):
    csv = tmp_path / "labels.csv"
    csv.write_text('fname,labels\n"Dog, Rain/a b.flac","Wet,Dog"\n')
    make(sounds, tmp_path / "out", csv)
    csv.write_text('fname,labels\n"Dog, Rain/a b.flac","Dog,Wet"\n')
    assert make(sounds, tmp_path / "out", csv) == []
    csv.write_text('fname,labels\n"Dog, Rain/a b.flac",Cat\n')
    with pytest.raises(InputProblems, match="its labels are Cat, but Wet,Dog"):
        make(sounds, tmp_path / "out", csv)


def test_recordings_that_are_no_longer_there_are_noted(sounds, tmp_path, capsys):
    make(sounds, tmp_path / "out")
    (sounds / 'Bär "x"' / "1.wav").rename(sounds / "Dog, Rain" / "1.wav")
    make(sounds, tmp_path / "out")
    (note,) = capsys.readouterr().err.splitlines()
    assert note.startswith("note: 1 recording")
    assert 'Bär "x"/1.wav' in note


def test_a_folder_with_other_files_is_an_error(sounds, tmp_path):
    with pytest.raises(ValueError, match="OUT must be new"):
        make(sounds, tmp_path)


def test_two_processes_do_not_write_at_once(sounds, tmp_path, monkeypatch):
    audio = tmp_path / "out" / "audio"
    audio.mkdir(parents=True)
    with (
        files.locked(tmp_path / "out" / ".lock", AssertionError()),
        pytest.raises(ValueError, match="OUT: another process"),
    ):
        make(sounds, tmp_path / "out")
    assert list(audio.iterdir()) == []

    def check(*arguments, check=make_dataset.check_recordings, **options):
        monkeypatch.undo()
        make(sounds, tmp_path / "out")  # Another process is faster.
        return check(*arguments, **options)

    monkeypatch.setattr(make_dataset, "check_recordings", check)
    with pytest.raises(ValueError, match="OUT: another process"):
        make(sounds, tmp_path / "out")
    assert len(fields_of(tmp_path / "out")) == 3
