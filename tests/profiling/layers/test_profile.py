"""Times by layer from the real OpenVINO and ONNX Runtime on a small model, and from a fake TensorRT."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest

from alexnet_deploy.bundle.manifest import LayerPrecision
from alexnet_deploy.errors import DeployError, InputError, UnavailableError, UsageError
from alexnet_deploy.profiling.costs import Costs
from alexnet_deploy.profiling.layer_profile import LayerProfile
from alexnet_deploy.profiling.layers import profile as layer_profile
from alexnet_deploy.profiling.layers.counters import openvino as openvino_counters
from alexnet_deploy.profiling.layers.counters import tensorrt as tensorrt_counters
from alexnet_deploy.profiling.layers.profile import profile_layers
from alexnet_deploy.runtime.tensorrt.runner import TensorRTRunner
from tests.helpers.fake_device import FakeDevice
from tests.helpers.fake_tensorrt import FakeContext, FakeMachine
from tests.helpers.models.onnx_models import PRECISIONS, named_engine
from tests.profiling.layers.test_roofline import BY_HAND

CALLS = 20
RUNTIMES = ("openvino", "onnxruntime")


@pytest.fixture(autouse=True)
def roof_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real one takes seconds and has tests of its own."""
    monkeypatch.setattr(layer_profile, "measure_roofline", lambda runtime, precisions, threads: BY_HAND)


Profiled = Callable[[str, str], tuple[LayerProfile, Costs]]


@pytest.fixture(scope="module")
def profiled(tmp_path_factory: pytest.TempPathFactory) -> Profiled:
    """The small model of a precision on a runtime at batch 2, measured once."""

    @functools.cache
    def profile(precision: str, runtime: str) -> tuple[LayerProfile, Costs]:
        engine = named_engine(tmp_path_factory.mktemp("layers"), precision)
        profile = profile_layers(engine, runtime, batch=2, threads=1, calls=CALLS)
        return profile, Costs(engine.onnx_path, 2)

    return profile


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_layer_of_a_real_runtime_has_its_row(profiled: Profiled, runtime: str, precision: str) -> None:
    profile, costs = profiled(precision, runtime)
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
    assert not any("not traced" in note for note in profile.notes)
    json.dumps(dataclasses.asdict(profile), allow_nan=False)


def test_times_beside_others_do_not_count(tmp_path: Path, somebody_else_works: None) -> None:
    """Enough calls for the kernel to count by its ticks of 10 ms what somebody else took."""
    profile = profile_layers(named_engine(tmp_path), "onnxruntime", batch=8, threads=1, calls=600)
    assert any("other processes took" in cause for cause in profile.invalid)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_float_layers_ran_in_float_on_the_bytes_of_floats(profiled: Profiled, runtime: str) -> None:
    profile, costs = profiled("fp32", runtime)
    for row in profile.rows:
        if row.flops:
            assert row.precision == "fp32"
            elements = costs.elements([f"{row.layer}/{row.op}"])
            assert row.moved_bytes == 4 * (elements.inputs + elements.weights + elements.outputs)
            assert row.flops_per_byte == row.flops / row.moved_bytes


def test_openvino_computes_int8_and_shows_the_conversions(profiled: Profiled) -> None:
    profile, _ = profiled("int8", "openvino")
    convolutions = [row for row in profile.rows if row.op == "Conv"]
    assert {row.precision for row in convolutions} == {"int8"}
    assert all("8" in row.kernel for row in convolutions)
    conversions = [row for row in profile.rows if row.overhead]
    layers = {row.layer for row in profile.rows if not row.overhead}
    assert conversions
    assert {row.next_layer for row in conversions} <= layers


