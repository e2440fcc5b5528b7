"""Read a weights file of another tool without running code from it: PyTorch's formats and safetensors.

PyTorch's files are pickles. They are read with ``weights_only``, which builds tensors and plain containers, and a few
types here that hold nothing but values. A file that needs more is refused, with the way to save its weights alone.
"""

from __future__ import annotations

import argparse
import itertools
import pathlib
import pickle
import pickletools
import re
import tarfile
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy._core import multiarray

from alexnet_deploy.errors import InputError, one_line
from alexnet_deploy.files import open_regular
from alexnet_deploy.model.weights.safetensors_file import is_safetensors, open_safetensors, tensors_in

_HEAD_BYTES = 4096
_MAX_OPCODES = 1_000_000
"""A checkpoint of AlexNet with its optimizer has 2,000. Reading a million takes about a second."""
_MAX_PROTOCOL = 3
"""Of pickles that torch reads without running them; torch.save writes 2."""
_NEWER = "a newer protocol"
_LEGACY_PICKLES = 5
"""torch's format before 1.6: magic number, protocol, machine, object, storage keys, one pickle each."""

_AGAIN = "download or copy it again"
_ALONE = "save its state dict alone: torch.save(model.state_dict(), 'weights.pth')"
OTHER_TOOL = "export it to ONNX with its own tool and pass that to build-engine"
_MAGIC = (
    (b"\x1f\x8b", "is compressed with gzip", "unpack it first"),
    (b"BZh", "is compressed with bzip2", "unpack it first"),
    (b"\xfd7zXZ\0", "is compressed with xz", "unpack it first"),
    (b"\x28\xb5\x2f\xfd", "is compressed with zstd", "unpack it first"),
    (b"7z\xbc\xaf\x27\x1c", "is a 7z archive", "unpack it first"),
    (b"Rar!", "is a rar archive", "unpack it first"),
    (b"\x89HDF", "is an HDF5 file, as Keras writes it", OTHER_TOOL),
    (b"\x93NUMPY", "is a NumPy array", _ALONE),
    (b"GGUF", "is a GGUF file", OTHER_TOOL),
    (b"version https://git-lfs.github.com/spec/", "is a Git LFS pointer, not the weights", "run `git lfs pull`"),
    (
        b"<",
        "is a web page or XML text, not weights",
        "open its address in a browser to see why, then download it again",
    ),
    (b"{", "is JSON text, not weights", _AGAIN),
)
_UNKNOWN_GLOBAL = re.compile(r"GLOBAL (\S+)")

_VALUE_TYPES: list[Any] = [
    argparse.Namespace,
    np.dtype,
    np.ndarray,
    # The names that NumPy 2 and NumPy 1 write
    *((function, f"numpy.{core}.multiarray.{name}") for core in ("_core", "core") for name, function in (
        ("scalar", multiarray.scalar), ("_reconstruct", multiarray._reconstruct))),
    # A path that is only a name: PosixPath could touch the disk, WindowsPath cannot be made here.
    (pathlib.PurePosixPath, "pathlib.PosixPath"),
    (pathlib.PureWindowsPath, "pathlib.WindowsPath"),
    *(type(np.dtype(code)) for code in "?bhilqBHILQefdFDSUV"),
]  # fmt: skip
"""Types beside tensors that training scripts leave in a checkpoint, and that only hold values."""


def read_weights_file(path: Path) -> object:
    """What a ``.pth``, ``.pt``, ``.bin`` or ``.safetensors`` file holds, by its content whatever its name.

    Raises InputError, which says what the file is, if it is none of these or needs more than tensors and values.
    """
    try:
        with open_regular(path) as stream:
            size = stream.seek(0, 2)
            stream.seek(0)
            head = stream.read(_HEAD_BYTES)
            if is_safetensors(head, size):
                with open_safetensors(path) as (_, file):
                    return tensors_in(file)
            _refuse_other_formats(path, head)
            _check_archive(path, head, stream, size)
            stream.seek(0)
            return _unpickled(path, stream)
    except FileNotFoundError as exc:
        raise InputError(f"{path}: no such file; check `weights`, or leave it out for the shipped ones") from exc
    except OSError as exc:
        raise InputError(f"{path}: cannot be read ({exc.strerror or one_line(exc)}); check `weights`") from exc
    except ValueError as exc:  # of open_safetensors
        raise InputError(f"{path}: is not a readable safetensors file ({exc}); {_AGAIN}") from exc


def _refuse_other_formats(path: Path, head: bytes) -> None:
    """InputError for what is often saved under the name of weights."""
    if not head:
        raise InputError(f"{path}: is empty; {_AGAIN}")
    if path.suffix.lower() == ".onnx":
        raise InputError(f"{path}: is an ONNX file and needs no export; pass it to build-engine")
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    for magic, what, step in _MAGIC:
        if start.startswith(magic):
            raise InputError(f"{path}: {what}; {step}")
    if not head.startswith((b"PK\x03\x04", b"\x80")) and head[257:262] != b"ustar":
        raise InputError(f"{path}: is neither a PyTorch file nor safetensors; check `weights`")


