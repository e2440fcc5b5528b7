"""A foreign classifier answers pixels as it answers floats that were normalised by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from alexnet_deploy.bundle.manifest import Engine
from alexnet_deploy.contract import ModelContract, Preprocessing
from alexnet_deploy.errors import ArtifactError, DeployError, InputError, UsageError
from alexnet_deploy.onnx_graph.adopt import adopt
from alexnet_deploy.onnx_graph.import_options import ImportOptions
from alexnet_deploy.onnx_graph.onnx_file import IR_VERSION, OPSET, contract_in, fixed_batch, initializers, load_onnx
from alexnet_deploy.runtime.select import open_runner
from tests.helpers.foreign_models import (
    CLASSES,
    MEAN,
    SIDE,
    STD,
    Head,
    foreign_classifier,
    graph_of,
    random_pixels,
    scores_by_hand,
)

FOREIGN = ImportOptions(MEAN, STD)
LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"


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


def with_random_weights(source: Path, path: Path) -> Path:
    """A network of onnx's test data, whose nodes fill each weight with a single number, with real weights instead."""
    model = onnx.load(source)
    random = np.random.default_rng(0)
    shapes = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    fillers = [node for node in model.graph.node if node.op_type == "ConstantOfShape"]
    for node in fillers:
        shape = shapes[node.input[0]]
        # A vector may be a variance.
        values = random.uniform(0.5, 1.5, shape) if len(shape) == 1 else random.normal(size=shape)
        values *= (2 / np.prod(shape[1:])) ** 0.5 if len(shape) > 1 else 1
        model.graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), node.output[0]))
        model.graph.node.remove(node)
    model.ir_version = 4  # the first that does not want weights among the inputs
    onnx.save(model, path)
    return path


def affine(source: str = "x", target: str = "y") -> list[onnx.NodeProto]:
    """The smallest classifier of [N, 3, 4, 4]."""
    return [
        helper.make_node("Flatten", [source], ["flat"]),
        helper.make_node("Gemm", ["flat", "w"], [target], transB=1),
    ]


W = {"w": np.random.default_rng(0).normal(size=(5, 48)).astype(np.float32)}


class TestParity:
    @pytest.mark.parametrize("opset", range(9, 23))
    def test_every_opset(self, opset: int, tmp_path: Path, out: Path) -> None:
        source = foreign_classifier(tmp_path / "net.onnx", opset=opset)
        contract = adopt(source, out, FOREIGN)
        pixels_NHWC = random_pixels(3)
        assert_same(answers(out, contract, pixels_NHWC), scores_by_hand(source, pixels_NHWC))

    @pytest.mark.parametrize("opset", [9, 12, 13, 22])
    @pytest.mark.parametrize("head", ["gemm", "matmul", "convolution"])
    def test_a_softmax_comes_off_whatever_the_head(self, opset: int, head: Head, tmp_path: Path, out: Path) -> None:
        """Before opset 13 a softmax flattens by itself: the converter puts nodes around it."""
        source = foreign_classifier(tmp_path / "net.onnx", opset=opset, head=head, softmax=True)
        contract = adopt(source, out, FOREIGN)
        assert "Softmax" not in operators(out)
        pixels_NHWC = random_pixels(2)
        logits_NK = answers(out, contract, pixels_NHWC)
        assert logits_NK.shape == (2, CLASSES)
        assert np.abs(logits_NK).max() > 1, "logits, not probabilities"
        assert_same(softmax(logits_NK), scores_by_hand(source, pixels_NHWC))

    @pytest.mark.parametrize("head", ["matmul", "convolution"])
    def test_other_heads(self, head: Head, tmp_path: Path, out: Path) -> None:
        source = foreign_classifier(tmp_path / "net.onnx", head=head)
        contract = adopt(source, out, FOREIGN)
        pixels_NHWC = random_pixels(2)
        assert_same(answers(out, contract, pixels_NHWC), scores_by_hand(source, pixels_NHWC))

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
        source = foreign_classifier(tmp_path / "net.onnx", channels_last=True)
        contract = adopt(source, out, FOREIGN)
        pixels_NHWC = random_pixels(2)
        assert_same(answers(out, contract, pixels_NHWC), scores_by_hand(source, pixels_NHWC, channels_last=True))

    @pytest.mark.parametrize("opset", [9, 21])
    def test_a_static_batch_stays_one(self, opset: int, tmp_path: Path, out: Path) -> None:
        source = foreign_classifier(tmp_path / "net.onnx", opset=opset, batch=2, softmax=opset == 9)
        contract = adopt(source, out, FOREIGN)
        model = load_onnx(out)
        shapes = [value.type.tensor_type.shape.dim[0].dim_value for value in (*model.graph.input, *model.graph.output)]
        assert shapes == [2, 2]
        pixels_NHWC = random_pixels(2)
        logits_NK = answers(out, contract, pixels_NHWC)
        assert_same(softmax(logits_NK) if opset == 9 else logits_NK, scores_by_hand(source, pixels_NHWC))

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
        contract = adopt(source, out, FOREIGN)
        pixels_NHWC = random_pixels(2, 4)
        logits_NK = answers(out, contract, pixels_NHWC)
        assert_same(softmax(logits_NK) if softmax_after else logits_NK, scores_by_hand(source, pixels_NHWC))

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
        contract = adopt(source, out, FOREIGN)
        assert "Twice" not in operators(out)
        pixels_NHWC = random_pixels(2, 4)
        assert_same(answers(out, contract, pixels_NHWC), scores_by_hand(source, pixels_NHWC))

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
        source = graph_of(tmp_path / "net.onnx", nodes, weights)
        contract = adopt(source, out, FOREIGN)
        pixels_NHWC = random_pixels(2, 4)
        assert_same(answers(out, contract, pixels_NHWC), scores_by_hand(source, pixels_NHWC))

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
        "import_options",
        [ImportOptions(mean=MEAN), ImportOptions(std=STD), ImportOptions(labels=Path("imagenet1k"))],
        ids=["mean", "std", "labels"],
    )
    def test_flags_that_contradict_its_contract(self, import_options: ImportOptions, ours: Path, out: Path) -> None:
        with pytest.raises(
            UsageError, match=r"ours.onnx: carries its own contract; leave out --mean, --std and --labels"
        ):
            adopt(ours, out, import_options)
        assert not out.exists()

    def test_a_graph_that_is_not_what_its_contract_says(self, ours: Path, out: Path) -> None:
        model = onnx.load(ours)
        model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = CLASSES + 1
        onnx.save(model, ours)
        with pytest.raises(ArtifactError, match=r"ours.onnx: its graph is not what its contract says"):
            adopt(ours, out)


