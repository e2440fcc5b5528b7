"""Feature engines over REST and gRPC: the vectors that ``features`` writes of the same photos."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from alexnet_deploy import open_engine
from alexnet_deploy.bundle.manifest import MANIFEST
from alexnet_deploy.files.swap import swap_in
from alexnet_deploy.images.decode import load_pixels
from tests.helpers import chromium
from tests.helpers.command import Command
from tests.helpers.models.bundles import build_bundle
from tests.helpers.models.colour_models import hostile_classifier
from tests.serving.running import PATIENCE_S, Response, Server, serving

LAYERS = {"vector": "flatten", "maps": "features.1"}
WIDTH = 16


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, workplace: Path) -> Path:
    """``vector`` (int8) and ``maps`` end at a layer inside of the network that ``whole`` has."""
    root = tmp_path_factory.mktemp("features")
    onnx = hostile_classifier(root / "colours.onnx", outlier=10.0)  # which int8 does not ruin
    calibration = {"calibration_data": workplace / "photos/train", "calibration_images": 6}
    build_bundle(onnx, root / "vector", "int8", until=LAYERS["vector"], **calibration)
    build_bundle(onnx, root / "maps", until=LAYERS["maps"])
    build_bundle(onnx, root / "whole")
    return root


@pytest.fixture(scope="module")
def featured(store: Path) -> Iterator[Server]:
    with serving(store, "vector", "maps", "whole", "vector@onnxruntime", store=store) as running:
        yield running


@pytest.fixture(scope="module")
def files(photo_folder: Path) -> list[Path]:
    return sorted((photo_folder / "val").rglob("*.jpg"))


def vectors(command: Command, engine: Path, out: Path, *photos: Path, runtime: str = "auto") -> np.ndarray:
    """What ``alexnet-deploy features`` writes of ``photos``."""
    done = command("features", *photos, "--engine", engine, "--runtime", runtime, "-o", out)
    assert done.code == 0, done.err
    with np.load(out) as found:
        return np.array(found["vectors"])


def ask(server: Server, model: str, *contents: bytes, **more: Any) -> Response:
    texts = [base64.b64encode(content).decode() for content in contents]
    image = {"name": "image", "datatype": "BYTES", "shape": [len(contents)], "data": texts}
    return server.infer(model, {"inputs": [image], **more})


def output(response: Response) -> np.ndarray:
    assert response.status == 200, response.body
    (found,) = response.json()["outputs"]
    assert (found["name"], found["datatype"]) == ("features", "FP32")
    return np.array(found["data"], np.float32).reshape(found["shape"])


@pytest.mark.parametrize(("model", "runtime"), [("vector", "auto"), ("vector@onnxruntime", "onnxruntime")])
def test_a_photo_gets_the_vector_that_features_writes(
    featured: Server, store: Path, files: list[Path], command: Command, tmp_path: Path, model: str, runtime: str
) -> None:
    for photo in files[:2]:
        wanted = vectors(command, store / "vector", tmp_path / "v.npz", photo, runtime=runtime)
        # One image in the same runtime: the same bits.
        np.testing.assert_array_equal(output(ask(featured, model, photo.read_bytes())), wanted)


def test_an_onnx_file_that_ends_at_a_layer_is_served_as_well(
    store: Path, files: list[Path], command: Command, tmp_path: Path
) -> None:
    wanted = vectors(command, store / "maps", tmp_path / "v.npz", files[0])
    with serving(store, "maps/model.onnx", store=store) as server:
        np.testing.assert_array_equal(output(ask(server, "model", files[0].read_bytes())), wanted)


@pytest.mark.parametrize("engine", ["vector", "maps"])
def test_all_ways_to_ask_get_the_same_bits(
    featured: Server, store: Path, files: list[Path], command: Command, tmp_path: Path, engine: str
) -> None:
    wanted = vectors(command, store / engine, tmp_path / "v.npz", *files)
    contents = [file.read_bytes() for file in files]
    with open_engine(store / engine, features=True) as opened:
        pre, features = opened.contract.preprocessing, opened.contract.features
    assert features is not None
    assert wanted.shape == (len(files), features.width)
    pixels = np.stack([load_pixels(file, pre) for file in files])
    np.testing.assert_array_equal(output(ask(featured, engine, *contents)), wanted)

    head = json.dumps(
        {
            "inputs": [
                {
                    "name": "pixels",
                    "datatype": "UINT8",
                    "shape": pixels.shape,
                    "parameters": {"binary_data_size": pixels.nbytes},
                }
            ],
            "outputs": [{"name": "features", "parameters": {"binary_data": True}}],
        }
    ).encode()
    length = {"Inference-Header-Content-Length": str(len(head))}
    response = featured.ask("POST", f"/v2/models/{engine}/infer", head + pixels.tobytes(), length)
    assert response.status == 200, response.body
    raw = response.body[int(response.headers["inference-header-content-length"]) :]
    np.testing.assert_array_equal(np.frombuffer(raw, "<f4").reshape(wanted.shape), wanted)

    for given, content in (
        ({"name": "pixels", "datatype": "UINT8", "shape": pixels.shape}, pixels.tobytes()),
        (
            {"name": "image", "datatype": "BYTES", "shape": [len(files)]},
            b"".join(struct.pack("<I", len(each)) + each for each in contents),
        ),
    ):
        answer = featured.call("ModelInfer", model_name=engine, inputs=[given], raw_input_contents=[content])
        assert [(each.name, each.datatype) for each in answer.outputs] == [("features", "FP32")]
        found = np.frombuffer(answer.raw_output_contents[0], "<f4").reshape(answer.outputs[0].shape)
        np.testing.assert_array_equal(found, wanted)


def test_metadata_name_the_output(featured: Server) -> None:
    rest = featured.ask("GET", "/v2/models/vector").json()
    assert rest["outputs"] == [
        {"name": "features", "datatype": "FP32", "shape": [-1, WIDTH]},
        {"name": "error", "datatype": "BYTES", "shape": [-1]},
    ]
    meta = featured.call("ModelMetadata", name="vector")
    assert [(each.name, list(each.shape)) for each in meta.outputs] == [("features", [-1, WIDTH]), ("error", [-1])]
    config = featured.ask("GET", "/v2/models/vector/config").json()
    assert config["output"][0] == {"name": "features", "data_type": "TYPE_FP32", "dims": [WIDTH]}
    rows = {row["name"]: row for row in featured.ask("GET", "/engines").json()}
    assert (rows["vector"]["features"], rows["vector"]["classes"]) == ({"layer": "flatten", "shape": [WIDTH]}, 0)
    assert "features with a cosine of " in rows["vector"]["proof"]
    assert len(rows["maps"]["features"]["shape"]) == 3
    assert (rows["whole"]["features"], rows["whole"]["classes"]) == (None, 3)


def test_a_bad_image_costs_only_its_own_row_where_errors_are_asked_for(featured: Server, files: list[Path]) -> None:
    good = files[0].read_bytes()
    refused = ask(featured, "vector", good, b"no photo")
    assert (refused.status, "image 1: is not an image" in refused.error) == (400, True)
    response = ask(featured, "vector", good, b"no photo", outputs=[{"name": "features"}, {"name": "error"}])
    features, errors = response.json()["outputs"]
    assert features["data"][WIDTH:] == [None] * WIDTH
    assert features["data"][:WIDTH] == output(ask(featured, "vector", good)).ravel().tolist()
    assert [bool(text) for text in errors["data"]] == [False, True]
    none = ask(featured, "vector", b"no photo", outputs=[{"name": "features"}, {"name": "error"}]).json()["outputs"]
    assert none[0]["shape"] == [1, WIDTH]


@pytest.mark.parametrize("name", ["logits", "probabilities", "unknown"])
def test_it_has_no_output_of_a_classifier(featured: Server, files: list[Path], name: str) -> None:
    content = files[0].read_bytes()
    assert f"output {name}: no such output; the model has features, error" in (
        ask(featured, "vector", content, outputs=[{"name": name}]).error
    )
    assert "output features: no such output" in ask(featured, "whole", content, outputs=[{"name": "features"}]).error
    classes = [{"name": "features", "parameters": {"classification": 3}}]
    assert "output features: no classification of 3 classes" in ask(featured, "vector", content, outputs=classes).error
    given = {"name": "image", "datatype": "BYTES", "shape": [1], "contents": {"bytes_contents": [content]}}
    with pytest.raises(grpc.RpcError, match=f"INVALID_ARGUMENT\\s.*output {name}: no such output"):
        featured.call("ModelInfer", model_name="vector", inputs=[given], outputs=[{"name": name}])


@pytest.mark.parametrize("engine", ["", "?engine=maps", "?engine=vector@onnxruntime"])
def test_classify_says_what_to_call(featured: Server, files: list[Path], engine: str) -> None:
    name = engine.partition("=")[2] or "vector"
    refused = featured.ask("PUT", f"/classify/photo.jpg{engine}", files[0].read_bytes())
    layer = LAYERS[name.partition("@")[0]]
    assert (refused.status, refused.error) == (
        400, f"{name}: gives the features of layer {layer} and names no class; call /v2/models/{name}/infer for them"
    )  # fmt: skip
    (row,) = featured.ask("PUT", "/classify/photo.jpg?engine=whole", files[0].read_bytes()).json()
    assert len(row["top"]) == 3


def test_a_request_whose_answer_is_too_large_is_refused_before_it_is_computed(store: Path, files: list[Path]) -> None:
    with open_engine(store / "maps", features=True) as opened:
        row = 4 * opened.contract.outputs
    content = files[0].read_bytes()
    limit = max(2 * row, 4 * len(content))
    most = limit // row
    assert most < 200
    with serving(store, "maps", "--max-body", f"{limit}B", "--max-images", 200, store=store) as server:
        assert output(ask(server, "maps", content)).nbytes == row
        for count in (most, most + 1):
            image = {"name": "image", "datatype": "BYTES", "shape": [count], "data": []}
            error = server.infer("maps", {"inputs": [image]}).error
            assert ("split the request" in error) is (count > most), error
        assert server.metric("batch_images_sum") == 1


def test_the_layer_is_replaced_by_another_and_by_the_whole_network(
    store: Path, files: list[Path], tmp_path: Path
) -> None:
    content = files[0].read_bytes()
    shutil.copytree(store / "whole", tmp_path / "live")
    with serving(tmp_path, "live", "--reload", "50ms", store=tmp_path) as server:
        assert [each["name"] for each in ask(server, "live", content).json()["outputs"]] == ["logits", "probabilities"]
        widths = []
        for name in ("vector", "maps", "whole"):
            shutil.copytree(store / name, tmp_path / f"new-{name}")
            swap_in(tmp_path / f"new-{name}", tmp_path / "live")
            version = hashlib.sha256((store / name / MANIFEST).read_bytes()).hexdigest()[:12]
            server.until(f" by {version}")
            widths.append([each["shape"][1] for each in ask(server, "live", content).json()["outputs"]])
        vector, maps, whole = widths
        assert (vector, whole) == ([WIDTH], [3, 3])
        assert maps > vector
        assert server.metric('reloads_total{model="live",outcome="replaced"}') == 3


def test_the_page_says_what_to_call(
    browser: chromium.Browser, featured: Server, files: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "empty.html").write_text("<!doctype html>")
    browser.open(tmp_path / "empty.html")
    browser.call("Page.navigate", url=f"http://127.0.0.1:{featured.port}/")
    browser.wait(lambda message: message.get("method") == "Page.loadEventFired")
    until(browser, "document.querySelectorAll('#engines input').length === 4")
    line = "It names no class: POST v2/models/vector/infer gives its features."
    text = browser.ask("document.querySelector('#engines').innerText")
    assert "features of layer flatten" in text
    assert line in text
    box = "document.querySelector('#engines input[value={}]')"
    assert browser.ask(box.format("vector") + ".disabled")
    assert browser.ask(box.format("whole") + ".checked")  # the first one that names classes
    document = browser.call("DOM.getDocument")["root"]["nodeId"]
    node = browser.call("DOM.querySelector", nodeId=document, selector="#files")["nodeId"]
    browser.call("DOM.setFileInputFiles", nodeId=node, files=[str(files[0])])
    until(browser, "document.querySelector('#status').textContent === '1 of 1 photos classified'")
    browser.ask(box.format("whole") + ".click()")
    until(browser, "document.querySelector('#status').textContent === 'Choose an engine that names classes.'")
    assert browser.complaints == []


def until(browser: chromium.Browser, expression: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not browser.ask(expression):
        assert time.monotonic() < deadline, (expression, browser.complaints)
