"""The workers of a Ray cluster."""

import hashlib
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from recordings.archive import file_status
from recordings.segments import find_segments
from recordings.thresholds import Rule
from tagger.errors import UserError
from tagger.terminal import program
from tagger.terminal.files import atomic
from tools.tag_cluster.parts import PARTS, schema


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

        self._tag = scoring.tag
        self._tagger = scoring.load(checkpoint, mixed_precision=mixed_precision)
        self._out, self._rule = pathlib.Path(out), rule

    def __call__(self, batch: Mapping[str, np.ndarray]) -> dict[str, list[Any]]:
        """Tags the files of a batch and writes their Parquet file, atomically.

        A batch that is repeated because a worker died replaces its file.
        """
        import pyarrow
        import pyarrow.parquet

        rows = [self._row(path) for path in batch["path"]]
        name = hashlib.sha256("\n".join(batch["path"]).encode()).hexdigest()[:16]
        with atomic(self._out / PARTS.replace("*", name)) as file:
            table = pyarrow.Table.from_pylist(rows, schema())
            pyarrow.parquet.write_table(table, file, compression="zstd")
        keys = ("file", "seconds", "error")
        return {key: [row[key] for row in rows] for key in keys}

    def _row(self, path: str) -> dict[str, Any]:
        size, modified = file_status(path)
        row = {"file": path, "bytes": size, "modified": modified}
        try:
            tags = self._tag(path, self._tagger, keep_embeddings=True)
        except UserError as error:
            return row | {"seconds": None, "error": str(error)}
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
