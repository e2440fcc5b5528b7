"""Times by layer from the real OpenVINO and ONNX Runtime on a small model, and from a fake TensorRT."""

from __future__ import annotations

import ast
import dataclasses
import json
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest

from alexnet_deploy.bundle.manifest import Engine, LayerPrecision, Plan
from alexnet_deploy.contract import BatchProfile, ModelContract, Preprocessing
from alexnet_deploy.errors import DeployError, InputError, UnavailableError, UsageError
from alexnet_deploy.onnx_graph.onnx_file import load_onnx, set_contract
from alexnet_deploy.profiling.layers import openvino_counters, tensorrt_counters
from alexnet_deploy.profiling.layers import times as layer_times
from alexnet_deploy.profiling.layers.costs import Costs
from alexnet_deploy.profiling.layers.kernel_times import Kernel, KernelTimes
from alexnet_deploy.profiling.layers.kernels import group_kernels
from alexnet_deploy.profiling.layers.times import LayerProfile, LayerRow, profile_layers
from alexnet_deploy.profiling.layers.verdicts import verdicts
from alexnet_deploy.runtime import tensorrt_runner
from tests.helpers.fake_device import FakeContext, FakeDevice, fake_tensorrt
from tests.helpers.onnx_models import CLASSES, SIDE, tiny_classifier
from tests.profiling.layers.test_roofline import BY_HAND
from tests.runtime.test_tensorrt_names import GOLDEN, uses

LABELS = tuple(f"class {k}" for k in range(CLASSES))
CONTRACT = ModelContract("tiny", LABELS, LABELS, Preprocessing(SIDE, SIDE, "stretch", None))
CALLS = 20
PROFILER = {("", "IProfiler"), ("IProfiler", "report_layer_time")}
RUNTIMES = ("openvino", "onnxruntime")


