"""The Open Inference Protocol in JSON, with the binary tensor extension: bytes of a request to tensors, and back."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec

from alexnet_deploy.serving.engine import ServedEngine
from alexnet_deploy.serving.protocol.tensors import (
    IMAGE,
    VALUES,
    InputTensor,
    OutputTensor,
    RequestedOutput,
    refuse_shared_memory,
)
from alexnet_deploy.serving.refusals import BadRequestError

HEADER_LENGTH = "Inference-Header-Content-Length"

_MAX_DIGITS = 20
"""Of a number of bytes, with zeros in front; Python refuses to read numbers of thousands of digits."""
_U8 = Annotated[int, msgspec.Meta(ge=0, le=255)]
_FLAT, _NESTED = msgspec.json.Decoder(list[_U8]), msgspec.json.Decoder(list[list[list[list[_U8]]]])
_TEXTS, _NESTED_TEXTS = msgspec.json.Decoder(list[str]), msgspec.json.Decoder(list[tuple[str]])
_Parameters = dict[str, bool | int | float | str]


class _Input(msgspec.Struct):
    name: str
    datatype: str
    shape: list[int]
    data: msgspec.Raw = msgspec.Raw()
    parameters: _Parameters = {}


class _Output(msgspec.Struct):
    name: str
    parameters: _Parameters = {}


class _Request(msgspec.Struct):
    inputs: list[_Input]
    id: str | None = None
    outputs: list[_Output] | None = None
    parameters: _Parameters = {}


_REQUEST = msgspec.json.Decoder(_Request)


@dataclass(frozen=True, slots=True)
class InferRequest:
    """One request of the protocol, whichever way it came."""

    inputs: list[InputTensor]
    outputs: list[RequestedOutput]
    id: str | None = None


def read_request(body: bytes, header_length: str | None) -> InferRequest:
    """The request in ``body``, of which the first ``header_length`` bytes are JSON (None: all of it).

    Raises BadRequestError for anything else.
    """
    head, rest = _split(body, header_length)
    try:
        request = _REQUEST.decode(head)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise BadRequestError(f"the request is not valid: {exc}") from exc
    inputs, at = [], 0
    for given in request.inputs:
        tensor, at = _tensor(given, rest, at)
        inputs.append(tensor)
    if at != len(rest):
        raise BadRequestError(f"{len(rest) - at} bytes after the JSON belong to no input; set binary_data_size")
    binary = request.parameters.get("binary_data_output") is True
    if request.outputs:
        outputs = [_requested(output, binary) for output in request.outputs]
    else:
        outputs = [RequestedOutput(name, 0, binary) for name in VALUES]
    return InferRequest(inputs, outputs, request.id)


def _split(body: bytes, header_length: str | None) -> tuple[memoryview, memoryview]:
    view = memoryview(body)
    if header_length is None:
        return view, view[len(view) :]
    is_number = header_length.isascii() and header_length.isdigit() and len(header_length) <= _MAX_DIGITS
    if not is_number or int(header_length) > len(view):
        raise BadRequestError(
            f"{HEADER_LENGTH} {header_length[:30]}: is no number of bytes within the body, which has {len(view)}"
        )
    return view[: int(header_length)], view[int(header_length) :]


def _tensor(given: _Input, rest: memoryview, at: int) -> tuple[InputTensor, int]:
    refuse_shared_memory("input", given.name, given.parameters)
    size = given.parameters.get("binary_data_size")
    shape = tuple(given.shape)
    if size is not None:
        if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size <= len(rest) - at:
            raise BadRequestError(
                f"input {given.name}: binary_data_size {size} is no number of bytes within the {len(rest) - at} that "
                "follow"
            )
        if memoryview(given.data).nbytes:
            raise BadRequestError(f"input {given.name}: has data as well as binary_data_size; give one")
        return InputTensor(given.name, given.datatype, shape, rest[at : at + size]), at + size
    if not memoryview(given.data).nbytes:
        raise BadRequestError(f"input {given.name}: has neither data nor binary_data_size")
    return InputTensor(given.name, given.datatype, shape, _content(given, given.data)), at


def _content(given: _Input, data: msgspec.Raw) -> bytes | list[bytes]:
    """JSON values: numbers 0..255, flat or nested, or encoded images as base64."""
    start = bytes(memoryview(data)[:8]).split()
    is_nested = b"".join(start).startswith(b"[[")
    try:
        if given.name == IMAGE or given.datatype == "BYTES":
            texts = [text for (text,) in _NESTED_TEXTS.decode(data)] if is_nested else _TEXTS.decode(data)
            return [base64.b64decode(text, validate=True) for text in texts]
        if not is_nested:
            return bytes(_FLAT.decode(data))
        return b"".join(bytes(row) for image in _NESTED.decode(data) for rows in image for row in rows)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise BadRequestError(f"input {given.name}: its data are not valid: {exc}") from exc
    except (binascii.Error, ValueError) as exc:
        raise BadRequestError(f"input {given.name}: in JSON an encoded image is base64 text: {exc}") from exc


def _requested(output: _Output, binary: bool) -> RequestedOutput:
    refuse_shared_memory("output", output.name, output.parameters)
    classes = output.parameters.get("classification", 0)
    if isinstance(classes, bool) or not isinstance(classes, int):
        raise BadRequestError(f"output {output.name}: classification {classes} is no number of classes")
    return RequestedOutput(output.name, classes, output.parameters.get("binary_data", binary) is True)


def write_response(
    engine: ServedEngine, request: InferRequest, outputs: Sequence[OutputTensor]
) -> tuple[bytes, int | None]:
    """The body, and how many of its bytes are JSON if binary tensors follow it (else None)."""
    head: dict[str, Any] = {"model_name": engine.name, "model_version": engine.version}
    if request.id is not None:
        head["id"] = request.id
    described, tail = [], []
    for output, requested in zip(outputs, request.outputs, strict=True):
        one: dict[str, Any] = {"name": output.name, "datatype": output.datatype, "shape": output.shape}
        if requested.binary:
            raw = output.raw()
            tail.append(raw)
            one["parameters"] = {"binary_data_size": len(raw)}
        else:
            one["data"] = _values(output)
        described.append(one)
    text = msgspec.json.encode(head | {"outputs": described})
    return (b"".join((text, *tail)), len(text)) if tail else (text, None)


def _values(output: OutputTensor) -> list[Any]:
    """Flat, as the protocol has it; NaN, which JSON has not, becomes null."""
    if isinstance(output.content, list):
        return [value.decode() for value in output.content]
    values: list[Any] = output.content.ravel().tolist()
    return values
