"""Compares embedded stores for an archive of embeddings; see docs/archive.md.

    python benchmarks/archive_stores.py STORE [--examples 100000]

STORE is sqlite, the archive of tools.tag; or sqlite-vec, usearch, duckdb or lancedb,
which need the package of this name. Appends recordings of 1,250 examples (10 minutes),
one transaction for each. Then searches in a new process, kills a writer, and starts two
writers at once. Prints a line of JSON.
"""

import argparse
import json
import os
import pathlib
import random
import re
import resource
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time

import numpy as np

sys.path.append(str(pathlib.Path(__file__).resolve().parent.parent))

SIZE = 1024
EXAMPLES = 1250  # of a recording
BEST = 10
DIFFERENT = 20  # recordings; the others repeat them
KILLS = 5
WRITERS_FILES = 20


def embeddings(seed: int) -> np.ndarray:
    """Float32 [EXAMPLES, SIZE]: not negative and in clusters, as of the network."""
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(0).normal(size=[64, SIZE])
    values = rng.normal(size=[EXAMPLES, 64]) @ mixing
    return np.maximum(values, 0).astype(np.float32)


def best_rows(scores: np.ndarray) -> np.ndarray:
    """The positions of the BEST highest scores."""
    return np.argpartition(-scores, BEST)[:BEST]


class Sqlite:
    """The archive of tools.tag: SQLite with rows of 64 embeddings in bfloat16."""

    def __init__(self, folder: pathlib.Path):
        from recordings.archive import Archive, Settings
        from tagger.hparams import Hparams

        settings = Settings("model.ckpt-1", 1, ["A"], Hparams(), False)
        self.archive = Archive(str(folder / "archive.db"), settings)

    def append(self, file: str, values: np.ndarray) -> None:
        from recordings.segments import Tags

        scores = np.zeros([len(values), 1])
        # The same file again would replace the first one.
        self.archive.add(f"{os.getpid()} {file}", Tags(600.0, scores, values, None))

    def count(self) -> int:
        return self.archive.scores(0)[0].size

    def exact(self, query: np.ndarray) -> np.ndarray:
        return best_rows(self.archive.similarities(query[np.newaxis])[2])

    def find(self, query: np.ndarray) -> np.ndarray:
        """What `tools.find` finds after its start: numbers in their recordings."""
        from tools.find import search

        found = search.find_similar(self.archive, query[np.newaxis], BEST)
        hop_seconds = self.archive.hop_seconds
        return np.array([round(example.start / hop_seconds) for example in found])


