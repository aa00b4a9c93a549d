"""Tagging recordings: the same scores as inference, segments and result files."""

import csv
import dataclasses
import io
import re
import threading
import weakref

import numpy as np
import pytest
import soundfile
import tensorflow as tf
from helpers import ALT_HPARAMS, SMALL_HPARAMS, parse_hparams, run_main

import inputs
from recordings import decoding, plots, segments
from recordings.thresholds import Rule
from tagger.data import blocks
from tagger.errors import UserError
from tagger.hparams import Hparams
from tools.tag import results, scoring
from tools.tag.results import Outputs


@pytest.fixture(scope="module")
def loaded(trained):
    return scoring.load(str(trained))


def test_scores_are_those_of_inference(dataset, trained, loaded, tmp_path):
    assert run_main(dataset.inference_flags(trained, tmp_path / "p.csv")) == 0
    (_, *columns), *rows = csv.reader((tmp_path / "p.csv").open())
    assert columns == loaded.class_names
    for name, *scores in rows:
        tags = scoring.tag(str(dataset.clip_dir / name), loaded)
        np.testing.assert_allclose(
            tags.scores.mean(axis=0), np.array(scores, float), atol=1e-6
        )


def test_blocks_give_the_scores_of_one_piece(trained, loaded, tmp_path, monkeypatch):
    hparams = loaded.hparams
    waveform = np.random.default_rng(0).uniform(-0.5, 0.5, 20 * 44100)
    soundfile.write(tmp_path / "a.wav", waveform, 44100, subtype="FLOAT")
    waveform = soundfile.read(tmp_path / "a.wav", dtype="float32")[0]
    tags = scoring.tag(
        str(tmp_path / "a.wav"), loaded, keep_embeddings=True, keep_log_mel=True
    )
    num_examples = blocks.BLOCK_EXAMPLES
    monkeypatch.setattr(blocks, "BLOCK_EXAMPLES", 999)
    whole = scoring.load(str(trained)).score
    no_state = np.full(hparams.mel_bands, np.nan, np.float32)
    scores, embeddings, _, _ = whole(waveform, no_state)
    assert len(scores) > 3 * num_examples
    assert tags.seconds == 20
    np.testing.assert_allclose(tags.scores, scores, atol=1e-6)
    np.testing.assert_allclose(tags.embeddings, embeddings, atol=1e-5)
    log_mel = inputs.waveform_to_log_mel_spectrogram(
        waveform, hparams, fft_type=inputs.EXACT_FFT
    )
    np.testing.assert_allclose(tags.log_mel, log_mel, atol=1e-5)


@pytest.mark.parametrize("hop", [0.02, 0.05, 0.08])
@pytest.mark.parametrize("frontend", ["log", "pcen"])
def test_blocks_of_any_length_have_the_same_examples(
    tmp_path, monkeypatch, hop, frontend
):
    hparams = dataclasses.replace(
        parse_hparams(SMALL_HPARAMS),
        frontend=frontend,
        pcen_seconds=10.0,  # longer than the recording
        example_window_seconds=0.05,
        example_hop_seconds=hop,
    )
    monkeypatch.setattr(blocks, "BLOCK_EXAMPLES", 2)
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 30000).astype(np.float32)

    def network(examples, training):
        means = tf.reduce_mean(examples, axis=(1, 2))[:, tf.newaxis]
        return means, examples

    @tf.function(reduce_retracing=True)
    def features(waveform):
        log_mel = inputs.waveform_to_log_mel_spectrogram(
            waveform, hparams, fft_type=inputs.EXACT_FFT
        )
        return inputs.log_mel_spectrogram_to_examples(log_mel, hparams), log_mel

    tagger = scoring.Tagger(["A"], hparams, scoring.define_scorer(network, hparams))
    for size in (1, 1102, 1103, *range(8000, 13000, 441), *range(12000, 12900, 97)):
        monkeypatch.setattr(
            decoding, "read_blocks", lambda *_, size=size: iter([noise[:size]])
        )
        tags = scoring.tag("a.wav", tagger, keep_embeddings=True, keep_log_mel=True)
        examples, log_mel = features(noise[:size])
        for name, expected in (("embeddings", examples), ("log_mel", log_mel)):
            actual = getattr(tags, name)
            np.testing.assert_allclose(actual, expected, atol=1e-5, err_msg=size)


