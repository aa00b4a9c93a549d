"""An archive of tagged recordings: scores and embeddings, in an SQLite database.

Each recording is one transaction, so that a process that is killed loses only the
recording in work. Scores are kept as float16, and embeddings as bfloat16, which NumPy
converts several times as fast; see docs/archive.md for other databases.

Letters for shapes: E examples, C classes, D values of an embedding, Q queries.
"""

import contextlib
import json
import math
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from recordings.segments import Tags, example_times
from tagger.errors import UserError
from tagger.hparams import Hparams
from tagger.runs import run_record
from tagger.runs.checkpoint_files import fingerprint

VERSION = 1  # of the tables
BLOCK_EXAMPLES = 64  # of a row, 128 KiB of embeddings of 1024 values
# Rows are read three times as fast from a map of the file. SQLite maps at most 2 GiB.
MAP_BYTES = 2**40
WAIT_SECONDS = 60  # for another process that writes
SMALLEST = np.finfo(np.float32).tiny
EMBEDDING = np.dtype(ml_dtypes.bfloat16)

TABLES = (
    # Values are JSON.
    "CREATE TABLE settings (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
    # Of a file that failed, seconds is NULL. `modified` is in ns.
    "CREATE TABLE files (id INTEGER PRIMARY KEY, path TEXT NOT NULL UNIQUE,"
    " size INTEGER, modified INTEGER, seconds REAL, doubt TEXT, error TEXT)",
    # float16 [E, C] and bfloat16 [E, D], from example number `first` of the file.
    "CREATE TABLE examples (file INTEGER NOT NULL REFERENCES files ON DELETE CASCADE,"
    " first INTEGER NOT NULL, scores BLOB NOT NULL, embeddings BLOB NOT NULL,"
    " PRIMARY KEY (file, first))",
    f"PRAGMA user_version = {VERSION}",
)
COLUMNS = "id, path, seconds, doubt, error"  # of `File`


class Settings(NamedTuple):
    """What all recordings of an archive have been tagged with.

    Attributes:
      checkpoint: the prefix of its files, which may have moved.
      fingerprint: identifies it, see `checkpoint_files.fingerprint`.
      class_names: C names.
      hparams: hyperparameters of the features.
      mixed_precision: whether convolutions were computed in bfloat16.
    """

    checkpoint: str
    fingerprint: int
    class_names: list[str]
    hparams: Hparams
    mixed_precision: bool

    @classmethod
    def of(
        cls,
        prefix: str,
        class_names: list[str],
        hparams: Hparams,
        mixed_precision: bool,
    ) -> "Settings":
        """The settings of tagging with a checkpoint, by its prefix."""
        path = os.path.abspath(prefix)
        return cls(path, fingerprint(path), class_names, hparams, mixed_precision)

    @property
    def description(self) -> str:
        """The name and the fingerprint, as of `checkpoint_files.describe`."""
        return f"{os.path.basename(self.checkpoint)} {self.fingerprint:08x}"


class File(NamedTuple):
    """A file that was tried: seconds is None if it failed, and error says why."""

    id: int
    path: str
    seconds: float | None
    doubt: str
    error: str


class Example(NamedTuple):
    """An example of a recording: times in seconds, and what it was found by.

    Attributes:
      path: the recording.
      start, end: seconds from the start of the recording.
      value: similarity or score.
    """

    path: str
    start: float
    end: float
    value: float


