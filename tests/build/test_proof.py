"""The precision of every layer, read from the builder's report of real builds and from canned reports."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import onnx
import pytest

from alexnet_deploy.build import proof, reported_layers
from alexnet_deploy.bundle.manifest import LayerPrecision
from alexnet_deploy.errors import ProofError, UsageError
from alexnet_deploy.precision.convert import to_quantized
from alexnet_deploy.precision.types import QuantizedType
from tests.helpers.models.onnx_models import PRECISIONS, Graph, tiny_classifier
from tests.helpers.models.plans import TENSORRT_11, asked_and_got, built, files_in

pytestmark = pytest.mark.usefixtures("machine")

TENSORRT_10 = {
    "Name": "conv1 + relu1",
    "LayerType": "CaskConvolution",
    "Inputs": [
        {
            "Name": "x",
            "Dimensions": [8, 3, 8, 8],
            "Format/Datatype": "Thirty-two wide channel vectorized row major Int8 format",
        }
    ],
    "Outputs": [{"Name": "y", "Dimensions": [8, 16, 8, 8], "Format/Datatype": "Row major linear FP32"}],
    "ParameterType": "Convolution",
    "Weights": {"Type": "Int8", "Count": 432},
    "Bias": {"Type": "Float", "Count": 16},
    "Metadata": "[ONNX Layer: conv1]\x1f[ONNX Layer: relu1 | block (function)]",
}
"""A layer in the form of TensorRT 10's inspector."""


@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_layer_gets_what_the_onnx_asks(precision: str, tmp_path: Path) -> None:
    (made,) = built(tiny_classifier(tmp_path / "m.onnx", precision), "sm89").plans
    asked = precision.partition("+")[0]
    assert asked_and_got(made.achieved) == [("Conv", asked, asked)] * 3 + [("Gemm", asked, asked)] * 2
    assert not proof.fallbacks(made.achieved)
    assert len({layer.engine_layer for layer in made.achieved}) == 5


def test_names_that_hold_the_marks_of_the_report(tmp_path: Path) -> None:
    model = onnx.load(tiny_classifier(tmp_path / "m.onnx"))
    names = ("features[0]/Conv", "blocks[0][1]", "a] [b", "head | last/Gemm", "c | d | e")
    layers = [node for node in model.graph.node if node.op_type in ("Conv", "Gemm")]
    for node, name in zip(layers, names, strict=True):
        node.name = name
    onnx.save(model, tmp_path / "m.onnx")
    (made,) = built(tmp_path / "m.onnx", "sm89").plans
    assert [(layer.node, layer.got) for layer in made.achieved] == [(name, "fp32") for name in names]


@pytest.mark.parametrize("behind", ["", "__gemm_from_conv1x1", " | block (function)]", "]\x1f[ONNX Layer: b"])
def test_what_stands_behind_a_name_does_not_hide_it(behind: str) -> None:
    raw = TENSORRT_11 | {"Metadata": f"[ONNX Layer: a[0]{behind}" if "|" in behind else f"[ONNX Layer: a[0]]{behind}]"}
    (layer,) = reported_layers.layers_from_inspector(json.dumps({"Layers": [raw]}))
    assert "a[0]" in layer.nodes


def test_fp8_has_no_kernel_for_the_first_convolution_of_alexnet(tmp_path: Path) -> None:
    g = Graph()
    x = g.node("Conv", g.quantised("pixels", "fp8"), g.quantised(g.weight(64, 3, 11, 11), "fp8"), strides=[4, 4])
    x = g.node("Conv", g.quantised(x, "fp8"), g.quantised(g.weight(32, 64, 3, 3), "fp8"))
    path = g.save(g.node("Flatten", x), tmp_path / "m.onnx", ["N", 3, 48, 48])
    (made,) = built(path, "sm89").plans
    assert asked_and_got(made.achieved) == [("Conv", "fp8", "fp32"), ("Conv", "fp8", "fp8")]
    (layer,) = proof.fallbacks(made.achieved)
    assert proof.describe_fallback(layer) == (
        f"{layer.node} (Conv) requested fp8, achieved fp32: "
        "TensorRT has no fp8 kernel for this Conv and converts its operands to fp32 first"
    )


def test_turing_computes_int8_convolutions_in_fp16(tmp_path: Path) -> None:
    (made,) = built(tiny_classifier(tmp_path / "m.onnx", "int8+fp16"), "sm75").plans
    assert asked_and_got(made.achieved) == [("Conv", "int8", "fp16")] * 3 + [("Gemm", "int8", "int8")] * 2


