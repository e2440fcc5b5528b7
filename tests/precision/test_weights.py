"""Weights alone in int4 or int8: the graph, and files in every runtime that runs here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import numpy_helper

from alexnet_deploy.adoption.adopt import adopt
from alexnet_deploy.errors import InputError
from alexnet_deploy.onnx_graph.onnx_file import OPSET, load_onnx, precision_in, save_onnx
from alexnet_deploy.precision.calibration.moments import second_moments
from alexnet_deploy.precision.convert import calibrate, to_quantized
from alexnet_deploy.precision.qdq import quantizable
from alexnet_deploy.precision.rounding import SEGMENT
from alexnet_deploy.precision.types import QuantizedType
from alexnet_deploy.precision.weights import WeightQuantiser
from tests.helpers.models.foreign_models import FOREIGN, foreign_classifier
from tests.helpers.models.graphs import graph_model, run_graph
from tests.helpers.models.onnx_models import tiny_classifier, tiny_model
from tests.precision.test_convert import RUNTIMES, answers, batches, by_reference, noise

DTYPES: tuple[QuantizedType, ...] = ("int4", "int8-weights")
DENSE = {
    "Gemm (x, w)": (False, ()), "Gemm <transB=1> (x, w)": (True, ()), "Gemm <transB=1> (x, w, b)": (True, (6,)),
    "Gemm (x, w, b)": (False, (1, 6)), "Gemm <beta=1.0> (x, w, b)": (False, (3, 6)), "MatMul (x, w)": (False, ()),
}  # fmt: skip


def dequantised(model: onnx.ModelProto) -> dict[str, NDArray[Any]]:
    """Each DequantizeLinear's values by its output, in NumPy: what the blocks mean."""
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    found = {}
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear":
            values, scale = (constants[name].astype(np.float32) for name in node.input)
            axis = next(a.i for a in node.attribute if a.name == "axis")
            if values.ndim == scale.ndim:
                assert values.shape[0] == 128 * scale.shape[0]
                found[node.output[0]] = values * np.repeat(scale, 128, axis=0)
            else:
                found[node.output[0]] = values * np.moveaxis(np.expand_dims(scale, [*range(1, values.ndim)]), 0, axis)
    return found


