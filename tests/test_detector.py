"""Making a detector: labels of examples, mixtures, thresholds chosen by events."""

import csv

import numpy as np
import pytest
import scipy.special
from helpers import write_wav

from recordings import choosing, examples, mixtures
from recordings.annotations import Event
from recordings.segments import Tags
from recordings.thresholds import Rule, order_thresholds, read_thresholds
from tagger.data.clips import make_clips
from tagger.data.wav import read_wav_headers
from tagger.errors import UserError
from tagger.hparams import SAMPLE_RATE, Hparams
from tagger.runs.eval_folder import best_checkpoint
from tagger.runs.run import Run
from tools.fit_last_layer import fitting

CLASS_NAMES = ["Bell", "Dog"]


def test_an_example_has_the_labels_that_are_heard_in_it():
    """Examples of 1 s every 0.5 s."""
    events = [Event(0.8, 2.2, "Dog"), Event(3.3, 3.5, "Bell")]
    labels = examples.label_examples(events, 8, CLASS_NAMES, Hparams())
    assert labels.dtype == np.float32
    assert labels[:, 1].nonzero()[0].tolist() == [1, 2, 3]
    assert labels[:, 0].nonzero()[0].tolist() == [5, 6]


def make_clip(rng, *events: Event) -> tuple[np.ndarray, list[Event]]:
    """10 s of noise, with a level of 1 where there are events, else 0.01."""
    samples = 0.01 * rng.normal(size=10 * SAMPLE_RATE)
    for start, end, _ in events:
        first, stop = round(start * SAMPLE_RATE), round(end * SAMPLE_RATE)
        samples[first:stop] *= 100
    return samples.astype(np.float32), list(events)


def test_mixtures_have_the_events_where_they_say():
    rng = np.random.default_rng(0)
    clips = [
        make_clip(rng, Event(1, 2, "Dog"), Event(1.5, 2.5, "Bell")),
        make_clip(rng, Event(9, 10, "Dog")),
        make_clip(rng),
    ]
    waveform, events = mixtures.mix_events(clips, rng)
    # The background of 1 + 7.5, 9 and 10 s; the part of 1 s is too short.
    parts = 7.5 + 9 + 10 - 4 * mixtures.PART_FADE_SECONDS
    assert waveform.size / SAMPLE_RATE == pytest.approx(parts, abs=0.01)
    assert waveform.dtype == np.float32
    assert np.abs(waveform).max() < 1  # No event remains in the background.
    sounds = [[event for event in events if event.label == n] for n in CLASS_NAMES]
    assert len(sounds[1]) == 4
    assert len(sounds[0]) == 2
    for bell in sounds[0]:  # Events that share time remain together.
        distances = [bell.start - dog.start for dog in sounds[1]]
        assert np.min(np.abs(np.array(distances) - 0.5)) < 1e-9
    levels = [
        10 * np.log10(np.mean(waveform[round(s * SAMPLE_RATE) :][:SAMPLE_RATE] ** 2))
        for s, _, _ in sounds[1]
    ]
    assert max(levels) > -38  # The background has -40 dB.


def test_joined_parts_keep_their_level():
    joined = mixtures._join([np.ones(SAMPLE_RATE, np.float32)] * 3)
    fade = round(mixtures.PART_FADE_SECONDS * SAMPLE_RATE)
    assert joined.size == 3 * SAMPLE_RATE - 2 * fade
    np.testing.assert_allclose(joined[fade:-fade], 1, rtol=1e-4)


def test_mixtures_are_equal_for_equal_draws():
    clips = [make_clip(np.random.default_rng(0), Event(1, 2, "Dog"))]
    first, second = (
        mixtures.mix_events(clips, np.random.default_rng(1)) for _ in range(2)
    )
    np.testing.assert_array_equal(first[0], second[0])
    assert first[1] == second[1]


@pytest.mark.parametrize("events", [[], [Event(0, 10, "Dog")]])
def test_there_are_no_mixtures_without_events_or_background(events):
    rng = np.random.default_rng(0)
    waveform, found = mixtures.mix_events([make_clip(rng, *events)], rng)
    assert (waveform.size, found) == (0, [])


def test_silence_can_be_mixed():
    clip = (np.zeros(10 * SAMPLE_RATE, np.float32), [Event(1, 2, "Dog")])
    waveform, events = mixtures.mix_events([clip], np.random.default_rng(0))
    assert events
    assert not waveform.any()