def test_a_residual_in_float_does_not_hide_an_int8_product(tmp_path: Path) -> None:
    g = Graph()
    shortcut = g.quantised(g.node("Relu", "pixels"))
    x = g.node("Conv", g.quantised(g.node("Relu", shortcut)), g.quantised(g.weight(32, 32, 1, 1)), g.weight(32))
    path = g.save(g.node("Flatten", g.node("Relu", g.node("Add", x, shortcut))), tmp_path / "m.onnx", ["N", 32, 8, 8])
    (made,) = built(path, "sm89").plans
    assert asked_and_got(made.achieved) == [("Conv", "int8", "int8")]


def test_forms_of_quantisation_that_are_not_int8_products(tmp_path: Path) -> None:
    g = Graph()
    x = g.node("MatMul", "pixels", g.quantised(g.weight(64, 64)), name="weights-only")
    x = g.node("MatMul", g.quantised(x), g.weight(64, 64), name="activations-only")
    x = g.node("MatMul", g.quantised(x), g.node("Transpose", g.quantised(g.weight(48, 64)), perm=[1, 0]), name="both")
    x = g.node(
        "Reshape", x, g.constant(onnx.numpy_helper.to_array(onnx.helper.make_tensor("s", 7, [4], [-1, 3, 4, 4])))
    )
    x = g.node("ConvTranspose", g.quantised(x), g.quantised(g.weight(3, 16, 2, 2)), strides=[2, 2], name="")
    (made,) = built(g.save(g.node("Flatten", x), tmp_path / "m.onnx", ["N", 64]), "sm89").plans
    assert [(layer.node, layer.asked, layer.got) for layer in made.achieved] == [
        ("weights-only", "fp32", "fp32"),
        ("activations-only", "fp32", "fp32"),
        ("both", "int8", "int8"),
        ("node_of_convtranspose_17_out", "int8", "fp32"),
    ]


def test_operands_that_are_both_computed(tmp_path: Path) -> None:
    g = Graph()
    turned = g.node("Transpose", "pixels", perm=[0, 2, 1])
    x = g.node("MatMul", g.quantised("pixels"), g.quantised(turned))
    x = g.node("MatMul", g.node("Softmax", x), "pixels")
    (made,) = built(g.save(g.node("Flatten", x), tmp_path / "m.onnx", ["N", 16, 64]), "sm89").plans
    assert asked_and_got(made.achieved) == [("MatMul", "int8", "int8"), ("MatMul", "fp32", "fp32")]


def test_a_weight_that_reaches_the_product_as_float_counts_as_float() -> None:
    converted = reported_layers.EngineLayer("fc", "gemm", frozenset({"fc"}), ("fp8", "fp32"), (("fp8", 1),))
    achieved = proof.achieved_precisions([proof.ComputeNode("fc", "Gemm", "fp8", 640)], [converted])
    assert asked_and_got(achieved) == [("Gemm", "fp8", "fp32")]


def test_a_node_that_the_report_does_not_name() -> None:
    (layer,) = proof.achieved_precisions([proof.ComputeNode("conv", "Conv", "int8", 27)], [])
    assert layer == LayerPrecision("conv", "Conv", "int8", "unknown", "")
    assert "the builder's report does not name it" in proof.describe_fallback(layer)


