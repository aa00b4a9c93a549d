"""The Parquet files in OUT: their columns, their rows, and what is not in them."""

import concurrent.futures
import pathlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from tagger.errors import UserError
from tagger.terminal.files import atomic
from tagger.terminal.progress import counted
from tools.tag_cluster.sources import Status, file_status

PARTS = "part-*.parquet"
ARRAYS = ("scores", "embeddings")  # columns
UNREAD = (None, None)  # `Status` of a file that could not be read
STATUS_THREADS = 16  # They wait for the server of remote files.


def schema():
    """The columns of the Parquet files, see __main__.py."""
    import pyarrow as pa

    times = [("start", pa.float64()), ("end", pa.float64())]
    detection = pa.struct([*times, ("class", pa.string()), ("score", pa.float64())])
    values = pa.list_(pa.list_(pa.float32()))
    return pa.schema(
        [
            *(("file", pa.string()), ("bytes", pa.int64()), ("modified", pa.int64())),
            *(("seconds", pa.float64()), ("detections", pa.list_(detection))),
            *(("scores", values), ("embeddings", values)),
            *(("doubt", pa.string()), ("error", pa.string())),
        ]
    )


def read_parts(out: pathlib.Path, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yields the rows of all Parquet files, with some of the columns.

    ARRAYS are float32 [E, C] and [E, D], or None of a file that failed. Only one row at
    a time is in memory, because those of long recordings are large.

    Raises:
      UserError: a file cannot be read; the message names it.
    """
    import pyarrow
    import pyarrow.parquet

    for path in sorted(out.glob(PARTS)):
        try:
            with pyarrow.parquet.ParquetFile(path) as file:
                for row in file.iter_batches(1, columns=list(columns)):
                    yield {name: _value(name, row.column(name)[0]) for name in columns}
        except (OSError, pyarrow.ArrowException) as error:
            raise UserError(f"{path}: {error}") from None


def _value(name: str, scalar: Any) -> Any:
    """A value of a row, see `read_parts`, of one of PyArrow."""
    if name not in ARRAYS or not scalar.is_valid:
        return scalar.as_py()
    return scalar.values.flatten().to_numpy().reshape(len(scalar.values), -1)


def read_statuses(out: pathlib.Path) -> dict[str, Status]:
    """The files that were tagged, as they were then; UNREAD if they were not read.

    Raises:
      UserError: see `read_parts`.
    """
    rows = read_parts(out, ["file", "bytes", "modified"])
    return {row["file"]: (row["bytes"], row["modified"]) for row in rows}


def find_pending(
    paths: Sequence[str], done: Mapping[str, Status], out: pathlib.Path
) -> list[str]:
    """The paths of files to tag: without results, or not read before.

    Args:
      paths: paths of files.
      done: see `read_statuses`.
      out: the folder, for the message.

    Raises:
      UserError: files have changed since they were tagged, or their sizes and times
        cannot be read.
    """
    tagged = [path for path in paths if done.get(path, UNREAD) != UNREAD]
    with concurrent.futures.ThreadPoolExecutor(STATUS_THREADS) as threads:
        statuses = list(threads.map(file_status, tagged))
    changed = [
        p for p, status in zip(tagged, statuses, strict=True) if done[p] != status
    ]
    if changed:
        raise UserError(
            f"{counted(len(changed), 'file')} changed since the results in {out}, the "
            f"first of them {changed[0]}; use a new folder"
        )
    return [path for path in paths if done.get(path, UNREAD) == UNREAD]


def delete_rows(out: pathlib.Path, files: Collection[str]) -> None:
    """Deletes the rows of files, which will be tagged again."""
    import pyarrow.parquet

    for path in out.glob(PARTS) if files else ():
        column = pyarrow.parquet.read_table(path, columns=["file"])["file"]
        kept = [file not in files for file in column.to_pylist()]
        if not all(kept):
            write_part(path, pyarrow.parquet.read_table(path).filter(kept))


def write_part(path: pathlib.Path, table: Any) -> None:
    """Writes a Parquet file, atomically."""
    import pyarrow.parquet

    with atomic(path) as file:
        pyarrow.parquet.write_table(table, file, compression="zstd")
