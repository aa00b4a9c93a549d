"""The input pipeline, eagerly and inside tf.data."""

import dataclasses
import os
import zlib

import numpy as np
import pytest
import tensorflow as tf
from helpers import ALT_HPARAMS, GOLDEN, parse_hparams, write_wav

import inputs
from tagger.data import blocks, wav
from tagger.data import clips as clips_lib
from tagger.errors import UserError
from tagger.hparams import Hparams
from tagger.network.spectrogram import mel_matrix, windowed_frames

CASES = {"features": Hparams(), "features_alt": parse_hparams(ALT_HPARAMS)}
NAMES = ("harmonics_0p3s", "hop_boundary_151_frames", "noise_burst_1p7s")
# Errors of the float32 FFT are large in the log of the quiet bands of tonal clips.
TOLERANCE = {"noise_burst_1p7s": 1e-4}
TONAL_TOLERANCE = 1e-2


def table_of(paths, labels=None) -> clips_lib.Clips:
    headers = [wav.read_wav_header(str(path)) for path in paths]
    labels = np.zeros([len(paths), 2], np.float32) if labels is None else labels
    return clips_lib.make_clips([str(path) for path in paths], headers, labels)


def oracle(samples: np.ndarray, hparams: Hparams) -> np.ndarray:
    """The documented formulas in float64 NumPy: int16 [S] to [E, frames, F]."""
    window, hop = hparams.stft_window_samples, hparams.stft_hop_samples
    waveform = samples.astype(np.float64) / 32768
    waveform = np.pad(waveform, (0, max(0, window - waveform.size)))
    starts = np.arange(1 + (waveform.size - window) // hop) * hop
    frames = waveform[starts[:, np.newaxis] + np.arange(window)]
    period = window - window % 2  # symmetric if the length is odd
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / period)
    magnitude = np.abs(np.fft.rfft(frames * hann, hparams.fft_length))

    def mel(hertz):
        return 1127 * np.log(1 + hertz / 700)

    bins = mel(np.arange(hparams.fft_length // 2 + 1) * 44100 / hparams.fft_length)
    low, high = mel(hparams.mel_min_hz), mel(hparams.mel_max_hz)
    edges = np.linspace(low, high, hparams.mel_bands + 2)
    matrix = np.zeros([bins.size, hparams.mel_bands])
    for band in range(hparams.mel_bands):
        left, centre, right = edges[band : band + 3]
        rising, falling = (
            (bins - left) / (centre - left),
            (right - bins) / (right - centre),
        )
        matrix[:, band] = np.maximum(0, np.minimum(rising, falling))
    matrix[0] = 0  # DC is in no band.
    log_mel = np.log(magnitude @ matrix + hparams.mel_log_offset)
    size, step = hparams.example_window_frames, hparams.example_hop_frames
    count = -(-len(log_mel) // step)
    padded = np.zeros([(count - 1) * step + size, hparams.mel_bands])
    padded[: len(log_mel)] = log_mel
    return np.stack([padded[i * step : i * step + size] for i in range(count)])


def examples_of(samples: np.ndarray, hparams: Hparams) -> np.ndarray:
    waveform = tf.constant(np.asarray(samples, np.float32) / 32768)
    return inputs.waveform_to_examples(waveform, hparams).numpy()


@pytest.mark.parametrize("kind", CASES)
@pytest.mark.parametrize("name", NAMES)
def test_features_agree_with_golden_ones_eagerly_and_in_tf_data(tmp_path, kind, name):
    golden = np.load(GOLDEN / "features.npz")
    table = table_of([write_wav(tmp_path / "c.wav", golden[f"clips/{name}"])])
    waveform = inputs.clip_to_waveform(
        table.paths[0], table.data_offsets[0], table.num_samples[0]
    )
    eager = inputs.waveform_to_examples(waveform, CASES[kind])
    (batch,) = list(inputs.clip_input(table, CASES[kind]))
    for examples in (eager.numpy(), batch[0].numpy()):
        expected = golden[f"{kind}/{name}"]
        assert examples.shape == expected.shape
        tolerance = TOLERANCE.get(name, TONAL_TOLERANCE)
        np.testing.assert_allclose(examples, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("kind", CASES)
@pytest.mark.parametrize("size", [0, 1, 1101, 1102, 1103, 1543, 23152, 44100, 50000])
def test_features_agree_with_the_formulas_at_every_length(kind, size):
    samples = np.random.default_rng(size).normal(0, 5000, size).astype(np.int16)
    hparams = CASES[kind]
    examples = examples_of(samples, hparams)
    assert len(examples) == hparams.num_examples(size)
    np.testing.assert_allclose(examples, oracle(samples, hparams), rtol=0, atol=1e-4)


def test_the_exact_fft_is_exact_in_the_quiet_bands_of_tones_too():
    hparams = Hparams()
    tone = 0.6 * np.sin(2 * np.pi * 440 * np.arange(44100) / 44100)
    waveform = tf.constant(tone, tf.float32)
    frames = windowed_frames(waveform, hparams).numpy().astype(np.float64)
    mel = np.abs(np.fft.rfft(frames)) @ mel_matrix(hparams).numpy()
    expected = np.log(mel + hparams.mel_log_offset)
    fast, exact = (
        inputs.waveform_to_log_mel_spectrogram(waveform, hparams, fft_type=fft_type)
        for fft_type in (inputs.FAST_FFT, inputs.EXACT_FFT)
    )
    assert np.abs(exact - expected).max() < 1e-5 < np.abs(fast - expected).max() < 2e-2


def test_silence_is_the_log_of_the_offset_and_padding_is_zero():
    examples = examples_of(np.zeros(44100), Hparams())
    frames = Hparams().num_frames(44100)
    np.testing.assert_allclose(examples[0, :frames], np.log(0.001), rtol=1e-6)
    np.testing.assert_array_equal(examples[0, frames:], 0)


def test_a_sine_is_loudest_in_its_band():
    time = np.arange(44100) / 44100
    examples = examples_of(20000 * np.sin(2 * np.pi * 440 * time), Hparams())

    def mel(hertz):
        return 1127 * np.log(1 + hertz / 700)

    width = (mel(20000) - mel(20)) / 97
    band = (mel(440) - mel(20)) / width - 1
    assert abs(examples[0, 50].argmax() - band) <= 1


def test_samples_equal_those_of_tensorflow(tmp_path):
    path = write_wav(tmp_path / "c.wav", np.array([-32768, -1, 0, 1, 32767]))
    expected, _ = tf.audio.decode_wav(tf.io.read_file(path))
    waveform = inputs.clip_to_waveform(path, np.int64(44), np.int64(5))
    np.testing.assert_array_equal(waveform, tf.squeeze(expected))


@pytest.fixture
def tagged(tmp_path) -> clips_lib.Clips:
    """Seven clips of different lengths, each labelled with its own class."""
    rng = np.random.default_rng(0)
    paths = [
        write_wav(tmp_path / f"{i}.wav", rng.integers(-9000, 9000, 3000 + 7000 * i))
        for i in range(7)
    ]
    return table_of(paths, np.eye(7, dtype=np.float32))


SMALL = parse_hparams(
    "batch_size=4,mel_bands=8,example_window_seconds=0.1,example_hop_seconds=0.05"
)


def labels_of(dataset: tf.data.Dataset, num_batches: int) -> list[int]:
    batches = dataset.take(num_batches)
    return [int(i) for _, labels in batches for i in labels.numpy().argmax(axis=1)]


def checksums(features: np.ndarray) -> list[int]:
    return [zlib.crc32(example.tobytes()) for example in features]


@pytest.mark.parametrize("num_shards", [1, 3])
@pytest.mark.parametrize("buffer", [20000, 5])
def test_each_example_comes_once_in_every_epoch(
    tagged, monkeypatch, num_shards, buffer
):
    """Each example is identified by its features, over three epochs."""
    monkeypatch.setattr(inputs, "EXAMPLE_SHUFFLE_BUFFER", buffer)
    per_clip = SMALL.num_examples(tagged.num_samples)
    table = inputs.train_input(tagged, SMALL, seed=0).unbatch()
    everything = {
        checksum
        for features, _ in table.take(int(per_clip.sum()))
        for checksum in checksums(features[np.newaxis].numpy())
    }
    assert len(everything) == per_clip.sum()
    epochs = [[] for _ in range(3)]
    for shard in range(num_shards):
        share = {"seed": 1, "shard": shard, "num_shards": num_shards}
        stream = (
            inputs.train_input(tagged, SMALL, **share).unbatch().as_numpy_iterator()
        )
        positions = tf.data.Dataset.range(len(tagged)).shuffle(len(tagged), seed=1)
        clip_orders = positions.shard(num_shards, shard).repeat().as_numpy_iterator()
        for epoch in epochs:
            num_clips = len(range(shard, len(tagged), num_shards))
            own = [next(clip_orders) for _ in range(num_clips)]
            for _ in range(per_clip[own].sum()):
                features, _ = next(stream)
                epoch += checksums(features[np.newaxis])
    for epoch in epochs:
        assert len(epoch) == len(everything)
        assert set(epoch) == everything
    assert epochs[0] != epochs[1] != epochs[2]


def test_one_seed_gives_the_same_batches(tagged):
    def batches(seed):
        dataset = inputs.train_input(tagged, SMALL, seed=seed, deterministic=True)
        return [features.numpy() for features, _ in dataset.take(9)]

    np.testing.assert_array_equal(batches(5), batches(5))
    assert not np.array_equal(batches(5), batches(6))


def test_augmentation_depends_on_seed_shard_and_step(tagged):
    def batches(seed, shard=0, **changes):
        hparams = dataclasses.replace(SMALL, batch_size=2, **changes)
        stream = inputs.train_input(
            tagged, hparams, seed=seed, deterministic=True, shard=shard, num_shards=2
        )
        return [features.numpy() for features, _ in stream.take(6)]

    plain, masked = batches(5), batches(5, freq_masks=1, freq_mask_bands=3)
    silence = np.float32(np.log(SMALL.mel_log_offset))
    bands = [(features == silence).all(axis=1) for features in masked]
    for before, after, masks in zip(plain, masked, bands, strict=True):
        unmasked = ~masks[:, np.newaxis].repeat(before.shape[1], axis=1)
        np.testing.assert_array_equal(after[unmasked], before[unmasked])
    assert len({masks.tobytes() for masks in bands}) > 3
    again = batches(5, freq_masks=1, freq_mask_bands=3)
    np.testing.assert_array_equal(masked, again)
    other = batches(5, shard=1, freq_masks=1, freq_mask_bands=3)
    assert not np.array_equal(bands, [(f == silence).all(axis=1) for f in other])


def test_batches_are_full_and_labels_match_features(tagged):
    by_label = {}
    for clip in range(7):
        table = tagged.take(np.array([clip]))
        (batch,) = inputs.clip_input(
            table, Hparams(**{**vars(SMALL), "batch_size": 99})
        )
        by_label[clip] = batch[0].numpy()
    for features, labels in inputs.train_input(tagged, SMALL, seed=1).take(20):
        assert features.shape == (4, 10, 8)
        for example, label in zip(features.numpy(), labels.numpy(), strict=True):
            assert label.sum() == 1
            distances = np.abs(by_label[int(label.argmax())] - example).max(axis=(1, 2))
            assert distances.min() < 1e-4  # FFTs of training and scoring differ.


def test_clip_input_keeps_order_and_fills_batches(tagged, monkeypatch):
    monkeypatch.setattr(inputs, "SCORING_BATCH", 4)
    batches = [(f.numpy(), p.numpy()) for f, p in inputs.clip_input(tagged, SMALL)]
    per_clip = SMALL.num_examples(tagged.num_samples)
    assert [len(features) for features, _ in batches[:-1]] == [4] * (len(batches) - 1)
    positions = np.concatenate([positions for _, positions in batches])
    np.testing.assert_array_equal(positions, np.repeat(np.arange(7), per_clip))


@pytest.mark.parametrize("hop", [0.02, 0.05, 0.08])
@pytest.mark.parametrize("frontend", ["log", "pcen"])
def test_blocks_of_long_clips_have_their_examples(tmp_path, monkeypatch, hop, frontend):
    hparams = dataclasses.replace(
        SMALL,
        frontend=frontend,
        pcen_seconds=10.0,  # longer than the clips
        example_window_seconds=0.05,
        example_hop_seconds=hop,
    )
    monkeypatch.setattr(blocks, "BLOCK_EXAMPLES", 2)
    sizes = (1, 1102, 1103, *range(8000, 13000, 441), *range(12000, 12900, 97))
    rng = np.random.default_rng(0)
    paths = [
        write_wav(tmp_path / f"{size}.wav", rng.uniform(-9000, 9000, size))
        for size in sizes
    ]
    table = table_of(paths)
    assert len(blocks.split_clips(table, hparams)[1]) > 1.5 * len(table)
    features, positions = map(
        np.concatenate, zip(*inputs.clip_input(table, hparams), strict=True)
    )
    for index, path in enumerate(paths):
        actual, expected = (
            features[positions == index],
            inputs.wav_to_examples(path, hparams),
        )
        np.testing.assert_allclose(actual, expected, atol=1e-5, err_msg=path)


def test_a_long_clip_that_is_cut_off_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK_EXAMPLES", 2)
    paths = [write_wav(tmp_path / f"{n}.wav", np.ones(9000)) for n in range(3)]
    table = table_of(paths)
    os.truncate(paths[1], 6000)
    with pytest.raises(UserError, match=f"cut off .*{paths[1]}"):
        list(inputs.read_batches(inputs.clip_input(table, SMALL)))
    os.remove(paths[1])
    with pytest.raises(UserError, match=f"cut off .*{paths[1]}"):
        list(inputs.read_batches(inputs.clip_input(table, SMALL)))


def test_a_shortened_or_deleted_clip_is_named(tagged):
    with open(tagged.paths[3], "r+b") as file:
        file.truncate(1000)
    with pytest.raises(UserError, match="cut off") as error:
        list(inputs.read_batches(inputs.clip_input(tagged, SMALL)))
    assert tagged.paths[3] in str(error.value)
    tf.io.gfile.remove(tagged.paths[1])
    with pytest.raises(UserError, match="can no longer be read") as error:
        list(inputs.read_batches(inputs.clip_input(tagged, SMALL)))
    assert tagged.paths[1] in str(error.value)
    batches = inputs.clip_input(tagged, SMALL, skip_unreadable=True)
    positions = {int(p) for _, positions in batches for p in positions}
    assert positions == {0, 2, 4, 5, 6}


def test_a_shuffle_buffer_beyond_the_memory_is_refused(monkeypatch):
    no_labels = np.zeros([9, 2], np.float32)
    clips = clips_lib.make_clips(["a.wav"] * 9, [(44, 10**7, 0)] * 9, no_labels)
    whole = inputs.shuffle_buffer(clips, Hparams())
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    monkeypatch.setattr(inputs, "MAX_MEMORY_SHARE", whole / 2 * 4 * 100 * 96 / memory)
    assert inputs.shuffle_buffer(clips, Hparams(), num_shards=3) == whole // 3
    with pytest.raises(UserError, match="shuffle buffer .* example_window_seconds"):
        inputs.shuffle_buffer(clips, Hparams())
