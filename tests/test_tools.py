"""Class maps, validation splits and demo data."""

import collections
import csv
import io
import re
import sys
import wave

import numpy as np
import pytest
from helpers import ROOT

import make_class_map
from tagger.errors import UserError
from tools import make_demo_data, make_validation_split


def rows_of(path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file))


def class_map_of(text: str, monkeypatch) -> int:
    stdin = io.TextIOWrapper(io.BytesIO(text.encode()))
    monkeypatch.setattr(sys, "stdin", stdin)
    return make_class_map.main(["make_class_map.py"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('fname,labels\na,Meow\nb,"Bark,Zip"\n', "0,Bark\n1,Meow\n2,Zip\n"),
        ("\ufefffname,aso_ids,label\r\na,/m/1,Bark\r\n\r\n", "0,Bark\n"),
        # as published after the challenge
        (
            "fname,labels,usage,freesound_id,license\n"
            'a.wav,"Slam,Bark",Public,1,CC0\nb.wav,Bark,Private,2,CC Sampling+\n',
            "0,Bark\n1,Slam\n",
        ),
        ("fname,labels\na,_background_\nb,_noise_\n", "0,_noise_\n"),
    ],
)
def test_a_class_map_has_the_labels_in_order(text, expected, capsys, monkeypatch):
    assert class_map_of(text, monkeypatch) == 0
    assert capsys.readouterr().out == expected


def test_a_class_map_needs_a_csv_of_clips(capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)  # closed
    with pytest.raises(UserError, match="expected a CSV on stdin"):
        make_class_map.main(["make_class_map.py"])
    with pytest.raises(UserError, match="stdin:1: "):
        class_map_of("a,b\n1,2\n", monkeypatch)
    assert capsys.readouterr().out == ""


@pytest.fixture
def multi_label_csv(tmp_path):
    """A thousand clips of 20 classes, some with two labels, and a third column."""
    rng = np.random.default_rng(0)
    lines = ["fname,labels,license"]
    for index in range(1000):
        labels = {f"C{index % 20}"}
        if rng.random() < 0.2:
            labels.add(f"C{rng.integers(20)}")
        lines.append(f'{index:04d}.wav,"{",".join(sorted(labels))}",CC0')
    path = tmp_path / "curated.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def small_csv(path, *labels: str) -> str:
    rows = [f"{index}.wav,{label}\n" for index, label in enumerate(labels)]
    path.write_text("fname,labels\n" + "".join(rows))
    return str(path)


def split(source, out_dir, *, fraction=0.1, num_folds=None, group_by="", seed=0):
    out_dir.mkdir(exist_ok=True)
    make_validation_split.write_split(
        str(source),
        out_dir=str(out_dir),
        fraction=fraction,
        num_folds=num_folds,
        group_by=group_by,
        seed=seed,
    )


def counts_of(rows) -> collections.Counter:
    return collections.Counter(label for row in rows for label in row[1].split(","))


def check_split(source, train, validation, share):
    """Checks that each clip is in one part, and shuffling and stratification."""
    header, *rows = rows_of(source)
    assert train[0] == validation[0] == header
    assert sorted(train[1:] + validation[1:]) == sorted(rows)
    assert train[1:] != sorted(train[1:])
    counts = counts_of(validation[1:])
    for name, count in counts_of(rows).items():
        assert abs(counts[name] - share * count) <= 1, name


def test_a_split_is_stratified(multi_label_csv, tmp_path, capsys):
    split(multi_label_csv, tmp_path / "out")
    assert capsys.readouterr().err == ""
    parts = [
        rows_of(tmp_path / "out" / f"curated_{part}.csv")
        for part in ("train", "validation")
    ]
    check_split(multi_label_csv, *parts, share=0.1)


def test_folds_have_each_clip_in_one_validation_part(multi_label_csv, tmp_path):
    split(multi_label_csv, tmp_path, num_folds=4)
    validations = []
    for fold in range(1, 5):
        train = rows_of(tmp_path / f"curated_fold{fold}_train.csv")
        validation = rows_of(tmp_path / f"curated_fold{fold}_validation.csv")
        check_split(multi_label_csv, train, validation, share=1 / 4)
        validations += validation[1:]
    assert sorted(validations) == sorted(rows_of(multi_label_csv)[1:])