class TestGraph:
    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("layer", DENSE)
    @given(seed=st.integers(0, 2**32 - 1), inputs=st.integers(1, 300))
    @settings(max_examples=8)
    def test_a_dense_layer(self, layer: str, dtype: QuantizedType, seed: int, inputs: int) -> None:
        rng = np.random.default_rng(seed)
        transposed, bias = DENSE[layer]
        w = rng.normal(size=(6, inputs) if transposed else (inputs, 6)).astype(np.float32)
        constants = {"w": w} | ({"b": rng.normal(size=bias).astype(np.float32)} if bias else {})
        model = graph_model(f"(float[3,{inputs}] x) => (float[3,6] y)", f"y = {layer}", **constants)
        x = rng.normal(size=(3, inputs)).astype(np.float32)
        WeightQuantiser(dtype, None).insert(model, quantizable(model, dtype))
        onnx.checker.check_model(model, full_check=True)
        (weight,) = dequantised(model).values()
        weight = weight[:inputs] if dtype == "int4" or not transposed else weight.T
        (found,) = run_graph(model, basic=True, x=x)
        expected = x @ weight + constants.get("b", np.float32(0))
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)  # some hundred products in float32
        # Half a step, of 7 or 127 for the largest weight; the best scale clips a few.
        steps = 7 if dtype == "int4" else 127
        exact = w.T if transposed else w
        assert np.abs(weight - exact).max() <= np.abs(exact).max() * max(0.5, 0.4 * steps) / steps

    def test_rows_of_several_axes_and_one_weight_for_two_layers(self) -> None:
        rng = np.random.default_rng(0)
        body = "h = MatMul (x, w); r = Relu (h); y = MatMul (r, w); z = MatMul (x, w)"
        weights = {"w": rng.normal(size=(140, 140)).astype(np.float32)}
        model = graph_model("(float[2,5,140] x) => (float[2,5,140] y, float[2,5,140] z)", body, **weights)
        WeightQuantiser("int4", None).insert(model, quantizable(model, "int4"))
        onnx.checker.check_model(model, full_check=True)
        ops = [node.op_type for node in model.graph.node]
        assert (ops.count("Pad"), ops.count("MatMul")) == (2, 3)  # x is padded once
        x = rng.normal(size=(2, 5, 140)).astype(np.float32)
        weight = next(iter(dequantised(model).values()))[:140]
        y, z = run_graph(model, basic=True, x=x)
        np.testing.assert_allclose(z, x @ weight, rtol=0, atol=1e-4)
        np.testing.assert_allclose(y, np.maximum(x @ weight, 0) @ weight, rtol=0, atol=1e-2)

    def test_layers_that_share_a_weight_are_each_rounded_for_their_own_input(self) -> None:
        rng = np.random.default_rng(0)
        body, signature = (
            "h = Neg (x); y = MatMul (x, w); z = MatMul (h, w)",
            "(float[2,40] x) => (float[2,9] y, float[2,9] z)",
        )
        mixes = {name: rng.normal(size=(40, 12)) @ rng.normal(size=(12, 40)) for name in ("x", "h")}
        moments = {name: [(mix.T @ mix).astype(np.float32)] for name, mix in mixes.items()}
        weights = {"w": rng.normal(size=(40, 9)).astype(np.float32)}

        def rounded(*layers: str) -> list[NDArray[Any]]:
            model = graph_model(signature, body, **weights)
            nodes = [node for node in quantizable(model, "int4") if node.name in layers]
            WeightQuantiser("int4", moments).insert(model, nodes)
            return list(dequantised(model).values())

        both = rounded("y", "z")
        for found, alone in zip(both, (*rounded("y"), *rounded("z")), strict=True):
            np.testing.assert_array_equal(found, alone)
        assert (both[0] != both[1]).any()

    @pytest.mark.parametrize("body", ["y = Gemm <beta = 0.5> (x, w, b)", "y = Gemm <alpha = 0.5> (x, w)"])
    def test_a_scaled_gemm_stays(self, body: str) -> None:
        model = graph_model("(float[3,4] x) => (float[3,4] y)", body, w=np.eye(4, dtype=np.float32), b=np.float32(1))
        assert quantizable(model, "int4") == []

    def test_moments_of_wide_inputs_are_blocks(self) -> None:
        wide = SEGMENT + 3
        model = graph_model(
            f"(float[N,{wide}] x) => (float[N,2] y)", "y = MatMul (x, w)", w=np.ones((wide, 2), np.float32)
        )
        x = np.random.default_rng(0).normal(size=(6, wide)).astype(np.float32)
        (moments,) = second_moments(model, {"x": wide}, lambda: iter([x[:4], x[4:]])).values()  # type: ignore[arg-type]
        assert [moment.shape for moment in moments] == [(SEGMENT, SEGMENT), (3, 3)]
        np.testing.assert_allclose(moments[1], x[:, SEGMENT:].T @ x[:, SEGMENT:] / 6, rtol=1e-4, atol=1e-5)