class Usearch(Sqlite):
    """The same, and an approximate index of usearch beside it."""

    def build(self) -> None:
        from usearch.index import Index

        index = Index(ndim=SIZE, metric="cos", dtype="bf16")
        for number in range(self.count() // EXAMPLES):
            values = embeddings(1 + number % DIFFERENT)
            index.add(number * EXAMPLES + np.arange(EXAMPLES), values)
        index.save(self.archive.path + ".usearch")

    def approximate(self, query: np.ndarray) -> np.ndarray:
        from usearch.index import Index

        index = Index.restore(self.archive.path + ".usearch", view=True)
        return index.search(query, BEST).keys


class SqliteVec:
    """SQLite with the extension sqlite-vec, which has only an exact search."""

    def __init__(self, folder: pathlib.Path):
        import sqlite_vec

        self.base = sqlite3.connect(folder / "archive.db", timeout=60)
        self.base.enable_load_extension(True)
        sqlite_vec.load(self.base)
        self.base.execute("PRAGMA journal_mode = WAL")
        self.base.execute(
            f"CREATE VIRTUAL TABLE IF NOT EXISTS e USING vec0 "
            f"(v float[{SIZE}] distance_metric=cosine)"
        )

    def append(self, file: str, values: np.ndarray) -> None:
        with self.base:
            self.base.executemany(
                "INSERT INTO e (v) VALUES (?)", ((row.tobytes(),) for row in values)
            )

    def count(self) -> int:
        return self.base.execute("SELECT COUNT(*) FROM e").fetchone()[0]

    def exact(self, query: np.ndarray) -> np.ndarray:
        command = "SELECT rowid FROM e WHERE v MATCH ? AND k = ?"
        found = self.base.execute(command, (query.tobytes(), BEST))
        return np.array([row - 1 for (row,) in found])


class Duckdb:
    """DuckDB with arrays of fixed size."""

    def __init__(self, folder: pathlib.Path):
        import duckdb

        self.base = duckdb.connect(str(folder / "archive.duckdb"))
        self.base.execute(f"CREATE TABLE IF NOT EXISTS e (file TEXT, v FLOAT[{SIZE}])")

    def append(self, file: str, values: np.ndarray) -> None:
        import pyarrow

        flat = pyarrow.array(values.ravel())
        rows = pyarrow.table({"v": pyarrow.FixedSizeListArray.from_arrays(flat, SIZE)})
        self.base.register("new_rows", rows)
        self.base.execute("INSERT INTO e SELECT ?, v FROM new_rows", [file])

    def count(self) -> int:
        return self.base.execute("SELECT COUNT(*) FROM e").fetchone()[0]

    def exact(self, query: np.ndarray) -> np.ndarray:
        command = (
            f"SELECT rowid FROM e ORDER BY "
            f"array_cosine_similarity(v, ?::FLOAT[{SIZE}]) DESC LIMIT {BEST}"
        )
        found = self.base.execute(command, [query.tolist()]).fetchall()
        return np.array([row for (row,) in found])


class Lancedb:
    """LanceDB with lists of fixed size, and its index IVF_PQ."""

    def __init__(self, folder: pathlib.Path):
        import lancedb
        import pyarrow

        base = lancedb.connect(folder / "lance")
        schema = pyarrow.schema(
            [("id", pyarrow.int64()), ("v", pyarrow.list_(pyarrow.float16(), SIZE))]
        )
        self.table = base.create_table("e", schema=schema, exist_ok=True)
        self.next = self.table.count_rows()

    def append(self, file: str, values: np.ndarray) -> None:
        import pyarrow

        flat = pyarrow.array(values.astype(np.float16).ravel())
        ids = pyarrow.array(range(self.next, self.next + len(values)))
        vectors = pyarrow.FixedSizeListArray.from_arrays(flat, SIZE)
        self.table.add(pyarrow.table({"id": ids, "v": vectors}))
        self.next += len(values)

    def count(self) -> int:
        return self.table.count_rows()

    def build(self) -> None:
        self.table.create_index(metric="cosine", vector_column_name="v")

    def _search(self, query: np.ndarray, exact: bool) -> np.ndarray:
        search = self.table.search(query.astype(np.float16)).metric("cosine")
        search = search.bypass_vector_index() if exact else search
        return np.array([row["id"] for row in search.limit(BEST).to_list()])

    def exact(self, query: np.ndarray) -> np.ndarray:
        return self._search(query, exact=True)

    def approximate(self, query: np.ndarray) -> np.ndarray:
        return self._search(query, exact=False)


STORES = {
    "sqlite": Sqlite,
    "sqlite-vec": SqliteVec,
    "usearch": Usearch,
    "duckdb": Duckdb,
    "lancedb": Lancedb,
}


def child(*arguments: object, **options) -> subprocess.Popen:
    """Starts this program for one part of the work."""
    command = [sys.executable, __file__, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **options)


def write(name: str, folder: pathlib.Path, number: int) -> dict[str, float]:
    """Appends recordings; prints a line for each that is committed."""
    store = STORES[name](folder)
    values = [embeddings(seed) for seed in range(1, min(number, DIFFERENT) + 1)]
    start, cpu = time.perf_counter(), time.process_time()
    for index in range(number):
        store.append(f"{index}.wav", values[index % len(values)])
        print("committed", flush=True)
    return {
        "append_seconds": time.perf_counter() - start,
        "append_cpu": time.process_time() - cpu,
    }


def search(name: str, folder: pathlib.Path) -> dict[str, float]:
    """Times the second of two searches; the first may have to read the disk."""
    store = STORES[name](folder)
    values, measured = embeddings(1)[0], {}
    query = values / np.linalg.norm(values)
    if hasattr(store, "build"):
        start = time.process_time()
        store.build()
        measured["build_cpu"] = time.process_time() - start
    for kind in ("exact", "approximate", "find"):
        if not hasattr(store, kind):
            continue
        getattr(store, kind)(query)
        start, cpu = time.perf_counter(), time.process_time()
        found = getattr(store, kind)(query)
        measured[f"{kind}_seconds"] = time.perf_counter() - start
        measured[f"{kind}_cpu"] = time.process_time() - cpu
        measured[f"{kind}_rows"] = sorted(map(int, found))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    status = pathlib.Path("/proc/self/status").read_text()
    mapped = int(re.search(r"RssFile:\s+(\d+)", status)[1]) / 1024
    return measured | {"peak_mb": peak, "of_which_mapped_files_mb": mapped}


def killed(name: str, folder: pathlib.Path) -> str:
    """Kills a writer several times; whether only whole recordings remain."""
    committed, rng = 0, random.Random(0)
    for _ in range(KILLS):
        writer = child("write", name, folder, 10**6)
        writer.stdout.readline()
        time.sleep(rng.uniform(0.05, 0.5))
        writer.send_signal(signal.SIGKILL)
        committed += 1 + len(writer.stdout.readlines())
        writer.wait()
    found = STORES[name](folder).count()
    if found % EXAMPLES:
        return f"{found % EXAMPLES} examples of an incomplete recording"
    lost = committed - found // EXAMPLES
    return f"complete, {max(0, lost)} of {committed} committed recordings lost"


def two_writers(name: str, folder: pathlib.Path) -> str:
    """Starts two writers at once; whether both succeed."""
    STORES[name](folder)
    writers = [
        child("write", name, folder, WRITERS_FILES, stderr=subprocess.PIPE)
        for _ in range(2)
    ]
    errors = [w.communicate()[1].strip().splitlines()[-1:] for w in writers]
    found = STORES[name](folder).count() // EXAMPLES
    reason = next((error[0][:200] for error in errors if error), "")
    return f"{found} of {2 * WRITERS_FILES} recordings {reason}".strip()


def main(name: str, number: int) -> None:
    """Runs all parts for one store."""
    with tempfile.TemporaryDirectory() as name_of_folder:
        folders = [pathlib.Path(name_of_folder, str(part)) for part in range(3)]
        for folder in folders:
            folder.mkdir()
        measured = {"store": name, "examples": number * EXAMPLES}
        for part in (("write", name, folders[0], number), ("search", name, folders[0])):
            lines = child(*part).communicate()[0].splitlines()
            measured |= json.loads(lines[-1])
            if part[0] == "write":
                files = filter(os.path.isfile, folders[0].rglob("*"))
                measured["mb"] = sum(map(os.path.getsize, files)) / 1e6
        measured["killed"] = killed(name, folders[1])
        measured["two_writers"] = two_writers(name, folders[2])
        print(json.dumps(measured))


if __name__ == "__main__":
    if sys.argv[1:2] == ["write"]:
        print(
            json.dumps(write(sys.argv[2], pathlib.Path(sys.argv[3]), int(sys.argv[4])))
        )
    elif sys.argv[1:2] == ["search"]:
        print(json.dumps(search(sys.argv[2], pathlib.Path(sys.argv[3]))))
    else:
        parser = argparse.ArgumentParser(description=__doc__)
        parser.add_argument("store", choices=STORES)
        parser.add_argument("--examples", type=int, default=100_000)
        arguments = parser.parse_args()
        main(arguments.store, arguments.examples // EXAMPLES)
