"""The Open Inference Protocol over gRPC, against REST on the same input."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from alexnet_deploy.images.decode import load_pixels
from alexnet_deploy.serving.protocol import messages
from tests.serving.running import Server


def infer(server: Server, model: str = "exact", *, raw: list[bytes] = [], outputs: Any = (), **given: Any) -> Any:  # noqa: B006
    return server.call("ModelInfer", model_name=model, inputs=[given], outputs=outputs, raw_input_contents=raw)


def logits(answer: Any) -> np.ndarray:
    index = [output.name for output in answer.outputs].index("logits")
    return np.frombuffer(answer.raw_output_contents[index], np.float32).reshape(answer.outputs[index].shape)


def test_raw_and_typed_contents_of_both_inputs_are_answered_alike(
    server: Server, workplace: Path, photos: list[Path]
) -> None:
    contents = [(workplace / photo).read_bytes() for photo in photos]
    config = server.call("ModelConfig", name="exact").config
    height, width, _ = config.input[0].dims
    from alexnet_deploy import open_engine

    with open_engine(workplace / "engines/exact", runtime="openvino") as engine:
        pre = engine.contract.preprocessing
        pixels = np.stack([load_pixels(workplace / photo, pre) for photo in photos])
        wanted = engine(pixels)
    assert (height, width) == (pre.height, pre.width)
    raw = b"".join(struct.pack("<I", len(content)) + content for content in contents)
    shape = list(pixels.shape)
    for answer in (
        infer(server, name="image", datatype="BYTES", shape=[6], contents={"bytes_contents": contents}),
        infer(server, name="image", datatype="BYTES", shape=[6], raw=[raw]),
        infer(
            server, name="pixels", datatype="UINT8", shape=shape, contents={"uint_contents": pixels.ravel().tolist()}
        ),
        infer(server, name="pixels", datatype="UINT8", shape=shape, raw=[pixels.tobytes()]),
    ):
        np.testing.assert_array_equal(logits(answer), wanted)  # one batch of one size in one runtime: the same bits
        assert [output.name for output in answer.outputs] == ["logits", "probabilities"]
        assert answer.model_version == server.ask("GET", "/v2/models/exact").json()["versions"][0]


def test_the_classification_extension(server: Server, workplace: Path, photos: list[Path]) -> None:
    wanted = {"name": "probabilities", "parameters": {"classification": {"int64_param": 1}}}
    content = (workplace / photos[0]).read_bytes()
    answer = infer(
        server, name="image", datatype="BYTES", shape=[1], contents={"bytes_contents": [content]}, outputs=[wanted]
    )
    (output,) = answer.outputs
    assert (output.datatype, list(output.shape)) == ("BYTES", [1, 1])
    top = server.ask("POST", "/classify?engine=exact&top_k=1", content).json()[0]["top"][0]
    text = answer.raw_output_contents[0][4:].decode()
    assert text == f"{top['probability']:f}:{top['index']}:{top['label']}"


def test_health_and_metadata(server: Server) -> None:
    assert server.call("ServerLive").live
    assert server.call("ServerReady").ready
    assert server.call("ModelReady", name="exact").ready
    for name in ("ModelReady", "ModelMetadata"):
        with pytest.raises(grpc.RpcError, match=r"NOT_FOUND\s.*exact: version 1 is not served"):
            server.call(name, name="exact", version="1")
    assert server.call("ServerMetadata").name == "alexnet-deploy"
    rest = server.ask("GET", "/v2/models/exact").json()
    meta = server.call("ModelMetadata", name="exact")
    assert [list(given.shape) for given in meta.inputs] == [given["shape"] for given in rest["inputs"]]


PIXELS = {"name": "pixels", "datatype": "UINT8", "shape": [1, 8, 8, 3]}


@pytest.mark.parametrize(
    ("request_", "code", "says"),
    [
        ({"model_name": "../exact"}, "NOT_FOUND", "../exact: no such model"),
        ({"model_name": "exact", "model_version": "1"}, "NOT_FOUND", "version 1 is not served"),
        ({"model_name": "exact"}, "INVALID_ARGUMENT", "the request has not exactly one input; give one: pixels"),
        (
            {"model_name": "exact", "inputs": [{"name": "pixels", "datatype": "UINT8", "shape": [1]}]},
            "INVALID_ARGUMENT",
            "shape [1] is not supported",
        ),
        (
            {"model_name": "exact", "inputs": [{"name": "pixels", "datatype": "FP32", "shape": [1]}]},
            "INVALID_ARGUMENT",
            "datatype FP32",
        ),
        (
            {
                "model_name": "exact",
                "inputs": [PIXELS | {"contents": {"uint_contents": [256] * 192}}],
            },
            "INVALID_ARGUMENT",
            "not within 0..255",
        ),
        (
            {
                "model_name": "exact",
                "inputs": [PIXELS | {"contents": {"fp32_contents": [1]}}],
            },
            "INVALID_ARGUMENT",
            "fp32_contents",
        ),
        (
            {"model_name": "exact", "inputs": [{"name": "image"}], "raw_input_contents": [b"", b""]},
            "INVALID_ARGUMENT",
            "2 raw contents for 1 inputs",
        ),
        (
            {
                "model_name": "exact",
                "inputs": [PIXELS | {"contents": {"uint_contents": [1] * 192}}],
                "raw_input_contents": [bytes(192)],
            },
            "INVALID_ARGUMENT",
            "input pixels: has typed contents as well as raw contents; give one",
        ),
        (
            {
                "model_name": "exact",
                "inputs": [PIXELS | {"contents": {"fp32_contents": [1]}}],
                "raw_input_contents": [bytes(192)],
            },
            "INVALID_ARGUMENT",
            "input pixels: has typed contents as well as raw contents; give one",
        ),
        (
            {
                "model_name": "exact",
                "inputs": [
                    {"name": "image", "datatype": "BYTES", "shape": [1], "contents": {"bytes_contents": [b"none"]}}
                ],
            },
            "INVALID_ARGUMENT",
            "image 0: is not an image",
        ),
    ],
)
def test_what_cannot_be_answered_is_one_line(server: Server, request_: dict[str, Any], code: str, says: str) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        server.call("ModelInfer", **request_)
    assert refused.value.code().name == code
    assert says in refused.value.details()


def test_the_compiled_protocol_is_that_of_its_source(tmp_path: Path) -> None:
    protoc = pytest.importorskip("grpc_tools.protoc", reason="compiling the protocol needs grpcio-tools")
    folder = Path(messages.__file__).parent
    out = tmp_path / "made.binpb"
    sources = [str(folder / name) for name in ("open_inference.proto", "health.proto")]
    assert protoc.main(["", f"-I{folder}", f"--descriptor_set_out={out}", *sources]) == 0
    assert out.read_bytes() == (folder / "protocol.binpb").read_bytes()
