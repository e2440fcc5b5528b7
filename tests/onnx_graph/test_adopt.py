"""A foreign classifier answers pixels as it answers floats that were normalised by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from alexnet_deploy.bundle.manifest import Engine
from alexnet_deploy.contract import ModelContract, Preprocessing
from alexnet_deploy.onnx_graph.adopt import adopt
from alexnet_deploy.onnx_graph.import_options import ImportOptions
from alexnet_deploy.onnx_graph.onnx_file import IR_VERSION, OPSET, contract_in, fixed_batch, initializers, load_onnx
from alexnet_deploy.runtime.select import open_runner
from tests.helpers.foreign_models import (
    CLASSES,
    FOREIGN,
    LIGHT,
    MEAN,
    SIDE,
    STD,
    Head,
    W,
    affine,
    foreign_classifier,
    graph_of,
    random_pixels,
    scores_by_hand,
    with_random_weights,
)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "adopted.onnx"


def answers(path: Path, contract: ModelContract, pixels_NHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
    opened = open_runner(Engine("x", path, contract, "fp32", None), "onnxruntime", threads=1)
    return opened.runner(pixels_NHWC)


def softmax(logits_NK: NDArray[np.float32]) -> NDArray[np.float64]:
    powers_NK = np.exp(logits_NK - logits_NK.max(axis=1, keepdims=True).astype(np.float64))
    return np.asarray(powers_NK / powers_NK.sum(axis=1, keepdims=True))


def assert_same(actual_NK: NDArray[Any], expected_NK: NDArray[Any]) -> None:
    # The normalisation is (x - 255 mean) * (1 / (255 std)) in float32 here and (x / 255 - mean) / std in float64
    # there; with a handful of layers that stays within some 100 units in the last place of the largest value.
    np.testing.assert_allclose(actual_NK, expected_NK, rtol=0, atol=1e-5 * max(1.0, np.abs(expected_NK).max()))
    assert np.ptp(expected_NK, axis=0).max() > 1e-3, "the images must matter, or this proves nothing"


def operators(path: Path) -> list[str]:
    return [node.op_type for node in load_onnx(path).graph.node]


def check_parity(
    source: Path, out: Path, *, side: int = SIDE, softmaxed: bool = False, channels_last: bool = False
) -> NDArray[np.float32]:
    """Adopt ``source`` and compare its logits (``softmaxed``: its probabilities) with the scores by hand."""
    contract = adopt(source, out, FOREIGN)
    pixels_NHWC = random_pixels(2, side)
    logits_NK = answers(out, contract, pixels_NHWC)
    expected_NK = scores_by_hand(source, pixels_NHWC, channels_last=channels_last)
    assert_same(softmax(logits_NK) if softmaxed else logits_NK, expected_NK)
    return logits_NK


class TestParity:
    @pytest.mark.parametrize("opset", range(9, 23))
    def test_every_opset(self, opset: int, tmp_path: Path, out: Path) -> None:
        check_parity(foreign_classifier(tmp_path / "net.onnx", opset=opset), out)

    @pytest.mark.parametrize("opset", [9, 12, 13, 22])
    @pytest.mark.parametrize("head", ["gemm", "matmul", "convolution"])
    def test_a_softmax_is_removed_whatever_the_head(self, opset: int, head: Head, tmp_path: Path, out: Path) -> None:
        """Before opset 13 a softmax flattens by itself: the converter puts nodes around it."""
        source = foreign_classifier(tmp_path / "net.onnx", opset=opset, head=head, softmax=True)
        logits_NK = check_parity(source, out, softmaxed=True)
        assert "Softmax" not in operators(out)
        assert logits_NK.shape == (2, CLASSES)
        assert np.abs(logits_NK).max() > 1, "logits, not probabilities"

    @pytest.mark.parametrize("head", ["matmul", "convolution"])
    def test_other_heads(self, head: Head, tmp_path: Path, out: Path) -> None:
        check_parity(foreign_classifier(tmp_path / "net.onnx", head=head), out)

    @pytest.mark.parametrize("count", [1, 3])
    def test_a_free_batch_over_a_reshape_to_one_image(self, count: int, tmp_path: Path, out: Path) -> None:
        """Exporters call a batch free that their own trace has fixed."""
        nodes = affine()
        nodes[0] = helper.make_node("Reshape", ["x", "one"], ["flat"])
        source = graph_of(tmp_path / "net.onnx", nodes, W | {"one": np.array([1, 48])})
        contract = adopt(source, out, FOREIGN)
        assert fixed_batch(load_onnx(out)) == 1
        pixels_NHWC = random_pixels(count, 4)
        expected_NK = np.concatenate([scores_by_hand(source, image_NHWC[None]) for image_NHWC in pixels_NHWC])
        # One dense layer of 48 float32 products, summed in another order.
        np.testing.assert_allclose(answers(out, contract, pixels_NHWC), expected_NK, rtol=1e-4)

    def test_channels_last(self, tmp_path: Path, out: Path) -> None:
        check_parity(foreign_classifier(tmp_path / "net.onnx", channels_last=True), out, channels_last=True)

    @pytest.mark.parametrize("opset", [9, 21])
    def test_a_static_batch_stays_one(self, opset: int, tmp_path: Path, out: Path) -> None:
        source = foreign_classifier(tmp_path / "net.onnx", opset=opset, batch=2, softmax=opset == 9)
        check_parity(source, out, softmaxed=opset == 9)
        model = load_onnx(out)
        shapes = [value.type.tensor_type.shape.dim[0].dim_value for value in (*model.graph.input, *model.graph.output)]
        assert shapes == [2, 2]

    @pytest.mark.parametrize("name", ["squeezenet", "shufflenet"])
    def test_published_networks(self, name: str, tmp_path: Path, out: Path) -> None:
        source = with_random_weights(LIGHT / f"light_{name}.onnx", tmp_path / "net.onnx")
        contract = adopt(source, out, ImportOptions(MEAN, STD, Path("imagenet1k")))
        assert contract.labels[0] == "tench"
        pixels_NHWC = random_pixels(1, 224)
        expected_NK = scores_by_hand(source, pixels_NHWC)
        assert expected_NK.max() > 0.01, "not all classes alike"
        # Some 50 layers of float32 sums, taken in another order.
        np.testing.assert_allclose(softmax(answers(out, contract, pixels_NHWC)), expected_NK, rtol=1e-3)


class TestForm:
    def test_pixels_in_logits_out_contract_inside(self, tmp_path: Path, out: Path) -> None:
        contract = adopt(foreign_classifier(tmp_path / "net.onnx", opset=11, softmax=True), out, FOREIGN)
        model = load_onnx(out)
        ((pixels,), (logits,)) = model.graph.input, model.graph.output
        assert (pixels.name, pixels.type.tensor_type.elem_type) == ("pixels", TensorProto.UINT8)
        assert [d.dim_value or d.dim_param for d in pixels.type.tensor_type.shape.dim] == ["N", SIDE, SIDE, 3]
        assert (logits.name, logits.type.tensor_type.elem_type) == ("logits", TensorProto.FLOAT)
        assert [d.dim_value or d.dim_param for d in logits.type.tensor_type.shape.dim] == ["N", CLASSES]
        assert [(o.domain, o.version) for o in model.opset_import] == [("", OPSET)]
        assert model.ir_version == IR_VERSION
        assert contract_in(model, source="x") == contract
        assert contract.architecture == "net"
        assert contract.preprocessing == Preprocessing(SIDE, SIDE, resize_to=SIDE * 256 // 224, mean=MEAN, std=STD)
        assert contract.labels == contract.class_ids == tuple("01234")

    def test_every_node_has_a_name_of_its_own(self, tmp_path: Path, out: Path) -> None:
        adopt(foreign_classifier(tmp_path / "net.onnx"), out, FOREIGN)
        names = [node.name for node in load_onnx(out).graph.node]
        assert all(names)
        assert len(set(names)) == len(names)

    @pytest.mark.parametrize("opset", [9, 21])
    def test_constant_nodes_become_weights(self, opset: int, tmp_path: Path, out: Path) -> None:
        source = foreign_classifier(tmp_path / "net.onnx", opset=opset, constants=True)
        adopt(source, out, FOREIGN)
        model = load_onnx(out)
        assert "Constant" not in operators(out)
        weights = initializers(model)
        assert all(node.input[1] in weights for node in model.graph.node if node.op_type in ("Conv", "Gemm"))

    def test_weights_that_nodes_compute_become_weights(self, out: Path) -> None:
        source = LIGHT / "light_squeezenet.onnx"
        assert "ConstantOfShape" in operators(source)
        adopt(source, out, FOREIGN)
        model = load_onnx(out)
        assert "ConstantOfShape" not in operators(out)
        assert all(node.input[1] in initializers(model) for node in model.graph.node if node.op_type == "Conv")

    def test_weights_that_old_tools_list_as_inputs_are_none(self, tmp_path: Path, out: Path) -> None:
        source = foreign_classifier(tmp_path / "net.onnx", opset=9)
        assert len(onnx.load(source).graph.input) > 10
        adopt(source, out, FOREIGN)
        assert [value.name for value in load_onnx(out).graph.input] == ["pixels"]

    @pytest.mark.parametrize("softmax_after", [False, True])
    def test_its_own_tensors_may_be_called_as_ours(self, softmax_after: bool, tmp_path: Path, out: Path) -> None:
        """Many exporters call the output ``logits``."""
        nodes = affine("pixels", "logits")
        name = "logits"
        if softmax_after:
            nodes.append(helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1))
            name = "probabilities"
        source = graph_of(tmp_path / "net.onnx", nodes, W, inputs={"pixels": ["N", 3, 4, 4]}, outputs={name: ["N", 5]})
        check_parity(source, out, side=4, softmaxed=softmax_after)

    @pytest.mark.parametrize("opset", [17, 21])
    def test_functions_of_the_model_are_written_out(self, opset: int, tmp_path: Path, out: Path) -> None:
        twice = helper.make_function(
            "my", "Twice", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])], [helper.make_opsetid("", opset)]
        )
        source = graph_of(
            tmp_path / "net.onnx",
            [helper.make_node("Twice", ["x"], ["x2"], domain="my"), *affine("x2")],
            W,
            opset=opset,
            domains=[helper.make_opsetid("my", 1)],
            functions=[twice],
        )
        check_parity(source, out, side=4)
        assert "Twice" not in operators(out)

    def test_a_branch_on_a_constant_is_left_to_the_runtime(self, tmp_path: Path, out: Path) -> None:
        """Its branches read what nothing else reads, and a tensor called as our output will be."""
        branches = [
            helper.make_graph(
                [helper.make_node(op, ["logits", "half"], ["b"])],
                op,
                [],
                [helper.make_tensor_value_info("b", TensorProto.FLOAT, None)],
            )
            for op in ("Add", "Sub")
        ]
        nodes = [
            helper.make_node("Abs", ["x"], ["logits"]),
            helper.make_node("If", ["yes"], ["x2"], then_branch=branches[0], else_branch=branches[1]),
            *affine("x2"),
        ]
        weights = W | {"yes": np.array(True), "half": np.array(0.5, np.float32)}
        check_parity(graph_of(tmp_path / "net.onnx", nodes, weights), out, side=4)

    def test_random_numbers_stay_random(self, tmp_path: Path, out: Path) -> None:
        noise = helper.make_node("RandomNormal", [], ["noise"], shape=[1, 48], seed=1.0)
        add = helper.make_node("Add", ["flat", "noise"], ["noisy"])
        flatten, gemm = affine()
        gemm.input[0] = "noisy"
        adopt(graph_of(tmp_path / "net.onnx", [flatten, noise, add, gemm], W), out, FOREIGN)
        assert "RandomNormal" in operators(out)

    def test_a_quantised_weight_stays_quantised(self, tmp_path: Path, out: Path) -> None:
        dequantize = helper.make_node("DequantizeLinear", ["q", "scale"], ["w"])
        q = np.random.default_rng(0).integers(-127, 128, (5, 48)).astype(np.int8)
        source = graph_of(tmp_path / "net.onnx", [dequantize, *affine()], {"q": q, "scale": np.array(0.01, np.float32)})
        adopt(source, out, FOREIGN)
        assert "DequantizeLinear" in operators(out)
        assert initializers(load_onnx(out))["q"].data_type == TensorProto.INT8

    def test_a_softmax_inside_stays(self, tmp_path: Path, out: Path) -> None:
        nodes = [helper.make_node("Softmax", ["x"], ["attention"], axis=1), *affine("attention")]
        adopt(graph_of(tmp_path / "net.onnx", nodes, W), out, FOREIGN)
        assert "Softmax" in operators(out)
