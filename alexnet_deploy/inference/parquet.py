"""Predictions as a Parquet file: columns ``file``, ``top`` (a list of structs) and ``error``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from alexnet_deploy.inference.prediction import Prediction

SCHEMA = pa.schema(
    [
        pa.field("file", pa.string(), nullable=False),
        pa.field(
            "top", pa.list_(pa.struct([("index", pa.int32()), ("label", pa.string()), ("probability", pa.float64())]))
        ),
        pa.field("error", pa.string()),
    ]
)
ROW_GROUP = 16_384
"""Rows in memory before they are written: about 10 MB at five answers per row."""


@contextmanager
def parquet_writer(path: Path | BinaryIO) -> Iterator[Callable[[Prediction], None]]:
    """Yield a function that appends one prediction; rows reach ``path`` in groups of ``ROW_GROUP``."""
    rows: list[dict[str, object]] = []
    with pq.ParquetWriter(path, SCHEMA, compression="zstd") as sink:

        def flush() -> None:
            sink.write_table(pa.Table.from_pylist(rows, SCHEMA))
            rows.clear()

        def write(prediction: Prediction) -> None:
            rows.append({key: _valid(value) for key, value in prediction.as_row().items()})
            if len(rows) == ROW_GROUP:
                flush()

        yield write
        flush()


def _valid(value: object) -> object:
    """File names need not be valid text, Parquet strings must be: odd bytes become ``\\udcXX``, as in the JSON."""
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value
