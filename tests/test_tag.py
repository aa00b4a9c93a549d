"""Tagging recordings: the same scores as inference, segments and result files."""

import csv
import dataclasses
import types
import weakref

import numpy as np
import pytest
import soundfile
import tensorflow as tf
from helpers import SMALL_HPARAMS, run_main

import inputs
from tagger import plots, recordings, segments
from tagger.hparams import Hparams, parse_hparams
from tools import tag


@pytest.fixture(scope="module")
def loaded(trained):
    return tag.load(str(trained))


def test_scores_are_those_of_inference(dataset, trained, loaded, tmp_path):
    class_names, hparams, scorer = loaded
    assert run_main(dataset.inference_flags(trained, tmp_path / "p.csv")) == 0
    (_, *columns), *rows = csv.reader((tmp_path / "p.csv").open())
    assert columns == class_names
    for name, *scores in rows:
        tags = tag.tag(str(dataset.clip_dir / name), scorer, hparams)
        np.testing.assert_allclose(
            tags.scores.mean(axis=0), np.array(scores, float), atol=1e-6
        )


def test_blocks_give_the_scores_of_one_piece(loaded, tmp_path):
    _, hparams, scorer = loaded
    waveform = np.random.default_rng(0).uniform(-0.5, 0.5, 20 * 44100)
    soundfile.write(tmp_path / "a.wav", waveform, 44100, subtype="FLOAT")
    waveform = soundfile.read(tmp_path / "a.wav", dtype="float32")[0]
    tags = tag.tag(
        str(tmp_path / "a.wav"),
        scorer,
        hparams,
        keep_embeddings=True,
        keep_log_mel=True,
    )
    scores, embeddings, _ = scorer(waveform)
    assert len(scores) > 3 * tag.BLOCK_EXAMPLES
    assert tags.seconds == 20
    np.testing.assert_allclose(tags.scores, scores, atol=1e-6)
    np.testing.assert_allclose(tags.embeddings, embeddings, atol=1e-5)
    log_mel = inputs.waveform_to_log_mel_spectrogram(
        waveform, hparams, fft_type=inputs.EXACT_FFT
    )
    np.testing.assert_allclose(tags.log_mel, log_mel, atol=1e-5)


@pytest.mark.parametrize("hop", [0.02, 0.05, 0.08])
def test_blocks_of_any_length_have_the_same_examples(tmp_path, monkeypatch, hop):
    hparams = dataclasses.replace(
        parse_hparams(SMALL_HPARAMS),
        example_window_seconds=0.05,
        example_hop_seconds=hop,
    )
    monkeypatch.setattr(tag, "BLOCK_EXAMPLES", 2)
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 30000).astype(np.float32)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32)])
    def features(waveform):
        log_mel = inputs.waveform_to_log_mel_spectrogram(waveform, hparams)
        return inputs.log_mel_spectrogram_to_examples(log_mel, hparams), log_mel

    def scorer(waveform):
        examples, log_mel = (part.numpy() for part in features(waveform))
        return examples.mean(axis=(1, 2))[:, np.newaxis], examples, log_mel

    for size in (1, 1102, 1103, *range(8000, 13000, 441), *range(12000, 12900, 97)):
        monkeypatch.setattr(
            recordings, "read_blocks", lambda path, size=size: iter([noise[:size]])
        )
        tags = tag.tag("a.wav", scorer, hparams, keep_log_mel=True)
        expected, _, log_mel = scorer(noise[:size])
        np.testing.assert_allclose(tags.scores, expected, atol=1e-4, err_msg=size)
        np.testing.assert_allclose(tags.log_mel, log_mel, atol=1e-3, err_msg=size)


def test_what_is_not_kept_is_freed(monkeypatch):
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 200 * 44100).astype(np.float32)
    monkeypatch.setattr(recordings, "read_blocks", lambda path: iter([noise]))
    references, num_alive = [], []

    def scorer(waveform):
        num_alive.append(sum(reference() is not None for reference in references))
        embeddings, log_mel = np.zeros([65, 1024]), np.zeros([3300, 96])
        references.extend(map(weakref.ref, (embeddings, log_mel)))
        return np.zeros([65, 2]), embeddings, log_mel

    tags = tag.tag("a.wav", scorer, Hparams())
    assert (tags.embeddings, tags.log_mel) == (None, None)
    assert len(num_alive) == 7
    assert max(num_alive) <= 2  # those of the previous block


def test_a_list_of_top_classes():
    tags = segments.Tags(1, np.array([[0.1, 0.3, 0.2]]), None, None)
    assert tag.top_classes(tags, "ABC", 2) == "  0.3000  B\n  0.2000  C"
    thresholds = np.array([0, 0.31, 0.2])
    assert tag.top_classes(tags, "ABC", 2, thresholds) == "  0.3000  B\n* 0.2000  C"


def test_embeddings_of_several_files(tmp_path):
    path = tmp_path / "e.npz"
    found = [("a\udcff", np.ones([3, 4])), ("b", np.ones([1, 4]))]
    tag.write_embeddings(str(path), found, Hparams())
    arrays = np.load(path)
    assert arrays["files"].tolist() == ["a\udcff", "b"]  # a name that is not UTF-8
    assert arrays["file_index"].tolist() == [0, 0, 0, 1]
    assert arrays["start"].tolist() == [0, 0.5, 1, 0]
    assert arrays["embeddings"].shape == (4, 4)


