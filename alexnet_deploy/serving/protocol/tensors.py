"""The Open Inference Protocol's tensors, apart from how REST and gRPC write them.

A model has two inputs, of which a request gives one: ``pixels`` UINT8 ``[N, H, W, 3]``, or ``image`` BYTES ``[N]``,
whole encoded files. Its outputs are ``logits`` and ``probabilities`` FP32 ``[N, K]``, either as values or, by the
classification extension, as BYTES ``[N, k]`` of ``value:index:label``; ``error`` BYTES ``[N]``; and, where the engine
has a rule for unknown answers, ``unknown`` BOOL ``[N]``. A feature engine has ``features`` FP32 ``[N, F]`` and
``error``.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from alexnet_deploy.probabilities import probabilities, unknown
from alexnet_deploy.serving.engines.decoding import EncodedImage
from alexnet_deploy.serving.engines.engine import Result, ServedEngine, not_finite
from alexnet_deploy.serving.refusals import BadRequestError, EngineError

# Legend: N image, H height, W width, C channel (RGB), K class, F feature

PIXELS, IMAGE = "pixels", "image"
LOGITS, PROBABILITIES, ERROR, UNKNOWN = "logits", "probabilities", "error", "unknown"
FEATURES = "features"
_LENGTH = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class InputTensor:
    """One input that the model takes, by ``require_input``.

    ``content`` are its bytes, with BYTES as length and value one after the other, or a list of values.
    """

    name: str
    shape: tuple[int, ...]
    content: bytes | memoryview | list[bytes]


@dataclass(frozen=True, slots=True)
class RequestedOutput:
    """One output; ``classes`` above 0 asks for the classification extension, ``binary`` is for REST."""

    name: str
    classes: int = 0
    binary: bool = False


@dataclass(frozen=True, slots=True)
class OutputTensor:
    """One output: float32 values, BOOL values, or a list of BYTES."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    content: NDArray[np.float32] | NDArray[np.bool_] | list[bytes]

    def raw(self) -> bytes:
        """As the binary extension and gRPC's raw contents have it."""
        if isinstance(self.content, list):
            return b"".join(_LENGTH.pack(len(value)) + value for value in self.content)
        return self.content.astype("?" if self.datatype == "BOOL" else "<f4", copy=False).tobytes()


def values_of(engine: ServedEngine) -> tuple[str, ...]:
    """The outputs with numbers, which a request gets that names none."""
    return (LOGITS, PROBABILITIES) if engine.contract.features is None else (FEATURES,)


def describe_inputs(engine: ServedEngine) -> list[dict[str, Any]]:
    """The inputs as in the model's metadata; -1 is any size."""
    pre = engine.contract.preprocessing
    return [
        {"name": PIXELS, "datatype": "UINT8", "shape": [-1, pre.height, pre.width, 3]},
        {"name": IMAGE, "datatype": "BYTES", "shape": [-1]},
    ]


def describe_outputs(engine: ServedEngine) -> list[dict[str, Any]]:
    """The outputs as in the model's metadata."""
    width = engine.contract.outputs
    return [
        *({"name": name, "datatype": "FP32", "shape": [-1, width]} for name in values_of(engine)),
        {"name": ERROR, "datatype": "BYTES", "shape": [-1]},
        *([] if engine.contract.rejection is None else [{"name": UNKNOWN, "datatype": "BOOL", "shape": [-1]}]),
    ]


def refuse_input_count() -> NoReturn:
    """BadRequestError for a request that has not one input."""
    raise BadRequestError(f"the request has not exactly one input; give one: {PIXELS} (decoded) or {IMAGE} (files)")


def require_input(engine: ServedEngine, name: str, datatype: str, shape: tuple[int, ...]) -> None:
    """Refuse an input that the model does not take, before its content is looked at.

    Raises BadRequestError, TooLargeError for too many images.
    """
    pre = engine.contract.preprocessing
    if any(size < 0 for size in shape):
        raise BadRequestError(f"input {name}: shape {list(shape)} has a size below 0")
    if name == PIXELS:
        kind, needs = "UINT8", f"{PIXELS} is UINT8 [N, {pre.height}, {pre.width}, 3]"
        is_right = len(shape) == 4 and shape[1:] == (pre.height, pre.width, 3)
    elif name == IMAGE:
        kind, needs = "BYTES", f"{IMAGE} is BYTES [N]"
        is_right = len(shape) in (1, 2) and shape[1:] in ((), (1,))
    else:
        raise BadRequestError(f"input {name}: no such input; the model takes {PIXELS} or {IMAGE}")
    if datatype != kind:
        raise BadRequestError(f"input {name}: datatype {datatype} is not supported; {needs}")
    if not is_right:
        raise BadRequestError(f"input {name}: shape {list(shape)} is not supported; {needs}")
    engine.check_count(shape[0])


def read_input(tensor: InputTensor) -> NDArray[np.uint8] | list[EncodedImage]:
    """The pixels or the encoded images; BadRequestError unless there are as many as the shape says."""
    return _pixels(tensor) if tensor.name == PIXELS else _images(tensor)