def write_clips(folder, number: int) -> tuple[list[str], str]:
    """Writes clips of 6 s with a tone of a second, and the CSVs of a data set."""
    rng = np.random.default_rng(0)
    rows, events = [("fname", "labels", "recording")], ["fname,start,end,label"]
    for index in range(number):
        name, label = f"{index}.wav", ("Bell", "Dog", "_background_")[index % 3]
        samples = 0.01 * rng.normal(size=6 * SAMPLE_RATE)
        if label in CLASS_NAMES:
            hz = (2000, 300)[CLASS_NAMES.index(label)]
            tone = np.sin(2 * np.pi * hz * np.arange(SAMPLE_RATE) / SAMPLE_RATE)
            start = 1 + index % 4
            samples[start * SAMPLE_RATE :][: tone.size] += 0.3 * tone
            events.append(f"{name},{start},{start + 1},{label}")
        write_wav(folder / "audio" / name, samples)
        rows.append((name, label, f"recording {index % 2}"))
    with (folder / "clips.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    (folder / "events.csv").write_text("\n".join(events))
    (folder / "class_map.csv").write_text("0,Bell\n1,Dog\n")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A data set of 18 clips, 12 of them with an event; do not change it."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "audio").mkdir()
    write_clips(folder, 18)
    return folder


def clips_of(data):
    paths = sorted(map(str, (data / "audio").iterdir()))
    labels = np.zeros([len(paths), 2], np.float32)
    return make_clips(paths, read_wav_headers(paths), labels)


def test_events_of_clips(data):
    clips = clips_of(data)
    events = examples.read_events(
        str(data / "events.csv"), clips, str(data / "audio"), CLASS_NAMES
    )
    by_name = {path.rpartition("/")[2]: e for path, e in zip(clips.paths, events)}
    assert by_name["0.wav"] == [(1, 2, "Bell")]
    assert by_name["2.wav"] == []
    with pytest.raises(UserError, match="--events: .* no classes: .*Dog"):
        examples.read_events(
            str(data / "events.csv"), clips, str(data / "audio"), ["Bell"]
        )


def test_a_mixture_is_of_clips_of_one_fold(data, monkeypatch):
    clips = clips_of(data)
    events = [[Event(1, 2, "Bell")]] * len(clips)
    folds = np.arange(len(clips)) % 2
    levels = {0: 0.1, 1: 0.5}

    def read(path, offset, size):
        import tensorflow as tf

        level = levels[int(folds[clips.paths.index(path)])]
        return tf.fill([6 * SAMPLE_RATE], level)

    monkeypatch.setattr("inputs.clip_to_waveform", read)
    monkeypatch.setattr(examples, "MAX_MIXED_CLIPS", 5)
    found = list(
        examples.mixture_examples(
            clips, events, folds, CLASS_NAMES, Hparams(), rounds=2
        )
    )
    assert [fold[0] for *_, fold in found] == [0, 0, 1, 1] * 2
    means = [values.mean() for values, *_ in found]
    quiet, loud = means[0:2] + means[4:6], means[2:4] + means[6:8]
    assert max(quiet) < min(loud)
    for values, labels, fold in found:
        assert len(values) == len(labels) == len(fold)
        assert labels[:, 0].any()
        assert not labels[:, 1].any()


def scored_recordings(rng, number: int) -> list[tuple[Tags, list[Event]]]:
    """Dog also has a lower score where it is not."""
    scored = []
    for _ in range(number):
        logits = rng.normal(-4, 0.5, [100, 2])
        events = []
        for index, start in enumerate(range(5, 95, 10)):
            label = index % 2
            events.append(Event(start / 2, start / 2 + 2, CLASS_NAMES[label]))
            logits[start : start + 3, label] = rng.normal(2, 0.5)
            if label:  # A false alarm of a lower score
                logits[start + 5 : start + 8, label] = rng.normal(0, 0.5)
        scores = scipy.special.expit(logits)
        scored.append((Tags(50.5, scores, None, None), events))
    return scored


def test_thresholds_separate_events_from_false_alarms():
    scored = scored_recordings(np.random.default_rng(0), 4)
    rules = choosing.choose_rules(scored, CLASS_NAMES, Hparams())
    assert list(rules) == CLASS_NAMES
    ordered = order_thresholds(rules, CLASS_NAMES, "")
    found = choosing.score_rule(scored, CLASS_NAMES, Hparams(), ordered)
    assert found["all classes"].f1 == 1
    for rule in rules.values():
        assert rule[1:] == (
            *(choosing.GAP_SECONDS, choosing.MIN_SECONDS, choosing.MEAN_SECONDS),
        )
    assert rules["Bell"] != rules["Dog"]


def test_thresholds_for_a_precision():
    """The lowest that reach it, so a lower precision has a higher recall."""
    scored = scored_recordings(np.random.default_rng(0), 8)
    found = {}
    for wanted in (0.6, 0.95):
        rules = choosing.choose_rules(scored, CLASS_NAMES, Hparams(), precision=wanted)
        values = Rule(*np.array([rules[name] for name in CLASS_NAMES]).T)
        scores = choosing.score_rule(scored, CLASS_NAMES, Hparams(), values)
        found[wanted] = scores["all classes"]
        assert found[wanted].precision > wanted
    assert found[0.6].precision < found[0.95].precision
    assert found[0.6].num_detections > found[0.95].num_detections


def test_a_class_without_events_has_the_threshold_of_all_classes(monkeypatch):
    scored = [
        (tags, [event for event in events if event.label == "Bell"])
        for tags, events in scored_recordings(np.random.default_rng(0), 4)
    ]
    rules = choosing.choose_rules(scored, CLASS_NAMES, Hparams())
    monkeypatch.setattr(choosing, "HALFWAY_EVENTS", np.inf)
    common = choosing.choose_rules(scored, CLASS_NAMES, Hparams())
    assert common["Bell"] == common["Dog"] == rules["Dog"]


def test_only_all_classes_have_a_threshold_that_is_higher_than_the_best(monkeypatch):
    scored = scored_recordings(np.random.default_rng(0), 4)

    def choose(halfway_events: float, tolerance: float) -> list[float]:
        monkeypatch.setattr(choosing, "HALFWAY_EVENTS", halfway_events)
        monkeypatch.setattr(choosing, "TOLERANCE", tolerance)
        rules = choosing.choose_rules(scored, CLASS_NAMES, Hparams())
        return [rule.threshold for rule in rules.values()]

    # All F1 are nearly as good as the best one.
    assert choose(np.inf, tolerance=1) == pytest.approx([0.98] * 2, abs=0.01)
    assert choose(0, tolerance=1) == choose(0, tolerance=0)  # each class for itself
    lowest = choosing.choose_rules(scored, CLASS_NAMES, Hparams(), precision=0.0)
    assert lowest["Dog"].threshold == pytest.approx(0.02, abs=0.01)


def test_too_few_events():
    scored = scored_recordings(np.random.default_rng(0), 1)
    with pytest.raises(UserError, match="too few events .*: 9; at least 10"):
        choosing.choose_rules(scored, CLASS_NAMES, Hparams())


def test_a_precision_that_is_not_reached_is_reported(tmp_path, capsys):
    rng = np.random.default_rng(0)
    scored = [
        (tags, events[::4])  # Three of four detections are false.
        for tags, events in scored_recordings(rng, 4)
    ]
    path = str(tmp_path / "new" / "t.csv")
    choosing.write_chosen_rules(
        path,
        scored,
        CLASS_NAMES,
        Hparams(),
        precision=0.99,
        checkpoint="model.ckpt-0 0a1b2c3d",
    )
    assert list(read_thresholds(path, "")) == CLASS_NAMES
    captured = capsys.readouterr()
    assert "warning: --precision: 0.99 is not reached" in captured.err
    assert "all classes" in captured.out


def make_detector(data, trained, out, **options):
    fitting.fit_last_layer(
        checkpoint=str(trained / "model.ckpt-5"),
        class_map_path=str(data / "class_map.csv"),
        clip_dir=str(data / "audio"),
        csv_path=str(data / "clips.csv"),
        train_dir=str(out / "run"),
        **{
            "c": None,
            "num_folds": 3,
            "group_by": "",
            "hparam_overrides": {"example_hop_seconds": 0.25},
            "mixed_precision": False,
            "events_path": str(data / "events.csv"),
            "mixtures": 1,
            "thresholds_path": str(out / "thresholds.csv"),
            "eval_dir": str(out / "eval"),
        }
        | options,
    )


def test_a_detector_from_events(data, trained, tmp_path, capsys):
    make_detector(data, trained, tmp_path)
    captured = capsys.readouterr()
    assert "note: cross-validation divides recordings" in captured.err
    assert "scores will be wrong" not in captured.err
    assert "3-fold cross-validation" in captured.out
    prefix = best_checkpoint(str(tmp_path / "eval"), "")
    assert prefix == str(tmp_path / "run" / "model.ckpt-0")
    assert Run(tmp_path / "run").record.hparams.example_hop_seconds == 0.25
    rules = read_thresholds(str(tmp_path / "thresholds.csv"), "")
    assert list(rules) == CLASS_NAMES


def test_detectors_without_mixtures_differ(data, trained, tmp_path, capsys):
    for rounds in (0, 2):
        out = tmp_path / str(rounds)
        make_detector(data, trained, out, mixtures=rounds, thresholds_path="")
        number = [
            int(line.split(" examples")[0].split()[-1])
            for line in capsys.readouterr().out.splitlines()
            if "examples of 18 clips" in line
        ]
        assert (number == [18 * 24]) == (rounds == 0)
        assert not (out / "thresholds.csv").exists()


def test_without_cross_validation_all_clips_are_mixed(data, trained, tmp_path):
    options = {"c": 0.01, "num_folds": 0, "thresholds_path": "", "eval_dir": ""}
    make_detector(data, trained, tmp_path, **options)
    assert not (tmp_path / "eval").exists()
    assert Run(tmp_path / "run").checkpoints()
