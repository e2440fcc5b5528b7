"""Normalisations for which onnx infers no shapes are imported with the answers of the original."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from alexnet_deploy.adoption.import_options import ImportOptions
from alexnet_deploy.errors import ProofError
from alexnet_deploy.verification.imported import adopt_verified

GIVEN = ImportOptions(mean=(0.5,), std=(0.5,))
CHANNELS, CLASSES = 6, 5


def save(
    path: Path, norm: onnx.NodeProto, *, batch: int | str = "N", dtype: type = np.float32, opset: int = 21
) -> Path:
    """A convolution, ``norm`` from ``conv`` to ``norm``, and a classifier."""
    rng = np.random.default_rng(7)
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    shapes = {"w": (CHANNELS, 3, 3, 3), "scale": (CHANNELS,), "bias": (CHANNELS,), "dense": (CHANNELS, CLASSES)}
    weights = [numpy_helper.from_array(rng.normal(size=size).astype(dtype), name) for name, size in shapes.items()]
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["conv"]),
        norm,
        helper.make_node("Relu", ["norm"], ["relu"]),
        helper.make_node("GlobalAveragePool", ["relu"], ["pool"]),
        helper.make_node("Flatten", ["pool"], ["flat"]),
        helper.make_node("MatMul", ["flat", "dense"], ["y"]),
    ]
    x = helper.make_tensor_value_info("x", kind, [batch, 3, 16, 16])
    y = helper.make_tensor_value_info("y", kind, [batch, CLASSES])
    graph = helper.make_graph(nodes, "g", [x], [y], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10), path)
    return path


def group_norm(groups: int, **attributes: float) -> onnx.NodeProto:
    inputs = ["conv", "scale", "bias"]
    return helper.make_node("GroupNormalization", inputs, ["norm"], num_groups=groups, **attributes)


@pytest.mark.parametrize("groups", [1, 2, CHANNELS])
@pytest.mark.parametrize(("dtype", "epsilon"), [(np.float32, None), (np.float32, 0.5), (np.float16, 0.5)])
def test_group_normalisation(groups: int, dtype: type, epsilon: float | None, tmp_path: Path) -> None:
    norm = group_norm(groups, **({} if epsilon is None else {"epsilon": epsilon}))
    _, notes = adopt_verified(save(tmp_path / "a.onnx", norm, dtype=dtype), tmp_path / "b.onnx", GIVEN)
    assert not [note for note in notes if "not compared" in note or "not measured" in note]
    onnx.checker.check_model(str(tmp_path / "b.onnx"), full_check=True)


class TestMeanVarianceWithoutAxes:
    NORM = helper.make_node("MeanVarianceNormalization", ["conv"], ["norm"])

    @pytest.mark.parametrize("opset", [9, 13, 21])
    def test_of_one_image(self, opset: int, tmp_path: Path) -> None:
        adopt_verified(save(tmp_path / "a.onnx", self.NORM, batch=1, opset=opset), tmp_path / "b.onnx", GIVEN)

    def test_of_a_batch_is_refused_by_its_cause(self, tmp_path: Path) -> None:
        """The default axes include the batch."""
        with pytest.raises(ProofError, match="depends on the other images of the batch"):
            adopt_verified(save(tmp_path / "a.onnx", self.NORM), tmp_path / "b.onnx", GIVEN)


def test_a_group_normalisation_in_a_branch_is_refused_by_name(tmp_path: Path) -> None:
    from alexnet_deploy.adoption.operators.normalisations import write_out_normalisations
    from alexnet_deploy.errors import InputError

    value = helper.make_tensor_value_info("norm", TensorProto.FLOAT, None)
    branch = helper.make_graph([group_norm(2)], "branch", [], [value])
    node = helper.make_node("If", ["c"], ["out"], then_branch=branch, else_branch=branch)
    model = helper.make_model(helper.make_graph([node], "g", [], []))
    with pytest.raises(InputError, match=r"GroupNormalization\) stands in a branch of control flow"):
        write_out_normalisations(model, tmp_path / "a.onnx")