def test_what_is_not_kept_is_freed(monkeypatch):
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 200 * 44100).astype(np.float32)
    monkeypatch.setattr(decoding, "read_blocks", lambda *_: iter([noise]))
    references, num_alive = [], []

    def scorer(waveform, state):
        num_alive.append(sum(reference() is not None for reference in references))
        embeddings, log_mel = np.zeros([65, 1024]), np.zeros([3300, 96])
        references.extend(map(weakref.ref, (embeddings, log_mel)))
        return np.zeros([65, 2]), embeddings, log_mel, state

    tags = scoring.tag("a.wav", scoring.Tagger(["A", "B"], Hparams(), scorer))
    assert (tags.embeddings, tags.log_mel) == (None, None)
    assert len(num_alive) == 7
    assert max(num_alive) <= 2 * scoring.SCORED_AT_ONCE  # those of the last blocks


def score_in_threads(scorer, frontend="log"):
    """Scores six blocks of three samples with the number of the block; yields these."""
    numbered = (np.full(3, number, np.float32) for number in range(6))
    tagger = scoring.Tagger(["A"], Hparams(frontend=frontend), scorer)
    for block, values in scoring.scored_ahead(numbered, tagger):
        assert all(np.array_equal(value, block) for value in values)
        yield block[0]


def test_blocks_are_scored_at_once_and_yielded_in_order():
    second_started = threading.Event()

    def scorer(block, state):
        if block[0] == 0:
            assert second_started.wait(timeout=60)
        elif block[0] == 1:
            second_started.set()
        return block, block, block, state

    assert [*score_in_threads(scorer)] == [*range(6)]


def test_a_block_of_pcen_waits_for_the_state_of_the_one_before():
    def scorer(block, state):
        assert block[0] == (0 if np.isnan(state).all() else state + 1)
        return block, block, block, block[0]

    assert [*score_in_threads(scorer, "pcen")] == [*range(6)]


def test_an_error_in_a_thread_is_raised_after_the_blocks_before():
    def scorer(block, state):
        if block[0] == 3:
            raise MemoryError
        return block, block, block, state

    before, found = threading.active_count(), []
    with pytest.raises(MemoryError):
        for number in score_in_threads(scorer):
            found.append(number)
    assert found == [0, 1, 2]
    assert threading.active_count() == before


def test_a_list_of_top_classes():
    tags = segments.Tags(1, np.array([[0.1, 0.3, 0.2]]), None, None)
    assert results.top_classes(tags, "ABC", 2) == "  0.3000  B\n  0.2000  C"
    thresholds = np.array([0, 0.31, 0.2])
    assert results.top_classes(tags, "ABC", 2, thresholds) == "  0.3000  B\n* 0.2000  C"


def tag_files(files, tagger, *, thresholds=0.5, **outputs: object) -> int:
    """Tags files; the outputs are paths by the names of the flags."""
    paths = Outputs(**{name: str(path) for name, path in outputs.items()})
    return results.tag_files(files, tagger, paths, rule=Rule(thresholds), top=5)


def test_results_that_cannot_be_written(tmp_path):
    sounds = [decoding.Sound(f"{n}.wav", n) for n in ("a/b", "a__b")]
    for name in ("audacity", "plot"):
        outputs = Outputs(**{name: str(tmp_path / name)})
        with pytest.raises(UserError, match=r"a/b.wav and a__b.wav .* same name"):
            results.check_names(outputs, sounds)
        results.check_names(outputs, sounds[:1])
    results.check_names(Outputs(segments="s.csv"), sounds)
    for name in ("segments", "files", "raven", "embeddings"):
        path = tmp_path / "new" / name
        outputs = Outputs(**{name: str(path)})
        results.check_outputs(outputs)
        path.touch()
        with pytest.raises(UserError, match=f"--{name}: .*{name} exists; .* --archive"):
            results.check_outputs(outputs)
        results.check_outputs(outputs, replace=True)
        with pytest.raises(UserError, match=f"--{name}: .* is a folder"):
            results.check_outputs(Outputs(**{name: str(tmp_path)}))


