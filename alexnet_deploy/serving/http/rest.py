"""The Open Inference Protocol in JSON, with the binary tensor extension: bytes of a request to tensors, and back."""

from __future__ import annotations

import base64
import binascii
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
import numpy as np

from alexnet_deploy.serving.engines.engine import ServedEngine
from alexnet_deploy.serving.protocol.tensors import (
    IMAGE,
    PIXELS,
    InputTensor,
    OutputTensor,
    RequestedOutput,
    refuse_input_count,
    refuse_shared_memory,
    require_input,
    values_of,
)
from alexnet_deploy.serving.refusals import BadRequestError

HEADER_LENGTH = "Inference-Header-Content-Length"

_MAX_DIGITS = 20
"""Of a number of bytes, with zeros in front; Python refuses to read numbers of thousands of digits."""
_U8 = Annotated[int, msgspec.Meta(ge=0, le=255)]
_FLAT = msgspec.json.Decoder(list[_U8])
_TEXTS, _NESTED_TEXTS = msgspec.json.Decoder(list[str]), msgspec.json.Decoder(list[tuple[str]])
_SMALL = 16 << 10
"""Bytes of everything but names and data: millions of outputs or dimensions take a gigabyte once they are objects."""
_STEP = 1 << 16
_SPACES, _DIGITS = b" \t\r\n", b"0123456789"
_NESTED = re.compile(rb"\s*\[\s*\[")


class _Input(msgspec.Struct):
    name: str
    datatype: str
    shape: msgspec.Raw
    data: msgspec.Raw = msgspec.Raw()
    parameters: msgspec.Raw = msgspec.Raw()


class _Output(msgspec.Struct):
    name: str
    parameters: msgspec.Raw = msgspec.Raw()


class _Request(msgspec.Struct):
    inputs: msgspec.Raw = msgspec.Raw()
    id: str | None = None
    outputs: msgspec.Raw = msgspec.Raw()
    parameters: msgspec.Raw = msgspec.Raw()


_REQUEST, _INPUTS = msgspec.json.Decoder(_Request), msgspec.json.Decoder(tuple[_Input])
_SHAPE, _OUTPUTS = msgspec.json.Decoder(list[int]), msgspec.json.Decoder(list[_Output] | None)
_PARAMETERS = msgspec.json.Decoder(dict[str, bool | int | float | str])
_NOT_ONE = "Expected `array` of length 1"
"""How the message of msgspec begins that stops at the second input."""


@dataclass(frozen=True, slots=True)
class InferRequest:
    """One request of the protocol, whichever way it came."""

    input: InputTensor
    outputs: list[RequestedOutput]
    id: str | None = None


def read_request(engine: ServedEngine, body: bytes, header_length: str | None) -> InferRequest:
    """The request in ``body``, of which the first ``header_length`` bytes are JSON (None: all of it).

    What ``engine`` does not take is refused before it becomes objects. Raises BadRequestError, and TooLargeError for
    too many images.
    """
    head, rest = _split(body, header_length)
    try:
        request = _REQUEST.decode(head)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise BadRequestError(f"the request is not valid: {exc}") from exc
    parameters = _parameters("the request", request.parameters)
    tensor, used = _tensor(engine, _input(request.inputs), rest)
    if used != len(rest):
        raise BadRequestError(f"{len(rest) - used} bytes after the JSON belong to no input; set binary_data_size")
    binary = parameters.get("binary_data_output") is True
    requested = _small(_OUTPUTS, "outputs", request.outputs) if _size(request.outputs) else None
    if requested:
        outputs = [_requested(output, binary) for output in requested]
    else:
        outputs = [RequestedOutput(name, 0, binary) for name in values_of(engine)]
    return InferRequest(tensor, outputs, request.id)


def _input(inputs: msgspec.Raw) -> _Input:
    if not _size(inputs):
        refuse_input_count()
    try:
        return _INPUTS.decode(inputs)[0]
    except msgspec.DecodeError as exc:
        if str(exc).startswith(_NOT_ONE) and "$" not in str(exc):
            refuse_input_count()
        raise BadRequestError(f"the request is not valid: inputs: {exc}") from exc
    except (UnicodeDecodeError, RecursionError) as exc:
        raise BadRequestError(f"the request is not valid: inputs: {exc}") from exc


def _size(raw: msgspec.Raw) -> int:
    return memoryview(raw).nbytes


def _small(decoder: msgspec.json.Decoder[Any], what: str, raw: msgspec.Raw) -> Any:
    """The value of a part that is small in every useful request."""
    if _size(raw) > _SMALL:
        raise BadRequestError(f"{what}: {_size(raw)} bytes of JSON, above {_SMALL}; no useful request has so many")
    try:
        return decoder.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise BadRequestError(f"the request is not valid: {what}: {exc}") from exc


