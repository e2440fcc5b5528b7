"""Features as a Parquet file: columns ``file`` and ``vector`` (a list of fixed size), the space in the metadata."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from alexnet_deploy.errors import DeployError, one_line
from alexnet_deploy.features.blocks import (
    BLOCK_BYTES,
    FeatureIndex,
    Write,
    checked,
    damaged,
    rows_per_block,
    valid_text,
)
from alexnet_deploy.features.space import KEY, FeatureSpace
from alexnet_deploy.files import open_regular

# Legend: N image, F feature


def _schema(space: FeatureSpace) -> pa.Schema:
    vector = pa.list_(pa.field("element", pa.float32(), nullable=False), space.features.width)
    fields = [pa.field("file", pa.string(), nullable=False), pa.field("vector", vector, nullable=False)]
    return pa.schema(fields, metadata={KEY: space.to_json()})


@contextmanager
def parquet_writer(path: Path, space: FeatureSpace) -> Iterator[Write]:
    """Yield a function that appends vectors; they reach ``path`` in groups of some ``BLOCK_BYTES``."""
    schema = _schema(space)
    files: list[str] = []
    waiting: list[NDArray[np.float32]] = []
    # Numbers hardly repeat, so a dictionary of them costs time alone.
    with pq.ParquetWriter(
        path, schema, compression="zstd", use_dictionary=False, write_statistics=False, write_page_checksum=True
    ) as sink:

        def flush() -> None:
            numbers = pa.array(np.concatenate(waiting).reshape(-1))
            vectors = pa.FixedSizeListArray.from_arrays(numbers, type=schema.field("vector").type)
            sink.write_table(pa.Table.from_arrays([pa.array(files, pa.string()), vectors], schema=schema))
            files.clear()
            waiting.clear()

        def write(names: Sequence[str], vectors_NF: NDArray[np.float32]) -> None:
            files.extend(map(valid_text, names))
            waiting.append(np.array(vectors_NF, np.float32))
            if 4 * len(files) * space.features.width >= BLOCK_BYTES:
                flush()

        yield write
        if files:
            flush()


@contextmanager
def open_parquet(path: Path) -> Iterator[FeatureIndex]:
    """Yield the features in ``path``; raises as ``index.open_index``, and OSError if it cannot be opened."""
    with ExitStack() as opened:
        stream = opened.enter_context(open_regular(path))
        with _reading(path):
            file = opened.enter_context(pq.ParquetFile(stream, page_checksum_verification=True))
            index = _ParquetIndex(path, file)
        yield index


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """What pyarrow raises in the block for a damaged file, as an ArtifactError: its errors share no base."""
    try:
        yield
    except DeployError:
        raise
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError, OverflowError) as exc:
        raise damaged(path, one_line(exc, 160)) from exc


class _ParquetIndex:
    def __init__(self, path: Path, file: pq.ParquetFile) -> None:
        self.path = path
        self._file = file
        text = (file.schema_arrow.metadata or {}).get(KEY.encode())
        if text is None:
            raise ValueError("it has no record of an engine")
        self.space = FeatureSpace.from_json(text, source=str(path))
        if not file.schema_arrow.equals(_schema(self.space), check_metadata=False):
            raise ValueError("it has other columns than file and vector")
        self.rows = file.metadata.num_rows

    def blocks(self) -> Iterator[NDArray[np.float32]]:
        width = self.space.features.width
        seen = 0
        with _reading(self.path):
            for batch in self._file.iter_batches(rows_per_block(width), columns=["vector"]):
                vectors = batch.column(0)
                numbers = vectors.flatten()
                if vectors.null_count or numbers.null_count or len(numbers) != len(vectors) * width:
                    raise ValueError("a vector is missing")
                seen += len(vectors)
                yield checked(numbers.to_numpy(zero_copy_only=True).reshape(-1, width), self.path)
            if seen != self.rows:
                raise ValueError(f"it has {seen} of {self.rows} vectors")

    def names(self, rows: Sequence[int]) -> list[str]:
        wanted, found, start = sorted(set(rows)), {}, 0
        with _reading(self.path):
            for batch in self._file.iter_batches(1 << 16, columns=["file"]):
                while wanted and wanted[0] < start + len(batch):
                    row = wanted.pop(0)
                    found[row] = str(batch.column(0)[row - start].as_py())
                start += len(batch)
                if not wanted:
                    break
            return [found[row] for row in rows]

    def all_names(self) -> Iterator[list[str]]:
        with _reading(self.path):
            for batch in self._file.iter_batches(1 << 16, columns=["file"]):
                yield batch.column(0).to_pylist()