def test_background_clips_are_stratified(tmp_path, capsys):
    labels = ["Bark", "_background_"] * 20
    split(small_csv(tmp_path / "a.csv", *labels), tmp_path / "out", fraction=0.25)
    _, *rows = rows_of(tmp_path / "out" / "a_validation.csv")
    assert collections.Counter(label for _, label in rows) == {
        "Bark": 5,
        "_background_": 5,
    }


def test_groups_are_not_divided(tmp_path):
    lines = ["fname,labels,recording"]
    for recording in range(40):
        label = ["Bark", "Moo"][recording % 2]
        for clip in range(1 + recording % 5):
            lines.append(f"{recording}-{clip}.wav,{label},rec {recording}")
    source = tmp_path / "grouped.csv"
    source.write_text("\n".join(lines) + "\n")
    split(source, tmp_path, fraction=0.25, group_by="recording")
    parts = [
        rows_of(tmp_path / f"grouped_{part}.csv")[1:]
        for part in ("train", "validation")
    ]
    assert sorted(sum(parts, [])) == sorted(rows_of(source)[1:])
    groups = [{row[2]: row[1] for row in rows} for rows in parts]
    assert not groups[0].keys() & groups[1].keys()
    assert collections.Counter(groups[1].values()) == {"Bark": 5, "Moo": 5}
    with pytest.raises(UserError, match="--group_by: .* speaker"):
        split(source, tmp_path, group_by="speaker")


def test_clips_of_one_recording_in_both_parts_are_noted(tmp_path, capsys):
    source = tmp_path / "clips.csv"
    rows = [f"{clip}.wav,Bark,{clip // 2}.mp3\n" for clip in range(40)]
    source.write_text("fname,labels,recording\n" + "".join(rows))
    split(source, tmp_path)
    assert "--group_by recording" in capsys.readouterr().err
    split(source, tmp_path, group_by="recording")
    source.write_text("fname,labels,recording\n" + "".join(rows[::2]))
    split(source, tmp_path)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "at least one CSV"),
        (["a.csv", "b/a.csv"], "names of the CSVs must differ"),
        (["a.csv", "a_train.csv"], "a_train.csv would be replaced"),
        (["a_fold2_validation.csv", "a.csv"], "a_fold2_validation.csv would be"),
    ],
)
def test_sources_that_cannot_be_split_together(tmp_path, names, message):
    sources = [str(tmp_path / name) for name in names]
    with pytest.raises(UserError, match=message):
        make_validation_split.check_sources(sources, str(tmp_path))
    if "replaced" in message:
        make_validation_split.check_sources(sources, str(tmp_path / "splits"))


def test_the_seed_decides_the_split(multi_label_csv, tmp_path):
    outputs = []
    for number, seed in enumerate((1, 1, 2)):
        out = tmp_path / str(number)
        split(multi_label_csv, out, fraction=0.25, seed=seed)
        outputs.append((out / "curated_validation.csv").read_text())
    assert outputs[0] == outputs[1] != outputs[2]


def test_a_class_without_validation_clips_is_reported(tmp_path, capsys):
    split(small_csv(tmp_path / "small.csv", *["Bark"] * 30, "Moo"), tmp_path)
    (note,) = capsys.readouterr().err.splitlines()
    assert re.match(rf"note: .*{tmp_path}/small_validation\.csv .* Moo$", note)


def test_a_single_class_can_be_split(tmp_path):
    split(small_csv(tmp_path / "one.csv", *["Bark"] * 30), tmp_path)
    assert len(rows_of(tmp_path / "one_validation.csv")) == 4


def test_as_many_folds_as_clips(tmp_path):
    split(small_csv(tmp_path / "few.csv", "Bark", "Bark", "Moo"), tmp_path, num_folds=3)
    for fold in (1, 2, 3):
        assert len(rows_of(tmp_path / f"few_fold{fold}_validation.csv")) == 2


