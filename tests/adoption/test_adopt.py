"""A foreign classifier answers pixels as it answers floats that were normalised by hand, and ours passes unchanged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, parser

from alexnet_deploy.adoption.adopt import adopt
from alexnet_deploy.adoption.import_options import ImportOptions
from alexnet_deploy.bundle.manifest import Engine
from alexnet_deploy.contract import ModelContract, Preprocessing
from alexnet_deploy.errors import ArtifactError, InputError, UsageError
from alexnet_deploy.onnx_graph.onnx_file import IR_VERSION, OPSET, contract_in, fixed_batch, initializers, load_onnx
from alexnet_deploy.runtime.select import open_runner
from tests.helpers.models import foreign_models as foreign
from tests.helpers.models.foreign_models import AFFINE, FOREIGN, MEAN, STD, W, after, foreign_classifier, graph_of


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
    source: Path, out: Path, *, side: int = foreign.SIDE, softmaxed: bool = False, channels_last: bool = False
) -> NDArray[np.float32]:
    """Adopt ``source`` and compare its logits (``softmaxed``: its probabilities) with the scores by hand."""
    contract = adopt(source, out, FOREIGN)
    pixels_NHWC = foreign.random_pixels(2, side)
    logits_NK = answers(out, contract, pixels_NHWC)
    expected_NK = foreign.scores_by_hand(source, pixels_NHWC, channels_last=channels_last)
    assert_same(softmax(logits_NK) if softmaxed else logits_NK, expected_NK)
    return logits_NK


class TestParity:
    @pytest.mark.parametrize("opset", range(7, 26))
    def test_every_opset(self, opset: int, tmp_path: Path, out: Path) -> None:
        check_parity(foreign_classifier(tmp_path / "net.onnx", opset=opset), out)

    def test_an_opset_older_than_the_runtime_takes(self, tmp_path: Path, out: Path) -> None:
        old, same = foreign_classifier(tmp_path / "old.onnx", opset=6), foreign_classifier(tmp_path / "same.onnx")
        pixels_NHWC = foreign.random_pixels(2)
        assert_same(answers(out, adopt(old, out, FOREIGN), pixels_NHWC), foreign.scores_by_hand(same, pixels_NHWC))

    @pytest.mark.parametrize("opset", [9, 12, 13, 22])
    @pytest.mark.parametrize("head", ["gemm", "matmul", "convolution"])
    def test_a_softmax_is_removed_whatever_the_head(
        self, opset: int, head: foreign.Head, tmp_path: Path, out: Path
    ) -> None:
        """Before opset 13 a softmax flattens by itself: the converter puts nodes around it."""
        source = foreign_classifier(tmp_path / "net.onnx", opset=opset, head=head, softmax=True)
        logits_NK = check_parity(source, out, softmaxed=True)
        assert "Softmax" not in operators(out)
        assert logits_NK.shape == (2, foreign.CLASSES)
        assert np.abs(logits_NK).max() > 1, "logits, not probabilities"

    @pytest.mark.parametrize("head", ["matmul", "convolution"])
    @pytest.mark.parametrize("channels_last", [False, True])
    def test_other_heads_and_channels_last(
        self, head: foreign.Head, channels_last: bool, tmp_path: Path, out: Path
    ) -> None:
        source = foreign_classifier(tmp_path / "net.onnx", head=head, channels_last=channels_last)
        check_parity(source, out, channels_last=channels_last)

    @pytest.mark.parametrize("count", [1, 3])
    def test_a_free_batch_over_a_reshape_to_one_image(self, count: int, tmp_path: Path, out: Path) -> None:
        """Exporters call a batch free that their own trace has fixed."""
        body = AFFINE.replace("Flatten (x)", "Reshape (x, one)")
        source = graph_of(tmp_path / "net.onnx", body, W | {"one": np.array([1, 48])})
        contract = adopt(source, out, FOREIGN)
        assert fixed_batch(load_onnx(out)) == 1
        pixels_NHWC = foreign.random_pixels(count, 4)
        expected_NK = np.concatenate([foreign.scores_by_hand(source, image_NHWC[None]) for image_NHWC in pixels_NHWC])
        # One dense layer of 48 float32 products, summed in another order.
        np.testing.assert_allclose(answers(out, contract, pixels_NHWC), expected_NK, rtol=1e-4)

    @pytest.mark.parametrize("opset", [9, 21])
    def test_a_static_batch_stays_one(self, opset: int, tmp_path: Path, out: Path) -> None:
        source = foreign_classifier(tmp_path / "net.onnx", opset=opset, batch=2, softmax=opset == 9)
        check_parity(source, out, softmaxed=opset == 9)
        model = load_onnx(out)
        shapes = [value.type.tensor_type.shape.dim[0].dim_value for value in (*model.graph.input, *model.graph.output)]
        assert shapes == [2, 2]

    @pytest.mark.parametrize("name", ["squeezenet", "shufflenet"])
    def test_published_networks(self, name: str, tmp_path: Path, out: Path) -> None:
        source = foreign.with_random_weights(foreign.LIGHT / f"light_{name}.onnx", tmp_path / "net.onnx")
        contract = adopt(source, out, ImportOptions(MEAN, STD, Path("imagenet1k")))
        assert contract.labels[0] == "tench"
        pixels_NHWC = foreign.random_pixels(1, 224)
        expected_NK = foreign.scores_by_hand(source, pixels_NHWC)
        assert expected_NK.max() > 0.01, "not all classes alike"
        # Some 50 layers of float32 sums, taken in another order.
        np.testing.assert_allclose(softmax(answers(out, contract, pixels_NHWC)), expected_NK, rtol=1e-3)


class TestForm:
    def test_pixels_in_logits_out_contract_inside(self, tmp_path: Path, out: Path) -> None:
        contract = adopt(foreign_classifier(tmp_path / "net.onnx", opset=11, softmax=True), out, FOREIGN)
        model = load_onnx(out)
        ((pixels,), (logits,)) = model.graph.input, model.graph.output
        assert (pixels.name, pixels.type.tensor_type.elem_type) == ("pixels", TensorProto.UINT8)
        assert [d.dim_value or d.dim_param for d in pixels.type.tensor_type.shape.dim] == [
            "N",
            foreign.SIDE,
            foreign.SIDE,
            3,
        ]
        assert (logits.name, logits.type.tensor_type.elem_type) == ("logits", TensorProto.FLOAT)
        assert [d.dim_value or d.dim_param for d in logits.type.tensor_type.shape.dim] == ["N", foreign.CLASSES]
        assert [(o.domain, o.version) for o in model.opset_import] == [("", OPSET)]
        assert model.ir_version == IR_VERSION
        assert contract_in(model, source="x") == contract
        assert contract.architecture == "net"
        assert contract.preprocessing == Preprocessing(
            *(foreign.SIDE, foreign.SIDE),
            resize_to=foreign.SIDE * 256 // 224,
            mean=MEAN,
            std=STD,
            decoding="reduced-2x",
        )
        assert contract.labels == contract.class_ids == tuple("01234")
        names = [node.name for node in model.graph.node]
        assert all(names)
        assert len(set(names)) == len(names)

    @pytest.mark.parametrize("opset", [9, 21, "squeezenet"])
    def test_constants_and_what_nodes_compute_become_weights(self, opset: int | str, tmp_path: Path, out: Path) -> None:
        if isinstance(opset, int):
            source = foreign_classifier(tmp_path / "net.onnx", opset=opset, constants=True)
        else:
            source = foreign.LIGHT / f"light_{opset}.onnx"
        makers = {"Constant", "ConstantOfShape"}
        assert makers & set(operators(source))
        adopt(source, out, FOREIGN)
        model = load_onnx(out)
        assert not makers & set(operators(out))
        weights = initializers(model)
        assert all(node.input[1] in weights for node in model.graph.node if node.op_type in ("Conv", "Gemm"))

    def test_weights_that_old_tools_list_as_inputs_are_none(self, tmp_path: Path, out: Path) -> None:
        source = foreign_classifier(tmp_path / "net.onnx", opset=9)
        assert len(onnx.load(source).graph.input) > 10
        adopt(source, out, FOREIGN)
        assert [value.name for value in load_onnx(out).graph.input] == ["pixels"]

    @pytest.mark.parametrize("softmax_after", [False, True])
    def test_its_own_tensors_may_be_called_as_ours(self, softmax_after: bool, tmp_path: Path, out: Path) -> None:
        """Many exporters call the output ``logits``."""
        body, output = "flat = Flatten (pixels); logits = Gemm <transB = 1> (flat, w)", "logits"
        if softmax_after:
            body, output = f"{body}; probabilities = Softmax <axis = 1> (logits)", "probabilities"
        signature = f"(float[N,3,4,4] pixels) => (float[N,5] {output})"
        source = graph_of(tmp_path / "net.onnx", body, signature=signature)
        check_parity(source, out, side=4, softmaxed=softmax_after)

    @pytest.mark.parametrize("opset", [17, 21])
    def test_functions_of_the_model_are_written_out(self, opset: int, tmp_path: Path, out: Path) -> None:
        twice = parser.parse_function(
            f'<domain: "my", opset_import: ["" : {opset}]> Twice (a) => (b) {{ b = Add (a, a) }}'
        )
        source = graph_of(
            tmp_path / "net.onnx", after("x2 = my.Twice (x)"), opset=opset, domain="my", functions=[twice]
        )
        check_parity(source, out, side=4)
        assert "Twice" not in operators(out)

    def test_a_branch_on_a_constant_is_left_to_the_runtime(self, tmp_path: Path, out: Path) -> None:
        """Its branches read what nothing else reads, and a tensor called as our output will be."""
        branches = ", ".join(
            f"{branch} = g () => (float[] b) {{ b = {op} (logits, half) }}"
            for branch, op in (("then_branch", "Add"), ("else_branch", "Sub"))
        )
        body = "logits = Abs (x); " + after(f"x2 = If (yes) <{branches}>")
        weights = W | {"yes": np.array(True), "half": np.array(0.5, np.float32)}
        check_parity(graph_of(tmp_path / "net.onnx", body, weights), out, side=4)

    @pytest.mark.parametrize(
        ("body", "operator"),
        [
            (
                "noise = RandomNormal <shape = [1, 48], seed = 1.0> (); flat = Flatten (x); "
                "noisy = Add (flat, noise); y = Gemm <transB = 1> (noisy, w)",
                "RandomNormal",
            ),
            (after("attention = Softmax <axis = 1> (x)"), "Softmax"),
        ],
    )
    def test_random_numbers_and_a_softmax_inside_stay(
        self, body: str, operator: str, tmp_path: Path, out: Path
    ) -> None:
        adopt(graph_of(tmp_path / "net.onnx", body), out, FOREIGN)
        assert operator in operators(out)

    def test_a_quantised_weight_stays_quantised(self, tmp_path: Path, out: Path) -> None:
        q = np.random.default_rng(0).integers(-127, 128, (5, 48)).astype(np.int8)
        weights = {"q": q, "scale": np.array(0.01, np.float32)}
        adopt(graph_of(tmp_path / "net.onnx", f"w = DequantizeLinear (q, scale); {AFFINE}", weights), out, FOREIGN)
        assert "DequantizeLinear" in operators(out)
        assert initializers(load_onnx(out))["q"].data_type == TensorProto.INT8


class TestOurs:
    @pytest.fixture
    def ours(self, tmp_path: Path) -> Path:
        path = tmp_path / "ours.onnx"
        adopt(foreign_classifier(tmp_path / "net.onnx"), path, FOREIGN)
        return path

    def test_it_passes_through_unchanged(self, ours: Path, out: Path) -> None:
        contract = adopt(ours, out)
        assert onnx.load(out) == onnx.load(ours)
        assert contract == contract_in(load_onnx(ours), source="x")

    @pytest.mark.parametrize(
        "option", [{"mean": MEAN}, {"std": STD}, {"labels": Path("imagenet1k")}, {"resize": "stretch"}], ids=str
    )
    def test_options_that_contradict_its_contract(self, option: dict[str, Any], ours: Path, out: Path) -> None:
        message = f"ours.onnx: has its own contract; leave out `{min(option)}`"
        with pytest.raises(UsageError, match=message):
            adopt(ours, out, ImportOptions(**option))
        assert not out.exists()

    def test_a_graph_that_does_not_match_its_contract(self, ours: Path, out: Path) -> None:
        model = onnx.load(ours)
        model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = foreign.CLASSES + 1
        onnx.save(model, ours)
        with pytest.raises(InputError, match=r"ours.onnx: is not a valid ONNX model .*; export it again"):
            adopt(ours, out)

    def test_a_contract_that_does_not_match_its_graph(self, ours: Path, out: Path) -> None:
        model = onnx.load(ours)
        model.graph.input[0].name = model.graph.node[0].input[0] = "photo"
        onnx.save(model, ours)
        with pytest.raises(ArtifactError, match=r"ours.onnx: its graph does not match its contract"):
            adopt(ours, out)
