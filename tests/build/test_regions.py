"""Proof of precision where the full TensorRT compiled many nodes as one region of Myelin (a ForeignNode)."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from alexnet_deploy.build import proof
from alexnet_deploy.build.reported_layers import UNKNOWN, layers_from_inspector
from alexnet_deploy.bundle.manifest import UNPROVED, LayerPrecision
from alexnet_deploy.errors import ProofError
from tests.helpers.models.bundles import build_bundle
from tests.helpers.models.plans import TENSORRT_11, full_tensorrt

NODES = [proof.ComputeNode(name, op, "int8", 432) for name, op in (("conv1", "Conv"), ("fc1", "Gemm"), ("fc2", "Gemm"))]
REGION: dict[str, Any] = {
    "Name": "{ForeignNode[conv1...fc2]}",
    "LayerType": "Myelin",
    "Inputs": [{"Name": "pixels", "Dimensions": [8, 8, 8, 3], "Format/Datatype": "Row major linear INT8 format"}],
    "Outputs": [{"Name": "logits", "Dimensions": [8, 10], "Format/Datatype": "Row major linear FP32"}],
    "Metadata": "[ONNX Layer: conv1]\x1e[ONNX Layer: fc1]\x1e[ONNX Layer: fc2]",
}
ALONE: dict[str, Any] = {
    "Name": "fc2",
    "LayerType": "gemm",
    "Inputs": [{"Name": "x", "Dimensions": [8, 64], "Datatype": "Int8"}],
    "Constants": [{"Name": "w", "Dimensions": [64, 10], "Datatype": "Int8"}],
    "Metadata": "[ONNX Layer: fc2]",
}


def achieved(*layers: dict[str, Any]) -> tuple[LayerPrecision, ...]:
    return proof.achieved_precisions(NODES, layers_from_inspector(json.dumps({"Layers": layers})))


@pytest.mark.parametrize(
    "region",
    [
        REGION,
        REGION | {"Metadata": ""},
        {key: value for key, value in REGION.items() if key != "Metadata"},
        REGION | {"Name": "__myl_region_0", "LayerType": "Myelin"},
        REGION | {"LayerType": "ForeignNode"},
    ],
    ids=["named", "empty metadata", "no metadata", "another name", "another type"],
)
def test_nodes_of_a_region_are_unproved_and_do_not_fail(region: dict[str, Any]) -> None:
    found = achieved(region)
    assert [(layer.asked, layer.got) for layer in found] == [("int8", UNPROVED)] * 3
    assert proof.fallbacks(found) == []
    assert proof.unproved_in(found) == list(found)
    note = proof.describe_unproved("sm90.plan", found)
    assert note.startswith("sm90.plan: the precision of 3 layers is not proved: TensorRT compiled them as one region")
    assert "\n" not in note


def test_the_type_of_its_input_is_no_proof_of_what_is_inside() -> None:
    """The region reads int8 pixels; that says nothing about three products."""
    assert "int8" not in {layer.got for layer in achieved(REGION)}


def test_a_node_beside_the_region_is_proved_by_its_own_layer() -> None:
    for region in (REGION, REGION | {"Metadata": ""}):
        found = achieved(region, ALONE)
        assert [layer.got for layer in found] == [UNPROVED, UNPROVED, "int8"]
    wide = ALONE | {"Inputs": [{"Datatype": "Half", "Dimensions": [8, 64]}], "Constants": []}
    assert [layer.node for layer in proof.fallbacks(achieved(REGION, wide))] == ["fc2"]


def test_without_a_region_a_missing_node_is_still_a_fallback() -> None:
    found = achieved(ALONE)
    assert [layer.got for layer in found] == [UNKNOWN, UNKNOWN, "int8"]
    assert len(proof.fallbacks(found)) == 2


def test_the_bundle_is_written_and_says_so(machine: Callable[..., None], tiny_onnx: Path, tmp_path: Path) -> None:
    machine("sm90", full_tensorrt([REGION | {"Metadata": ""}]))
    made = build_bundle(tiny_onnx, tmp_path / "bundle", "fp16", targets=("current",))
    assert {layer.got for layer in made.achieved["sm90.plan"]} == {UNPROVED}
    assert [note for note in made.notes if note.startswith("sm90.plan: the precision of 8 layers is not proved")]
    machine("sm90", full_tensorrt([TENSORRT_11]))
    with pytest.raises(ProofError, match="the builder's report does not name it"):
        build_bundle(tiny_onnx, tmp_path / "other", "fp16", targets=("current",))
