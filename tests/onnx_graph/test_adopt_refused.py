"""What ``adopt`` asks of a model and of its options, and how it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from alexnet_deploy.errors import ArtifactError, DeployError, InputError, UsageError
from alexnet_deploy.onnx_graph.adopt import adopt
from alexnet_deploy.onnx_graph.import_options import ImportOptions
from alexnet_deploy.onnx_graph.onnx_file import contract_in, load_onnx
from tests.helpers.foreign_models import CLASSES, FOREIGN, MEAN, STD, W, affine, foreign_classifier, graph_of


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "adopted.onnx"


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
    def test_options_that_contradict_its_contract(self, import_options: ImportOptions, ours: Path, out: Path) -> None:
        with pytest.raises(
            UsageError, match=r"ours.onnx: carries its own contract; leave out `mean`, `std` and `labels`"
        ):
            adopt(ours, out, import_options)
        assert not out.exists()

    def test_a_graph_that_does_not_match_its_contract(self, ours: Path, out: Path) -> None:
        model = onnx.load(ours)
        model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = CLASSES + 1
        onnx.save(model, ours)
        with pytest.raises(ArtifactError, match=r"ours.onnx: its graph does not match its contract"):
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
        with pytest.raises(UsageError, match=r"net.onnx: does not hold how .* `mean` 0.485,0.456,0.406 `std` 0.229"):
            adopt(source, out, import_options)

    @pytest.mark.parametrize(
        ("mean", "std"), [((0.5,), STD), (MEAN, (0.2, 0.2, 0.0)), (MEAN, (0.2, -1.0, 0.2)), ((np.nan, 0.5, 0.5), STD)]
    )
    def test_mean_and_std_that_cannot_be(
        self, mean: tuple[float, ...], std: tuple[float, ...], tmp_path: Path, out: Path
    ) -> None:
        with pytest.raises(UsageError, match=r"`mean`"):
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

    def test_two_inputs_or_two_outputs(self, tmp_path: Path, out: Path) -> None:
        nodes = [helper.make_node("Add", ["x", "z"], ["both"]), *affine("both")]
        shape: list[int | str] = ["N", 3, 4, 4]
        source = graph_of(tmp_path / "net.onnx", nodes, W, inputs={"x": shape, "z": shape})
        with pytest.raises(InputError, match=r"has 2 inputs, an image classifier has one"):
            adopt(source, out, FOREIGN)
        nodes = [*affine(), helper.make_node("Neg", ["y"], ["z"])]
        source = graph_of(tmp_path / "net.onnx", nodes, W, outputs={"y": ["N", 5], "z": ["N", 5]})
        with pytest.raises(InputError, match=r"has 2 outputs, a classifier has one"):
            adopt(source, out, FOREIGN)

    @pytest.mark.parametrize("shape", [["N", 1], ["N", "K"]])
    def test_no_fixed_number_of_classes(self, shape: list[int | str], tmp_path: Path, out: Path) -> None:
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
        with pytest.raises(InputError, match=r"operator acme.Sharpen \(node 'sharpen_0'\) is not one of ONNX's own"):
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