@pytest.fixture(autouse=True)
def roof_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real one takes seconds and has tests of its own."""
    monkeypatch.setattr(layer_times, "measure_roofline", lambda runtime, precisions, threads: BY_HAND)


def engine(path: Path, precision: str = "fp32", *, batch: int | str = "N") -> Engine:
    """A small classifier whose nodes are named as our export does: ``conv.0/Conv`` of module ``conv.0``."""
    model = load_onnx(tiny_classifier(path / f"{precision}.onnx", precision, batch=batch))
    seen: Counter[str] = Counter()
    for node in model.graph.node:
        if not node.op_type.endswith("QuantizeLinear") and node.op_type != "DequantizeLinear":
            node.name = f"{node.op_type.lower()}.{seen[node.op_type]}/{node.op_type}"
            seen[node.op_type] += 1
    set_contract(model, CONTRACT)
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = CLASSES
    onnx.save(model, path / f"{precision}.onnx")
    return Engine(f"tiny-{precision}", path / f"{precision}.onnx", CONTRACT, precision, None)


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("precision", ["fp32", "int8", "int8+fp16", "fp8"])
def test_every_layer_of_a_real_runtime_has_its_row(tmp_path: Path, runtime: str, precision: str) -> None:
    found = engine(tmp_path, precision)
    costs = Costs(found.onnx_path, 2)
    profile = profile_layers(found, runtime, batch=2, threads=1, calls=CALLS)
    layers = [row for row in profile.rows if not row.overhead]
    within = [name for row in layers for name in (row.layer, *row.fused)]
    assert len(set(within)) == len(within), "a node's time is counted in one layer"
    multiplying = [costs.layer(name) for name in costs.nodes if costs.flops([name])]
    assert multiplying == [f"conv.{i}" for i in range(3)] + [f"gemm.{i}" for i in range(2)]
    assert {costs.layer(name) for name in costs.nodes if not costs.converts(name)} == set(within)
    assert sum(row.flops for row in layers) == costs.flops(costs.nodes)
    assert all(row.flops == 0 for row in profile.rows if row.overhead)
    assert [row.layer for row in layers if row.flops] == multiplying, "in the order in which they run"
    assert profile.sum_us + profile.remainder_us == pytest.approx(profile.whole_us)
    assert sum(row.median_us for row in profile.rows) == pytest.approx(profile.sum_us), "a reader adds up the rows"
    assert all(row.median_us >= 0 for row in profile.rows)
    json.dumps(profile.to_dict(), allow_nan=False)


def test_times_beside_others_do_not_count(tmp_path: Path, somebody_else_works: None) -> None:
    """Enough calls for the kernel to count by its ticks of 10 ms what somebody else took."""
    profile = profile_layers(engine(tmp_path), "onnxruntime", batch=8, threads=1, calls=3000)
    assert any("other processes took" in cause for cause in profile.invalid)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_float_layers_ran_in_float_on_the_bytes_of_floats(tmp_path: Path, runtime: str) -> None:
    found = engine(tmp_path)
    costs = Costs(found.onnx_path, 2)
    for row in profile_layers(found, runtime, batch=2, threads=1, calls=CALLS).rows:
        if row.flops:
            assert row.precision == "fp32"
            elements = costs.elements([f"{row.layer}/{row.op}"])
            assert row.moved_bytes == 4 * (elements.inputs + elements.weights + elements.outputs)
            assert row.flops_per_byte == row.flops / row.moved_bytes


def test_openvino_computes_int8_and_shows_the_conversions(tmp_path: Path) -> None:
    profile = profile_layers(engine(tmp_path, "int8"), "openvino", batch=2, threads=1, calls=CALLS)
    convolutions = [row for row in profile.rows if row.op == "Conv"]
    assert {row.precision for row in convolutions} == {"int8"}
    assert all("8" in row.kernel for row in convolutions)
    conversions = [row for row in profile.rows if row.overhead]
    layers = {row.layer for row in profile.rows if not row.overhead}
    assert conversions
    assert {row.next_layer for row in conversions} <= layers


def test_onnx_runtime_tells_which_layers_stayed_in_float(tmp_path: Path) -> None:
    """A Relu between a convolution and its symmetric QuantizeLinear keeps it in float32 there (1.32)."""
    profile = profile_layers(engine(tmp_path, "int8"), "onnxruntime", batch=2, threads=1, calls=CALLS)
    by_kernel = {row.kernel: row.precision for row in profile.rows if row.flops}
    assert {kernel: "int8" if kernel.startswith("Q") else "fp32" for kernel in by_kernel} == by_kernel
    assert all(row.op.endswith("QuantizeLinear") or row.op.startswith("Dequantize") or "Reorder" in row.op
               for row in profile.rows if row.overhead)  # fmt: skip


def test_conversions_of_weights_belong_to_the_layer_that_multiplies_by_them(tmp_path: Path) -> None:
    """A runtime may run them all first; then the next row in time is another layer's."""
    costs = Costs(engine(tmp_path, "int8").onnx_path, 1)
    convolutions = [name for name in costs.nodes if costs.nodes[name].op_type == "Conv"]
    dequantize = next(  # of the last convolution's weight
        name for name in costs.nodes if convolutions[-1] in costs.readers(name) and costs.before(name) is None
    )
    times = KernelTimes("fake", (kernel(dequantize, "DequantizeLinear"), *map(kernel, convolutions)), (9.0,))
    groups = group_kernels(times, costs)
    assert groups[0].overhead
    assert groups[0].next_layer == "conv.2"


def kernel(name: str, op: str = "Conv", precision: str = "fp32", us: float = 1.0) -> Kernel:
    return Kernel(name, op, op, (name,), precision, precision, precision, precision, (us,))


def test_kernels_that_nobody_can_place_are_told() -> None:
    row = TestJudgement().row(layer="__myl_Conv_1", overhead=True, op="Conv", flops=0)
    assert layer_times._notes([row], None)[0].endswith("shown as conversions: __myl_Conv_1")


