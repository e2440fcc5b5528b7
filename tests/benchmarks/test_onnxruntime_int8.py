"""The models of the ONNX Runtime benchmark, its rows and its notes, on a tiny engine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import onnx
import pytest

from alexnet_deploy.bundle.manifest import Engine
from alexnet_deploy.bundle.store import resolve_engine
from benchmarks import onnxruntime_int8
from benchmarks.onnxruntime_int8 import PEER, QUANTISED


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_onnx: Path, photo_folder: Path) -> Iterator[dict[str, Engine]]:
    folder = tmp_path_factory.mktemp("models")
    with pytest.MonkeyPatch.context() as patch, resolve_engine(str(tiny_onnx), folder) as engine:
        patch.setattr(onnxruntime_int8, "CALIBRATION_IMAGES", 6)
        yield onnxruntime_int8.make(engine, photo_folder / "train", folder)


def test_every_model_is_measured_beside_float32_and_int8_beside_the_peer(made: dict[str, Engine]) -> None:
    rows = onnxruntime_int8.speeds(made, 2, 1, 0.01)
    compared = [(row.case, row.peer) for row in rows]
    assert compared == [*((f"{name}, batch 2", "fp32") for name in (*QUANTISED, "fp16")), ("int8, batch 2", PEER)]
    assert min(rate for row in rows for rate in (*row.ours, *row.theirs)) > 0


def test_the_peer_is_quantised_by_its_own_tool(made: dict[str, Engine]) -> None:
    graph = onnx.load(made[PEER].onnx_path).graph
    dims = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    weights = [node for node in graph.node if node.op_type == "DequantizeLinear" and node.input[0] in dims]
    assert any(len(dims[node.input[1]]) == 1 for node in weights)  # per channel


def test_accuracy_is_noted_for_each_model(made: dict[str, Engine], photo_folder: Path) -> None:
    notes = onnxruntime_int8.accuracies(made, photo_folder / "val")
    assert [note.partition(": ")[0] for note in notes] == [*made, "int8, node by node as the ONNX says"]
    assert notes[0].endswith("of 6 images, +0.00 points")
