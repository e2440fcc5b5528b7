"""One inference request of the gRPC protocol: its messages to tensors, and back."""

from __future__ import annotations

import math
from typing import Any

from alexnet_deploy.serving.engines.engine import ServedEngine
from alexnet_deploy.serving.engines.models import Models
from alexnet_deploy.serving.protocol import tensors
from alexnet_deploy.serving.protocol.messages import answer
from alexnet_deploy.serving.protocol.tensors import InputTensor, RequestedOutput, values_of
from alexnet_deploy.serving.refusals import BadRequestError

_CONTENTS = {"UINT8": "uint_contents", "BYTES": "bytes_contents"}
_MOST_DIMENSIONS = 9  # more than any input has, so that a longer shape stays a wrong one
_STEP = 1 << 16


async def infer(models: Models, request: Any, facts: dict[str, Any], timeout_s: float | None) -> Any:
    """The ModelInferResponse to a ModelInferRequest; raises a Refusal. ``facts`` are for the access log."""
    engine = models.get(request.model_name, request.model_version)
    facts |= {"model": engine.name, "version": engine.version}
    with models.statistics(engine.name).request() as count, engine.in_use():
        outputs = [_requested(output) for output in request.outputs]
        outputs = outputs or [RequestedOutput(name) for name in values_of(engine)]
        tensors.check_outputs(engine, outputs)
        given = tensors.read_input(await engine.in_pool(request.ByteSize(), _input, engine, request))
        facts["images"] = len(given)
        if isinstance(given, list):
            result = await engine.classify_images(given, timeout_s)
        else:
            result = await engine.classify_pixels(given, timeout_s)
        with engine.counted(result):
            made = tensors.make_outputs(engine, result, outputs)
        count(result)
    response = answer("ModelInfer", model_name=engine.name, model_version=engine.version, id=request.id)
    for output in made:
        response.outputs.add(name=output.name, datatype=output.datatype, shape=output.shape)
        response.raw_output_contents.append(output.raw())
    return response


def _input(engine: ServedEngine, request: Any) -> InputTensor:
    """The input tensor; its content is raw or typed. Refused before its values become objects, as are others."""
    if len(request.inputs) != 1:
        tensors.refuse_input_count()
    raw, (given,) = request.raw_input_contents, request.inputs
    tensors.refuse_shared_memory("input", given.name, given.parameters)
    if len(raw) > 1:
        raise BadRequestError(f"{len(raw)} raw contents for 1 inputs")
    if raw and given.contents.ListFields():
        raise BadRequestError(f"input {given.name}: has typed contents as well as raw contents; give one")
    shape = tuple(given.shape[:_MOST_DIMENSIONS])
    tensors.require_input(engine, given.name, given.datatype, shape)
    return InputTensor(given.name, shape, raw[0] if raw else _typed(given, math.prod(shape)))


def _typed(given: Any, count: int) -> bytes | list[bytes]:
    field = _CONTENTS[given.datatype]
    others = [found.name for found, _ in given.contents.ListFields() if found.name != field]
    if others:
        raise BadRequestError(f"input {given.name}: contents {others[0]} are not of datatype {given.datatype}")
    values = getattr(given.contents, field)
    if len(values) != count:
        raise BadRequestError(f"input {given.name}: {len(values)} values for shape {list(given.shape)}")
    if field == "bytes_contents":
        return list(values)
    try:  # in steps, between which the event loop gets its turn
        return b"".join(bytes(values[at : at + _STEP]) for at in range(0, count, _STEP))
    except ValueError as exc:
        raise BadRequestError(f"input {given.name}: has a value that is not within 0..255") from exc


def _requested(output: Any) -> RequestedOutput:
    tensors.refuse_shared_memory("output", output.name, output.parameters)
    if "classification" not in output.parameters:
        return RequestedOutput(output.name)
    parameter = output.parameters["classification"]
    if parameter.WhichOneof("parameter_choice") != "int64_param":
        raise BadRequestError(f"output {output.name}: classification is no number of classes")
    return RequestedOutput(output.name, parameter.int64_param)