class Archive:
    """An open archive, for a `with` block.

    `settings` are its Settings; `hop_seconds` and `window_seconds` are the times from
    the start of an example to the start of the next one, and to its end.

    Args:
      path: the database.
      settings: makes an archive if there is none. If there is one, it must have the
        same settings; the checkpoint may have moved. None: it must exist.

    Raises:
      UserError: as its methods: the database cannot be read or written, or is not such
        an archive.
    """

    def __init__(self, path: str, settings: Settings | None = None):
        self.path = path
        if settings is None and not os.path.isfile(path):
            raise UserError(f"--archive: there is no file {path}")
        with self._errors(), contextlib.ExitStack() as if_this_fails:
            self._base = sqlite3.connect(
                os.fsencode(path), timeout=WAIT_SECONDS, isolation_level=None
            )
            if_this_fails.callback(self._base.close)
            self._base.text_factory = os.fsdecode
            self._open(settings)
            if_this_fails.pop_all()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self._base.close()

    def _open(self, settings: Settings | None) -> None:
        for pragma in (
            "journal_mode = WAL",  # Tables can be written while recordings are added.
            "foreign_keys = ON",
            f"mmap_size = {MAP_BYTES}",
        ):
            self._base.execute(f"PRAGMA {pragma}")
        with self._transaction():
            (version,) = self._base.execute("PRAGMA user_version").fetchone()
            is_empty = not self._base.execute("SELECT * FROM sqlite_schema").fetchone()
            if is_empty and settings is not None:
                for command in TABLES:
                    self._base.execute(command)
                self._base.executemany(
                    "INSERT INTO settings VALUES (?, ?)",
                    [(k, json.dumps(v)) for k, v in stored(settings).items()],
                )
            elif version != VERSION:
                raise UserError(f"--archive: {self.path} is no archive of tools.tag")
        values = {
            name: json.loads(value)
            for name, value in self._base.execute("SELECT name, value FROM settings")
        }
        if settings is not None:
            check_settings(settings, values, f"--archive: {self.path}")
        hparams = Hparams(**values["hparams"])
        self.settings = Settings(**values | {"hparams": hparams})
        self.hop_seconds, self.window_seconds = example_times(hparams)

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """SQLite's errors in the block, such as of a full disk, become UserErrors."""
        try:
            yield
        except sqlite3.DatabaseError as error:
            raise UserError(f"--archive: {self.path}: {error}") from None

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._base.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._base.execute("COMMIT")
        finally:
            if self._base.in_transaction:
                self._base.execute("ROLLBACK")

    def find(self, path: str) -> File | None:
        """The file with a path; None if it was not tried, or has changed since."""
        size, modified = file_status(path)
        with self._errors():
            found = self._base.execute(
                f"SELECT {COLUMNS} FROM files WHERE path = CAST(? AS TEXT)"
                f" AND size IS ? AND modified IS ?",
                (os.fsencode(os.path.abspath(path)), size, modified),
            ).fetchone()
        return File(*found) if found else None

    def add(self, path: str, tags: Tags | None, error: str = "") -> None:
        """Adds a file, or replaces it.

        Args:
          path: the file. Its absolute path identifies it.
          tags: with scores and embeddings, or None if it failed.
          error: why it failed.
        """
        absolute = os.fsencode(os.path.abspath(path))
        seconds, doubt = (tags.seconds, tags.doubt) if tags else (None, "")
        with self._errors(), self._transaction():
            self._base.execute(
                "DELETE FROM files WHERE path = CAST(? AS TEXT)", (absolute,)
            )
            added = self._base.execute(
                "INSERT INTO files (path, size, modified, seconds, doubt, error)"
                " VALUES (CAST(? AS TEXT), ?, ?, ?, ?, CAST(? AS TEXT))",
                (absolute, *file_status(path), seconds, doubt, os.fsencode(error)),
            )
            if tags is None:
                return
            scores = tags.scores.astype(np.float16)
            embeddings = tags.embeddings.astype(EMBEDDING)
            self._base.executemany(
                "INSERT INTO examples VALUES (?, ?, ?, ?)",
                (
                    (
                        added.lastrowid,
                        first,
                        scores[first : first + BLOCK_EXAMPLES].tobytes(),
                        embeddings[first : first + BLOCK_EXAMPLES].tobytes(),
                    )
                    for first in range(0, len(scores), BLOCK_EXAMPLES)
                ),
            )

    def files(self) -> Iterator[File]:
        """Yields the files in the order of their paths."""
        with self._errors():
            for row in self._base.execute(f"SELECT {COLUMNS} FROM files ORDER BY path"):
                yield File(*row)

    def tags(self, file: File) -> Tags:
        """The tags of a file that did not fail, without embeddings."""
        with self._errors():
            blocks = self._base.execute(
                "SELECT scores FROM examples WHERE file = ? ORDER BY first", (file.id,)
            ).fetchall()
        scores = self._scores(b"".join(block for (block,) in blocks))
        return Tags(file.seconds, scores.astype(np.float64), None, None, file.doubt)

    def _scores(self, contents: bytes) -> np.ndarray:
        values = np.frombuffer(contents, np.float16)
        return values.reshape(-1, len(self.settings.class_names))

    def similarities(
        self, queries: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Compares all examples with queries.

        Args:
          queries: float32 [Q, D], embeddings.

        Returns:
          For E examples: int64 [E], the numbers of their files; int64 [E], their
          numbers in the files; float32 [E], the highest cosine similarity with a query.
        """
        queries = queries / np.linalg.norm(queries, axis=1, keepdims=True)

        def similarity(blob: bytes) -> np.ndarray:
            values = np.frombuffer(blob, EMBEDDING).astype(np.float32)
            values = values.reshape(-1, queries.shape[1])
            norms = np.sqrt(np.einsum("ed,ed->e", values, values))
            return (values @ queries.T).max(axis=1) / np.maximum(norms, SMALLEST)

        return self._collect("embeddings", similarity)

    def scores(self, class_index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The scores of a class, as of `similarities`."""
        return self._collect("scores", lambda blob: self._scores(blob)[:, class_index])

    def _collect(
        self, column: str, values_of: Callable[[bytes], np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        files, firsts, values = [0], [0], [np.zeros(0, np.float32)]
        with self._errors():
            for file, first, blob in self._base.execute(
                f"SELECT file, first, {column} FROM examples"
            ):
                files.append(file)
                firsts.append(first)
                values.append(values_of(blob).astype(np.float32))
        lengths = list(map(len, values))
        offsets = np.concatenate(list(map(np.arange, lengths)))
        numbers = np.repeat(firsts, lengths) + offsets
        return np.repeat(files, lengths), numbers, np.concatenate(values)

    def examples(
        self,
        files: np.ndarray,
        numbers: np.ndarray,
        values: np.ndarray,
        *,
        most: int,
        without: Iterable[tuple[str, float, float]] = (),
    ) -> list[Example]:
        """The first examples that do not overlap in time with an earlier one.

        Examples at the end of a recording that are mostly padding are left out.

        Args:
          files, numbers, values: see `similarities`; in the wanted order.
          most: how many examples to return at most.
          without: parts of files that no example may overlap: path, and start and end
            in seconds.
        """
        reach = math.ceil(self.window_seconds / self.hop_seconds)
        left_out = self._overlapping(without)
        taken, found = set(), []
        for row in zip(files, numbers, values, strict=True):
            if len(found) == most:
                break
            file, number, value = (item.item() for item in row)
            near = range(number - reach + 1, number + reach)
            if (file, number) in left_out or any((file, n) in taken for n in near):
                continue
            with self._errors():
                path, seconds = self._base.execute(
                    "SELECT path, seconds FROM files WHERE id = ?", (file,)
                ).fetchone()
            start = number * self.hop_seconds
            end = min(start + self.window_seconds, seconds)
            if number and end - start < self.window_seconds / 2:
                continue
            taken.add((file, number))
            found.append(Example(path, start, end, value))
        return found

    def _overlapping(
        self, parts: Iterable[tuple[str, float, float]]
    ) -> set[tuple[int, int]]:
        """The numbers of the files and of the examples that overlap parts of files."""
        found = set()
        for path, start, end in parts:
            file = self.find(path)
            if file and file.seconds is not None:
                first = (start - self.window_seconds) / self.hop_seconds
                last = min(end, file.seconds) / self.hop_seconds
                numbers = range(max(0, math.floor(first) + 1), math.ceil(last))
                found.update((file.id, number) for number in numbers)
        return found


def stored(settings: Settings) -> dict[str, Any]:
    """The settings as JSON values, without hyperparameters of the training."""
    return settings._asdict() | {"hparams": settings.hparams.model_values()}


def check_settings(settings: Settings, values: dict[str, Any], what: str) -> None:
    """Checks that results have been computed with some settings.

    Args:
      settings: the settings. The checkpoint may have moved.
      values: those of the results, from `stored`.
      what: the results, for the message.

    Raises:
      UserError: they have others; lists the differences.
    """
    new = stored(settings)
    if new["fingerprint"] == values["fingerprint"]:
        del new["checkpoint"]
    if changes := run_record.changes(new, values):
        raise UserError(
            f"{what} has other settings; name a new one: {'; '.join(changes)}"
        )


def file_status(path: str) -> tuple[int | None, int | None]:
    """Size and time of modification, in ns; None if there is no such file."""
    try:
        status = os.stat(path)
    except OSError:
        return None, None
    return status.st_size, status.st_mtime_ns
