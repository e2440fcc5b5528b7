"""Models, weights and settings that no precision is made of: each has its error before the work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import numpy_helper

from alexnet_deploy.contract import Precision
from alexnet_deploy.errors import DeployError, InputError, UsageError
from alexnet_deploy.onnx_graph.onnx_file import load_onnx, save_onnx
from alexnet_deploy.precision.convert import to_fp16, to_quantized
from tests.helpers.models.onnx_models import tiny_classifier
from tests.precision.tiny_network import batches, with_weight


class TestRefused:
    @pytest.mark.parametrize(
        ("given", "settings", "error", "message"),
        [
            ("int8", {}, InputError, "net.onnx: is already quantised; give the float model"),
            ("fp8", {}, InputError, "net.onnx: is already quantised; give the float model"),
            ("fp16", {}, InputError, "net.onnx: is float16; give the float32 model"),
            ("fp32", {"exclude": "."}, InputError, "net.onnx: has no layer to quantise; check `exclude`"),
            ("fp32", {"batches": lambda: batches(31)}, InputError, r"the model fails on pixels \(4, 31, 31, 3\)"),
            (
                "fp32",
                {"precision": "fp16"},
                UsageError,
                "precision fp16: does not quantise; choose int8, fp8, int8-weights or int4",
            ),
        ],
    )
    def test_what_cannot_be_quantised(
        self, given: str, settings: dict[str, Any], error: type[DeployError], message: str, tmp_path: Path
    ) -> None:
        source = tiny_classifier(tmp_path / "net.onnx", given)
        with pytest.raises(error, match=message):
            to_quantized(source, tmp_path / "out.onnx", **{"precision": "int8", "batches": batches} | settings)
        assert not (tmp_path / "out.onnx").exists()

    def test_an_unknown_node_to_keep(self, fp32: Path, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match=r"net.onnx: has no node named conv_99"):
            to_fp16(fp32, tmp_path / "out.onnx", keep=frozenset({"conv_99"}))

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    @pytest.mark.parametrize("weight", ["first", "last"])
    def test_broken_weights_are_named_before_an_image_is_read(
        self, weight: str, value: float, fp32: Path, tmp_path: Path
    ) -> None:
        broken, name = with_weight(fp32, 0 if weight == "first" else -1, value, tmp_path / "broken.onnx")
        out = tmp_path / "out.onnx"
        out.write_text("old")
        with pytest.raises(InputError, match=rf"broken.onnx: weight {name} holds (NaN|infinity); export"):
            to_quantized(broken, out, precision="int8", batches=lambda: pytest.fail("an image was read"))
        assert out.read_text() == "old"
        assert sorted(path.name for path in tmp_path.iterdir()) == ["broken.onnx", "out.onnx"]

    @pytest.mark.parametrize("precision", ["fp16", "int8+fp16", "fp8+fp16", "int8-weights", "int4"])
    def test_a_weight_beyond_float16_before_an_image_is_read(
        self, precision: Precision, fp32: Path, tmp_path: Path
    ) -> None:
        source, name = with_weight(fp32, -1, 7e4, tmp_path / "large.onnx")
        out = tmp_path / "out.onnx"
        with pytest.raises(InputError, match=rf"{name}: 7e\+04 exceeds float16's 65504; build .*(fp32|without fp16)"):
            if precision == "fp16":
                to_fp16(source, out)
            else:
                to_quantized(source, out, precision=precision, batches=lambda: pytest.fail("an image was read"))
        assert not out.exists()

    def test_infinity_is_fine_where_it_bounds(self, tmp_path: Path) -> None:
        model = load_onnx(tiny_classifier(tmp_path / "net.onnx"))
        first = next(node for node in model.graph.node if node.op_type == "Relu")
        first.op_type = "Clip"
        first.input.extend(["zero", "infinity"])
        bounds = {"zero": np.float32(0), "infinity": np.float32(np.inf)}
        model.graph.initializer.extend(numpy_helper.from_array(np.array(v), name) for name, v in bounds.items())
        source = save_onnx(model, tmp_path / "clipped.onnx")
        made = to_quantized(source, tmp_path / "out.onnx", precision="int8", batches=batches, method="max")
        assert len(made.threshold_by_tensor) == 5