class TestLabels:
    @pytest.fixture
    def source(self, tmp_path: Path) -> Path:
        return foreign_classifier(tmp_path / "net.onnx")

    @pytest.mark.parametrize(
        "content",
        [
            "cat\ndog\nant\nbee\nfly\n",
            "\ufeffcat\r\ndog\r\nant\r\nbee\r\nfly",
            json.dumps(["cat", "dog", "ant", "bee", "fly"]),
        ],
        ids=["text", "text of Windows", "json"],
    )
    def test_from_a_file(self, content: str, source: Path, out: Path, tmp_path: Path) -> None:
        labels = tmp_path / "labels"
        labels.write_bytes(content.encode())
        contract = adopt(source, out, ImportOptions(MEAN, STD, labels))
        assert contract.labels == contract.class_ids == ("cat", "dog", "ant", "bee", "fly")

    def test_labels_that_repeat_get_numbers_for_ids(self, source: Path, out: Path, tmp_path: Path) -> None:
        """ImageNet has two cranes and two maillots."""
        labels = tmp_path / "labels.txt"
        labels.write_text("crane\ncrane\nant\nbee\nfly\n")
        contract = adopt(source, out, ImportOptions(MEAN, STD, labels))
        assert contract.labels == ("crane", "crane", "ant", "bee", "fly")
        assert contract.class_ids == tuple("01234")

    @pytest.mark.parametrize(
        ("content", "cause"),
        [
            (b"cat\ndog\n", "holds 2 labels, the model has 5 outputs"),
            (b"", "holds 0 labels, the model has 5 outputs"),
            (b"[1, 2, 3, 4, 5]", "not text"),
            (b'["cat", ', "cannot be read as labels"),
            (b"[" * 100_000, "cannot be read as labels"),
            (b"\xff\xfe\n" * 5, "cannot be read as labels"),
        ],
        ids=["too few", "empty", "numbers", "cut off", "deep", "not UTF-8"],
    )
    def test_files_that_do_not_fit(self, content: bytes, cause: str, source: Path, out: Path, tmp_path: Path) -> None:
        labels = tmp_path / "labels"
        labels.write_bytes(content)
        with pytest.raises(InputError, match=rf"labels: .*{cause}"):
            adopt(source, out, ImportOptions(MEAN, STD, labels))
        assert not out.exists()

    def test_no_such_file(self, source: Path, out: Path, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"none.txt: cannot be read as labels"):
            adopt(source, out, ImportOptions(MEAN, STD, tmp_path / "none.txt"))

    def test_imagenet_has_a_thousand(self, source: Path, out: Path) -> None:
        with pytest.raises(InputError, match=r"imagenet1k: holds 1000 labels, the model has 5 outputs"):
            adopt(source, out, ImportOptions(MEAN, STD, Path("imagenet1k")))