def _parameters(what: str, raw: msgspec.Raw) -> dict[str, bool | int | float | str]:
    found: dict[str, bool | int | float | str] = _small(_PARAMETERS, f"parameters of {what}", raw) if _size(raw) else {}
    return found


def _split(body: bytes, header_length: str | None) -> tuple[memoryview, memoryview]:
    view = memoryview(body)
    if header_length is None:
        return view, view[len(view) :]
    is_number = header_length.isascii() and header_length.isdigit() and len(header_length) <= _MAX_DIGITS
    if not is_number or int(header_length) > len(view):
        raise BadRequestError(
            f"{HEADER_LENGTH} {header_length[:30]}: is no number of bytes within the body, which has {len(view)}"
        )
    if int(header_length) == 0:
        raise BadRequestError(
            f"{HEADER_LENGTH} 0: every request begins with JSON; give the number of its bytes, or leave the header out"
        )
    return view[: int(header_length)], view[int(header_length) :]


def _tensor(engine: ServedEngine, given: _Input, rest: memoryview) -> tuple[InputTensor, int]:
    """The tensor, and how many bytes of ``rest`` it takes."""
    name, parameters = given.name, _parameters(f"input {given.name[:_SMALL]}", given.parameters)
    refuse_shared_memory("input", name, parameters)
    shape = tuple(_small(_SHAPE, f"shape of input {name[:_SMALL]}", given.shape))
    require_input(engine, name, given.datatype, shape)
    size = parameters.get("binary_data_size")
    if size is not None:
        if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size <= len(rest):
            raise BadRequestError(
                f"input {name}: binary_data_size {size} is no number of bytes within the {len(rest)} that follow"
            )
        if _size(given.data):
            raise BadRequestError(f"input {name}: has data as well as binary_data_size; give one")
        return InputTensor(name, shape, rest[:size]), size
    if not _size(given.data):
        raise BadRequestError(f"input {name}: has neither data nor binary_data_size")
    return InputTensor(name, shape, _content(name, shape, given.data)), 0


def _content(name: str, shape: tuple[int, ...], data: msgspec.Raw) -> bytes | list[bytes]:
    """JSON values: numbers 0..255, flat or nested as ``shape``, or encoded images as base64.

    They are counted before they become objects, of which each takes many times its text.
    """
    view = np.frombuffer(data, np.uint8)
    values = int(np.count_nonzero(view == ord(","))) + 1
    if values > max(math.prod(shape), 1):
        raise BadRequestError(f"input {name}: {values} values for shape {list(shape)}")
    try:
        is_nested = _NESTED.match(data) is not None
        if name == IMAGE:
            texts = [text for (text,) in _NESTED_TEXTS.decode(data)] if is_nested else _TEXTS.decode(data)
            return [base64.b64decode(text, validate=True) for text in texts]
        return bytes(_FLAT.decode(_flattened(shape, bytes(view)) if is_nested else data))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise BadRequestError(f"input {name}: its data are not valid: {exc}") from exc
    except (binascii.Error, ValueError) as exc:
        raise BadRequestError(f"input {name}: in JSON an encoded image is base64 text: {exc}") from exc


def _flattened(shape: tuple[int, ...], text: bytes) -> bytes:
    """Nested lists of numbers as one list. ``text`` is valid JSON, so spaces are between its values only."""
    nesting = b"," * (shape[-1] - 1)
    for size in reversed(shape[:-1]):
        nesting = b",".join([b"[" + nesting + b"]"] * size)
    text = text.translate(None, _SPACES)
    if text.translate(None, _DIGITS) != b"[" + nesting + b"]":
        raise BadRequestError(
            f"input {PIXELS}: its data are not valid: not numbers 0..255 in lists of shape {list(shape)}"
        )
    return b"[" + text.translate(None, b"[]") + b"]"


def _requested(output: _Output, binary: bool) -> RequestedOutput:
    parameters = _parameters(f"output {output.name}", output.parameters)
    refuse_shared_memory("output", output.name, parameters)
    classes = parameters.get("classification", 0)
    if isinstance(classes, bool) or not isinstance(classes, int):
        raise BadRequestError(f"output {output.name}: classification {classes} is no number of classes")
    return RequestedOutput(output.name, classes, parameters.get("binary_data", binary) is True)


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


def _values(output: OutputTensor) -> list[str] | msgspec.Raw:
    """Flat, as the protocol has it; NaN, which JSON has not, becomes null.

    Numbers are written in steps, between which the event loop gets its turn: features can be millions.
    """
    if isinstance(output.content, list):
        return [value.decode() for value in output.content]
    flat = output.content.ravel()
    steps = (msgspec.json.encode(flat[at : at + _STEP].tolist()) for at in range(0, len(flat), _STEP))
    return msgspec.Raw(b"[" + b",".join(step[1:-1] for step in steps) + b"]")
