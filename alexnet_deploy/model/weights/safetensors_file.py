"""Read safetensors files that may be damaged or hostile: every fault of the file is one ValueError."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from safetensors import SafetensorError, safe_open
from torch import Tensor

from alexnet_deploy.errors import one_line
from alexnet_deploy.files import open_regular

MAX_HEADER_BYTES = 16 << 20
"""AlexNet's header has 2 KB; the state of a run of 10,000 epochs 2 MB. The library itself would parse 100 MB."""
_LENGTH_BYTES = 8


def is_safetensors(head: bytes, file_bytes: int) -> bool:
    """Whether a file of ``file_bytes`` that begins with ``head`` is meant as safetensors: a length, then JSON."""
    length = int.from_bytes(head[:_LENGTH_BYTES], "little")
    return head[_LENGTH_BYTES : _LENGTH_BYTES + 1] == b"{" and 0 < length <= max(file_bytes, MAX_HEADER_BYTES)


@contextmanager
def open_safetensors(path: Path) -> Iterator[tuple[dict[str, str], Any]]:
    """The metadata and the open file; a ValueError or OSError says what is wrong with it."""
    with open_regular(path) as stream:  # the library itself would wait for a FIFO
        length = int.from_bytes(stream.read(_LENGTH_BYTES), "little")
        if length > MAX_HEADER_BYTES:
            raise ValueError(f"its header of {length} bytes is longer than the {MAX_HEADER_BYTES} allowed")
        try:
            with safe_open(_utf8_name(path, stream), framework="pt") as file:
                yield file.metadata() or {}, file
        except SafetensorError as exc:
            raise ValueError(one_line(exc)) from exc


def _utf8_name(path: Path, stream: BinaryIO) -> Path:
    """A name of the open file for a library that takes UTF-8 alone."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return Path(f"/dev/fd/{stream.fileno()}")
    return path


def tensors_in(file: Any) -> dict[str, Tensor]:
    """All tensors of an open file, in memory of their own; ValueError names one that torch cannot hold.

    The library's are the file itself: writing to it would change them, and cutting it off would end the process. They
    are copied one by one, so that no second copy of the whole file is needed.
    """
    tensors = {}
    for key in file.keys():  # noqa: SIM118 (not a dict)
        try:
            tensors[key] = file.get_tensor(key).clone()
        except Exception as exc:  # for a type that torch lacks, or a size beyond 63 bits, any type of error
            raise ValueError(f"{key} cannot be read: {one_line(exc, 120)}") from exc
    return tensors