@pytest.mark.parametrize(
    ("labels", "options"),
    [
        (["Bark"], {"fraction": 0.5}),
        (["Bark"], {"num_folds": 2}),
        (["Bark", "Meow", "Moo"], {"fraction": 0.5}),  # All would be training clips.
        (["Bark"] * 30, {"fraction": 1.0}),
    ],
)
def test_a_split_with_an_empty_part_is_an_error(tmp_path, labels, options):
    source = small_csv(tmp_path / "tiny.csv", *labels)
    with pytest.raises(UserError, match="tiny.csv: "):
        split(source, tmp_path, **options)
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.csv"]


def test_the_demo_data_is_small_varied_and_repeatable(tmp_path):
    contents = []
    for out in (tmp_path / "a", tmp_path / "b"):
        make_demo_data.write_data(out)
        paths = sorted(out.rglob("*.*"))
        contents.append({path.relative_to(out): path.read_bytes() for path in paths})
    assert contents[0] == contents[1]
    assert 300_000 < sum(map(len, contents[0].values())) < 10_000_000
    _, *rows = rows_of(tmp_path / "a" / "train_curated.csv")
    lengths = []
    for fname, _ in rows:
        with wave.open(str(tmp_path / "a" / "train_curated" / fname)) as file:
            assert file.getparams()[:3] == (1, 2, 44100)
            lengths.append(file.getnframes() / 44100)
    assert min(lengths) < 0.4
    assert max(lengths) > 1.3
    assert sum("," in labels for _, labels in rows) == 20
    counts = counts_of(rows)
    assert list(counts.values()) == [20] * 5
    assert set(counts) <= {name for _, name in rows_of(ROOT / "class_map.csv")}
    usage = (ROOT / "docs" / "usage.md").read_text()
    numbers = re.search(r"(\d+) synthetic[^.]* (\d+)\s+test clips", usage).groups()
    written = len(rows), len([*(tmp_path / "a" / "test").iterdir()])
    assert written == tuple(map(int, numbers))


@pytest.mark.parametrize(
    ("name", "low", "high", "share"),  # Hz; the share of the energy that may be outside
    [
        ("Bass_drum", 0, 150, 0.05),
        ("Buzz", 80, 3000, 0.05),  # about 120 Hz, and its harmonics
        ("Chirp_and_tweet", 2500, 7000, 0.05),  # an octave above 2500 to 3500 Hz
        ("Hi-hat", 8000, 18000, 0.05),
        ("Waves_and_surf", 50, 1500, 1e-9),
    ],
)
def test_the_demo_sounds_have_the_frequencies_of_their_class(name, low, high, share):
    time = np.arange(2 * 44100) / 44100
    for seed in range(5):
        rng = np.random.default_rng(seed)
        sound = make_demo_data.SYNTHESIZERS[name](time, rng)
        energy = np.abs(np.fft.rfft(sound)) ** 2
        frequencies = np.fft.rfftfreq(time.size, 1 / 44100)
        outside = (frequencies < low - 0.6) | (frequencies > high + 0.6)
        assert energy[outside].sum() < share * energy.sum()


def test_a_bass_drum_of_the_demo_becomes_lower_and_fades():
    time = np.arange(round(0.3 * 44100)) / 44100  # Strokes are at least this far apart.
    sound = make_demo_data.bass_drum(time, np.random.default_rng(0))
    first, last = (sound[part] for part in (time < 0.05, time >= 0.25))
    assert np.abs(last).max() < 0.2 * np.abs(first).max()
    # A cycle crosses 0 twice. At first, the frequency is from 150 to 50 Hz.
    cycles = [np.sum(np.diff(np.sign(part)) != 0) / 2 for part in (first, last)]
    assert 0.05 * 80 < cycles[0] < 0.05 * 150
    assert cycles[1] == pytest.approx(0.05 * 50, abs=1)


def test_both_labels_of_a_clip_of_the_demo_are_audible():
    frequencies = np.fft.rfftfreq(44100, 1 / 44100)
    for seed in range(20):
        sound = make_demo_data.synthesize(
            ("Bass_drum", "Hi-hat"), 1.0, np.random.default_rng(seed)
        )
        spectrum = np.fft.rfft(sound)
        low, high = (
            np.abs(np.fft.irfft(spectrum * band)).max()
            for band in (frequencies < 4000, frequencies >= 4000)
        )
        assert 0.45 < low / high < 2.2  # Each is half as loud as it can be, or louder.
