"""A graph that ends at a layer: which layers there are, and that its output is what the network computes there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from alexnet_deploy.bundle.feature_engines import MAPS, cut_engine
from alexnet_deploy.errors import DeployError, InputError, UsageError
from alexnet_deploy.onnx_graph.cut import cut_after, find_layer, last_maps, layer_before_last, layers_in
from alexnet_deploy.onnx_graph.onnx_file import contract_in, load_onnx, save_onnx
from alexnet_deploy.onnx_graph.taps import TensorSession
from alexnet_deploy.precision.convert import to_quantized
from alexnet_deploy.runtime.select import open_runner
from tests.helpers.models.graphs import graph_model
from tests.helpers.models.onnx_models import CLASSES, PRECISIONS, SIDE, TINY_CONTRACT, Graph, named_engine, tiny_model

PIXELS = np.random.default_rng(0).integers(0, 256, (5, SIDE, SIDE, 3)).astype(np.uint8)


def last_layer(path: Path) -> tuple[onnx.ModelProto, onnx.NodeProto]:
    model = load_onnx(path)
    return model, next(node for node in reversed(model.graph.node) if node.op_type == "Gemm")


class TestNames:
    def test_the_layers_of_our_export(self, tiny_onnx: Path) -> None:
        names = [layer.name for layer in layers_in(load_onnx(tiny_onnx))]
        wanted = [f"features.{i}" for i in range(13)] + [f"classifier.{i}" for i in (1, 2, 4, 5, 6)]
        assert [name for name in names if name not in ("pixels", "flatten")] == wanted

    @pytest.mark.parametrize(
        ("name", "shape"),
        [
            ("features.5", (24, 13, 13)),
            ("features.5/MaxPool", (24, 13, 13)),  # a node
            ("relu_6", (32,)),  # a tensor
            ("features", (24, 6, 6)),  # a module is its last layer
            ("classifier", (3,)),
        ],
    )
    def test_what_a_layer_may_be_called(self, name: str, shape: tuple[int, ...], tiny_onnx: Path) -> None:
        assert find_layer(load_onnx(tiny_onnx), name, source="it").shape == shape

    @pytest.mark.parametrize("name", ["classifier.9", "", "feature", "classifier.", "model.classifier.6.weight", "*"])
    def test_an_unknown_one_lists_all(self, name: str, tiny_onnx: Path) -> None:
        with pytest.raises(UsageError, match=r"`layer` .*: it has no such layer; its layers are .*features\.0, .*\.6"):
            find_layer(load_onnx(tiny_onnx), name, source="it")

    def test_of_many_layers_those_with_a_like_name_are_listed(self, tmp_path: Path) -> None:
        g = Graph()
        x = g.node("Flatten", g.node("Cast", "pixels", to=TensorProto.FLOAT))
        for number in range(200):
            x = g.node("Relu", x, name=f"block.{number}")
        model = load_onnx(
            g.save(g.node("Gemm", x, g.weight(SIDE * SIDE * 3, 2)), tmp_path / "m.onnx", ["N", SIDE, SIDE, 3])
        )
        with pytest.raises(UsageError, match=r"block\.77, .* and \d+ more") as caught:
            find_layer(model, "blok.77", source="it")
        assert len(str(caught.value)) < 2000

    def test_the_one_before_the_last_and_the_last_with_places(self, tiny_onnx: Path) -> None:
        model = load_onnx(tiny_onnx)
        assert layer_before_last(model, source="it").name == "classifier.5"
        maps = last_maps(model)
        assert maps is not None
        assert (maps.name, maps.shape) == ("features.12", (24, 6, 6))

    def test_without_weights_there_is_none_before_the_last(self, tmp_path: Path) -> None:
        g = Graph()
        x = g.node("Flatten", g.node("Cast", "pixels", to=TensorProto.FLOAT))
        model = load_onnx(g.save(g.node("Relu", x), tmp_path / "m.onnx", ["N", 2, 2, 3]))
        assert last_maps(model) is None
        with pytest.raises(InputError, match="name a `layer`"):
            layer_before_last(model, source="it")

    def test_what_is_no_row_per_image_is_no_layer(self, tmp_path: Path) -> None:
        """Else image and vector would no longer belong together."""
        g = Graph()
        x = g.node("Cast", "pixels", to=TensorProto.FLOAT)
        turned = g.node("Transpose", x, perm=[3, 0, 1, 2], name="turned")
        g.node("ReduceMean", x, name="mean of all", keepdims=0)
        some = g.node("Gather", x, g.constant(np.array([0, 1])), axis=3)
        g.node("Transpose", some, perm=[3, 0, 1, 2], name="two turned")
        back = g.node("Transpose", turned, perm=[1, 0, 2, 3], name="back")
        flat = g.node("Flatten", back, name="flat")
        model = load_onnx(
            g.save(g.node("Gemm", flat, g.weight(12, 2), name="last"), tmp_path / "m.onnx", ["N", 2, 2, 3])
        )
        assert {"back", "flat", "last"} <= {layer.name for layer in layers_in(model)}
        assert not {"turned", "two turned", "mean of all"} & {layer.name for layer in layers_in(model)}

    @pytest.mark.parametrize("names", [("fc", "fc/Add"), ("", "/Add"), ("fc", "fc/Add_residual")])
    def test_a_product_and_a_sum_of_the_users_own_are_two_layers(self, names: tuple[str, str], tmp_path: Path) -> None:
        g = Graph()
        flat = g.node("Flatten", g.node("Cast", "pixels", to=TensorProto.FLOAT), name="flat")
        product = g.node("MatMul", flat, g.weight(3 * SIDE * SIDE, 8), name=names[0])
        g.save(
            g.node("Add", product, g.weight(8), name=names[1]),
            tmp_path / "net.onnx",
            ["N", SIDE, SIDE, 3],
            TensorProto.UINT8,
        )
        found = [layer.tensor for layer in layers_in(load_onnx(tmp_path / "net.onnx"))]
        assert len([name for name in found if name.startswith(("matmul", "add"))]) == 2

    def test_a_pad_of_the_users_own_is_a_layer(self) -> None:
        """Between tensors that are called as int4 calls them, but not by amounts that are."""
        nodes = [
            helper.make_node("Pad", ["x", "amounts"], ["x/padded"], "x/Pad"),
            helper.make_node("MatMul", ["x/padded", "w"], ["y"], "last"),
        ]
        constants = {"amounts": np.array([0, 0, 0, 1]), "w": np.ones((4, 2), np.float32)}
        model = graph_model("(float[N,3] x) => (float[N,2] y)", nodes, **constants)
        assert [layer.node for layer in layers_in(model)] == ["x/Pad", "last"]
        assert layer_before_last(model, source="it").node == "x/Pad"


class TestInt4:
    """A Gemm becomes a MatMul and an Add, after a Pad where 128 does not divide its inputs; it is one layer still."""

    @pytest.fixture(params=["ours", "TorchScript"])
    def models(self, request: pytest.FixtureRequest, tiny_onnx: Path, tmp_path: Path) -> list[onnx.ModelProto]:
        """The float model and the int4 one, whose dense layers have large biases."""
        model = load_onnx(tiny_onnx)
        outputs = {tensor.name: tensor.dims[0] for tensor in model.graph.initializer if len(tensor.dims) == 2}
        for node in model.graph.node:
            if request.param == "TorchScript":
                node.name = f"/{node.name.replace('.', '/')}"
            if node.op_type == "Gemm":
                bias = np.full(outputs[node.input[1]], 20, np.float32)
                node.input.append(f"{node.name}.bias")
                model.graph.initializer.append(onnx.numpy_helper.from_array(bias, node.input[2]))
        save_onnx(model, tmp_path / "float.onnx")
        to_quantized(tmp_path / "float.onnx", tmp_path / "int4.onnx", precision="int4", batches=None)
        return [load_onnx(tmp_path / name) for name in ("float.onnx", "int4.onnx")]

    def test_each_layer_of_the_float_model_is_there_with_its_bias(self, models: list[onnx.ModelProto]) -> None:
        pixels_NHWC = np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3)).astype(np.uint8)
        names = {name for layer in layers_in(models[0]) for name in (layer.name, layer.node, layer.tensor)}
        found = [{name: find_layer(each, name, source="it") for name in names} for each in models]
        values = [
            TensorSession(each, [layer.tensor for layer in layers.values()], source="it")(pixels_NHWC)
            for each, layers in zip(models, found, strict=True)
        ]
        for name in names:
            exact, rounded = (all_[each[name].tensor] for all_, each in zip(values, found, strict=True))
            assert exact.shape == rounded.shape
            # 4 bits in three layers; a dense layer without its bias of 20 would differ by most of its values.
            assert np.abs(exact - rounded).max() < 0.3 * np.abs(exact).max(), name

    def test_the_nodes_that_it_adds_are_no_layers(self, models: list[onnx.ModelProto]) -> None:
        names = [[layer.node for layer in layers_in(model)] for model in models]
        assert names[1] == [*names[0], "logits/Cast"]
        assert [layer_before_last(model, source="it").shape for model in models] == [(32,), (32,)]


class TestCut:
    @pytest.mark.parametrize(("precision", "batch"), [*((each, "N") for each in PRECISIONS), ("int8", 3)])
    def test_it_is_what_the_last_layer_reads(self, precision: str, batch: int | str, tmp_path: Path) -> None:
        """Of a quantised engine the dequantised numbers: the same graph computes both, so they are equal."""
        engine = named_engine(tmp_path, precision, batch=batch)
        whole, gemm = last_layer(engine.onnx_path)
        cut = cut_engine(engine, None, tmp_path / "cut")
        expected = TensorSession(whole, [gemm.input[0]], source="whole")(PIXELS)[gemm.input[0]]
        model = load_onnx(cut.onnx_path)
        found = TensorSession(model, [cut.contract.output_name], source="cut")(PIXELS)[cut.contract.output_name]
        assert found.dtype == np.float32
        # ONNX Runtime computes float16 in float32 on a CPU, and rounds to 11 bits where it must give a float16.
        np.testing.assert_allclose(found, expected.astype(np.float32), rtol=1e-3 if "16" in precision else 0)

    @pytest.mark.parametrize("runtime", ["openvino", "onnxruntime"])
    @pytest.mark.parametrize("precision", PRECISIONS)
    def test_every_runtime_computes_it(self, precision: str, runtime: str, tmp_path: Path) -> None:
        """The last layer, computed from the features, gives the logits that the runtime has for the whole network."""
        engine = named_engine(tmp_path, precision)
        runner = open_runner(engine, runtime).runner
        features = open_runner(cut_engine(engine, None, tmp_path / "cut"), runtime).runner
        model, gemm = last_layer(engine.onnx_path)
        read = TensorSession(model, gemm.input[1:3], source="whole")(PIXELS)  # dequantised
        weight, bias = (read[name].astype(np.float64) for name in gemm.input[1:3])
        logits_NK = runner(PIXELS)
        again_NK = features(PIXELS).astype(np.float64) @ weight.T + bias
        # float16 rounds logits to 11 bits; a bias in int32 is rounded to a thousandth of a step
        tolerance = (2e-2 if "16" in precision else 2e-3) * np.ptp(logits_NK)
        np.testing.assert_allclose(again_NK, logits_NK, atol=tolerance)

    def test_a_map_becomes_a_row_in_c_order(self, tmp_path: Path) -> None:
        engine = named_engine(tmp_path)
        cut = cut_engine(engine, MAPS, tmp_path / "cut")
        features = cut.contract.features
        assert features is not None
        assert (features.shape, cut.contract.outputs) == ((32, 4, 4), 512)
        model = load_onnx(engine.onnx_path)
        tensor = find_layer(model, features.layer, source="it").tensor
        expected = TensorSession(model, [tensor], source="whole")(PIXELS)[tensor]
        found = open_runner(cut, "onnxruntime").runner(PIXELS)
        np.testing.assert_allclose(found, expected.reshape(5, -1), rtol=1e-4, atol=1e-5)  # sums in another order

    def test_the_file_carries_its_contract_and_a_hash_of_the_graph(self, tmp_path: Path) -> None:
        engine = named_engine(tmp_path)
        default = cut_engine(engine, None, tmp_path / "0")
        name = layer_before_last(load_onnx(engine.onnx_path), source="it").name
        same, other = (cut_engine(engine, each, tmp_path / each) for each in (name, "conv.0"))
        assert contract_in(load_onnx(default.onnx_path), source="it") == default.contract
        assert default.contract.labels == ()
        assert same.contract == default.contract
        assert other.contract.features is not None
        assert default.contract.features is not None
        assert other.contract.features.sha256 != default.contract.features.sha256

    def test_an_edited_file_is_refused(self, tmp_path: Path) -> None:
        cut = cut_engine(named_engine(tmp_path), None, tmp_path / "cut")
        model = load_onnx(cut.onnx_path)
        cut_after(model, find_layer(model, "conv.0", source="it"), TINY_CONTRACT)
        onnx.helper.set_model_props(model, {"alexnet_deploy.contract": cut.contract.to_json()})
        save_onnx(model, tmp_path / "edited.onnx")
        with pytest.raises(DeployError, match="does not match its contract"):
            contract_in(load_onnx(tmp_path / "edited.onnx"), source="edited")

    def test_the_names_of_a_foreign_graph_stay_free(self, tmp_path: Path) -> None:
        model = load_onnx(tiny_model(tmp_path / "tiny.onnx"))
        for node in model.graph.node:
            node.input[:] = ["features" if name == "gemm_15_out" else name for name in node.input]
            node.output[:] = ["features" if name == "gemm_15_out" else name for name in node.output]
        layer = layers_in(model)[-3]
        contract = cut_after(model, layer, TINY_CONTRACT)
        save_onnx(model, tmp_path / "cut.onnx")
        assert contract.output_name.startswith("features")
        assert len({value.name for value in model.graph.output}) == 1
        assert CLASSES not in layer.shape or layer.shape == (CLASSES,)