class TestRefused:
    @pytest.mark.parametrize(
        "import_options",
        [ImportOptions(), ImportOptions(mean=MEAN), ImportOptions(std=STD)],
        ids=["both", "std", "mean"],
    )
    def test_without_mean_and_std(self, import_options: ImportOptions, tmp_path: Path, out: Path) -> None:
        source = foreign_classifier(tmp_path / "net.onnx")
        with pytest.raises(UsageError, match=r"net.onnx: does not tell how .* --mean 0.485,0.456,0.406 --std 0.229"):
            adopt(source, out, import_options)

    @pytest.mark.parametrize(
        ("mean", "std"), [((0.5,), STD), (MEAN, (0.2, 0.2, 0.0)), (MEAN, (0.2, -1.0, 0.2)), ((np.nan, 0.5, 0.5), STD)]
    )
    def test_mean_and_std_that_cannot_be(
        self, mean: tuple[float, ...], std: tuple[float, ...], tmp_path: Path, out: Path
    ) -> None:
        with pytest.raises(UsageError, match=r"--mean"):
            adopt(foreign_classifier(tmp_path / "net.onnx"), out, ImportOptions(mean, std))

    @pytest.mark.parametrize("opset", [8, 23])
    def test_opsets_out_of_range(self, opset: int, tmp_path: Path, out: Path) -> None:
        source = graph_of(tmp_path / "net.onnx", affine(), W, opset=21)
        model = onnx.load(source)
        model.opset_import[0].version = opset
        if opset == 8:
            model.graph.node[1].input.append("bias")
            model.graph.initializer.append(helper.make_tensor("bias", TensorProto.FLOAT, [5], [0.0] * 5))
        onnx.save(model, source)
        with pytest.raises(InputError, match=rf"opset {opset} is not within 9..22"):
            adopt(source, out, FOREIGN)

    @pytest.mark.parametrize(
        ("shape", "cause"),
        [
            (["N", 1, 4, 16], "no fixed 3 x H x W"),
            (["N", 3, "H", "W"], "no fixed 3 x H x W"),
            (["N", 48], r"is not float32 \[N, 3, H, W\]"),
        ],
    )
    def test_inputs_that_are_no_photo(self, shape: list[int | str], cause: str, tmp_path: Path, out: Path) -> None:
        source = graph_of(tmp_path / "net.onnx", affine(), W, inputs={"x": shape})
        with pytest.raises(InputError, match=cause):
            adopt(source, out, FOREIGN)

    def test_sides_beyond_what_we_decode(self, tmp_path: Path, out: Path) -> None:
        nodes = [helper.make_node("GlobalAveragePool", ["x"], ["p"]), *affine("p")]
        source = graph_of(tmp_path / "net.onnx", nodes, {"w": W["w"][:, :3]}, inputs={"x": ["N", 3, 100_000, 100_000]})
        with pytest.raises(DeployError, match=r"net.onnx: .*100000"):
            adopt(source, out, FOREIGN)

    def test_two_inputs(self, tmp_path: Path, out: Path) -> None:
        nodes = [helper.make_node("Add", ["x", "z"], ["both"]), *affine("both")]
        shape: list[int | str] = ["N", 3, 4, 4]
        source = graph_of(tmp_path / "net.onnx", nodes, W, inputs={"x": shape, "z": shape})
        with pytest.raises(InputError, match=r"has 2 inputs, an image classifier has one"):
            adopt(source, out, FOREIGN)

    def test_two_outputs(self, tmp_path: Path, out: Path) -> None:
        nodes = [*affine(), helper.make_node("Neg", ["y"], ["z"])]
        source = graph_of(tmp_path / "net.onnx", nodes, W, outputs={"y": ["N", 5], "z": ["N", 5]})
        with pytest.raises(InputError, match=r"has 2 outputs, a classifier has one"):
            adopt(source, out, FOREIGN)

    @pytest.mark.parametrize("shape", [["N", 1], ["N", "K"]])
    def test_a_number_of_classes_that_is_none(self, shape: list[int | str], tmp_path: Path, out: Path) -> None:
        if shape[1] == 1:
            nodes, weights = affine(), {"w": W["w"][:1]}
        else:  # as many scores as the images have bright pixels
            nodes = [helper.make_node("NonZero", ["x"], ["n"]), helper.make_node("Cast", ["n"], ["y"], to=1)]
            weights = {}
        source = graph_of(tmp_path / "net.onnx", nodes, weights, outputs={"y": shape})
        with pytest.raises(InputError, match=r"no fixed number of classes"):
            adopt(source, out, FOREIGN)

    def test_an_operator_that_onnx_does_not_know(self, tmp_path: Path, out: Path) -> None:
        nodes = [helper.make_node("Sharpen", ["x"], ["x2"], "sharpen_0", domain="acme"), *affine("x2")]
        source = graph_of(tmp_path / "net.onnx", nodes, W, domains=[helper.make_opsetid("acme", 1)])
        with pytest.raises(InputError, match=r"operator acme.Sharpen \(node 'sharpen_0'\) is none of ONNX's own"):
            adopt(source, out, FOREIGN)

    def test_weights_that_do_not_fit_together(self, tmp_path: Path, out: Path) -> None:
        source = graph_of(tmp_path / "net.onnx", affine(), {"w": W["w"][:, :7]})
        with pytest.raises(InputError, match=r"net.onnx"):
            adopt(source, out, FOREIGN)

    def test_what_stood_there_stays(self, tmp_path: Path, out: Path) -> None:
        out.write_text("old")
        with pytest.raises(InputError):
            adopt(graph_of(tmp_path / "net.onnx", affine(), W, inputs={"x": ["N", 1, 4, 4]}), out, FOREIGN)
        assert out.read_text() == "old"
        assert sorted(path.name for path in tmp_path.iterdir()) == ["adopted.onnx", "net.onnx"]