def test_float16_that_onnx_runtime_widens_stays_with_its_layer(tmp_path: Path) -> None:
    profile = profile_layers(engine(tmp_path, "fp16"), "onnxruntime", threads=1, calls=CALLS)
    multiplying = [row for row in profile.rows if row.flops]
    assert [row.layer for row in multiplying] == ["conv.0", "conv.1", "conv.2", "gemm.0", "gemm.1"]
    assert not any("not traced" in note for note in profile.notes)


def test_what_no_kernel_names_is_fused_into_what_feeds_it(tmp_path: Path) -> None:
    costs = Costs(engine(tmp_path).onnx_path, 1)
    convolutions = [name for name in costs.nodes if costs.nodes[name].op_type == "Conv"]
    relu = costs.readers(convolutions[0])[0]
    # ONNX Runtime names a fused convolution after the tensor that its activation gives.
    named = kernel(f"{costs.nodes[relu].output[0]}_nchwc")
    groups = group_kernels(KernelTimes("fake", (named, kernel(convolutions[1])), (2.0,)), costs)
    assert [group.layer for group in groups] == ["conv.0", "conv.1"]
    assert relu == "relu.0/Relu"
    assert "relu.0" in groups[0].fused
    assert groups[0].nodes[0][0] in costs.nodes  # the casts of the pixels, which nobody names, are in it, too
    assert sum(group.flops for group in groups) == costs.flops(costs.nodes)


def test_what_prepares_a_bias_is_not_the_layer(tmp_path: Path) -> None:
    """ONNX Runtime computes a scale under the name of the convolution that it is for, and before it."""
    costs = Costs(engine(tmp_path).onnx_path, 1)
    first, second, _ = [name for name in costs.nodes if costs.nodes[name].op_type == "Conv"]
    scale = kernel(f"{second}_scale", "Mul", us=1.0)
    cast = kernel(f"{costs.nodes[first].output[0]}_cast", "Cast", us=2.0)
    times = KernelTimes("fake", (scale, kernel(first, us=100.0), cast, kernel(second, us=200.0)), (303.0,))
    groups = {group.layer: group for group in group_kernels(times, costs) if not group.overhead}
    assert {layer: group.us for layer, group in groups.items()} == {"conv.0": [100.0], "conv.1": [200.0]}


def test_nameless_arithmetic_goes_to_the_layers_that_no_kernel_names(tmp_path: Path) -> None:
    """OpenVINO calls a product ``Divide_7`` where its operands were float8; a Convert is no convolution."""
    costs = Costs(engine(tmp_path).onnx_path, 1)
    convolutions = [name for name in costs.nodes if costs.nodes[name].op_type == "Conv"]
    products = [kernel(f"Divide_{i}", "FullyConnected", us=10.0 + i) for i in range(2)]
    convert = kernel("Convert_7", "Convert")
    times = KernelTimes("fake", (*map(kernel, convolutions), convert, *products), (99.0,))
    found = {group.layer: group.us for group in group_kernels(times, costs) if not group.overhead}
    assert (found["gemm.0"], found["gemm.1"]) == ([10.0], [11.0])


def test_running_means_are_taken_apart() -> None:
    """OpenVINO's counters hold the mean of all calls: the slow first ones must not stay in the sample."""
    spent = [1000] * 5 + [7] * 10 + [5] * 5

    class Request:
        calls = 0

        def infer(self, feeds: object, share_inputs: bool) -> None:
            self.calls += 1

        @property
        def profiling_info(self) -> list[Any]:
            mean = sum(spent[: self.calls]) // self.calls
            return [SimpleNamespace(real_time=timedelta(microseconds=mean), node_name="a")]

    (us,), _ = openvino_counters._sample(Request(), {})
    assert us == pytest.approx(7, abs=2)  # whole microseconds of 15 calls less those of 5, over 10


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"batch": 0}, UsageError, "--batch 0: takes 1 or more"),
        ({"threads": 0}, UsageError, "--threads 0: takes 1 or more"),
        ({"runtime": "abacus"}, UsageError, "--runtime abacus: unknown; choose auto"),
        ({"runtime": "onnxruntime-cuda"}, UnavailableError, "its counters time the launch"),
        ({"runtime": "tensorrt"}, UnavailableError, "holds no TensorRT plan"),
    ],
)
def test_what_cannot_be_measured_is_said_at_once(
    tmp_path: Path, arguments: dict[str, Any], error: type[DeployError], text: str
) -> None:
    with pytest.raises(error, match=text) as raised:
        profile_layers(engine(tmp_path), **({"runtime": "openvino"} | arguments))
    assert "\n" not in str(raised.value)


