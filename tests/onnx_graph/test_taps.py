"""A session gives any tensor of a graph, for any number of images, and leaves the model as it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from alexnet_deploy.errors import InputError
from alexnet_deploy.onnx_graph.taps import TensorSession
from tests.helpers.foreign_models import random_pixels
from tests.helpers.onnx_models import SIDE, Graph, tiny_classifier


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