class TestFiles:
    # Largest difference to fp32, as a share of the largest logit: 4 bits in two layers, 8 in five.
    @pytest.mark.parametrize(("precision", "share"), [("int4", 0.15), ("int8-weights", 0.02)])
    @pytest.mark.parametrize("calibrated", [False, True])
    def test_all_runtimes_agree(
        self, precision: QuantizedType, share: float, calibrated: bool, fp32: Path, tmp_path: Path
    ) -> None:
        out = tmp_path / "out.onnx"
        to_quantized(fp32, out, precision=precision, batches=batches if calibrated else None)
        assert precision_in(load_onnx(out)) == precision
        pixels_NHWC = noise(16)
        exact_NK, reference_NK = by_reference(fp32, pixels_NHWC), by_reference(out, pixels_NHWC)
        largest = np.abs(exact_NK).max()
        assert 0 < np.abs(reference_NK - exact_NK).max() < share * largest
        for runtime in RUNTIMES:
            logits_NK = answers(out, runtime, precision, pixels_NHWC)
            # The weights are the same numbers; the layers are float16 in one and float32 in others.
            assert np.abs(logits_NK - reference_NK).max() < 0.01 * largest

    def test_calibration_keeps_answers_closer(self, fp32: Path, tmp_path: Path) -> None:
        pixels_NHWC = noise(16)
        exact_NK, errors = by_reference(fp32, pixels_NHWC), []
        for given_batches in (None, batches):
            out = tmp_path / "out.onnx"
            to_quantized(fp32, out, precision="int4", batches=given_batches)
            errors.append(float(np.square(answers(out, "onnxruntime", "int4", pixels_NHWC) - exact_NK).mean()))
        assert errors[1] < errors[0]

    def test_no_float32_is_left_but_the_logits(self, fp32: Path, tmp_path: Path) -> None:
        for precision in DTYPES:
            to_quantized(fp32, tmp_path / "out.onnx", precision=precision, batches=None)
            graph = onnx.shape_inference.infer_shapes(load_onnx(tmp_path / "out.onnx"), strict_mode=True).graph
            values = (*graph.value_info, *graph.output)
            floats = {value.name for value in values if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT}
            floats |= {tensor.name for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT}
            assert floats == {"logits"}

    @pytest.mark.parametrize("opset", [13, 17])
    def test_an_old_opset_is_raised(self, opset: int, tmp_path: Path) -> None:
        """Of a model of another tool by the import; of one that carries our contract by the conversion."""
        old = load_onnx(tiny_model(tmp_path / "net.onnx"))
        old.opset_import[0].version = opset  # its operators are the same there
        source = tmp_path / "old.onnx"
        onnx.save(old, source)
        to_quantized(source, tmp_path / "ours.onnx", precision="int4", batches=None)
        adopt(foreign_classifier(tmp_path / "theirs.onnx", opset=opset), tmp_path / "adopted.onnx", FOREIGN)
        to_quantized(tmp_path / "adopted.onnx", tmp_path / "theirs-4.onnx", precision="int4", batches=None)
        for name in ("ours", "theirs-4"):
            found = load_onnx(tmp_path / f"{name}.onnx")
            assert [entry.version for entry in found.opset_import if not entry.domain] == [OPSET]
            assert precision_in(found) == "int4"
        pixels_NHWC = noise(4)
        exact_NK = answers(source, "onnxruntime", "fp32", pixels_NHWC)
        found_NK = answers(tmp_path / "ours.onnx", "onnxruntime", "int4", pixels_NHWC)
        assert np.abs(found_NK - exact_NK).max() < 0.15 * np.abs(exact_NK).max()

    @pytest.mark.parametrize(
        ("layers", "exclude", "message"),
        [
            ("conv", None, "net.onnx: has no dense layer to quantise; build int8-weights"),
            ("all", "gemm", "net.onnx: has no dense layer to quantise; check `exclude`"),
        ],
    )
    def test_nothing_to_quantise(self, layers: str, exclude: str | None, message: str, tmp_path: Path) -> None:
        path = tiny_classifier(tmp_path / "net.onnx")
        if layers == "conv":
            body = "c = Cast <to=1> (pixels); y = Conv (c, w); logits = Flatten (y)"
            signature = "(uint8[N,3,4,4] pixels) => (float[N,16] logits)"
            save_onnx(graph_model(signature, body, w=np.ones((1, 3, 1, 1), np.float32)), path)
        with pytest.raises(InputError, match=message):
            to_quantized(path, tmp_path / "out.onnx", precision="int4", batches=None, exclude=exclude)
        assert not (tmp_path / "out.onnx").exists()

    def test_some_layers_of_a_copy(self, fp32: Path) -> None:
        quantiser = calibrate(fp32, dtype="int4", batches=batches)
        whole, part = (onnx.ModelProto.FromString(quantiser.model.SerializeToString()) for _ in range(2))
        names = [node.name for node in quantiser.nodes]
        quantiser.quantise(whole, names)
        quantiser.quantise(part, names[1:])
        both, one = dequantised(whole), dequantised(part)
        assert (len(both), len(one)) == (2, 1)
        (name,) = one
        np.testing.assert_array_equal(both[name], one[name])
