"""File to file: what each precision answers, in every runtime that runs here, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator

from alexnet_deploy.adoption.adopt import adopt
from alexnet_deploy.bundle.manifest import Engine
from alexnet_deploy.contract import Precision
from alexnet_deploy.onnx_graph.onnx_file import OPSET, contract_in, load_onnx, precision_in, save_onnx, weights_sha256
from alexnet_deploy.precision.convert import to_fp16, to_quantized
from alexnet_deploy.precision.types import METHODS
from alexnet_deploy.runtime.select import open_runner
from tests.helpers.models.foreign_models import FOREIGN, foreign_classifier
from tests.helpers.models.foreign_models import SIDE as FOREIGN_SIDE
from tests.helpers.models.onnx_models import TINY_CONTRACT, tiny_classifier
from tests.precision.tiny_network import batches, noise, with_weight

RUNTIMES = ("onnxruntime", "openvino")


def answers(path: Path, runtime: str, precision: str, pixels_NHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
    contract = contract_in(load_onnx(path), source=str(path)) or TINY_CONTRACT
    with closing(open_runner(Engine("tiny", path, contract, precision, None), runtime, threads=1).runner) as runner:
        return runner(pixels_NHWC)


def by_reference(path: Path, pixels_NHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
    (logits_NK,) = ReferenceEvaluator(onnx.load(path)).run(None, {"pixels": pixels_NHWC})
    return np.asarray(logits_NK)


class TestAnswers:
    # Largest difference to fp32, as a share of the largest logit. int8 has 7 bits for a number's magnitude, fp8 3 for
    # its mantissa, and five layers add theirs up.
    @pytest.mark.parametrize(
        ("precision", "share"), [("int8", 0.05), ("int8+fp16", 0.05), ("fp8", 0.15), ("fp8+fp16", 0.15)]
    )
    def test_all_runtimes_agree(self, precision: Precision, share: float, fp32: Path, tmp_path: Path) -> None:
        """Against the reference evaluator, which shares no code with the runtimes."""
        out = tmp_path / "out.onnx"
        to_quantized(fp32, out, precision=precision, batches=batches, method="max")
        pixels_NHWC = noise(16)
        exact_NK, reference_NK = by_reference(fp32, pixels_NHWC), by_reference(out, pixels_NHWC)
        largest = np.abs(exact_NK).max()
        difference = np.abs(reference_NK - exact_NK).max()
        assert 0 < difference < share * largest
        second_N, first_N = np.sort(reference_NK)[:, -2:].T
        clear = first_N - second_N > 2 * share * largest
        assert clear.sum() >= 4
        for runtime in RUNTIMES:
            logits_NK = answers(out, runtime, precision, pixels_NHWC)
            np.testing.assert_array_equal(logits_NK[clear].argmax(axis=1), reference_NK[clear].argmax(axis=1))
            # A float sum in another order can tip a rounding to the next int8 or fp8 number, no more than the
            # quantisation itself costs.
            assert np.abs(logits_NK - reference_NK).max() < share * largest

    @pytest.mark.parametrize(("precision", "share"), [("fp16", 0.01), ("int8", 0.05), ("int8+fp16", 0.05)])
    def test_a_static_batch_loses_no_more(self, precision: Precision, share: float, tmp_path: Path) -> None:
        """The bounds of a free batch; five images fill up the second batch of four."""
        fixed, out = tiny_classifier(tmp_path / "net.onnx", batch=4), tmp_path / "out.onnx"
        if precision == "fp16":
            to_fp16(fixed, out)
        else:
            to_quantized(fixed, out, precision=precision, batches=batches, method="max")
        pixels_NHWC = noise(5)
        exact_NK = answers(fixed, "onnxruntime", "fp32", pixels_NHWC)
        for runtime in RUNTIMES:
            logits_NK = answers(out, runtime, precision, pixels_NHWC)
            assert np.abs(logits_NK - exact_NK).max() < share * np.abs(exact_NK).max()

    def test_fp16(self, fp32: Path, tmp_path: Path) -> None:
        out = to_fp16(fp32, tmp_path / "out.onnx")
        pixels_NHWC = noise(4)
        exact_NK = by_reference(fp32, pixels_NHWC)
        for runtime in RUNTIMES:
            # Weights of 11 bits, some fifteen layers in a row; most runtimes compute in float32 on a CPU.
            logits_NK = answers(out, runtime, "fp16", pixels_NHWC)
            np.testing.assert_allclose(logits_NK, exact_NK, rtol=0, atol=0.01 * np.abs(exact_NK).max())
        assert out.stat().st_size < 0.55 * fp32.stat().st_size

    def test_a_foreign_network_goes_all_the_way(self, tmp_path: Path) -> None:
        """Groups, residual, concat, LRN and batch norm, adopted from opset 11, in all precisions."""
        adopted = tmp_path / "adopted.onnx"
        adopt(foreign_classifier(tmp_path / "net.onnx", opset=11, softmax=True), adopted, FOREIGN)
        pixels_NHWC = noise(8, FOREIGN_SIDE)
        exact_NK = answers(adopted, "onnxruntime", "fp32", pixels_NHWC)
        largest = np.abs(exact_NK).max()
        out = tmp_path / "out.onnx"
        to_fp16(adopted, out)
        assert np.abs(answers(out, "onnxruntime", "fp16", pixels_NHWC) - exact_NK).max() < 0.01 * largest
        to_quantized(adopted, out, precision="int8+fp16", batches=lambda: batches(FOREIGN_SIDE), method="max")
        assert np.abs(answers(out, "onnxruntime", "int8+fp16", pixels_NHWC) - exact_NK).max() < 0.1 * largest
        assert contract_in(load_onnx(out), source="x") == contract_in(load_onnx(adopted), source="x")


class TestQuantised:
    def test_thresholds_are_returned_and_in_the_graph_and_methods_differ(self, fp32: Path, tmp_path: Path) -> None:
        made = {}
        for method in METHODS:
            out = tmp_path / f"{method}.onnx"
            made[method] = to_quantized(fp32, out, precision="int8", batches=batches, method=method)
            thresholds, graph = made[method].threshold_by_tensor, load_onnx(out).graph
            scales = {w.name: float(numpy_helper.to_array(w)) for w in graph.initializer if not w.dims}
            found = {n.input[0]: scales[n.input[1]] for n in graph.node if n.op_type == "QuantizeLinear"}
            assert found == pytest.approx({name: value / 127 for name, value in thresholds.items()}, rel=1e-6)
            assert len(found) == 5
        assert len({tuple(each.threshold_by_tensor.values()) for each in made.values()}) == len(METHODS)
        for each in made.values():
            assert each.largest_by_tensor == made["max"].threshold_by_tensor
            assert all(each.threshold_by_tensor[name] <= most for name, most in each.largest_by_tensor.items())

    def test_int8_and_fp16_leave_no_float32_but_the_logits(self, fp32: Path, tmp_path: Path) -> None:
        """Q/DQ reads and writes float16 without a cast: TensorRT would have to compute it in float32."""
        out = tmp_path / "out.onnx"
        to_quantized(fp32, out, precision="int8+fp16", batches=batches, method="max")
        graph = onnx.shape_inference.infer_shapes(load_onnx(out), strict_mode=True).graph
        values = (*graph.value_info, *graph.output)
        floats = {value.name for value in values if value.type.tensor_type.elem_type == TensorProto.FLOAT}
        floats |= {tensor.name for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT}
        assert floats == {"logits"}
        assert sum(node.op_type == "Cast" for node in graph.node) == 3  # pixels in, the model's own, logits out

    @pytest.mark.parametrize("precision", ["fp8", "fp8+fp16", "int8+fp16"])
    def test_an_old_opset_is_raised(self, precision: Precision, fp32: Path, tmp_path: Path) -> None:
        """A model that carries our contract need not be at our opset, where fp8 and float16 scales exist."""
        old = load_onnx(fp32)
        old.opset_import[0].version = 17  # its operators are the same there
        save_onnx(old, tmp_path / "old.onnx")
        for name, source in (("new", fp32), ("old", tmp_path / "old.onnx")):
            to_quantized(source, tmp_path / f"{name}-q.onnx", precision=precision, batches=batches, method="max")
        new_NK, old_NK = (
            answers(tmp_path / f"{name}-q.onnx", "onnxruntime", precision, noise(2)) for name in ("new", "old")
        )
        np.testing.assert_array_equal(old_NK, new_NK)
        found = load_onnx(tmp_path / "old-q.onnx")
        assert [entry.version for entry in found.opset_import] == [OPSET]
        assert precision_in(found) == precision

    def test_small_weights_keep_their_size_beside_float16(self, fp32: Path, tmp_path: Path) -> None:
        """Their scales are subnormal in float16: near 3e-7 such numbers lie a fifth apart."""
        model, factor = load_onnx(fp32), np.float32(2**-13)
        for tensor in model.graph.initializer:
            if len(tensor.dims) == 4:
                tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * factor, tensor.name))
                break
        small, out = save_onnx(model, tmp_path / "small.onnx"), tmp_path / "out.onnx"
        to_quantized(small, out, precision="int8+fp16", batches=batches, method="max")
        graph = load_onnx(out).graph
        tensors = {each.name: numpy_helper.to_array(each).astype(np.float32) for each in graph.initializer}
        rounded = tensors[f"{tensor.name}/q"] * tensors[f"{tensor.name}/scale/fp16"][:, None, None, None]
        exact = numpy_helper.to_array(tensor)
        gain_O = (rounded * exact).sum(axis=(1, 2, 3)) / (exact * exact).sum(axis=(1, 2, 3))
        np.testing.assert_allclose(gain_O, 1, atol=0.005)

    @pytest.mark.parametrize("precision", ["int8+fp16", "fp8+fp16", "int8-weights", "int4"])
    @pytest.mark.parametrize("largest", [65504, -65504, -65000, 65000])
    def test_the_largest_float16_weights_stay_finite(
        self, largest: float, precision: Precision, fp32: Path, tmp_path: Path
    ) -> None:
        """Scales are rounded up, and int4 reaches one step further below 0 than above."""
        source, name = with_weight(fp32, -1, largest, tmp_path / "large.onnx")
        to_quantized(source, tmp_path / "out.onnx", precision=precision, batches=batches)
        graph = load_onnx(tmp_path / "out.onnx").graph
        tensors = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
        scale_name = next(node.input[1] for node in graph.node if node.input[0] == f"{name}/q")
        assert tensors[scale_name].dtype == np.float16
        values, scale = tensors[f"{name}/q"].astype(np.float32), tensors[scale_name].astype(np.float32)
        found = float(np.abs(values).max() * scale.max())
        assert 0.85 * abs(largest) < found <= 65504

    @pytest.mark.parametrize("precision", ["int8", "fp8"])
    @pytest.mark.parametrize("power", [-50, -24, 20])
    def test_how_large_the_numbers_inside_are_is_no_matter(
        self, power: int, precision: Precision, fp32: Path, tmp_path: Path
    ) -> None:
        """A layer times a power of two, and the next one divided by it, is the same function to the last bit."""
        model = load_onnx(fp32)
        kernels = [tensor for tensor in model.graph.initializer if len(tensor.dims) == 4]
        biases = [tensor for tensor in model.graph.initializer if len(tensor.dims) == 1 and tensor.dims[0] > 1]
        for tensor, factor in ((kernels[1], power), (biases[1], power), (kernels[2], -power)):
            values = np.ldexp(numpy_helper.to_array(tensor), factor)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
        scaled = save_onnx(model, tmp_path / "scaled.onnx")
        np.testing.assert_array_equal(*(answers(path, "onnxruntime", "fp32", noise(8)) for path in (fp32, scaled)))
        for path in (fp32, scaled):
            to_quantized(path, tmp_path / f"{path.stem}-q.onnx", precision=precision, batches=batches)
        for runtime in RUNTIMES:
            plain_NK, found_NK = (
                answers(tmp_path / f"{path.stem}-q.onnx", runtime, precision, noise(8)) for path in (fp32, scaled)
            )
            np.testing.assert_allclose(found_NK, plain_NK, rtol=0, atol=1e-5 * np.abs(plain_NK).max())

    def test_nodes_without_names_are_told_apart(self, fp32: Path, tmp_path: Path) -> None:
        model = load_onnx(fp32)
        for node in model.graph.node:
            node.name = ""
        nameless, out, named = save_onnx(model, tmp_path / "nameless.onnx"), tmp_path / "out.onnx", tmp_path / "n.onnx"
        made = to_quantized(nameless, out, precision="int8", batches=batches, method="max")
        assert len(made.threshold_by_tensor) == 5
        to_quantized(fp32, named, precision="int8", batches=batches, method="max")
        np.testing.assert_array_equal(*(answers(path, "onnxruntime", "int8", noise(2)) for path in (out, named)))


def test_the_digest_of_weights_follows_what_is_computed_and_nothing_else(fp32: Path) -> None:
    def digest(change: Callable[[onnx.ModelProto], object]) -> str:
        model = load_onnx(fp32)
        change(model)
        return weights_sha256(model)

    def flip_the_last_bit_of_a_number(model: onnx.ModelProto) -> None:
        raw = model.graph.initializer[1].raw_data
        model.graph.initializer[1].raw_data = bytes([raw[0] ^ 1]) + raw[1:]

    def pad(model: onnx.ModelProto) -> None:
        next(a for n in model.graph.node for a in n.attribute if a.name == "pads").ints[0] = 2

    def rename(model: onnx.ModelProto) -> None:
        model.producer_name = "another"
        onnx.helper.set_model_props(model, {"key": "value"})

    same = weights_sha256(load_onnx(fp32))
    assert digest(rename) == same
    changes = (flip_the_last_bit_of_a_number, pad, lambda model: model.opset_import.pop())
    assert len({same, *map(digest, changes)}) == 4
