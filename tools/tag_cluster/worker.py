"""The workers of a Ray cluster."""

import functools
import hashlib
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from recordings.segments import find_segments
from recordings.thresholds import Rule
from tagger.errors import UserError
from tagger.terminal import program
from tools.tag_cluster.parts import PARTS, schema, write_part
from tools.tag_cluster.sources import file_status, local_copy

REPORT = ("file", "seconds", "doubt", "error", "problem")


class Worker:
    """Tags batches of files in a process of its own.

    Args:
      checkpoint: the prefix of its files.
      out: the folder of the Parquet files.
      rule: when a class is detected.
      mixed_precision: see `scoring.load`.
      num_threads: threads of TensorFlow.
    """

    def __init__(
        self,
        checkpoint: str,
        out: str,
        rule: Rule,
        mixed_precision: bool,
        num_threads: int,
    ):
        program.start_tensorflow()
        import tensorflow as tf

        from tools.tag import scoring

        # A worker takes no more cores than Ray has given it.
        tf.config.threading.set_intra_op_parallelism_threads(num_threads)
        scoring.SCORED_AT_ONCE = min(scoring.SCORED_AT_ONCE, num_threads)

        # Loaded by the first batch, which returns a UserError as `problem`.
        self._tag, self._tagger = scoring.tag, None
        self._load = functools.partial(
            scoring.load, checkpoint, mixed_precision=mixed_precision
        )
        self._out, self._rule = pathlib.Path(out), rule

    def __call__(self, batch: Mapping[str, np.ndarray]) -> dict[str, list[Any]]:
        """Tags the files of a batch and writes their Parquet file.

        A batch that is repeated because a worker died replaces its file.

        Returns:
          The columns of REPORT. A UserError is returned as `problem`, because Ray would
          print a traceback of it.
        """
        try:
            rows = self._tag_batch(list(batch["path"]))
        except UserError as error:
            rows = [{"problem": str(error)}]
        return {key: [row.get(key) for row in rows] for key in REPORT}

    def _tag_batch(self, paths: list[str]) -> list[dict[str, Any]]:
        import pyarrow

        if self._tagger is None:
            self._tagger = self._load()
        rows = [self._row(path) for path in paths]
        name = hashlib.sha256("\n".join(paths).encode()).hexdigest()[:16]
        table = pyarrow.Table.from_pylist(rows, schema())
        write_part(self._out / PARTS.replace("*", name), table)
        return rows

    def _row(self, path: str) -> dict[str, Any]:
        row = {"file": path}
        try:
            size, modified = file_status(path)
            with local_copy(path) as name:
                row |= {"bytes": size, "modified": modified}
                tags = self._tag(name, self._tagger, keep_embeddings=True)
        except UserError as error:
            return row | {"seconds": None, "doubt": "", "error": str(error)}
        names, hparams = self._tagger.class_names, self._tagger.hparams
        keys = ("start", "end", "class", "score")
        segments = find_segments(tags, names, hparams, self._rule)
        return row | {
            "seconds": tags.seconds,
            "doubt": tags.doubt,
            "error": "",
            "detections": [dict(zip(keys, s, strict=True)) for s in segments],
            "scores": list(tags.scores.astype(np.float32)),
            "embeddings": list(tags.embeddings),
        }
