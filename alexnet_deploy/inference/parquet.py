"""Predictions as a Parquet file: columns ``file``, ``top`` (a list of structs), ``error`` and ``unknown``.

Where rows hold a number for each class, the list ``probabilities`` (float64) or ``logits`` (float32) takes the place of
``top``. Its order is that of the classes in the metadata of the file: key ``classes``, JSON with ``class_id`` and
``label`` of each.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from alexnet_deploy.inference.prediction import FullOutputs, Outputs, Prediction

CLASSES = "classes"
ROW_GROUP = 16_384
"""Rows in memory before they are written: about 10 MB at five answers per row."""
_NUMBERS = 1 << 20
"""Of rows with a number for each class, in memory before they are written: some 40 MB."""
_TYPES = {
    "top": pa.list_(pa.struct([("index", pa.int32()), ("label", pa.string()), ("probability", pa.float64())])),
    "probabilities": pa.list_(pa.float64()),
    "logits": pa.list_(pa.float32()),
}


def schema_of(outputs: Outputs) -> pa.Schema:
    """The columns of rows with these ``outputs``."""
    return pa.schema(
        [
            pa.field("file", pa.string(), nullable=False),
            pa.field(outputs, _TYPES[outputs]),
            pa.field("error", pa.string()),
            pa.field("unknown", pa.bool_()),
        ]
    )


@contextmanager
def parquet_writer(path: Path | BinaryIO, full: FullOutputs | None = None) -> Iterator[Callable[[Prediction], None]]:
    """Yield a function that appends one prediction; rows reach ``path`` in groups of ``ROW_GROUP`` or fewer."""
    rows: list[dict[str, object]] = []
    schema, group = schema_of("top"), ROW_GROUP
    if full is not None:
        named = zip(full.class_ids, full.labels, strict=True)
        classes = [{"class_id": class_id, "label": label} for class_id, label in named]
        schema = schema_of(full.outputs).with_metadata({CLASSES: json.dumps(classes, ensure_ascii=False)})
        group = min(ROW_GROUP, max(1, _NUMBERS // len(full.class_ids)))
    with pq.ParquetWriter(path, schema, compression="zstd") as sink:

        def flush() -> None:
            sink.write_table(pa.Table.from_pylist(rows, schema))
            rows.clear()

        def write(prediction: Prediction) -> None:
            rows.append({key: _valid(value) for key, value in prediction.as_row().items()})
            if len(rows) == group:
                flush()

        yield write
        if rows:  # an empty group would have no statistics
            flush()


def _valid(value: object) -> object:
    """File names need not be valid text, Parquet strings must be: odd bytes become ``\\udcXX``, as in the JSON."""
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value
