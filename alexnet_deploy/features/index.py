"""Files of features: written as a stream, read block by block, never trusted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from alexnet_deploy.errors import ArtifactError, InputError, UnavailableError, UsageError
from alexnet_deploy.features.blocks import FeatureIndex, Write
from alexnet_deploy.features.space import FeatureSpace
from alexnet_deploy.files import atomic_file, check_file

FORMATS = (".parquet", ".npz")


@contextmanager
def open_writer(path: Path, space: FeatureSpace) -> Iterator[Write]:
    """Yield a function that appends vectors to ``path``, which appears whole when the block ends without an error.

    Raises as ``check_output``.
    """
    check_output(path)
    with atomic_file(path) as temporary:
        if path.suffix.lower() == ".npz":
            from alexnet_deploy.features.npz import npz_writer

            with npz_writer(temporary, space) as write:
                yield write
        else:
            from alexnet_deploy.features.parquet import parquet_writer

            with parquet_writer(temporary, space) as write:
                yield write


def check_output(path: Path) -> None:
    """Raise now what ``open_writer`` would: UsageError for another suffix, UnavailableError without pyarrow."""
    check_file(path, "output", formats=FORMATS)
    if path.suffix.lower() == ".parquet":
        _require_parquet(path)


@contextmanager
def open_index(path: Path) -> Iterator[FeatureIndex]:
    """Yield the features in ``path``, a file of ``open_writer``.

    Raises InputError if it cannot be read, ArtifactError if it is damaged, holds no vector or was not made by this
    package, UsageError for another suffix, UnavailableError for Parquet without pyarrow.
    """
    if path.suffix.lower() not in FORMATS:
        raise UsageError(f"`index` {path}: does not end in one of {', '.join(FORMATS)}; name a file of features")
    if path.suffix.lower() == ".npz":
        from alexnet_deploy.features.npz import open_npz as open_
    else:
        _require_parquet(path)
        from alexnet_deploy.features.parquet import open_parquet as open_
    with ExitStack() as opened:
        try:
            index = opened.enter_context(open_(path))
        except FileNotFoundError as exc:
            raise InputError(f"{path}: no such file; make it: alexnet-deploy features") from exc
        except OSError as exc:
            raise InputError(f"{path}: cannot be read ({exc.strerror}); name a file of features") from exc
        if not index.rows:
            raise ArtifactError(f"{path}: holds no vector; make it again: alexnet-deploy features")
        yield index


def _require_parquet(path: Path) -> None:
    try:
        import alexnet_deploy.features.parquet  # noqa: F401
    except ImportError as exc:
        raise UnavailableError(
            f"{path}: Parquet needs pyarrow; pip install 'alexnet-deploy[parquet]', or use a file that ends in .npz"
        ) from exc
