"""Clients of each side: requests made beforehand, answers read as they come, so that they take little of the cores."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from alexnet_deploy.contract import ModelContract
from alexnet_deploy.probabilities import probabilities

Ask = Callable[[int], Awaitable[Any]]
"""Sends the request of this number, and returns the answer."""


@dataclass(frozen=True, slots=True)
class Target:
    """What is asked: a model called ``model`` on ``port``; photos are encoded files, pixels are uint8 ``shape``."""

    port: int
    model: str
    photos: bool
    shape: tuple[int, ...]


async def rest(target: Target, contents: list[bytes]) -> Ask:
    """Ours: ``/classify`` for photos, the Open Inference Protocol with binary tensors for pixels."""

    def request(content: bytes) -> bytes:
        if target.photos:
            return f"POST /classify HTTP/1.1\r\nHost: x\r\nContent-Length: {len(content)}\r\n\r\n".encode() + content
        parameters = {"binary_data_size": len(content)}
        given = {"name": "pixels", "datatype": "UINT8", "shape": [1, *target.shape], "parameters": parameters}
        head = json.dumps({"inputs": [given], "parameters": {"binary_data_output": True}}).encode()
        sizes = f"Inference-Header-Content-Length: {len(head)}\r\nContent-Length: {len(head) + len(content)}\r\n"
        return f"POST /v2/models/{target.model}/infer HTTP/1.1\r\nHost: x\r\n{sizes}\r\n".encode() + head + content

    return await _http(target.port, list(map(request, contents)))


async def litserve(target: Target, contents: list[bytes]) -> Ask:
    """A form with a file."""
    field = "photo" if target.photos else "pixels"
    return await _http(target.port, [_form("/predict", field, content) for content in contents])


async def bentoml(target: Target, contents: list[bytes]) -> Ask:
    """A form with a list of one file."""
    field = "photos" if target.photos else "pixels"
    return await _http(target.port, [_form(f"/classify_{field}", field, content) for content in contents])


async def grpc(target: Target, contents: list[bytes]) -> Ask:
    """Ours, by the Open Inference Protocol."""
    return await _grpc(target, contents, target.model, [1])


async def triton(target: Target, contents: list[bytes]) -> Ask:
    """Triton: photos go to the ensemble."""
    return await _grpc(target, contents, f"{target.model}-photos" if target.photos else target.model, [1, 1])


CLIENTS = {"rest": rest, "grpc": grpc, "litserve": litserve, "bentoml": bentoml, "triton": triton}


def probabilities_in(side: str, target: Target, answer: Any, contract: ModelContract) -> dict[int, float]:
    """The classes and their probabilities in an answer to one image."""
    if side in ("grpc", "triton"):
        names = [output.name for output in answer.outputs]
        values = dict(zip(names, answer.raw_output_contents, strict=True))
    elif side == "rest" and not target.photos:
        head, _, _ = answer.partition(b"]}")  # the end of the list of outputs, which hold no such text
        outputs = json.loads(head + b"]}")["outputs"]
        values, at = {}, len(head) + 2
        for output in outputs:
            size = output["parameters"]["binary_data_size"]
            values[output["name"]] = answer[at : at + size]
            at += size
    else:
        found = json.loads(answer)
        if side == "rest":
            found = (found["predictions"] if isinstance(found, dict) else found)[0]["top"]
        elif side == "bentoml":
            found = found[0]
        return {one["index"]: one["probability"] for one in found}
    scores = np.frombuffer(values["probabilities" if "probabilities" in values else contract.output_name], "<f4")
    if "probabilities" not in values:
        scores = probabilities(scores[np.newaxis], contract)[0]
    return {index: float(value) for index, value in enumerate(scores)}


def _form(path: str, field: str, content: bytes) -> bytes:
    part = f'--b\r\nContent-Disposition: form-data; name="{field}"; filename="x"\r\n\r\n'.encode()
    body = part + content + b"\r\n--b--\r\n"
    head = f"Content-Type: multipart/form-data; boundary=b\r\nContent-Length: {len(body)}\r\n"
    return f"POST {path} HTTP/1.1\r\nHost: x\r\n{head}\r\n".encode() + body


async def _http(port: int, requests: list[bytes]) -> Ask:
    """A client with one connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)

    async def ask(number: int) -> bytes:
        writer.write(requests[number])
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        body = await reader.readexactly(int(head.partition(b"\r\ncontent-length:")[2].split(b"\r\n")[0]))
        if not head.startswith(b"http/1.1 200"):
            raise SystemExit(f"{head.decode()}{body.decode(errors='replace')}")
        return body

    return ask


async def _grpc(target: Target, contents: list[bytes], model: str, of_one: list[int]) -> Ask:
    import grpc.aio

    from alexnet_deploy.serving.protocol.messages import METHODS

    request, response = METHODS["ModelInfer"]
    if target.photos:
        given = {"name": "image", "datatype": "BYTES", "shape": of_one}
        requests = [
            request(model_name=model, inputs=[given | {"contents": {"bytes_contents": [content]}}])
            for content in contents
        ]
    else:
        given = {"name": "pixels", "datatype": "UINT8", "shape": [1, *target.shape]}
        requests = [request(model_name=model, inputs=[given], raw_input_contents=[content]) for content in contents]
    serialised = [one.SerializeToString() for one in requests]
    channel = grpc.aio.insecure_channel(f"127.0.0.1:{target.port}")
    call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer", response_deserializer=response.FromString)

    async def ask(number: int) -> Any:
        return await call(serialised[number])

    return ask
