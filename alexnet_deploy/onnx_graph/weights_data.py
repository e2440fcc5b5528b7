"""The values of a model's tensors: whole, of the size that their dimensions declare, in the model's own folder."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterator
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from alexnet_deploy.files import open_regular, sha256_of
from alexnet_deploy.onnx_graph.limits import MAX_MODEL_BYTES, subgraphs

_SUB_BYTE_BITS = {
    TensorProto.UINT4: 4, TensorProto.INT4: 4, TensorProto.FLOAT4E2M1: 4,
    getattr(TensorProto, "UINT2", -1): 2, getattr(TensorProto, "INT2", -2): 2,
}  # fmt: skip


def read_external_data(model: onnx.ModelProto, path: Path) -> None:
    """Put the values that lie in other files into ``model``, which was read from ``path``.

    Each file must lie in the model's folder, as it was named or as its links lead to it (the cache of Hugging Face
    keeps a model and its data as links into one folder). Raises ValueError otherwise, and where offset or length do not
    fit the file or the tensor.
    """
    total = model.ByteSize()
    for tensor in tensors_of(model):
        if tensor.data_location != TensorProto.EXTERNAL:
            continue
        expected = _declared_bytes(tensor)
        total += expected
        if total > MAX_MODEL_BYTES:
            raise ValueError(f"its tensors have more than {MAX_MODEL_BYTES >> 20} MiB")
        entries = {entry.key: entry.value for entry in tensor.external_data}
        try:
            file = _inside(_file_name(entries.get("location", "")), path)
        except ValueError as exc:
            raise ValueError(f"tensor {tensor.name}: {exc}") from exc
        offset, length = _number(entries, "offset", 0, tensor), _number(entries, "length", expected, tensor)
        if length != expected:
            raise ValueError(f"tensor {tensor.name}: has {length} bytes of data, its shape needs {expected}")
        try:
            tensor.raw_data = _read(file, offset, length)
        except (OSError, ValueError) as exc:
            cause = (isinstance(exc, OSError) and exc.strerror) or exc
            raise ValueError(f"tensor {tensor.name}: its data in {file.name}: {cause}") from exc
        tensor.data_location = TensorProto.DEFAULT
        del tensor.external_data[:]


def external_files(path: Path) -> set[Path]:
    """The other files in which the ONNX at ``path`` keeps values of its tensors; none if it is no ONNX.

    OSError if it cannot be read, ValueError if a name is none of a file. Whether they exist, and lie where they may,
    ``read_external_data`` checks.
    """
    return {path.parent / location for location in _locations(path)}


def _locations(path: Path) -> set[str]:
    with open_regular(path) as stream:
        content = stream.read()
    try:
        model = onnx.load_model_from_string(content)
    except DecodeError:
        return set()
    return {
        _file_name(entry.value)
        for tensor in tensors_of(model)
        if tensor.data_location == TensorProto.EXTERNAL
        for entry in tensor.external_data
        if entry.key == "location"
    }


def onnx_sha256(path: Path) -> str:
    """SHA-256 of the ONNX at ``path``: of its bytes or, if it keeps values in other files, of its hash and theirs.

    Two networks that differ in their weights alone may have the same bytes there. OSError if one cannot be read,
    ValueError if one lies outside the model's folder.
    """
    own, others = sha256_of(path), sorted(_locations(path))
    if not others:
        return own
    lines = [own, *(f"{name} {sha256_of(_inside(name, path))}" for name in others)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def check_tensors(model: onnx.ModelProto) -> None:
    """ValueError for a tensor without values, with more or fewer than its dimensions declare, or of no known type."""
    for value in (*model.graph.input, *model.graph.output):
        kind = value.type.tensor_type.elem_type
        if value.type.HasField("tensor_type") and kind not in TensorProto.DataType.values():
            raise ValueError(f"{value.name}: has the unknown element type {kind}")
    if model.graph.sparse_initializer:
        raise ValueError("its weights are sparse, which runtimes do not support; store them dense")
    for tensor in tensors_of(model):
        if tensor.HasField("segment"):
            raise ValueError(f"tensor {tensor.name}: is split into segments, which no runtime supports")
        expected = _declared_bytes(tensor)
        try:
            if tensor.HasField("raw_data") and len(tensor.raw_data) != expected:
                raise ValueError(f"has {len(tensor.raw_data)} bytes of data, its shape needs {expected}")
            numpy_helper.to_array(tensor)
        except Exception as exc:  # it raises KeyError, TypeError and others for types and sizes that do not fit
            raise ValueError(f"tensor {tensor.name}: {exc}") from exc


def tensors_of(model: onnx.ModelProto) -> Iterator[TensorProto]:
    """Every tensor of a model: weights and attributes, also those of subgraphs and functions."""
    yield from _graph_tensors(model.graph)
    for function in model.functions:
        for node in function.node:
            yield from _node_tensors(node)


def _graph_tensors(graph: onnx.GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    for node in graph.node:
        yield from _node_tensors(node)


def _node_tensors(node: onnx.NodeProto) -> Iterator[TensorProto]:
    for attribute in node.attribute:
        if attribute.type == AttributeProto.TENSOR:
            yield attribute.t
        yield from attribute.tensors
    for graph in subgraphs(node):
        yield from _graph_tensors(graph)


def _declared_bytes(tensor: TensorProto) -> int:
    """The size of the values in ``raw_data`` or another file; ValueError where the declaration makes no sense."""
    if any(dim < 0 for dim in tensor.dims):
        raise ValueError(f"tensor {tensor.name}: has the negative dimensions {list(tensor.dims)}")
    if tensor.data_type == TensorProto.STRING:
        if tensor.data_location == TensorProto.EXTERNAL or tensor.HasField("raw_data"):
            raise ValueError(f"tensor {tensor.name}: its text must lie in the model")
        return 0
    bits = _SUB_BYTE_BITS.get(tensor.data_type)
    if bits is None:
        try:
            bits = 8 * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
        except KeyError as exc:
            raise ValueError(f"tensor {tensor.name}: has the unknown element type {tensor.data_type}") from exc
    return int(math.prod(tensor.dims) * bits + 7) // 8


def _number(entries: dict[str, str], key: str, default: int, tensor: TensorProto) -> int:
    text = entries.get(key, "")
    if not text:
        return default
    if not (text.isascii() and text.isdecimal() and len(text) < 20):
        raise ValueError(f"tensor {tensor.name}: its {key} {text[:40]!r} is not a number of bytes")
    return int(text)


def _read(file: Path, offset: int, length: int) -> bytes:
    with open_regular(file) as stream:
        size = os.fstat(stream.fileno()).st_size
        if offset + length > size:
            raise ValueError(f"it ends at byte {offset + length}, the file has {size}")
        stream.seek(offset)
        return stream.read(length)


def _file_name(location: str | bytes) -> str:
    """``location`` if it can be the name of a file; protobuf gives bytes for what is no text."""
    if isinstance(location, bytes) or "\0" in location:
        raise ValueError(f"its file {location!r} is no name of a file in the model's folder")
    return location


def _inside(location: str, path: Path) -> Path:
    """The real file that ``location`` names; ValueError if it lies outside the model's folder."""
    parts = location.replace("\\", "/").split("/")
    if not location or ".." in parts or Path(location).is_absolute() or ":" in parts[0]:
        raise ValueError(f"its file {location!r} is not named relative to the model's folder")
    file = Path(os.path.realpath(path.parent / location))
    folders = {Path(os.path.realpath(path.parent)), Path(os.path.realpath(path)).parent}
    if not any(file.is_relative_to(folder) for folder in folders):
        raise ValueError(f"its file {location!r} leads out of the model's folder")
    return file
