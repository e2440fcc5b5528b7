"""The Open Inference Protocol in JSON and with binary tensors, against ``open_engine`` on the same input."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alexnet_deploy import open_engine
from alexnet_deploy.images.decode import load_pixels
from alexnet_deploy.inference.engine import OpenEngine
from alexnet_deploy.probabilities import softmax
from tests.serving.running import Response, Server

SIDE = 8


@pytest.fixture(scope="module")
def engine(workplace: Path) -> Iterator[OpenEngine]:
    with open_engine(workplace / "engines/exact", runtime="openvino") as opened:
        yield opened


@pytest.fixture(scope="module")
def pixels_NHWC(workplace: Path, photos: list[Path], engine: OpenEngine) -> np.ndarray:
    return np.stack([load_pixels(workplace / photo, engine.contract.preprocessing) for photo in photos])


def tensor(name: str, datatype: str, shape: list[int], data: Any) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape, "data": data}


def values(response: Response, name: str) -> np.ndarray:
    """An output, from JSON or from the bytes behind it."""
    assert response.status == 200, response.body
    length = int(response.headers.get("inference-header-content-length", len(response.body)))
    head, rest = json.loads(response.body[:length]), response.body[length:]
    for output in head["outputs"]:
        size = output.get("parameters", {}).get("binary_data_size")
        if output["name"] == name:
            data = output["data"] if size is None else np.frombuffer(rest[:size], np.float32)
            return np.array(data).reshape(output["shape"])
        rest = rest[size or 0 :]
    raise AssertionError(f"no {name} in {head}")


def binary(inputs: list[dict[str, Any]], raw: bytes, **more: Any) -> tuple[bytes, dict[str, str]]:
    head = json.dumps({"inputs": inputs, **more}).encode()
    return head + raw, {"Inference-Header-Content-Length": str(len(head))}


def test_pixels_as_flat_json_as_nested_json_and_as_bytes_are_the_same(
    server: Server, engine: OpenEngine, pixels_NHWC: np.ndarray
) -> None:
    wanted_NK = engine(pixels_NHWC)
    shape = list(pixels_NHWC.shape)
    for data in (pixels_NHWC.ravel().tolist(), pixels_NHWC.tolist()):
        response = server.infer("exact", {"inputs": [tensor("pixels", "UINT8", shape, data)], "id": "a"})
        # One batch of the same size in the same runtime: the same bits. JSON carries a float32 exactly.
        np.testing.assert_array_equal(values(response, "logits").astype(np.float32), wanted_NK)
        assert response.json()["id"] == "a"
    given = {
        "name": "pixels",
        "datatype": "UINT8",
        "shape": shape,
        "parameters": {"binary_data_size": pixels_NHWC.size},
    }
    body, headers = binary([given], pixels_NHWC.tobytes(), parameters={"binary_data_output": True})
    response = server.ask("POST", "/v2/models/exact/infer", body, headers)
    np.testing.assert_array_equal(values(response, "logits"), wanted_NK)
    probabilities_NK = softmax(wanted_NK, engine.contract.temperature)
    # Rounded to float32 at the end.
    np.testing.assert_allclose(values(response, "probabilities"), probabilities_NK, rtol=1e-6)


def test_encoded_images_as_base64_and_as_bytes_are_those_pixels(
    server: Server, workplace: Path, photos: list[Path], engine: OpenEngine, pixels_NHWC: np.ndarray
) -> None:
    contents = [(workplace / photo).read_bytes() for photo in photos]
    texts = [base64.b64encode(content).decode() for content in contents]
    wanted_NK = engine(pixels_NHWC)
    for shape, data in (([6], texts), ([6, 1], [[text] for text in texts])):
        response = server.infer("exact", {"inputs": [tensor("image", "BYTES", shape, data)]})
        np.testing.assert_array_equal(values(response, "logits").astype(np.float32), wanted_NK)
    raw = b"".join(struct.pack("<I", len(content)) + content for content in contents)
    given = {"name": "image", "datatype": "BYTES", "shape": [6], "parameters": {"binary_data_size": len(raw)}}
    body, headers = binary([given], raw)
    response = server.ask("POST", "/v2/models/exact/infer", body, headers)
    np.testing.assert_array_equal(values(response, "logits").astype(np.float32), wanted_NK)


def test_the_classification_extension_names_the_best_classes(
    server: Server, engine: OpenEngine, pixels_NHWC: np.ndarray
) -> None:
    given = tensor("pixels", "UINT8", list(pixels_NHWC.shape), pixels_NHWC.ravel().tolist())
    outputs = [{"name": "probabilities", "parameters": {"classification": 2}}]
    response = server.infer("exact", {"inputs": [given], "outputs": outputs})
    (output,) = response.json()["outputs"]
    assert output["datatype"] == "BYTES"
    assert output["shape"] == [len(pixels_NHWC), 2]
    logits_NK = engine(pixels_NHWC)
    labels = engine.contract.labels
    for (best, second), logits_K in zip(values(response, "probabilities"), logits_NK, strict=True):
        value, index, label = best.split(":")
        assert int(index) == logits_K.argmax()
        assert label == labels[int(index)]
        assert float(value) >= float(second.split(":")[0])


def test_an_image_that_is_none_refuses_the_request_or_is_its_own_error(
    server: Server, workplace: Path, photos: list[Path]
) -> None:
    good = base64.b64encode((workplace / photos[0]).read_bytes()).decode()
    given = tensor("image", "BYTES", [2], [good, base64.b64encode(b"none").decode()])
    refused = server.infer("exact", {"inputs": [given]})
    assert refused.status == 400
    assert refused.error.startswith("image 1: is not an image")
    names = [{"name": "logits"}, {"name": "error"}, {"name": "probabilities", "parameters": {"classification": 1}}]
    answer = server.infer("exact", {"inputs": [given], "outputs": names})
    logits, errors, classes = (output["data"] for output in answer.json()["outputs"])
    assert errors[0] == ""
    assert errors[1].startswith("image 1: is not an image")
    assert None not in logits[:3]
    assert logits[3:] == [None] * 3
    assert classes[0]
    assert classes[1] == ""


PIXELS = tensor("pixels", "UINT8", [1, SIDE, SIDE, 3], [0] * (3 * SIDE * SIDE))


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        ({}, "has not exactly one input"),
        ({"inputs": []}, "has not exactly one input"),
        ({"inputs": [PIXELS, PIXELS]}, "has not exactly one input"),
        ({"inputs": [PIXELS | {"name": "image0"}]}, "input image0: no such input"),
        ({"inputs": [PIXELS | {"datatype": "FP32"}]}, "datatype FP32 is not supported"),
        ({"inputs": [PIXELS | {"shape": [1, 3, SIDE, SIDE]}]}, "shape [1, 3,"),
        ({"inputs": [PIXELS | {"shape": [2, SIDE, SIDE, 3]}]}, "192 values for shape"),
        ({"inputs": [PIXELS | {"shape": [-1, SIDE, SIDE, 3]}]}, "below 0"),
        ({"inputs": [PIXELS | {"shape": [0, SIDE, SIDE, 3], "data": []}]}, "no image"),
        ({"inputs": [PIXELS | {"data": [256] + [0] * 191}]}, "its data are not valid"),
        ({"inputs": [PIXELS | {"data": [-1] + [0] * 191}]}, "its data are not valid"),
        ({"inputs": [PIXELS | {"data": [0.5] + [0] * 191}]}, "its data are not valid"),
        ({"inputs": [PIXELS | {"data": [True] + [0] * 191}]}, "its data are not valid"),
        ({"inputs": [PIXELS | {"data": [float("nan")] + [0] * 191}]}, "not valid"),
        ({"inputs": [PIXELS | {"data": "abc"}]}, "its data are not valid"),
        ({"inputs": [PIXELS | {"data": None}]}, "not valid"),
        (
            {"inputs": [{name: PIXELS[name] for name in ("name", "datatype", "shape")}]},
            "neither data nor binary_data_size",
        ),
        ({"inputs": [PIXELS | {"parameters": {"binary_data_size": 5}}]}, "binary_data_size 5"),
        ({"inputs": [tensor("image", "BYTES", [0], [])]}, "no image"),
        ({"inputs": [tensor("image", "BYTES", [1], ["!"])]}, "base64"),
        ({"inputs": [tensor("image", "BYTES", [2], ["aGk="])]}, "1 values for shape [2]"),
        ({"inputs": [tensor("image", "UINT8", [1], [1])]}, "datatype UINT8 is not supported"),
        ({"inputs": [PIXELS], "outputs": [{"name": "softmax"}]}, "output softmax: no such output"),
        ({"inputs": [PIXELS], "outputs": [{"name": "logits"}] * 3}, "3 outputs with 1 names"),
        ({"inputs": [PIXELS], "outputs": [{"name": "logits", "parameters": {"classification": -1}}]}, "-1 classes"),
        ({"inputs": [PIXELS], "outputs": [{"name": "logits", "parameters": {"classification": "2"}}]}, "no number"),
    ],
)
def test_what_the_model_does_not_take_is_one_line(server: Server, request_: object, says: str) -> None:
    answer = server.infer("exact", request_)
    assert answer.status == 400, answer
    assert says in answer.error


BINARY = '{"inputs": [{"name": "image", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": 1}}]}'


@pytest.mark.parametrize(
    ("body", "headers", "says"),
    [
        (b"", {}, "not valid"),
        (b"\xff\xfe", {}, "not valid"),
        (b"[" * 100_000, {}, "not valid"),
        (b"{}", {"Inference-Header-Content-Length": "3"}, "is no number of bytes"),
        (b"{}", {"Inference-Header-Content-Length": "-1"}, "is no number of bytes"),
        (b"{}", {"Inference-Header-Content-Length": "9" * 300}, "is no number of bytes"),
        (b"{}", {"Inference-Header-Content-Length": "0" * 5000 + "2"}, "is no number of bytes"),
        (b"{}", {"Inference-Header-Content-Length": "0" * 20 + "3"}, "is no number of bytes"),
        (BINARY.encode() + b"a", {"Inference-Header-Content-Length": "0"}, "or leave the header out"),
        (BINARY.encode() + b"axyz", {"Inference-Header-Content-Length": str(len(BINARY))}, "3 bytes after the JSON"),
    ],
)
def test_bytes_that_are_no_request_are_one_line(
    server: Server, body: bytes, headers: dict[str, str], says: str
) -> None:
    answer = server.ask("POST", "/v2/models/exact/infer", body, headers)
    assert answer.status == 400, answer
    assert says in answer.error


@pytest.mark.parametrize(
    "raw", [b"\1\0", b"\5\0\0\0abc", b"\xff\xff\xff\xff", b"\1\0\0\0a\1\0\0\0b"], ids=["length", "value", "huge", "two"]
)
def test_bytes_that_are_no_encoded_images_are_one_line(server: Server, raw: bytes) -> None:
    given = {"name": "image", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": len(raw)}}
    body, headers = binary([given], raw)
    answer = server.ask("POST", "/v2/models/exact/infer", body, headers)
    assert answer.status == 400
    assert answer.error.startswith("input image: ")


def test_metadata_config_and_health(server: Server) -> None:
    assert server.ask("GET", "/v2/health/live").status == 200
    assert server.ask("GET", "/v2/health/ready").status == 200
    assert server.ask("GET", "/v2").json()["extensions"] == [
        "classification",
        "binary_tensor_data",
        "model_configuration",
        "statistics",
    ]
    for name in ("exact", "exact%40onnxruntime", "ruined"):
        meta = server.ask("GET", f"/v2/models/{name}").json()
        (version,) = meta["versions"]
        assert [given["name"] for given in meta["inputs"]] == ["pixels", "image"]
        assert meta["inputs"][0]["shape"][0] == -1
        for path in (name, f"{name}/versions/{version}"):
            assert server.ask("GET", f"/v2/models/{path}/ready").status == 200
            assert server.ask("GET", f"/v2/models/{path}/config").json()["max_batch_size"] == 8
        unknown = server.ask("GET", f"/v2/models/{name}/versions/1")
        assert unknown.status == 404
        assert server.ask("GET", f"/v2/models/{name}/versions/1/ready")[::2] == unknown[::2]  # status and text


@pytest.mark.parametrize(
    "name", ["none", "../exact", "..%2fexact", "%2fetc%2fpasswd", "a%00b", "%ff", "exact/../exact"]
)
def test_a_model_that_is_not_served_is_not_found(server: Server, name: str) -> None:
    for answer in (server.ask("GET", f"/v2/models/{name}"), server.infer(name, {"inputs": [PIXELS]})):
        assert answer.status == 404, answer
        assert answer.error
