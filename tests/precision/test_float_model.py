"""Every build starts from float32: a float16 file is widened, and a quantised one refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from alexnet_deploy.adoption.import_options import NO_IMPORT_OPTIONS
from alexnet_deploy.errors import InputError
from alexnet_deploy.onnx_graph.onnx_file import load_onnx, precision_in
from alexnet_deploy.precision.float_model import import_float_model
from tests.helpers.models.foreign_models import random_pixels
from tests.helpers.models.graphs import run_graph
from tests.helpers.models.onnx_models import SIDE, tiny_model


def test_a_float16_file_is_widened_and_says_so(tmp_path: Path) -> None:
    half = tiny_model(tmp_path / "half.onnx", "fp16")
    made = import_float_model(half, tmp_path / "float.onnx", NO_IMPORT_OPTIONS)
    model = load_onnx(made.path)
    assert precision_in(model) == "fp32"
    assert not any(tensor.data_type == TensorProto.FLOAT16 for tensor in model.graph.initializer)
    assert any("is float32 in this engine, exactly" in note for note in made.notes)
    pixels_NHWC = random_pixels(4, SIDE)
    (expected,), (actual,) = (run_graph(each, pixels=pixels_NHWC) for each in (onnx.load(half), model))
    # The float16 file rounds some fifteen times in a row to 11 bits; the widened one does not.
    np.testing.assert_allclose(actual, expected, rtol=0, atol=0.01 * np.abs(expected).max())


@pytest.mark.parametrize("precision", ["int8", "int8+fp16", "fp8"])
def test_a_quantised_file_is_no_float_model(precision: str, tmp_path: Path) -> None:
    quantised = tiny_model(tmp_path / "quantised.onnx", precision)
    with pytest.raises(InputError, match=r"quantised.onnx: is already quantised, .*; give the float model"):
        import_float_model(quantised, tmp_path / "float.onnx", NO_IMPORT_OPTIONS)
