"""Damaged and random inputs: read correctly, or rejected with a message of one line.

TAGGER_FUZZ_INPUTS sets the number of inputs of each kind.
"""

import os

import numpy as np
import pytest
import wav_corpus
from helpers import parse_hparams
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import inputs
from tagger import hparams
from tagger.data import clips, csv_files, wav
from tagger.errors import UserError

FUZZ_INPUTS = int(os.environ.get("TAGGER_FUZZ_INPUTS", 500))
TELLING_SIZES = (0, 1, 7, 2**15, 2**31 - 2, 2**31, 2**32 - 2, 2**32 - 1)
SEEDS = [data for data in wav_corpus.VALID.values()]
SEEDS += [data for data, _ in wav_corpus.INVALID.values() if len(data) < 1000]
CSV = 'fname,labels\r\na.wav,Bark\nb é.wav,"Bark,Meow"\n'.encode("utf-8-sig")
CLASS_MAP = b'0,Bark\n1,"Meow"\n2,Purr\n'
MANY = settings(
    max_examples=FUZZ_INPUTS,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)


def mutated(contents: bytes, rng: np.random.Generator) -> bytes:
    """A copy with some bytes changed, removed, repeated or inserted, or with sizes."""
    data = bytearray(contents)
    for _ in range(rng.integers(1, 4)):
        start = int(rng.integers(0, len(data) + 1))
        stop = start + int(rng.integers(0, 9))
        kind = rng.integers(0, 5)
        if kind == 0:
            data[start : start + 1] = rng.bytes(1)
        elif kind == 1:
            del data[start:stop]
        elif kind == 2:
            data[start:start] = rng.bytes(stop - start)
        elif kind == 3:
            data[start:start] = data[start:stop]
        else:
            size = int(rng.choice(TELLING_SIZES))
            data[start : start + 4] = size.to_bytes(4, "little")
    return bytes(data)


def check_wav(path, contents: bytes) -> bool:
    """Whether a file can be read. If not, checks that the message is one line.

    If it can be read, checks its samples in the file and from the pipeline.
    """
    path.write_bytes(contents)
    try:
        offset, num_samples, _ = wav.read_wav_header(str(path))
    except UserError as error:
        assert str(error).startswith(f"{path}: ")
        assert "\n" not in str(error)
        return False
    assert 20 <= offset <= len(contents)
    assert 1 <= num_samples <= (len(contents) - offset) // 2
    samples = np.frombuffer(contents, "<i2", num_samples, offset)
    waveform = inputs.clip_to_waveform(
        str(path), np.int64(offset), np.int64(num_samples)
    )
    np.testing.assert_array_equal(waveform, samples / np.float32(32768))
    return True


def test_mutated_wavs(tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / "clip.wav"
    read = sum(
        check_wav(path, mutated(SEEDS[index % len(SEEDS)], rng))
        for index in range(FUZZ_INPUTS)
    )
    # If all files were read, or all were rejected, the mutations would test nothing.
    assert 0.1 < read / FUZZ_INPUTS < 0.9


@MANY
@given(st.binary(max_size=200))
def test_random_bytes_are_not_a_wav(tmp_path_factory, contents):
    path = tmp_path_factory.getbasetemp() / "random.wav"
    assert not check_wav(path, contents)
    assert not check_wav(path, b"RIFF\0\0\0\0WAVE" + contents[:8])


def read_or_refused(read, path, contents: bytes) -> None:
    path.write_bytes(contents)
    try:
        read(str(path))
    except UserError as error:
        assert error.problems
        assert all(p.startswith(str(path)) for p in error.problems)
        assert not any("\n" in problem for problem in error.problems)


@pytest.mark.parametrize(
    ("read", "contents"),
    [(csv_files.read_rows, CSV), (clips.read_class_map, CLASS_MAP)],
)
def test_mutated_csvs(tmp_path, read, contents):
    rng = np.random.default_rng(0)
    for _ in range(FUZZ_INPUTS):
        read_or_refused(read, tmp_path / "table.csv", mutated(contents, rng))


@MANY
@given(
    st.binary(max_size=60), st.sampled_from([csv_files.read_rows, clips.read_class_map])
)
def test_random_bytes_as_csvs(tmp_path_factory, contents, read):
    path = tmp_path_factory.getbasetemp() / "random.csv"
    read_or_refused(read, path, contents)
    read_or_refused(read, path, b"fname,labels\n" + contents)


@MANY
@given(
    st.one_of(
        st.text(max_size=30),
        st.builds("{}={}".format, st.sampled_from(list(hparams.FIELDS)), st.floats()),
        st.builds("{}={}".format, st.sampled_from(list(hparams.FIELDS)), st.text()),
    )
)
def test_random_hyperparameters(text):
    try:
        values = parse_hparams(text)
    except UserError as error:
        assert str(error).startswith(("--hparams", "hyperparameter"))
        return
    assert values.fft_length >= 1
    assert values.num_examples(0) == 1