def test_no_report_is_no_proof(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    genuine = reported_layers.layers_from_log
    monkeypatch.setattr(reported_layers, "layers_from_log", lambda report: genuine("Layers:\nof another form"))
    with pytest.raises(ProofError, match="does not report its layers"):
        built(tiny_classifier(tmp_path / "m.onnx"), "sm89")
    assert files_in(tmp_path / "plans") == set()


@pytest.mark.parametrize(
    ("allowed", "left"),
    [([], 2), (["/c.0/Conv"], 1), (["/c.0/.*"], 1), (["c.0"], 2), ([".*"], 0), (["/c.0/Conv", "fc(1)"], 0)],
)
def test_a_fallback_is_allowed_by_name_or_pattern(allowed: list[str], left: int) -> None:
    layers = [
        LayerPrecision("/c.0/Conv", "Conv", "int8", "fp16", "a"),
        LayerPrecision("fc(1)", "Gemm", "int8", "fp16", "b"),
        LayerPrecision("fine", "Gemm", "int8", "int8", "c"),
    ]
    assert len(proof.fallbacks(layers, allowed)) == left


def test_a_bad_pattern() -> None:
    with pytest.raises(UsageError, match=r"`allow_fallback` conv\[: is not a regular expression"):
        proof.fallbacks([], ["conv["])


@pytest.mark.parametrize("allowed", ["nix", "Gem"])
def test_an_allowed_fallback_of_no_node_is_refused(allowed: str, tmp_path: Path) -> None:
    g = Graph()
    path = g.save(g.node("Gemm", "pixels", g.weight(3, 5)), tmp_path / "m.onnx", ["N", 3])
    (node,) = proof.compute_nodes(onnx.load(path))
    proof.require_nodes([node.name, ".*"], path)
    with pytest.raises(UsageError, match=f"`allow_fallback` {allowed}: matches no node .* names like {node.name}$"):
        proof.require_nodes([".*", allowed], path)


def test_the_inspectors_json() -> None:
    layers = reported_layers.layers_from_inspector(json.dumps({"Layers": [TENSORRT_10, TENSORRT_11, "a name alone"]}))
    assert layers == [
        reported_layers.EngineLayer(
            "conv1 + relu1",
            "CaskConvolution",
            frozenset({"conv1", "relu1", "relu1 | block (function)"}),
            ("int8",),
            (("int8", 432),),
        ),
        reported_layers.EngineLayer(
            "__myl_FcAdd_myl0_3", "kgen", frozenset({"fc"}), ("fp16",), (("fp16", 10), ("fp16", 640))
        ),
    ]
    asked = [proof.ComputeNode("conv1", "Conv", "int8", 432), proof.ComputeNode("fc", "Gemm", "fp16", 640)]
    assert asked_and_got(proof.achieved_precisions(asked, layers)) == [
        ("Conv", "int8", "int8"),
        ("Gemm", "fp16", "fp16"),
    ]


class TestWeightsAlone:
    @pytest.mark.parametrize("precision", ["int4", "int8-weights"])
    def test_each_weight_is_in_the_plan_as_it_is_in_the_onnx(self, precision: QuantizedType, tmp_path: Path) -> None:
        """Convolutions, blocks that are padded, and outputs of an odd number, which the builder pads."""
        g = Graph()
        x = g.node("Relu", g.node("Conv", "pixels", g.weight(8, 3, 3, 3), g.weight(8)))
        x = g.node("Gemm", g.node("Flatten", x), g.weight(30, 288), g.weight(30), transB=1)
        x = g.node("MatMul", g.node("Relu", x), g.weight(30, 5))
        path = g.save(x, tmp_path / "m.onnx", ["N", 3, 8, 8])
        to_quantized(path, tmp_path / "typed.onnx", precision=precision, batches=None)
        (made,) = built(tmp_path / "typed.onnx", "sm89").plans
        dense = ["MatMul", "MatMul"] if precision == "int4" else ["Gemm", "MatMul"]
        first = "fp16" if precision == "int4" else precision
        asked = [("Conv", first, first), *((op, precision, precision) for op in dense)]
        assert asked_and_got(made.achieved) == asked
        assert not proof.fallbacks(made.achieved)

    @pytest.mark.parametrize(
        ("kind", "count", "product", "got"),
        [
            ("int4", 640, "fp16", "int4"),
            ("int4", 768, "fp16", "int4"),  # padded
            ("int4", 639, "fp16", "fp16"),
            ("fp16", 640, "fp16", "fp16"),
            ("int8", 640, "fp16", "fp16"),
            ("int4", 640, "fp32", "fp32"),
        ],
    )
    def test_what_the_plan_must_hold(self, kind: str, count: int, product: str, got: str) -> None:
        node = proof.ComputeNode("fc", "MatMul", "int4", 640, "dq")
        layers = [
            reported_layers.EngineLayer("a", "kgen", frozenset({"dq"}), (), ((kind, count), ("fp16", 10))),
            reported_layers.EngineLayer("b", "gemm", frozenset({"fc"}), (product, "fp16"), (("fp16", 10),)),
        ]
        (layer,) = proof.achieved_precisions([node], layers)
        assert (layer.asked, layer.got, layer.engine_layer) == ("int4", got, "b")
        if got != "int4":
            assert "the plan does not hold its weight in int4, or its product" in proof.describe_fallback(layer)

    def test_fused_with_the_product(self) -> None:
        layer = reported_layers.EngineLayer(
            "a", "gemm", frozenset({"dq", "fc"}), ("fp16",), (("int4", 640), ("fp16", 20))
        )
        node = proof.ComputeNode("fc", "MatMul", "int4", 640, "dq")
        assert asked_and_got(proof.achieved_precisions([node], [layer])) == [("MatMul", "int4", "int4")]
        wide = replace(layer, inputs=("fp32",))
        assert asked_and_got(proof.achieved_precisions([node], [wide])) == [("MatMul", "int4", "fp32")]