def test_onnx_runtime_computes_int8_in_integers(profiled: Profiled) -> None:
    profile, _ = profiled("int8", "onnxruntime")
    by_kernel = {row.kernel: row.precision for row in profile.rows if row.flops}
    assert set(by_kernel.values()) == {"int8"}
    assert all(kernel.startswith("Q") for kernel in by_kernel)
    # Pixels as rows, the ceiling of int8 after Relu, and the layout; nothing becomes float32 between two layers.
    beside = {"QuantizeLinear", "DequantizeLinear", "Reshape", "Clip", "Transpose"}
    assert {row.op for row in profile.rows if row.overhead} <= beside


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

    (us,), _ = openvino_counters.take_sample(Request(), {})
    assert us == pytest.approx(7, abs=2)  # whole microseconds of 15 calls less those of 5, over 10


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"batch": 0}, UsageError, "`batch` 0: must be 1 or more"),
        ({"threads": 0}, UsageError, "`threads` 0: must be 1 or more"),
        ({"runtime": "abacus"}, UsageError, "`runtime` abacus: unknown; choose auto"),
    ],
)
def test_what_cannot_be_measured_is_said_at_once(
    tmp_path: Path, arguments: dict[str, Any], error: type[DeployError], text: str
) -> None:
    with pytest.raises(error, match=text) as raised:
        profile_layers(named_engine(tmp_path), **({"runtime": "openvino"} | arguments))
    assert "\n" not in str(raised.value)


def test_a_damaged_model(tmp_path: Path) -> None:
    found = named_engine(tmp_path)
    found.onnx_path.write_bytes(found.onnx_path.read_bytes()[:5000])
    with pytest.raises(InputError, match=r"fp32\.onnx: is not a valid ONNX model"):
        profile_layers(found, "openvino")


def test_auto_takes_the_first_runtime_that_can(tmp_path: Path) -> None:
    profile = profile_layers(named_engine(tmp_path), "auto", threads=1, calls=CALLS)
    assert profile.runtime == "openvino"
    assert profile.passed_over == ()  # an engine without plans expects no TensorRT


def test_auto_passes_over_a_runtime_that_refuses_the_model(tmp_path: Path) -> None:
    found = named_engine(tmp_path)
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
    (reason,) = map(str, profile.passed_over)
    assert reason.startswith("openvino: ")
    assert "OpenVINO refuses it" in reason


class TestTensorRT:
    """Layers reported by a fake TensorRT; no GPU has run this."""

    PIXELS = np.zeros((2, 4, 4, 3), np.uint8)

    @pytest.fixture
    def layers(self) -> dict[str, float]:
        """What each call reports: layers and their milliseconds."""
        return {"conv + relu": 0.5, "__reformat": 0.125}

    @pytest.fixture
    def runner(
        self, layers: dict[str, float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> Iterator[TensorRTRunner]:
        device = FakeDevice()
        execute: Callable[[FakeContext, int], bool] = FakeContext.execute_async_v3

        def profiled(context: FakeContext, stream: int) -> bool:
            assert not device.recording, "a captured call reports no layer"
            profiler: Any = getattr(context, "profiler", None)
            for name, ms in layers.items() if profiler is not None else ():
                profiler.report_layer_time(name, ms)
            return execute(context, stream)

        monkeypatch.setattr(FakeContext, "execute_async_v3", profiled)
        yield FakeMachine(monkeypatch, tmp_path).load(device)
        assert not device.live, "everything on the GPU was given back"

    def test_its_layers_are_those_of_the_proof_of_precision(self, runner: TensorRTRunner) -> None:
        proof = [LayerPrecision("features.0/Conv", "Conv", "int8", "int8", "conv + relu")]
        times = tensorrt_counters.kernel_times(runner, self.PIXELS, proof, calls=7)
        conv, reformat = times.kernels
        assert (conv.us, conv.sources, conv.precision) == ((500.0,) * 7, ("features.0/Conv",), "int8")
        assert (reformat.us, reformat.precision) == ((125.0,) * 7, "unknown")
        assert len(times.call_us) == 7

    def test_an_engine_that_reports_nothing(self, runner: TensorRTRunner, layers: dict[str, float]) -> None:
        layers.clear()
        with pytest.raises(UnavailableError, match="reports no layer times"):
            tensorrt_counters.kernel_times(runner, self.PIXELS, (), calls=1)
