"""Finds examples of recordings in an archive: similar sounds, or scores of classes.

Letters for shapes: E examples, C classes, D values of an embedding, Q queries.
"""

import math
import os
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from recordings.annotations import read_annotations
from recordings.archive import Archive, Example
from recordings.decoding import Sound, read_part
from tagger.data import blocks
from tagger.errors import UserError
from tools.tag.scoring import Tagger

PART = re.compile(r"(.+)@(\d+(?:\.\d*)?)-(\d+(?:\.\d*)?)")
ORDERS = ("highest", "uncertain", "random")
MIDDLE = 0.5  # The scores next to it are the least certain.


class Query(NamedTuple):
    """A part of a sound file, from one time to another in seconds."""

    path: str
    start: float
    end: float


def parse_query(text: str) -> Query:
    """A file, or file@start-end.

    Raises:
      UserError: there is no such file, or the end is not after the start.
    """
    part = None if os.path.exists(text) else PART.fullmatch(text)
    query = Query(part[1], float(part[2]), float(part[3])) if part else None
    query = query or Query(text, 0.0, math.inf)
    if not os.path.isfile(query.path):
        raise UserError(f"{query.path}: there is no such file")
    if query.start >= query.end:
        raise UserError(f"{text}: expected file@start-end with an end after the start")
    return query


def embed(query: Query, tagger: Tagger) -> np.ndarray:
    """The mean of the embeddings of a part of a file, float32 [D].

    It stands for the whole part, which may begin or end with silence. The embeddings
    count equally, whatever their norms.

    Raises:
      UserError: it cannot be read; the message names it.
    """
    hparams = tagger.hparams
    waveform = read_part(*query)
    size, step = blocks.block_samples(hparams)
    state, found = np.full(hparams.mel_bands, np.nan, np.float32), []
    num_blocks = -(-int(hparams.num_examples(waveform.size)) // blocks.BLOCK_EXAMPLES)
    for first in range(0, num_blocks * step, step):
        _, embeddings, _, state = tagger.score(waveform[first : first + size], state)
        found.append(np.asarray(embeddings))
    embeddings = np.concatenate(found)
    return (embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)).mean(axis=0)


def read_reviewed(archive: Archive, source: str) -> list[Query]:
    """The parts of the recordings of an archive that annotations label.

    Args:
      archive: the archive.
      source: see `read_annotations`.

    Raises:
      UserError: see `read_annotations`.
    """
    sounds = [Sound(file.path, file.path) for file in archive.files()]
    labelled = read_annotations(source, sounds, "--reviewed", keep_background=True)
    return [
        Query(path, event.start, event.end)
        for path, events in labelled.items()
        for event in events
    ]


def find_similar(
    archive: Archive,
    embeddings: np.ndarray,
    most: int,
    without: Sequence[Query] = (),
) -> list[Example]:
    """The examples that are most similar to one of the queries.

    Args:
      archive: the archive.
      embeddings: float32 [Q, D], of the queries.
      most: how many examples to return at most.
      without: parts that no example may overlap, such as the queries.
    """
    files, numbers, values = archive.similarities(embeddings)
    order = np.argsort(-values, kind="stable")
    columns = (column[order] for column in (files, numbers, values))
    return archive.examples(*columns, most=most, without=without)


def find_scores(
    archive: Archive,
    class_name: str,
    *,
    low: float,
    high: float,
    order: str,
    most: int,
    seed: int,
    without: Sequence[Query] = (),
) -> list[Example]:
    """Examples with scores of a class in a range.

    Args:
      archive: the archive.
      class_name: one of its classes.
      low, high: the range of the scores, both included.
      order: one of ORDERS: the highest first, those next to MIDDLE first, or random.
      most: how many examples to return at most.
      seed: seed of the random order.
      without: parts that no example may overlap.
    """
    index = archive.settings.class_names.index(class_name)
    columns = archive.scores(index)
    inside = (columns[2] >= low) & (columns[2] <= high)
    files, numbers, values = (column[inside] for column in columns)
    keys = {
        "highest": -values,
        "uncertain": np.abs(values - MIDDLE),
        "random": np.random.default_rng(seed).random(values.size),
    }
    first = np.argsort(keys[order], kind="stable")
    columns = (column[first] for column in (files, numbers, values))
    return archive.examples(*columns, most=most, without=without)
