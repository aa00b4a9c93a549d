"""Searching an archive: queries, similar examples, ranges of scores, the page."""

import json
import os
import re

import numpy as np
import pytest
import soundfile
from helpers import write_wav

from recordings import decoding
from recordings.archive import Archive, Example, Settings
from tagger.data import blocks
from tagger.errors import UserError
from tools.find import review, search
from tools.tag import scoring

RATE = 44100


@pytest.fixture(scope="module")
def loaded(trained):
    return scoring.load(str(trained))


@pytest.fixture(scope="module")
def archived(loaded, tmp_path_factory):
    """An archive with a recording of noise, a tone from 2 to 3 s, and noise."""
    folder = tmp_path_factory.mktemp("archived")
    rng = np.random.default_rng(0)
    samples = 2000 * rng.normal(size=5 * RATE)
    samples[2 * RATE : 3 * RATE] = 9000 * np.sin(0.1 * np.arange(RATE))
    path = write_wav(folder / "a.wav", samples)
    settings = Settings("/c", 1, loaded.class_names, loaded.hparams, False)
    with Archive(str(folder / "a.db"), settings) as opened:
        opened.add(path, scoring.tag(path, loaded, keep_embeddings=True))
        yield opened, folder


def test_a_part_of_a_file_is_similar_to_its_like(archived, loaded, tmp_path):
    base, folder = archived
    tone = 9000 * np.sin(0.1 * np.arange(RATE))
    query = search.parse_query(write_wav(tmp_path / "tone.wav", tone))
    found = search.find_similar(base, search.embed(query, loaded)[np.newaxis], 3)
    assert len(found) == 3
    assert all(2 <= example.start < example.end <= 3.001 for example in found)
    assert found[0].value > 0.99
    # The query is not found, but its like is.
    query = search.parse_query(f"{folder}/a.wav@2-2.5")
    embedding = search.embed(query, loaded)[np.newaxis]
    found = search.find_similar(base, embedding, 2, [query])
    assert all(2.5 <= example.start < example.end <= 3.001 for example in found)


def test_the_embedding_of_a_part_is_the_mean_of_its_examples(loaded, tmp_path):
    noise = 3000 * np.random.default_rng(0).normal(size=8 * RATE)
    path = write_wav(tmp_path / "a.wav", noise)  # longer than a block
    expected = scoring.tag(path, loaded, keep_embeddings=True).embeddings
    assert len(expected) > blocks.BLOCK_EXAMPLES
    unit = expected / np.linalg.norm(expected, axis=1, keepdims=True)
    found = search.embed(search.Query(path, 0, np.inf), loaded)
    np.testing.assert_allclose(found, unit.mean(axis=0), atol=1e-4)


@pytest.mark.parametrize("order", search.ORDERS)
def test_examples_with_scores_in_a_range(archived, order):
    base, _ = archived
    name = base.settings.class_names[1]
    _, _, scores = base.scores(1)
    low, high = np.quantile(scores, [0.2, 0.9])
    options = {"low": low, "high": high, "order": order, "seed": 0}
    found = search.find_scores(base, name, most=99, **options)
    values = [example.value for example in found]
    assert len(values) > 5
    assert all(low <= value <= high for value in values)
    keys = {"highest": lambda v: -v, "uncertain": lambda v: abs(v - 0.5)}
    if order == "random":
        assert values != sorted(values)
    else:
        assert values == sorted(values, key=keys[order])
    assert search.find_scores(base, name, most=99, **options) == found
    assert len(search.find_scores(base, name, most=2, **options)) == 2


def test_what_was_reviewed_is_left_out(archived, tmp_path):
    base, folder = archived
    name = base.settings.class_names[0]
    options = {"low": 0, "high": 1, "order": "highest", "most": 99, "seed": 0}
    found = search.find_scores(base, name, **options)
    reviewed = [example for example in found if example.start < 2][:3]
    labels = ("Bark", "_background_", "Rain")
    rows = [
        f"{example.path},{example.start:.3f},{example.end:.3f},{label}\n"
        for example, label in zip(reviewed, labels, strict=True)
    ]
    (tmp_path / "reviewed.csv").write_text("file,start,end,label\n" + "".join(rows))
    without = search.read_reviewed(base, str(tmp_path))
    assert len(without) == 3
    rest = search.find_scores(base, name, **options, without=without)
    assert rest
    for example in rest:
        for part in reviewed:
            assert example.start >= part.end - 1e-3 or example.end <= part.start + 1e-3
    whole = search.Query(str(folder / "a.wav"), 0, np.inf)
    assert search.find_scores(base, name, **options, without=[whole]) == []
    (tmp_path / "reviewed.csv").write_text("file,start,end,label\nx.wav,0,1,Bark\n")
    with pytest.raises(UserError, match="fits no recording"):
        search.read_reviewed(base, str(tmp_path))


def test_queries(tmp_path):
    path = write_wav(tmp_path / "a@1-2.wav", np.ones(RATE))
    assert search.parse_query(path) == (path, 0, np.inf)
    assert search.parse_query(f"{path}@0.5-1") == (path, 0.5, 1)
    for text, problem in (
        ("none.wav", "none.wav: there is no such file"),
        ("none.wav@1-2", "none.wav: there is no such file"),
        (f"{path}@2-1", "@2-1: expected file@start-end"),
    ):
        with pytest.raises(UserError, match=problem):
            search.parse_query(text)


@pytest.mark.parametrize("rate", [44100, 16000])
@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg"])
def test_a_part_has_the_samples_of_the_whole(tmp_path, rate, suffix):
    path = str(tmp_path / f"a{suffix}")
    times = np.arange(3 * rate) / rate
    soundfile.write(path, np.sin(300 * times**2) / 2, rate)
    whole = np.concatenate(list(decoding.read_blocks(path)))
    part = decoding.read_part(path, 1.5, 2.25)
    assert part.dtype == np.float32
    assert len(part) == round(0.75 * 44100)
    inner = slice(1000, -1000)  # At its ends, resampling differs.
    first = round(1.5 * 44100)
    np.testing.assert_allclose(
        part[inner], whole[first : first + len(part)][inner], atol=2e-3
    )
    assert len(decoding.read_part(path, 2.5, np.inf)) == 22050
    with pytest.raises(UserError, match="ends before 3 s"):
        decoding.read_part(path, 3, 4)


def test_the_page_has_the_examples(archived, tmp_path):
    base, folder = archived
    found = [
        (Example(str(folder / "a.wav"), 0.5, 0.7, 0.25), "</script>"),
        (Example(str(folder / "none.wav"), 0, 1, 0.5), ""),
    ]
    page = review.make_page(
        found,
        title="<i>",
        value="score",
        label="",
        class_names=base.settings.class_names,
        hparams=base.settings.hparams,
        page_dir=str(tmp_path),
    )
    assert "<title>&lt;i&gt;</title>" in page
    data = json.loads(re.search(r"^const data = (.*);$", page, re.MULTILINE)[1])
    first, second = data["items"]
    assert (first["start"], first["end"], first["label"]) == (0.5, 0.7, "</script>")
    assert (first["from"], round(first["to"], 3)) == (0, 1.7)
    assert first["image"].startswith("data:image/png;base64,")
    assert os.path.samefile(tmp_path / first["src"], folder / "a.wav")
    assert second["image"] == ""
