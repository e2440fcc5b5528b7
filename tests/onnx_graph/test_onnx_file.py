"""Reading distrusts the file, writing is whole or not at all, the contract is the graph's, any tensor can be read."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from alexnet_deploy.adoption.adopt import adopt
from alexnet_deploy.contract import METADATA_KEY
from alexnet_deploy.errors import ArtifactError, InputError
from alexnet_deploy.onnx_graph import onnx_file
from alexnet_deploy.onnx_graph.taps import TensorSession
from tests.helpers.models.foreign_models import FOREIGN, foreign_classifier, random_pixels
from tests.helpers.models.onnx_models import SIDE, Graph, tiny_classifier


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tiny_classifier(tmp_path / "net.onnx")


class TestLoad:
    @pytest.mark.parametrize(
        "content",
        [b"", b"garbage", b"\x00" * 64, b"\x08\x0a", b'{"irVersion": 10}', b"<html></html>"],
        ids=["empty", "text", "zeros", "no graph", "JSON", "HTML"],
    )
    def test_what_is_no_model(self, content: bytes, tmp_path: Path) -> None:
        (tmp_path / "bad.onnx").write_bytes(content)
        with pytest.raises(InputError, match=r"bad.onnx: is not (an|a valid) ONNX model.*; export it again$"):
            onnx_file.load_onnx(tmp_path / "bad.onnx")

    @given(cut=st.integers(0, 2000), noise=st.binary(max_size=40))
    @example(cut=897, noise=b"\x80")  # the graph's name is no UTF-8
    @settings(max_examples=60, deadline=None)
    def test_damage_is_an_error_of_ours_or_goes_unseen(
        self, cut: int, noise: bytes, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        folder = tmp_path_factory.getbasetemp() / "damage"
        folder.mkdir(exist_ok=True)
        good = foreign_classifier(folder / "good.onnx").read_bytes()
        bad = folder / "bad.onnx"
        bad.write_bytes(good[:cut] + noise + good[cut + len(noise) :] if cut % 2 else good[:cut] + noise)
        try:
            model = onnx_file.load_onnx(bad)
        except InputError as exc:
            assert str(exc).startswith(f"{bad}: ")
            assert "\n" not in str(exc)
        else:
            onnx.checker.check_model(model)

    def test_no_file_and_a_folder(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"none.onnx: no such ONNX file; make it: alexnet-deploy export"):
            onnx_file.load_onnx(tmp_path / "none.onnx")
        with pytest.raises(InputError, match=r"is a folder, expected an ONNX file"):
            onnx_file.load_onnx(tmp_path)

    @pytest.mark.parametrize("part", ["node", "output"])
    def test_no_nodes_or_no_outputs(self, part: str, path: Path) -> None:
        model = onnx.load(path)
        model.graph.ClearField(part)
        onnx.save(model, path)
        with pytest.raises(InputError, match=r"is not an ONNX model, or has no nodes or outputs"):
            onnx_file.load_onnx(path)

    def test_what_onnx_does_not_have(self, path: Path) -> None:
        model = onnx.load(path)
        model.graph.node[0].op_type = "Sharpen"
        onnx.save(model, path)
        with pytest.raises(InputError, match=r"net.onnx: is not a valid ONNX model \(No Op registered for Sharpen"):
            onnx_file.load_onnx(path)
        model.ir_version = 1000
        onnx.save(model, path)
        with pytest.raises(InputError, match=r"net.onnx: is not a valid ONNX model \(.*ir_version 1000"):
            onnx_file.load_onnx(path)

    def test_the_name_does_not_decide_the_format(self, path: Path) -> None:
        """onnx itself would take ``.json`` or ``.textproto`` for text."""
        renamed = path.rename(path.with_suffix(".json"))
        assert onnx_file.load_onnx(renamed).graph.node


class TestExternalData:
    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        return tiny_classifier(
            tmp_path / "net.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0
        )

    def test_weights_come_along(self, path: Path, tmp_path: Path) -> None:
        whole = onnx_file.save_onnx(onnx_file.load_onnx(path), tmp_path / "elsewhere" / "whole.onnx")
        (tmp_path / "weights.bin").unlink()
        expected = onnx.load(tiny_classifier(tmp_path / "inline.onnx"))
        found = {
            name: numpy_helper.to_array(tensor).tolist()
            for name, tensor in onnx_file.initializers(onnx_file.load_onnx(whole)).items()
        }
        assert found == {t.name: numpy_helper.to_array(t).tolist() for t in expected.graph.initializer}

    @pytest.mark.parametrize("damage", [Path.unlink, lambda file: file.write_bytes(b"short")], ids=["missing", "cut"])
    def test_without_all_of_its_weights(self, damage: Callable[[Path], object], path: Path, tmp_path: Path) -> None:
        damage(tmp_path / "weights.bin")
        with pytest.raises(InputError, match=r"net.onnx: is not a valid ONNX model \(.*tensor.*w[01]"):
            onnx_file.load_onnx(path)

    @pytest.mark.parametrize("location", ["../secret.bin", "/etc/hostname"])
    def test_a_file_outside_its_folder_is_not_read(self, location: str, path: Path, tmp_path: Path) -> None:
        model = onnx.load(path, load_external_data=False)
        for tensor in model.graph.initializer:
            tensor.external_data[0].value = location
        (tmp_path / "secret.bin").write_bytes(bytes(2_000_000))
        inner = tmp_path / "inner" / "net.onnx"
        inner.parent.mkdir()
        onnx.save(model, inner)
        with pytest.raises(InputError, match=r"net.onnx: is not a valid ONNX model"):
            onnx_file.load_onnx(inner)


class TestSave:
    def test_what_was_saved_is_loaded(self, path: Path, tmp_path: Path) -> None:
        model = onnx_file.load_onnx(path)
        assert onnx_file.save_onnx(model, tmp_path / "deep" / "copy.onnx") == tmp_path / "deep" / "copy.onnx"
        assert onnx_file.load_onnx(tmp_path / "deep" / "copy.onnx") == model

    def test_a_model_that_fails_the_check_leaves_what_stood_there(self, path: Path) -> None:
        before = path.read_bytes()
        model = onnx_file.load_onnx(path)
        model.graph.node[-1].input[0] = "nowhere"
        with pytest.raises(onnx.checker.ValidationError):  # our own bug, not the user's: it keeps its traceback
            onnx_file.save_onnx(model, path)
        model = onnx_file.load_onnx(path)
        model.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT16
        with pytest.raises(onnx.shape_inference.InferenceError):
            onnx_file.save_onnx(model, path)
        assert path.read_bytes() == before


class TestContract:
    @pytest.fixture
    def model(self, tmp_path: Path) -> onnx.ModelProto:
        adopt(foreign_classifier(tmp_path / "net.onnx"), tmp_path / "ours.onnx", FOREIGN)
        return onnx_file.load_onnx(tmp_path / "ours.onnx")

    def test_a_model_of_another_tool_has_none(self, path: Path) -> None:
        assert onnx_file.contract_in(onnx_file.load_onnx(path), source="x") is None

    def test_it_is_replaced_and_the_rest_of_the_metadata_stays(self, model: onnx.ModelProto) -> None:
        contract = onnx_file.contract_in(model, source="x")
        assert contract is not None
        warmer = dataclasses.replace(contract, temperature=2.5)
        helper.set_model_props(model, {entry.key: entry.value for entry in model.metadata_props} | {"author": "me"})
        onnx_file.set_contract(model, warmer)
        assert onnx_file.contract_in(model, source="x") == warmer
        assert sorted(entry.key for entry in model.metadata_props) == [METADATA_KEY, "author"]

    @pytest.mark.parametrize("text", ["", "{}", "[]", "not json", '{"schema": 999}'])
    def test_damage_names_the_file(self, text: str, model: onnx.ModelProto) -> None:
        helper.set_model_props(model, {METADATA_KEY: text})
        with pytest.raises(ArtifactError, match=r"^engines/a.onnx: .*contract"):
            onnx_file.contract_in(model, source="engines/a.onnx")

    @pytest.mark.parametrize(
        "edit",
        [
            lambda graph: setattr(graph.input[0], "name", "image"),
            lambda graph: setattr(graph.input[0].type.tensor_type, "elem_type", TensorProto.INT8),
            lambda graph: setattr(graph.input[0].type.tensor_type.shape.dim[1], "dim_value", 9),
            lambda graph: setattr(graph.output[0], "name", "scores"),
            lambda graph: setattr(graph.output[0].type.tensor_type.shape.dim[1], "dim_value", 9),
            lambda graph: graph.output.add(name="more", type=graph.output[0].type),
        ],
        ids=["input", "type", "size", "output", "classes", "a second output"],
    )
    def test_a_graph_that_breaks_the_promise(
        self, edit: Callable[[onnx.GraphProto], object], model: onnx.ModelProto
    ) -> None:
        edit(model.graph)
        with pytest.raises(ArtifactError, match=r"^a.onnx: its graph does not match its contract"):
            onnx_file.contract_in(model, source="a.onnx")


class TestGraph:
    @pytest.mark.parametrize(("batch", "expected"), [("N", None), (1, 1), (7, 7)])
    def test_fixed_batch(self, batch: int | str, expected: int | None, tmp_path: Path) -> None:
        assert (
            onnx_file.fixed_batch(onnx_file.load_onnx(tiny_classifier(tmp_path / "net.onnx", batch=batch))) == expected
        )

    @given(names=st.lists(st.sampled_from(["", "a", "Relu_1", "Relu_2", "Relu_1_2"]), min_size=1, max_size=8))
    @settings(deadline=None)
    def test_every_node_gets_a_name_and_first_come_keeps_it(self, names: list[str]) -> None:
        nodes = [helper.make_node("Relu", [f"t{i}"], [f"t{i + 1}"], name) for i, name in enumerate(names)]
        model = helper.make_model(helper.make_graph(nodes, "g", [], []))
        onnx_file.name_nodes(model)
        given_names = [node.name for node in model.graph.node]
        assert all(given_names)
        assert len(set(given_names)) == len(given_names)
        assert given_names[0] == (names[0] or "Relu_0")


def tensors_of(model: onnx.ModelProto) -> list[str]:
    return [node.output[0] for node in model.graph.node]


@pytest.mark.parametrize("all_optimisations", [False, True])
def test_any_tensor_and_the_model_stays(all_optimisations: bool, tmp_path: Path) -> None:
    model = onnx.load(tiny_classifier(tmp_path / "net.onnx"))
    before = model.SerializeToString()
    session = TensorSession(model, tensors_of(model) * 2, source="net", all_optimisations=all_optimisations)
    pixels_NHWC = random_pixels(3, SIDE)
    values = session(pixels_NHWC)
    assert model.SerializeToString() == before
    assert list(values) == tensors_of(model)
    np.testing.assert_array_equal(values[model.graph.node[0].output[0]], pixels_NHWC.astype(np.float32))
    assert values["logits"].shape == (3, 10)


@pytest.mark.parametrize("count", [1, 4, 6])
def test_a_fixed_batch_is_split_and_filled(count: int, tmp_path: Path) -> None:
    free, fixed = (onnx.load(tiny_classifier(tmp_path / "net.onnx", batch=batch)) for batch in ("N", 4))
    pixels_NHWC = random_pixels(count, SIDE)
    expected, found = (TensorSession(model, tensors_of(free), source="net")(pixels_NHWC) for model in (free, fixed))
    for name, value in expected.items():
        # Another batch size may take another kernel, which sums float32 products in another order.
        np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-5)


def test_tensors_whose_first_axis_is_not_the_batch(tmp_path: Path) -> None:
    """A number, a shape, and two rows per image."""
    g = Graph()
    x = g.node("Cast", "pixels", to=1)
    total, shape = g.node("ReduceSum", x, keepdims=0), g.node("Shape", x)
    rows = g.node("Reshape", x, g.constant(np.array([-1, 6])))
    path = g.save(g.node("Flatten", x), tmp_path / "net.onnx", [3, 2, 2, 3], onnx.TensorProto.UINT8)
    pixels_NHWC = random_pixels(2, 2)
    values = TensorSession(onnx.load(path), [total, shape, rows], source="net")(pixels_NHWC)
    assert (values[total].shape, values[shape].tolist()) == ((), [3, 2, 2, 3])
    np.testing.assert_array_equal(values[rows], pixels_NHWC.reshape(4, 6))


def test_a_model_that_fails_is_named(tmp_path: Path) -> None:
    path = tiny_classifier(tmp_path / "net.onnx")
    with pytest.raises(InputError, match=r"^net: the model fails on pixels \(1, 5, 5, 3\) \(.*; export it for that"):
        TensorSession(onnx.load(path), ["logits"], source="net")(random_pixels(1, 5))
    model = onnx.load(path)
    model.graph.node.append(helper.make_node("Sharpen", ["logits"], ["y"], domain="acme"))
    model.opset_import.append(helper.make_opsetid("acme", 1))
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(1, np.float32), "unused"))
    with pytest.raises(InputError, match=r"^net: ONNX Runtime refuses the model \(.*Sharpen"):
        TensorSession(model, ["y"], source="net")
