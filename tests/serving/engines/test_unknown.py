"""Unknown answers over REST, the Open Inference Protocol and gRPC: those that ``infer`` marks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from alexnet_deploy import open_engine
from alexnet_deploy.bundle.manifest import MODEL, load_manifest, save_manifest
from alexnet_deploy.calibration import Calibration, Rejection
from alexnet_deploy.onnx_graph.onnx_file import load_onnx, save_onnx, set_contract
from tests.serving.running import Server, serving


@pytest.fixture(scope="module")
def marked(workplace: Path, photos: list[Path]) -> Iterator[tuple[Server, list[bool], list[list[float]]]]:
    """A server of ``exact`` with a rule between its answers, what ``infer`` says of them, and its probabilities."""
    bundle = workplace / "engines/exact"
    kept = {path.name: path.read_bytes() for path in bundle.iterdir()}
    manifest = load_manifest(bundle)[0]
    with open_engine(bundle, runtime="openvino") as engine:
        tops = sorted(row.top[0].probability for row in engine.predict([workplace / photo for photo in photos]))
    calibration = Calibration(top=((0.0, 0.2), (tops[2], 0.5), (1.0, 0.95)))
    rule = Rejection("max-probability", 0.6)
    contract = replace(manifest.contract, calibration=calibration, rejection=rule)
    model = load_onnx(bundle / MODEL)
    set_contract(model, contract)
    save_onnx(model, bundle / MODEL)
    save_manifest(replace(manifest, contract=contract), bundle)
    try:
        with open_engine(bundle, runtime="openvino") as engine:
            rows = list(engine.predict([workplace / photo for photo in photos]))
            values = [row.values for row in engine.predict([workplace / p for p in photos], outputs="probabilities")]
        with serving(workplace, "exact") as running:
            yield running, [bool(row.unknown) for row in rows], [list(value or ()) for value in values]
    finally:
        for name, data in kept.items():
            (bundle / name).write_bytes(data)


Marked = tuple[Server, list[bool], list[list[float]]]


def test_classify_marks_what_infer_marks(marked: Marked, workplace: Path, photos: list[Path]) -> None:
    server, marks, _ = marked
    assert set(marks) == {True, False}  # else nothing is tested
    for photo, mark in zip(photos, marks, strict=True):
        (row,) = server.ask("POST", "/classify", (workplace / photo).read_bytes()).json()
        assert row["unknown"] is mark
        assert row["top"]  # the ranking stays
    (broken,) = server.ask("POST", "/classify", b"no photo").json()
    assert (broken["unknown"], bool(broken["error"])) == (None, True)
    (facts,) = server.ask("GET", "/engines").json()
    assert (facts["calibrated"], facts["rejection"]) == (True, "unknown where max probability is below 0.6")


@pytest.mark.parametrize("binary", [False, True])
def test_the_protocol_has_an_output_for_it(marked: Marked, workplace: Path, photos: list[Path], binary: bool) -> None:
    server, marks, values = marked
    model = server.ask("GET", "/v2/models/exact").json()
    assert {"name": "unknown", "datatype": "BOOL", "shape": [-1]} in model["outputs"]
    config = server.ask("GET", "/v2/models/exact/config").json()
    assert "TYPE_BOOL" in json.dumps(config)
    contents = [(workplace / photo).read_bytes() for photo in photos]
    raw = b"".join(len(each).to_bytes(4, "little") + each for each in contents)
    request = {
        "inputs": [
            {"name": "image", "datatype": "BYTES", "shape": [len(photos)], "parameters": {"binary_data_size": len(raw)}}
        ],
        "outputs": [{"name": name, "parameters": {"binary_data": binary}} for name in ("unknown", "probabilities")],
    }
    head = json.dumps(request).encode()
    length = {"Inference-Header-Content-Length": str(len(head))}
    response = server.ask("POST", "/v2/models/exact/infer", head + raw, length)
    assert response.status == 200, response.body
    size = int(response.headers.get("inference-header-content-length", len(response.body)))
    unknown, probabilities = json.loads(response.body[:size])["outputs"]
    if binary:
        found = np.frombuffer(response.body[size : size + len(photos)], "?").tolist()
        p_NK = np.frombuffer(response.body[size + len(photos) :], np.float32)
    else:
        found, p_NK = unknown["data"], np.array(probabilities["data"])
    assert (unknown["datatype"], unknown["shape"], found) == ("BOOL", [len(photos)], marks)
    assert p_NK.reshape(probabilities["shape"]) == pytest.approx(np.array(values), abs=1e-6)


def test_grpc_has_it_as_well(marked: Marked, workplace: Path, photos: list[Path]) -> None:
    server, marks, _ = marked
    contents = [(workplace / photo).read_bytes() for photo in photos] + [b"no photo"]
    answer = server.call(
        "ModelInfer",
        model_name="exact",
        inputs=[{"name": "image", "datatype": "BYTES", "shape": [7], "contents": {"bytes_contents": contents}}],
        outputs=[{"name": "unknown"}, {"name": "error"}],
    )
    assert [output.datatype for output in answer.outputs] == ["BOOL", "BYTES"]
    # Beside an error there is no answer to trust.
    assert np.frombuffer(answer.raw_output_contents[0], "?").tolist() == [*marks, True]


def test_without_a_rule_there_is_no_such_output(server: Server, workplace: Path, photos: list[Path]) -> None:
    model = server.ask("GET", "/v2/models/ruined").json()
    assert [output["name"] for output in model["outputs"]] == ["logits", "probabilities", "error"]
    (row,) = server.ask("POST", "/classify?engine=ruined", (workplace / photos[0]).read_bytes()).json()
    assert row["unknown"] is None
