"""One inference request of the gRPC protocol: its messages to tensors, and back."""

from __future__ import annotations

from typing import Any

from alexnet_deploy.serving.models import Models
from alexnet_deploy.serving.protocol import tensors
from alexnet_deploy.serving.protocol.messages import answer
from alexnet_deploy.serving.protocol.tensors import VALUES, InputTensor, RequestedOutput
from alexnet_deploy.serving.refusals import BadRequestError

_CONTENTS = {"UINT8": "uint_contents", "BYTES": "bytes_contents"}


async def infer(models: Models, request: Any, facts: dict[str, Any], timeout_s: float | None) -> Any:
    """The ModelInferResponse to a ModelInferRequest; raises a Refusal. ``facts`` are for the access log."""
    engine = models.get(request.model_name, request.model_version)
    facts |= {"model": engine.name, "version": engine.version}
    with models.statistics(engine.name).request() as count, engine.in_use():
        outputs = [_requested(output) for output in request.outputs] or [RequestedOutput(name) for name in VALUES]
        tensors.check_outputs(engine, outputs)
        given = tensors.read_inputs(engine, _inputs(request))
        facts["images"] = len(given)
        if isinstance(given, list):
            result = await engine.classify_images(given, timeout_s)
        else:
            result = await engine.classify_pixels(given, timeout_s)
        engine.count(result)
        made = tensors.make_outputs(engine, result, outputs)
        count(result)
    response = answer("ModelInfer", model_name=engine.name, model_version=engine.version, id=request.id)
    for output in made:
        response.outputs.add(name=output.name, datatype=output.datatype, shape=output.shape)
        response.raw_output_contents.append(output.raw())
    return response


def _inputs(request: Any) -> list[InputTensor]:
    """The input tensors; their contents are raw, all of them, or typed."""
    raw = request.raw_input_contents
    for given in request.inputs:
        tensors.refuse_shared_memory("input", given.name, given.parameters)
    if raw and len(raw) != len(request.inputs):
        raise BadRequestError(f"{len(raw)} raw contents for {len(request.inputs)} inputs")
    return [
        InputTensor(given.name, given.datatype, tuple(given.shape), raw[i] if raw else _typed(given))
        for i, given in enumerate(request.inputs)
    ]


def _typed(given: Any) -> bytes | list[bytes]:
    field = _CONTENTS.get(given.datatype)
    others = [found.name for found, _ in given.contents.ListFields() if found.name != field]
    if others:
        raise BadRequestError(f"input {given.name}: contents {others[0]} are not of datatype {given.datatype}")
    if field is None:
        return b""  # the datatype is refused where the model is known
    values = getattr(given.contents, field)
    if field == "bytes_contents":
        return list(values)
    try:
        return bytes(values)
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