def _check_archive(path: Path, head: bytes, stream: BinaryIO, size: int) -> None:
    """InputError for a zip or tar file that is not a plain checkpoint of PyTorch."""
    if not head.startswith(b"PK\x03\x04"):
        if head[257:262] == b"ustar":
            _refuse_tar(path, stream)
        return
    try:
        with zipfile.ZipFile(stream) as archive:
            entries = archive.infolist()
            names = [entry.filename for entry in entries]
            pickles = [entry for entry in entries if entry.filename.rpartition("/")[2] == "data.pkl"]
            if any("/code/" in name or name.endswith("constants.pkl") for name in names):
                raise InputError(f"{path}: is a TorchScript archive; {_ALONE}, or {OTHER_TOOL}")
            if len(pickles) != 1 or any(name.endswith("archive_format") for name in names):
                raise InputError(f"{path}: {_other_zip(names)}")
            # torch stores without compression. Anything else could unpack to any size.
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
                raise InputError(f"{path}: is a compressed zip, which torch does not write; {_ALONE}")
            if sum(entry.file_size for entry in entries) > size:
                raise InputError(f"{path}: declares more data than it holds; {_AGAIN}")
            # torch itself compares no checksum, and would take damaged weights for right ones.
            if (damaged := archive.testzip()) is not None:
                raise InputError(f"{path}: is damaged (the checksum of {damaged} is wrong); {_AGAIN}")
            with archive.open(pickles[0]) as data:
                _check_pickle(path, data, 1)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, ValueError, EOFError, OSError) as exc:
        raise InputError(f"{path}: is a zip file cut short or damaged ({one_line(exc, 80)}); {_AGAIN}") from exc


def _other_zip(names: list[str]) -> str:
    if any(name.endswith("archive_format") for name in names):
        return f"is an archive of torch.export; {_ALONE}, or {OTHER_TOOL}"
    if any(name.endswith(".npy") for name in names):
        return f"is an archive of NumPy arrays; {_ALONE}"
    if any(name.endswith("model.weights.h5") for name in names):
        return f"is a Keras model; {OTHER_TOOL}"
    return f"is a zip archive of other files ({', '.join(names[:3])}); unpack it and pass the file with the weights"


def _refuse_tar(path: Path, stream: BinaryIO) -> None:
    stream.seek(0)
    try:
        with tarfile.open(fileobj=stream, mode="r:") as archive:
            names = [member.name for member in itertools.islice(archive, 4)]
    except (tarfile.TarError, ValueError, EOFError):
        names = []
    if {"storages", "tensors"} & set(names):
        raise InputError(
            f"{path}: has the tar format of PyTorch 0.1, which cannot be read without running its code; where you "
            "trust it, load it with torch.load(..., weights_only=False) and save the state dict again"
        )
    raise InputError(f"{path}: is a tar archive ({', '.join(names)}); unpack it and pass the file with the weights")


def _unpickled(path: Path, stream: BinaryIO) -> object:
    if stream.read(2) != b"PK":
        stream.seek(0)
        _check_pickle(path, stream, _LEGACY_PICKLES)
    stream.seek(0)
    try:
        with torch.serialization.safe_globals(_VALUE_TYPES), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch's storages, which a user of an old file cannot change
            return torch.load(stream, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as exc:
        # torch's message is long and explains how to run the code anyway.
        found = _UNKNOWN_GLOBAL.search(str(exc))
        cause = f"it needs {found[1]}" if found else "its pickle is damaged, or does more than build tensors"
        raise InputError(f"{path}: is not a plain checkpoint of tensors ({cause}); {_snippet(path)}") from exc
    except Exception as exc:  # torch's reader raises almost anything on a damaged or hostile file
        raise InputError(f"{path}: is cut short or damaged ({one_line(exc, 120)}); {_AGAIN}") from exc


def _check_pickle(path: Path, stream: Any, count: int) -> None:
    """InputError for up to ``count`` pickles whose types show that they are no checkpoint, before any is built."""
    found = list(itertools.islice(_globals(stream, count), _MAX_OPCODES))
    if len(found) == _MAX_OPCODES:
        raise InputError(f"{path}: its pickle is longer than that of any checkpoint; {_ALONE}")
    if _NEWER in found:
        raise InputError(f"{path}: has a pickle protocol above {_MAX_PROTOCOL}; {_snippet(path)}")
    names = [name for name in found if name]
    if "builtins bytearray" in names or "__builtin__ bytearray" in names:
        # The one type of torch's own list that fills memory of any size from a number.
        raise InputError(f"{path}: holds a bytearray, which no checkpoint needs; {_ALONE}")
    module = next((name for name in names if name.startswith("torch.nn.modules.")), None)
    if module is not None:
        whole = next((n for n in names if not n.startswith(("torch._utils ", "collections "))), module)
        raise InputError(
            f"{path}: is a whole pickled module ({whole.replace(' ', '.')}), and reading it would run its code; "
            f"where you trust it: {_load(path)}; torch.save(model.state_dict(), 'weights.pth')"
        )


def _globals(stream: Any, count: int) -> Iterator[str | None]:
    """For each opcode of ``count`` pickles the type that it names, ``module name``; _NEWER for a protocol; or None."""
    try:
        for _ in range(count):
            for opcode, argument, _ in pickletools.genops(stream):
                newer = opcode.name == "PROTO" and (argument or 0) > _MAX_PROTOCOL
                yield argument if opcode.name == "GLOBAL" else _NEWER if newer else None
    except Exception:  # damaged: torch.load reports it
        return


def _load(path: Path) -> str:
    return f"model = torch.load({path.name!r}, weights_only=False)"


def _snippet(path: Path) -> str:
    return (
        f"reading that could run its code. Where you trust it, save the weights alone: checkpoint = "
        f"torch.load({path.name!r}, weights_only=False); torch.save(checkpoint['state_dict'], 'weights.pth')"
    )