def _pixels(tensor: InputTensor) -> NDArray[np.uint8]:
    if len(tensor.content) != math.prod(tensor.shape):
        raise BadRequestError(
            f"input {PIXELS}: {len(tensor.content)} values for shape {list(tensor.shape)}, which has "
            f"{math.prod(tensor.shape)}"
        )
    assert not isinstance(tensor.content, list)
    return np.frombuffer(tensor.content, np.uint8).reshape(tensor.shape)


def _images(tensor: InputTensor) -> list[EncodedImage]:
    count = tensor.shape[0]
    values = tensor.content if isinstance(tensor.content, list) else _split(tensor.content, count)
    if len(values) != count:
        raise BadRequestError(f"input {IMAGE}: {len(values)} values for shape {list(tensor.shape)}")
    return [EncodedImage(f"image {number}", value) for number, value in enumerate(values)]


def _split(content: bytes | memoryview, count: int) -> list[bytes]:
    values: list[bytes] = []
    at = 0
    while at < len(content):
        if len(values) == count:  # an empty value takes four bytes here and many times that as an object
            raise BadRequestError(f"input {IMAGE}: its content goes on after {count} values, which its shape has")
        if at + _LENGTH.size > len(content):
            raise BadRequestError(f"input {IMAGE}: its content ends within the length of a value")
        (size,) = _LENGTH.unpack_from(content, at)
        at += _LENGTH.size
        if at + size > len(content):
            raise BadRequestError(f"input {IMAGE}: its content ends within a value of {size} bytes")
        values.append(bytes(content[at : at + size]))
        at += size
    return values


def refuse_shared_memory(kind: str, name: str, parameters: Container[str]) -> None:
    """BadRequestError for a tensor that is to be in shared memory: its client would look for the answer there."""
    if "shared_memory_region" in parameters:
        raise BadRequestError(f"{kind} {name}: shared memory is not supported; send the data with the request")


def check_outputs(engine: ServedEngine, outputs: Sequence[RequestedOutput]) -> None:
    """BadRequestError for an output that the model has not or that is named twice, or classes out of range."""
    if len(names := {output.name for output in outputs}) < len(outputs):
        # Clients tell outputs apart by their names. Small requests would cost large answers.
        raise BadRequestError(f"{len(outputs)} outputs with {len(names)} names; ask for each output once")
    names_here = [each["name"] for each in describe_outputs(engine)]
    for output in outputs:
        if output.name not in names_here:
            raise BadRequestError(f"output {output.name}: no such output; the model has {', '.join(names_here)}")
        if output.classes < 0 or (output.classes and output.name not in (LOGITS, PROBABILITIES)):
            raise BadRequestError(f"output {output.name}: no classification of {output.classes} classes")


def make_outputs(engine: ServedEngine, result: Result, outputs: Sequence[RequestedOutput]) -> list[OutputTensor]:
    """The requested outputs.

    A request whose image cannot be used, or whose logits are not finite, is refused as a whole, unless it asks for
    ``error``: then the values of that image are NaN, its classification is empty text, and it is unknown.
    """
    errors = list(result.errors)
    bad = iter(not_finite(result))
    for number, error in enumerate(errors):
        if error is None and next(bad):
            errors[number] = f"image {number}: the model's output is not finite; try an engine of higher precision"
    if not any(output.name == ERROR for output in outputs):
        for given, error in zip(result.errors, errors, strict=True):
            if error is not None:
                raise EngineError(error) if given is None else BadRequestError(error)
    logits_NK = _all_rows(engine, result, errors)
    return [_output(engine, output, logits_NK, errors) for output in outputs]


def _all_rows(engine: ServedEngine, result: Result, errors: Sequence[str | None]) -> NDArray[np.float32]:
    if not any(errors):
        return result.logits_NK
    logits_NK = np.full((len(errors), engine.contract.outputs), np.nan, np.float32)
    logits_NK[[error is None for error in result.errors]] = result.logits_NK
    logits_NK[[error is not None for error in errors]] = np.nan
    return logits_NK


def _output(
    engine: ServedEngine, output: RequestedOutput, logits_NK: NDArray[np.float32], errors: Sequence[str | None]
) -> OutputTensor:
    if output.name == ERROR:
        return OutputTensor(ERROR, "BYTES", (len(errors),), [(error or "").encode() for error in errors])
    if output.name == UNKNOWN:
        usable_N = np.array([error is None for error in errors], bool)
        unknown_N = np.ones(len(errors), bool)
        unknown_N[usable_N] = unknown(logits_NK[usable_N], engine.contract)
        return OutputTensor(UNKNOWN, "BOOL", unknown_N.shape, unknown_N)
    values_NK = logits_NK
    if output.name == PROBABILITIES:
        with np.errstate(invalid="ignore"):  # NaN rows stay NaN
            values_NK = probabilities(logits_NK, engine.contract).astype(np.float32)
    if not output.classes:
        return OutputTensor(output.name, "FP32", values_NK.shape, values_NK)
    count = min(output.classes, values_NK.shape[1])
    order_NK = np.argsort(-logits_NK, axis=1, kind="stable")[:, :count]
    labels = engine.contract.labels
    texts = [
        b"" if error else f"{row[k]:f}:{k}:{labels[k]}".encode()
        for row, order, error in zip(values_NK, order_NK, errors, strict=True)
        for k in order
    ]
    return OutputTensor(output.name, "BYTES", (len(errors), count), texts)
