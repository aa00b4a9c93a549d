"""The Parquet files in OUT: their columns, their rows, and what is not in them."""

import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

from recordings.archive import file_status
from tagger.errors import UserError
from tagger.terminal.progress import counted

PARTS = "part-*.parquet"
ARRAYS = ("scores", "embeddings")  # columns


def schema():
    """The columns of the Parquet files, see above."""
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


def find_pending(paths: Sequence[str], out: pathlib.Path) -> list[str]:
    """The paths whose results are not in a folder.

    Raises:
      UserError: files have changed since they were tagged, or the results cannot be
        read.
    """
    done = {
        row["file"]: (row["bytes"], row["modified"])
        for row in read_parts(out, ["file", "bytes", "modified"])
    }
    changed = [
        path for path in paths if path in done and done[path] != file_status(path)
    ]
    if changed:
        raise UserError(
            f"{counted(len(changed), 'file')} changed since the results in {out}, the "
            f"first of them {changed[0]}; use a new folder"
        )
    return [path for path in paths if path not in done]