def set_flags(monkeypatch, **flags: object) -> None:
    """Sets the flags of the program; the flags of runner.py have the same names."""
    defaults = {
        **{"top": 5, "threshold": 0.5, "segments": "", "audacity": "", "plot": ""},
        **{"embeddings": "", "class_map_path": "", "hparams": ""},
        "mixed_precision": False,
    }

    class Flags(types.SimpleNamespace):
        def __getitem__(self, name):
            return types.SimpleNamespace(value=getattr(self, name))

    monkeypatch.setattr(tag, "FLAGS", Flags(**defaults | flags))


def test_results_that_cannot_be_written(tmp_path, monkeypatch):
    sounds = [recordings.Sound(f"{n}.wav", n) for n in ("a/b", "a__b")]
    for name in ("audacity", "plot"):
        set_flags(monkeypatch, **{name: str(tmp_path / name)})
        with pytest.raises(ValueError, match=r"a/b.wav and a__b.wav .* same name"):
            tag.check_results(sounds)
        tag.check_results(sounds[:1])
    for name in ("segments", "embeddings"):
        set_flags(monkeypatch, **{name: str(tmp_path / "new" / "a")})
        tag.check_results(sounds)  # These have no result for each file.
        set_flags(monkeypatch, **{name: str(tmp_path)})
        with pytest.raises(OSError, match=f"--{name}: .* is a folder"):
            tag.check_results(sounds)


def test_each_class_has_its_threshold(tmp_path, monkeypatch, capsys):
    def fake_tag(*arguments, **options):
        return segments.Tags(1.0, np.array([[0.2, 0.6]]), None, None)

    loaded = (["A", "B"], Hparams(), None)
    monkeypatch.setattr(tag, "load", lambda *args, **options: loaded)
    monkeypatch.setattr(tag, "tag", fake_tag)
    set_flags(monkeypatch, segments=str(tmp_path / "s.csv"))
    files = [recordings.Sound("a", "a")]
    assert tag.tag_files(files, "", {"B": 0.7, "A": 0.2}) == 0
    assert capsys.readouterr().out == "a (1.0 s)\n  0.6000  B\n* 0.2000  A\n"
    _, row = csv.reader((tmp_path / "s.csv").open())
    assert row[3:] == ["A", "0.200000"]
    for by_class, named in (({"A": 0.2}, "B"), ({"A": 1, "B": 1, "C": 1}, "C")):
        with pytest.raises(ValueError, match=f"--thresholds: .* such as {named}$"):
            tag.tag_files(files, "", by_class)


def test_an_interrupted_run_keeps_its_results(tmp_path, monkeypatch, capsys):
    def fake_tag(path, *arguments, **options):
        if path == "bad":
            raise OSError("bad: cannot be read")
        if path == "c":
            raise KeyboardInterrupt
        return segments.Tags(1.0, np.ones([1, 1]), np.zeros([1, 4]), None)

    monkeypatch.setattr(tag, "load", lambda *args, **options: (["A"], Hparams(), None))
    monkeypatch.setattr(tag, "tag", fake_tag)
    set_flags(
        monkeypatch,
        segments=str(tmp_path / "s.csv"),
        embeddings=str(tmp_path / "e.npz"),
        audacity=str(tmp_path),
    )
    (tmp_path / "b.txt").mkdir()
    files = [recordings.Sound(name, name) for name in ("a", "bad", "b")]
    assert tag.tag_files(files, "") == 2
    out, err = capsys.readouterr()
    assert out.splitlines()[0] == "a (1.0 s)"
    assert "error: bad: cannot be read\n" in err
    assert f"error: cannot write {tmp_path}/b.txt: " in err
    for path in (tmp_path / "s.csv", tmp_path / "e.npz"):
        path.unlink()
    interrupted = recordings.Sound("c", "c")
    with pytest.raises(KeyboardInterrupt):
        tag.tag_files([*files, interrupted], "")
    rows = list(csv.reader((tmp_path / "s.csv").open()))
    assert [row[0] for row in rows] == ["file", "a", "b"]
    assert np.load(tmp_path / "e.npz")["files"].tolist() == ["a", "b"]


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
    columns, column_frames = plots._columns(log_mel)
    assert column_frames == 3
    assert columns.shape == (-(-len(log_mel) // 3), 3)
    assert columns[:, 0].nonzero()[0].tolist() == [1]


def test_a_checkpoint_of_the_original_needs_a_class_map(dataset, trained, tmp_path):
    for path in trained.glob("model.ckpt-5.*"):
        (tmp_path / path.name).symlink_to(path)
    with pytest.raises(ValueError, match="--class_map_path"):
        tag.load(str(tmp_path))
    class_names, hparams, _ = tag.load(
        str(tmp_path),
        class_map_path=str(dataset.class_map_path),
        hparam_overrides=dataclasses.asdict(parse_hparams(SMALL_HPARAMS)),
    )
    assert (class_names, hparams.mel_bands) == (["Noise", "Tone"], 16)
