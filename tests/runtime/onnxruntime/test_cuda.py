"""ONNX Runtime's CUDA provider: how it is opened, why it does not start, and what ``auto`` makes of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import numpy as np
import onnxruntime as ort
import pytest

from alexnet_deploy.bundle.manifest import Engine
from alexnet_deploy.errors import InputError, UnavailableError
from alexnet_deploy.machine import onnx_session
from alexnet_deploy.machine.onnx_session import open_session, preload_cuda
from alexnet_deploy.runtime.onnxruntime import cuda as onnxruntime_cuda
from alexnet_deploy.runtime.onnxruntime import cuda_runner as onnxruntime_cuda_runner
from alexnet_deploy.runtime.onnxruntime.cuda import CUDA, open_on_cuda, provider_options
from alexnet_deploy.runtime.onnxruntime.cuda_runner import open_cuda_runner
from alexnet_deploy.runtime.onnxruntime.runner import OnnxRuntimeRunner, session_options
from tests.helpers.gpu import require_gpu
from tests.helpers.models.onnx_models import TINY_CONTRACT, tiny_engine

SOME_ON_CPU = RuntimeError(
    "[ONNXRuntimeError] : 1 : FAIL : This session contains graph nodes that are assigned to the default CPU EP, but "
    "fallback to CPU EP has been explicitly disabled by the user."
)


@pytest.fixture
def fresh_preload() -> Iterator[None]:
    preload_cuda.cache_clear()
    yield
    preload_cuda.cache_clear()


@pytest.mark.usefixtures("fresh_preload")
class TestPreload:
    def test_what_is_missing_is_returned_and_not_printed(
        self, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        def preload_dlls() -> None:  # as in 1.31
            print(
                "Failed to load /lib/nvidia/cu13/lib/libcublas.so.13: libcublasLt.so.13: cannot open shared object file"
            )
            for name in ("libcublasLt.so.13", "libcublas.so.13"):
                print(f"Failed to load {name}: {name}: cannot open shared object file: No such file or directory")
            print("Please follow https://onnxruntime.ai/docs/install/#cuda-and-cudnn to install CUDA.")

        monkeypatch.setattr(ort, "preload_dlls", preload_dlls)
        monkeypatch.setattr(onnx_session, "_loads", lambda name: False)
        assert preload_cuda() == ("libcublasLt.so.13", "libcublas.so.13", "libcudnn.so.9")
        assert capfd.readouterr() == ("", "")

    def test_once_per_process(self, monkeypatch: pytest.MonkeyPatch) -> None:
        calls = Mock()
        monkeypatch.setattr(ort, "preload_dlls", calls)
        monkeypatch.setattr(onnx_session, "_loads", lambda name: name == "libcudnn.so")
        assert [preload_cuda() for _ in range(3)] == [(), (), ()]
        assert calls.call_count == 1

    def test_the_real_one_prints_nothing(self, capfd: pytest.CaptureFixture[str]) -> None:
        missing = preload_cuda()
        assert all(name.startswith("lib") for name in missing)
        assert capfd.readouterr() == ("", "")

    def test_a_package_without_cuda_is_told_so(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(onnxruntime_cuda, "built_for_cuda", lambda: None)
        with pytest.raises(
            UnavailableError, match=r"^ONNX Runtime \S+ is built without CUDA; pip install 'onnxruntime-gpu"
        ):
            onnxruntime_cuda.require_libraries()

    def test_it_comes_before_the_first_session(self, monkeypatch: pytest.MonkeyPatch) -> None:
        order: list[str] = []
        monkeypatch.setattr(onnxruntime_cuda, "built_for_cuda", lambda: 13)
        monkeypatch.setattr(onnxruntime_cuda, "preload_cuda", lambda: order.append("libraries") or ())
        monkeypatch.setattr(onnxruntime_cuda, "open_session", lambda *_: order.append("session") or on_cuda())
        open_on_cuda(b"", lambda: session_options("fp32"), "fp32")
        assert order == ["libraries", "session"]


def on_cuda(provider: str = CUDA) -> Any:
    return SimpleNamespace(get_providers=lambda: [provider, "CPUExecutionProvider"])


class TestOpening:
    """``open_session`` is the seam: what ONNX Runtime says of a graph on a GPU, without one."""

    @pytest.fixture(autouse=True)
    def libraries(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(onnxruntime_cuda, "built_for_cuda", lambda: 13)
        monkeypatch.setattr(onnxruntime_cuda, "preload_cuda", lambda: ())

    @pytest.fixture
    def opens(self, monkeypatch: pytest.MonkeyPatch) -> Mock:
        fake = Mock(return_value=on_cuda())
        monkeypatch.setattr(onnxruntime_cuda, "open_session", fake)
        return fake

    @staticmethod
    def open(**more: Any) -> onnxruntime_cuda.CudaSession:
        return open_on_cuda(b"", lambda: session_options("fp32"), "fp32", **more)

    @staticmethod
    def options_of(call: Any) -> tuple[bool, dict[str, str]]:
        """Whether nodes on the CPU are an error, and the provider's options."""
        try:
            entry = call.args[1].get_session_config_entry("session.disable_cpu_ep_fallback")
        except RuntimeError:  # it has none
            entry = "0"
        return entry == "1", call.args[3]

    def test_a_graph_that_runs_on_cuda_as_a_whole(self, opens: Mock) -> None:
        opened = self.open()
        assert (opened.whole, opened.graphs) == (True, True)
        (call,) = opens.call_args_list
        strict, options = self.options_of(call)
        assert strict
        assert call.args[2] == CUDA
        assert options["enable_cuda_graph"] == "1"

    def test_nodes_without_a_cuda_kernel_are_noticed(self, opens: Mock) -> None:
        opens.side_effect = [SOME_ON_CPU, SOME_ON_CPU, on_cuda()]
        opened = self.open()
        assert (opened.whole, opened.graphs) == (False, False)
        strict, options = self.options_of(opens.call_args)
        assert not strict
        assert options["enable_cuda_graph"] == "0"

    def test_a_model_that_cannot_be_captured_still_runs_as_a_whole(self, opens: Mock) -> None:
        said = (
            "This session cannot use the graph capture feature as requested by the user as the model has control flow"
        )
        opens.side_effect = [RuntimeError(said), on_cuda()]
        opened = self.open()
        assert (opened.whole, opened.graphs) == (True, False)
        strict, options = self.options_of(opens.call_args)
        assert strict
        assert options["enable_cuda_graph"] == "0"

    def test_another_error_is_passed_on_at_once(self, opens: Mock) -> None:
        opens.side_effect = RuntimeError("INVALID_GRAPH")
        with pytest.raises(RuntimeError, match="INVALID_GRAPH"):
            self.open()
        assert opens.call_count == 1

    def test_no_graphs_where_calls_run_at_the_same_time(self, monkeypatch: pytest.MonkeyPatch, engine: Engine) -> None:
        opens = Mock(side_effect=UnavailableError("stop here"))
        monkeypatch.setattr(onnxruntime_cuda_runner, "open_on_cuda", opens)
        for concurrency in (1, 2):
            with pytest.raises(UnavailableError, match="stop here"):
                open_cuda_runner(engine.onnx_path, TINY_CONTRACT, concurrency=concurrency)
        assert [call.kwargs["graphs"] for call in opens.call_args_list] == [True, False]

    def test_a_silent_fall_to_the_cpu_has_the_drivers_cause(self, opens: Mock, monkeypatch: pytest.MonkeyPatch) -> None:
        opens.side_effect = [SOME_ON_CPU, SOME_ON_CPU, on_cuda("CPUExecutionProvider")]
        broken = Mock(side_effect=UnavailableError("cuInit: the driver is asleep", fix="wake it"))
        monkeypatch.setattr(onnxruntime_cuda, "open_device", broken)
        with pytest.raises(
            UnavailableError, match=r"^ONNX Runtime \S+ could not start CUDA: cuInit: the driver is asleep; wake it$"
        ):
            self.open()
        opens.side_effect = [SOME_ON_CPU, SOME_ON_CPU, on_cuda("CPUExecutionProvider")]
        monkeypatch.setattr(onnxruntime_cuda, "open_device", Mock())
        with pytest.raises(UnavailableError, match="although the GPU and CUDA's libraries are there"):
            self.open()

    @pytest.mark.parametrize(
        ("said", "error", "cause"),
        [
            ("CUDA failure 2: out of memory ; GPU=0", UnavailableError, "the GPU is out of memory"),
            (
                "CUDA failure 35: CUDA driver version is insufficient for CUDA runtime version",
                UnavailableError,
                "driver",
            ),
            ("[ONNXRuntimeError] : 10 : INVALID_GRAPH : no such operator", InputError, "ONNX Runtime refuses it"),
        ],
    )
    def test_what_it_raises_has_its_cause(
        self, said: str, error: type[Exception], cause: str, opens: Mock, engine: Engine
    ) -> None:
        opens.side_effect = RuntimeError(said)
        with pytest.raises(error) as info:
            open_cuda_runner(engine.onnx_path, TINY_CONTRACT)
        assert cause in str(info.value)
        assert str(engine.onnx_path) in str(info.value)

    def test_nodes_on_the_cpu_are_told(
        self, opens: Mock, engine: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        real = open_session(engine.onnx_path, session_options("fp32"))
        partly = SimpleNamespace(
            get_providers=lambda: [CUDA], get_inputs=real.get_inputs, get_outputs=real.get_outputs, run=real.run
        )
        opens.side_effect = [SOME_ON_CPU, SOME_ON_CPU, partly]
        with closing(open_cuda_runner(engine.onnx_path, TINY_CONTRACT)) as runner:
            assert "CUDA has no kernel for some of its nodes" in caplog.text
            assert runner(np.zeros((2, 32, 32, 3), np.uint8)).shape == (2, len(TINY_CONTRACT.labels))


class TestOptions:
    @pytest.mark.parametrize("precision", ["fp32", "fp16", "int8", "int8+fp16", "fp8", "int4"])
    def test_float32_keeps_its_mantissa_unless_tf32_is_allowed(self, precision: str) -> None:
        assert provider_options(precision)["use_tf32"] == "0"
        assert provider_options(precision, tf32=True)["use_tf32"] == "1"

    def test_channels_come_last_where_tensor_cores_compute(self) -> None:
        preferred = {name: provider_options(name)["prefer_nhwc"] for name in ("fp32", "fp16", "int8", "int8+fp16")}
        assert preferred == {"fp32": "0", "fp16": "1", "int8": "0", "int8+fp16": "1"}

    def test_every_option_is_text(self) -> None:
        assert all(isinstance(value, str) for value in provider_options("fp16", graphs=True).values())


@pytest.fixture(scope="module")
def gpu() -> None:
    require_gpu()
    if CUDA not in ort.get_available_providers():
        pytest.skip("the installed ONNX Runtime has no CUDA; install onnxruntime-gpu[cuda,cudnn]")


@pytest.mark.gpu
@pytest.mark.usefixtures("gpu")
class TestOnAGpu:
    @staticmethod
    def images(count: int, seed: int = 0) -> Any:
        return np.random.default_rng(seed).integers(0, 256, (count, 32, 32, 3), np.uint8)

    @pytest.mark.parametrize(
        ("precision", "tolerance"),
        # float32 in another order: 1e-6 of the largest logit. float16 has ten bits of mantissa: 1e-3 for each sum.
        [("fp32", 2e-5), ("fp16", 1e-2)],
    )
    def test_its_answers_are_those_of_the_cpu(self, precision: str, tolerance: float, tmp_path: Path) -> None:
        engine = tiny_engine(tmp_path / "net.onnx", precision)
        reference = OnnxRuntimeRunner(engine.onnx_path, TINY_CONTRACT, precision=precision, exact=True)
        runner = open_cuda_runner(engine.onnx_path, TINY_CONTRACT, precision=precision)
        for seed, count in enumerate((4, 4, 4, 1, 1, 1, 7, 7, 7, 2)):  # plain, as a graph, padded
            expected_NK = reference(self.images(count, seed))
            found_NK = runner(self.images(count, seed))
            np.testing.assert_allclose(found_NK, expected_NK, rtol=0, atol=tolerance * np.abs(expected_NK).max())
        runner.close()

    def test_nothing_is_printed(self, engine: Engine, capfd: pytest.CaptureFixture[str]) -> None:
        runner = open_cuda_runner(engine.onnx_path, TINY_CONTRACT)
        runner(self.images(2))
        runner.close()
        assert capfd.readouterr() == ("", "")

    def test_more_memory_than_there_is(self, engine: Engine) -> None:
        from alexnet_deploy.runtime.cuda.device import open_device

        device = open_device()
        _, total = device.memory_info()
        with pytest.raises(UnavailableError, match=r"the GPU is out of memory \(.* needed, .* free\)"):
            device.allocate(2 * total)
        device.clear_error()
        runner = open_cuda_runner(engine.onnx_path, TINY_CONTRACT)
        assert len(runner(self.images(2))) == 2
        runner.close()
        device.close()

    def test_the_small_model_of_doctor(self) -> None:
        assert onnxruntime_cuda.try_cuda() == "runs a model"
