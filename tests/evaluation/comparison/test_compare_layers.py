"""Graphs layer by layer: sums of errors, and which layers of two graphs belong together."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from alexnet_deploy.contract import Precision
from alexnet_deploy.errors import InputError
from alexnet_deploy.evaluation.comparison.compare_layers import ErrorSums, compare_layers
from alexnet_deploy.onnx_graph.onnx_file import layer_of
from alexnet_deploy.precision.convert import to_fp16, to_quantized
from tests.helpers.models.colour_models import hostile_classifier
from tests.helpers.models.foreign_models import random_pixels
from tests.helpers.models.onnx_models import SIDE, tiny_classifier

TENSORS = hnp.arrays(np.float32, (3, 4), elements=st.floats(-100, 100, width=32))


@given(a=TENSORS, b=TENSORS)
def test_errors_in_pieces_are_those_of_the_whole(a: NDArray[np.float32], b: NDArray[np.float32]) -> None:
    errors = ErrorSums()
    for row_a, row_b in zip(a, b, strict=True):
        errors.add(row_a, row_b)
    x, y = a.astype(np.float64), b.astype(np.float64)
    assert errors.max_abs == np.abs(x - y).max()
    assert math.isclose(errors.mean_abs, np.abs(x - y).mean(), abs_tol=1e-12)
    noise, signal = ((x - y) ** 2).sum(), (x**2).sum()
    expected = math.inf if noise == 0 else -math.inf if signal == 0 else 10 * math.log10(signal / noise)
    assert errors.sqnr_db == pytest.approx(expected)
    lengths = np.linalg.norm(x) * np.linalg.norm(y)
    if lengths > 1e-30:
        assert errors.cosine == pytest.approx((x * y).sum() / lengths, abs=1e-9)


def test_what_is_not_finite_gives_nan() -> None:
    errors = ErrorSums()
    errors.add(np.array([1.0, np.inf]), np.array([1.0, np.inf]))
    assert math.isnan(errors.sqnr_db)
    assert math.isnan(errors.max_abs)


def test_a_graph_is_equal_to_itself(tmp_path: Path) -> None:
    path = tiny_classifier(tmp_path / "a.onnx")
    rows = compare_layers(path, path, [random_pixels(3, SIDE)])
    assert {(row.sqnr_db, row.max_abs, row.mean_abs) for row in rows} == {(math.inf, 0.0, 0.0)}
    # Products of one vector in two orders differ in the last bit.
    assert all(row.cosine == pytest.approx(1.0) for row in rows)
    assert [row.op for row in rows].count("Conv") == 3
    assert not {"Cast", "Transpose", "Flatten"} & {row.op for row in rows}


@pytest.mark.parametrize("precision", ["int8", "int8+fp16"])
def test_every_layer_of_the_float_graph_has_its_quantised_one(tmp_path: Path, precision: Precision) -> None:
    """Also the last one, whose output tensor another name has in float16."""
    path, pixels = hostile_classifier(tmp_path / "a.onnx", outlier=1.0), random_pixels(6, 8)
    to_quantized(path, tmp_path / "b.onnx", precision=precision, batches=lambda: iter([pixels]), method="max")
    rows = compare_layers(path, tmp_path / "b.onnx", [pixels[:4], pixels[4:]])
    expected = ["pixels", "features.0", "features.1", "avgpool", "classifier"]
    assert [row.layer for row in rows] == expected
    by_layer = {row.layer: row for row in rows}
    # 8 bits are some 40 dB, float16's 11 some 60; what a wrong pairing would give is near 0.
    assert 25 < by_layer["features.1"].sqnr_db < 60
    assert by_layer["classifier"].cosine > 0.99


def test_int4_has_the_dense_layers_too(tmp_path: Path) -> None:
    """Also from int4 to float: a Gemm has become a MatMul, and an Add behind it."""
    path, pixels = tiny_classifier(tmp_path / "a.onnx"), random_pixels(3, SIDE)
    to_quantized(path, tmp_path / "b.onnx", precision="int4", batches=None)
    for a, b, op in (("a", "b", "Gemm"), ("b", "a", "MatMul")):
        rows = compare_layers(tmp_path / f"{a}.onnx", tmp_path / f"{b}.onnx", [pixels])
        dense = [row for row in rows if row.op in ("Gemm", "MatMul", "Add")]
        assert [(row.layer, row.op) for row in dense] == [("gemm_13", op), ("gemm_14", op)]
        assert all(10 < row.sqnr_db < 40 for row in dense)  # 4 bits


def test_fp16_differs_by_its_rounding(tmp_path: Path) -> None:
    path = hostile_classifier(tmp_path / "a.onnx", outlier=1.0)
    to_fp16(path, tmp_path / "b.onnx")
    rows = compare_layers(path, tmp_path / "b.onnx", [random_pixels(2, 8)])
    assert len(rows) == 5
    assert all(row.sqnr_db > 55 for row in rows)  # 11 bits: 66 dB a rounding, a few of them in a row


def test_a_fixed_batch_is_split_and_filled(tmp_path: Path) -> None:
    free, fixed = hostile_classifier(tmp_path / "a.onnx"), hostile_classifier(tmp_path / "b.onnx", batch=4)
    rows = compare_layers(free, fixed, [random_pixels(6, 8)])
    assert len(rows) == 5
    assert all(row.max_abs == 0 for row in rows)


def test_other_networks_are_refused(tmp_path: Path) -> None:
    ours, other = hostile_classifier(tmp_path / "a.onnx"), tiny_classifier(tmp_path / "b.onnx", side=8)
    with pytest.raises(InputError, match="have no layer in common"):
        compare_layers(ours, other, [random_pixels(1, 8)])
    model = onnx.load(ours)
    shapes = {"spread": (8, 3, 1, 1), "extra": (8,), "back": (16, 8, 1, 1)}
    for weight in model.graph.initializer:
        if weight.name in shapes:
            weight.CopyFrom(onnx.numpy_helper.from_array(np.ones(shapes[weight.name], np.float32), weight.name))
    onnx.save(model, tmp_path / "c.onnx")
    with pytest.raises(InputError, match=r"layer features.0/Conv has shapes \[1, 16, 8, 8\] and \[1, 8, 8, 8\]"):
        compare_layers(ours, tmp_path / "c.onnx", [random_pixels(1, 8)])


@pytest.mark.parametrize(
    ("name", "layer"),
    [("features.0/Conv", "features.0"), ("/features/0/Conv", "/features/0/Conv"), ("Conv_3", "Conv_3"), ("", "y")],
)
def test_layers_are_called_as_in_torch_where_the_node_tells(name: str, layer: str) -> None:
    assert layer_of(onnx.helper.make_node("Conv", ["x", "w"], ["y"], name=name)) == layer