def test_a_batch_outside_the_profile_or_another_than_the_frozen_one(tmp_path: Path) -> None:
    bundle = dataclasses.replace(engine(tmp_path), batch=BatchProfile(1, 2, 4))
    with pytest.raises(UsageError, match=r"--batch 5: tiny-fp32 has a profile of 1\.\.4"):
        profile_layers(bundle, "openvino", batch=5)
    with pytest.raises(UsageError, match="--batch 5"):
        profile_layers(engine(tmp_path, batch=2), "openvino", batch=5)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_damaged_model(tmp_path: Path, runtime: str) -> None:
    found = engine(tmp_path)
    found.onnx_path.write_bytes(found.onnx_path.read_bytes()[:5000])
    with pytest.raises(InputError, match=r"fp32\.onnx: is not a valid ONNX model"):
        profile_layers(found, runtime)


def test_auto_takes_the_first_runtime_that_can(tmp_path: Path) -> None:
    profile = profile_layers(engine(tmp_path), "auto", threads=1, calls=CALLS)
    assert profile.runtime == "openvino"
    assert not any("passed over" in note for note in profile.notes)  # an engine without plans expects no TensorRT


def test_auto_passes_over_a_runtime_that_refuses_the_model(tmp_path: Path) -> None:
    found = engine(tmp_path)
    model = onnx.load(found.onnx_path)
    model.graph.node[-1].output[0] = "plain"
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.eye(2, dtype=np.float32), "eye"))
    model.graph.node.extend(
        [
            onnx.helper.make_node("Det", ["eye"], ["one"], name="gate.0/Det"),  # OpenVINO has none (2026.4)
            onnx.helper.make_node("Mul", ["plain", "one"], ["logits"], name="gate.0/Mul"),
        ]
    )
    onnx.save(model, found.onnx_path)
    profile = profile_layers(found, "auto", threads=1, calls=CALLS)
    assert profile.runtime == "onnxruntime"
    (reason,) = [note for note in profile.notes if note.startswith("passed over")]
    assert "passed over openvino" in reason
    assert "OpenVINO refuses it" in reason


class TestJudgement:
    def row(self, **changes: Any) -> LayerRow:
        row = LayerRow(
            "features.0", False, "Conv", (), None, "fp32", "conv", 100.0, 50.0, 10**7, 10**6, 10.0, 100.0, 10.0
        )
        return dataclasses.replace(row, **changes)

    def test_the_longer_limit_bounds(self) -> None:
        # 10 MFLOP at 500 GFLOP/s: 20 us; 1 MB at 50 GB/s: 20 us; ten times the arithmetic: 200 us.
        compute = layer_times._judged(self.row(flops=10**8), BY_HAND)
        assert compute.bound == "compute"
        assert compute.limit_us == pytest.approx(200.0)
        memory = layer_times._judged(self.row(flops=10**6), BY_HAND)
        assert memory.bound == "bandwidth"
        assert memory.limit_us == pytest.approx(20.0)
        assert memory.of_limit_percent == pytest.approx(20.0)
        assert layer_times._judged(self.row(precision="bf16"), BY_HAND).limit_us is None
        assert layer_times._judged(self.row(moved_bytes=None), BY_HAND).limit_us is None

    def test_above_the_roof_is_explained(self) -> None:
        rows = [
            layer_times._judged(self.row(flops=0, median_us=10.0, gb_per_s=100.0), BY_HAND),
            layer_times._judged(self.row(layer="features.3", flops=10**9, median_us=1000.0), BY_HAND),
            layer_times._judged(
                self.row(layer="q", op="Reorder", overhead=True, flops=0, median_us=10.0, gb_per_s=90.0), BY_HAND
            ),
        ]
        cached, faster = layer_times._notes(rows, BY_HAND)
        assert "served from the cache: features.0, 1 conversion, at up to 100 GB/s" in cached
        assert "memory gives 50 and the cache 200" in cached
        assert "fits into the cache of 32 MiB" in cached
        assert "measured with: features.3; a few percent are chance" in faster

    def test_a_precision_without_a_roof_is_told(self) -> None:
        (note,) = layer_times._notes([self.row(precision="bf16")], dataclasses.replace(BY_HAND, peaks=()))
        assert note.startswith("no roof for bf16")