def test_each_class_has_its_threshold(tmp_path, monkeypatch, capsys):
    def fake_tag(*arguments, **options):
        return segments.Tags(1.0, np.array([[0.2, 0.6]]), None, None)

    monkeypatch.setattr(results, "tag", fake_tag)
    tagger = scoring.Tagger(["A", "B"], Hparams(), None)
    files, thresholds = [decoding.Sound("a", "a")], np.array([0.2, 0.7])
    path = tmp_path / "s.csv"
    assert tag_files(files, tagger, thresholds=thresholds, segments=path) == 0
    out, err = capsys.readouterr()
    assert out == "a (1.0 s)\n  0.6000  B\n* 0.2000  A\n"
    assert "note" not in err
    _, row = csv.reader(path.open())
    assert row[3:] == ["A", "0.200000"]


def test_an_interrupted_run_keeps_its_results(tmp_path, monkeypatch, capsys):
    def fake_tag(path, *arguments, **options):
        if path == "bad":
            raise UserError("bad: cannot be read")
        if path == "c":
            raise KeyboardInterrupt
        return segments.Tags(1.0, np.ones([1, 1]), np.zeros([1, 4]), None)

    monkeypatch.setattr(results, "tag", fake_tag)
    tagger = scoring.Tagger(["A"], Hparams(), None)
    paths = {
        "segments": tmp_path / "s.csv",
        "embeddings": tmp_path / "e.npz",
        "audacity": tmp_path,
    }
    (tmp_path / "b.txt").mkdir()
    files = [decoding.Sound(name, name) for name in ("a", "bad", "b")]
    assert tag_files(files, tagger, **paths) == 2
    out, err = capsys.readouterr()
    assert out.splitlines()[0] == "a (1.0 s)"
    assert "error: bad: cannot be read\n" in err
    assert f"error: cannot write {tmp_path}/b.txt: " in err
    for name in ("segments", "embeddings"):
        paths[name].unlink()
    with pytest.raises(KeyboardInterrupt):
        tag_files([*files, decoding.Sound("c", "c")], tagger, **paths)
    rows = list(csv.reader(paths["segments"].open()))
    assert [row[0] for row in rows] == ["file", "a", "b"]
    assert np.load(paths["embeddings"])["files"].tolist() == ["a", "b"]


@pytest.mark.parametrize(
    ("samples", "noted"),
    [
        (np.zeros(3 * 44100), "is silent"),
        (np.full(3 * 44100, 1e-5), "is silent"),  # zeros, if it had 16 bits
        (np.full(441, 0.1), "441 .* 1102"),
        (np.full(1102, 0.1), ""),
        (np.full(44100, -1.5), ""),  # as in some MP3 files
        (np.full(44100, -20000.0), "20000|2e"),  # in the range of 16 bits
        (np.sin(3 * np.arange(44100)) / 2, "100% .* above 20000 Hz"),
    ],
)
def test_a_silent_loud_or_tiny_file_is_noted(loaded, tmp_path, capsys, samples, noted):
    path = tmp_path / "a\n.wav"
    soundfile.write(path, samples, 44100, subtype="FLOAT")
    assert tag_files([decoding.Sound(str(path), "a")], loaded) == 0
    out, err = capsys.readouterr()
    assert out.startswith(f"{tmp_path}/a?.wav (")
    notes = [line for line in err.splitlines() if line.startswith("note: ")]
    assert len(notes) == bool(noted)
    for note in notes:
        assert f"{tmp_path}/a?.wav: " in note
        assert re.search(noted, note)


def tags_of(scores: np.ndarray, seconds: float) -> segments.Tags:
    log_mel = np.zeros([round(seconds * 100), 96], np.float32)
    return segments.Tags(seconds, scores, None, log_mel)


