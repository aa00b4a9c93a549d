"""Tagging recordings: the same scores as inference, segments and result files."""

import csv
import dataclasses
import pathlib

import numpy as np
import pytest
import soundfile
from helpers import SMALL_HPARAMS, run_main

import inputs
from tagger import recordings
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

    def scorer(waveform):
        examples = inputs.waveform_to_examples(waveform, hparams)
        return examples.numpy().mean(axis=(1, 2))[:, np.newaxis], examples, examples

    for size in (1, 1102, 1103, *range(8000, 13000, 441), *range(12000, 12900, 97)):
        monkeypatch.setattr(
            recordings, "read_blocks", lambda path, size=size: iter([noise[:size]])
        )
        tags = tag.tag("a.wav", scorer, hparams, keep_log_mel=True)
        expected, *_ = scorer(noise[:size])
        np.testing.assert_allclose(tags.scores, expected, atol=1e-4, err_msg=size)


def test_segments_merge_neighbouring_examples():
    scores = np.array([[0.9, 0], [0.5, 0], [0.4, 0.7], [0, 0], [0, 0], [0.6, 1]])
    tags = tag.Tags(3.2, scores, np.zeros([0, 1024]), np.zeros([0, 96]))
    assert tag.find_segments(tags, ["A", "B"], Hparams(), 0.5) == [
        (0, 1.5, "A", 0.9),
        (1, 2, "B", 0.7),
        (2.5, 3.2, "A", 0.6),  # The recording ends before the example.
        (2.5, 3.2, "B", 1),
    ]
    assert tag.find_segments(tags, ["A", "B"], Hparams(), 1.0)[0].class_name == "B"


def test_a_label_track_and_a_list_of_top_classes(tmp_path):
    path = tmp_path / "a.txt"
    tag.write_label_track(path, [tag.Segment(1, 2.5, "Bär", 0.987)])
    assert path.read_text() == "1.000\t2.500\tBär 0.99\n"
    tags = tag.Tags(1, np.array([[0.1, 0.3, 0.2]]), np.zeros(0), np.zeros(0))
    assert tag.top_classes(tags, "ABC", 2) == "  0.3000  B\n  0.2000  C"


def test_embeddings_of_several_files(tmp_path):
    def tags(number):
        return tag.Tags(1, np.zeros(0), np.full([number, 4], number), np.zeros(0))

    path = tmp_path / "e.npz"
    tag.write_embeddings(str(path), [("a", tags(3)), ("b", tags(1))], Hparams())
    arrays = np.load(path)
    assert arrays["files"].tolist() == ["a", "b"]
    assert arrays["file_index"].tolist() == [0, 0, 0, 1]
    assert arrays["start"].tolist() == [0, 0.5, 1, 0]
    assert arrays["embeddings"].shape == (4, 4)


def test_files_folders_and_patterns(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("d/a.wav", "d/e/b.mp3", "[1].wav", "c.flac", "f/b.mp3"):
        path = pathlib.Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    found = tag.find_files(["d", "[1].wav", "*.flac", "c.flac"])
    assert [name for _, name in found] == ["a.wav", "e/b.mp3", "[1].wav", "c.flac"]
    with pytest.raises(ValueError, match="same name"):
        tag.find_files(["d/e", "f"])
    for nothing in ("none.wav", "*.xyz"):
        with pytest.raises(ValueError, match="no sound file"):
            tag.find_files([nothing])


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