class TestVerdicts:
    def profile(self, *rows: LayerRow, **changes: Any) -> LayerProfile:
        profile = LayerProfile(
            "a", "int8", "openvino", "OpenVINO", 1, None, 60, 1000.0, 900.0, 100.0, 1000.0, rows, BY_HAND
        )
        return dataclasses.replace(profile, **changes)

    def why(self, row: LayerRow, other: LayerRow, *conversions: LayerRow) -> str | None:
        (found,) = verdicts(self.profile(row, *conversions), self.profile(other))
        return found.why

    def conversion(self, us: float) -> LayerRow:
        return self.layer(us, layer="q", overhead=True, next_layer="fc", flops=0)

    def layer(self, us: float, **changes: Any) -> LayerRow:
        row = LayerRow("fc", False, "Gemm", (), None, "int8", "brgemm_i8", us, 10.0, 10**6, 10**6, 1.0, 1.0, 10.0)
        return layer_times._judged(dataclasses.replace(row, **changes), BY_HAND)

    def test_a_faster_layer_needs_no_reason(self) -> None:
        assert self.why(self.layer(50.0), self.layer(100.0, precision="fp32")) is None

    @pytest.mark.parametrize(
        ("row", "other", "conversion_us", "reason"),
        [
            ({"us": 100, "precision": "fp32", "kernel": "FusedGemm", "moved_bytes": 9}, {"us": 90, "precision": "fp32"},
             12, "computed in fp32 all the same (FusedGemm): the runtime found no other kernel; 12 us of conversions"),
            ({"us": 50}, {"us": 100, "precision": "fp32"}, 60,
             "itself 2.0x as fast, but 60 us of conversions before it take that back"),
            ({"us": 10}, {"us": 10, "precision": "fp32"}, 0, "too small: 10 us"),
            ({"us": 25}, {"us": 25, "precision": "fp32"}, 0, "bound by memory, and moves the same 0.95 MiB"),
            ({"us": 900}, {"us": 100, "precision": "fp32", "moved_bytes": 4 * 10**6}, 0,
             "its int8 kernel (brgemm_i8) reaches 2 % of its limit, the fp32 one 80 %"),
            ({"us": 900, "flops": 0, "precision": "uint8", "kernel": "MaxPool", "gb_per_s": 0.4},
             {"us": 20, "flops": 0, "precision": "fp32", "gb_per_s": 41.0, "moved_bytes": 4 * 10**6}, 0,
             "nothing to multiply, and its uint8 kernel (MaxPool) moves 0.4 GB/s where the fp32 one moves 41.0 GB/s"),
            ({"us": 100, "flops": 0}, {"us": 99, "flops": 0}, 0, "the same work on the same bytes, in int8 as there"),
        ],
    )  # fmt: skip
    def test_every_reason(self, row: dict[str, Any], other: dict[str, Any], conversion_us: float, reason: str) -> None:
        why = self.why(self.layer(**row), self.layer(**other), self.conversion(conversion_us))
        assert why is not None
        assert why.startswith(reason)

    def test_conversions_count_in_the_speed_up(self) -> None:
        (found,) = verdicts(
            self.profile(self.layer(20.0), self.conversion(30.0)), self.profile(self.layer(100.0, precision="fp32"))
        )
        assert (found.us, found.conversions_us, found.speedup) == (50.0, 30.0, 2.0)

    def test_other_runtimes_are_not_compared(self) -> None:
        with pytest.raises(UsageError, match="--beside a: measured with onnxruntime at batch 1"):
            verdicts(self.profile(), self.profile(runtime="onnxruntime"))