@pytest.mark.parametrize("by_class", [False, True])
def test_pictures_show_detected_classes_first(by_class):
    scores = np.linspace(0.3, 0.1, 2 * 30).reshape([30, 2]).T
    class_names = [f"C{index}" for index in range(30)]
    scores[1, 29] = 0.6
    thresholds = 0.5
    if by_class:  # The class with the lowest scores is the only one detected.
        scores[1, 29], thresholds = 0.05, np.array([0.9] * 29 + [0.05])
    for rows, title in ((30, r"1 class .*20 of 30"), (5, "0 classes .* 5 of 5")):
        arguments = (tags_of(scores[:, :rows], 1.5), class_names[:rows], Hparams())
        reached = thresholds[:rows] if by_class else thresholds
        found = segments.find_segments(*arguments, Rule(reached))
        figure = plots.tags_figure(*arguments, found)
        _, below, *_ = figure.axes
        names = [label.get_text() for label in below.get_yticklabels()]
        expected = ["C29"] * (rows == 30) + class_names[: 19 if rows == 30 else 5]
        assert names == expected
        assert re.search(title, below.get_title())
        png = io.BytesIO()
        figure.savefig(png, format="png")
    assert png.getvalue().startswith(b"\x89PNG")


@pytest.mark.parametrize("hparams", ["", "example_hop_seconds=0.3", ALT_HPARAMS])
@pytest.mark.parametrize("num_examples", [1, 2, 7])
def test_pictures_cover_what_segments_cover(hparams, num_examples):
    hparams = parse_hparams(hparams)
    scores = np.random.default_rng(num_examples).uniform(0, 1, [num_examples, 3])
    columns, column_seconds = plots.score_columns(scores, hparams)
    tags = segments.Tags(np.inf, scores, None, None)
    found = segments.find_segments(tags, "ABC", hparams, Rule(0.5))
    # Segments of a class may touch or overlap, if an example lies between two others.
    expected = np.zeros(columns.shape, bool)
    for start, end, class_name, _ in found:
        first, stop = np.array([start, end]) / column_seconds
        assert (first, stop) == pytest.approx((round(first), round(stop)))
        expected[round(first) : round(stop), "ABC".index(class_name)] = True
    np.testing.assert_array_equal(columns >= 0.5, expected)


def test_pictures_end_with_the_recording():
    arguments = (["A", "B", "C"], Hparams(), [])
    for seconds, num_examples in ((3.2, 7), (0.01, 1)):
        tags = tags_of(np.ones([num_examples, 3]), max(seconds, 0.01))
        figure = plots.tags_figure(tags, *arguments)
        for axes in figure.axes[:2]:
            assert axes.get_xlim() == (0, seconds)
        (image,) = figure.axes[1].images
        assert image.get_extent()[1] >= seconds


@pytest.mark.parametrize(("low", "high"), [(20, 20000), (125, 7500)])
def test_ticks_are_at_the_bands_of_the_features(low, high):
    hparams = Hparams(mel_min_hz=low, mel_max_hz=high)
    num_bins = 2**15 + 1
    matrix = tf.signal.linear_to_mel_weight_matrix(
        hparams.mel_bands, num_bins, 44100, low, high
    ).numpy()
    peaks = matrix.argmax(axis=0) * 22050 / (num_bins - 1)
    for band, hz in enumerate(peaks):
        assert plots._hz_to_band(hz, hparams) == pytest.approx(band + 0.5, abs=0.05)


def test_pictures_show_short_sounds():
    log_mel = np.zeros([2 * plots.MAX_COLUMNS + 1, 3], np.float32)
    log_mel[5] = 1
    columns, column_frames = plots._columns(log_mel, plots.MAX_COLUMNS)
    assert column_frames == 3
    assert columns.shape == (-(-len(log_mel) // 3), 3)
    assert columns[:, 0].nonzero()[0].tolist() == [1]


def test_a_checkpoint_of_the_original_needs_a_class_map(dataset, trained, tmp_path):
    for path in trained.glob("model.ckpt-5.*"):
        (tmp_path / path.name).symlink_to(path)
    with pytest.raises(UserError, match="--class_map_path"):
        scoring.load(str(tmp_path))
    class_names, hparams, *_ = scoring.load(
        str(tmp_path),
        class_map_path=str(dataset.class_map_path),
        hparam_overrides=dataclasses.asdict(parse_hparams(SMALL_HPARAMS)),
    )
    assert (class_names, hparams.mel_bands) == (["Noise", "Tone"], 16)