class TestTensorRT:
    """Layers reported by a fake TensorRT; no GPU has run this."""

    LAYERS = (("conv + relu", 0.5), ("__reformat", 0.125))

    @pytest.fixture
    def runner(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tensorrt_runner.TrtRunner]:
        device = FakeDevice()
        library, _ = fake_tensorrt(device, side=4, classes=3)
        library.api.IProfiler = type("IProfiler", (), {})
        execute: Callable[[FakeContext, int], bool] = FakeContext.execute_async_v3

        def profiled(context: FakeContext, stream: int) -> bool:
            assert device.recording is None, "a captured call reports no layer"
            done = execute(context, stream)
            profiler: Any = getattr(context, "profiler", None)
            for name, ms in self.LAYERS if profiler is not None else ():
                profiler.report_layer_time(name, ms)
            return done

        monkeypatch.setattr(FakeContext, "execute_async_v3", profiled)
        monkeypatch.setattr(tensorrt_runner, "load", lambda name: library)
        (tmp_path / "sm89.plan").write_bytes(b"plan")
        contract = ModelContract("m", ("a", "b", "c"), ("a", "b", "c"), Preprocessing(4, 4, "stretch", None))
        plan = Plan("sm89.plan", library.name, library.version, "sm89")
        yield tensorrt_runner.open_trt(tmp_path / "sm89.plan", plan, contract, BatchProfile(1, 2, 4), device=device)
        assert not device.live, "everything on the GPU was given back"

    def test_its_layers_are_those_of_the_proof_of_precision(self, runner: tensorrt_runner.TrtRunner) -> None:
        proof = [LayerPrecision("features.0/Conv", "Conv", "int8", "int8", "conv + relu")]
        times = tensorrt_counters.kernel_times(runner, np.zeros((2, 4, 4, 3), np.uint8), proof, calls=7)
        conv, reformat = times.kernels
        assert conv.us == (500.0,) * 7
        assert conv.sources == ("features.0/Conv",)
        assert conv.precision == "int8"
        assert reformat.us == (125.0,) * 7
        assert reformat.precision == "unknown"
        assert len(times.call_us) == 7

    def test_an_engine_that_reports_nothing(
        self, runner: tensorrt_runner.TrtRunner, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(TestTensorRT, "LAYERS", ())
        with pytest.raises(UnavailableError, match="reports no layer times"):
            tensorrt_counters.kernel_times(runner, np.zeros((1, 4, 4, 3), np.uint8), (), calls=1)

    @pytest.mark.parametrize("library", GOLDEN)
    def test_every_name_of_tensorrt_exists(self, library: str) -> None:
        used = set(uses(ast.parse(Path(tensorrt_counters.__file__).read_text())))
        assert {*PROFILER, ("IExecutionContext", "profiler")} <= used
        missing = {name for name in used if name[1] not in GOLDEN[library].get(name[0], ())}
        assert missing <= PROFILER  # which the list leaves out, and the next test asks the library for

    def test_a_profiler_can_be_made_of_the_real_library(self) -> None:
        api: Any = pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed")

        class Profiler(api.IProfiler):  # type: ignore[misc]  # the base comes from an untyped library
            def __init__(self) -> None:
                api.IProfiler.__init__(self)

        assert callable(Profiler().report_layer_time)
        assert isinstance(api.IExecutionContext.profiler, property)
