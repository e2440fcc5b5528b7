"""Runners on a GPU with a number: every call finds that GPU current, and an error names it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alexnet_deploy.bundle.manifest import Engine
from alexnet_deploy.errors import UnavailableError, UsageError
from alexnet_deploy.machine.onnx_session import open_session
from alexnet_deploy.runtime import openers, select
from alexnet_deploy.runtime.cuda import device as device_module
from alexnet_deploy.runtime.cuda import on_card
from alexnet_deploy.runtime.cuda.on_card import open_on_card
from alexnet_deploy.runtime.onnxruntime import cuda_runner as onnxruntime_cuda_runner
from alexnet_deploy.runtime.onnxruntime.cuda import CudaSession, provider_options
from alexnet_deploy.runtime.onnxruntime.runner import session_options
from alexnet_deploy.runtime.runner import Runner
from alexnet_deploy.runtime.select import open_runner
from alexnet_deploy.runtime.tensorrt import plans as tensorrt_plans
from tests.helpers.cards import Cards
from tests.helpers.fake_device import FakeDevice, current_gpu
from tests.helpers.fake_tensorrt import expected_logits
from tests.helpers.host_device import HostDevice, RecordingSession
from tests.helpers.models.foreign_models import random_pixels
from tests.helpers.runners import run_steps

SIDE, CLASSES = 4, 3


@pytest.fixture
def cards(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Cards:
    return Cards(monkeypatch, tmp_path, count=2)


def in_thread(call: Callable[[], Any]) -> Any:
    """The result of ``call`` in a new thread, whose current GPU is number 0."""
    result = []
    thread = threading.Thread(target=lambda: result.append(call()))
    thread.start()
    thread.join()
    return result[0]


class TestTensorRT:
    @pytest.mark.parametrize("index", [0, 1])
    @pytest.mark.parametrize("rtx", [False, True])
    def test_every_call_is_on_its_gpu_whichever_thread_makes_it(self, index: int, rtx: bool, cards: Cards) -> None:
        """The fake device refuses a call while another GPU is current."""
        cards.install(rtx=rtx)
        runner = open_runner(cards.engine, "tensorrt", device=index, verify=False).runner
        assert runner.description.endswith(f" on fake GPU sm89, GPU {index}")
        fork = in_thread(runner.fork)
        for count in (1, 3, 3, 8, 11):
            pixels = random_pixels(count, SIDE, seed=count)
            for each in (runner, fork):
                np.testing.assert_array_equal(each(pixels), expected_logits(pixels, CLASSES))
                np.testing.assert_array_equal(in_thread(lambda: each(pixels)), expected_logits(pixels, CLASSES))  # noqa: B023
        assert current_gpu() == 0
        in_thread(fork.close)
        in_thread(runner.close)
        assert cards.devices[index].live == set()
        assert cards.devices[index].calls[-1] == "close"
        assert cards.devices[1 - index].memory == {}, "nothing was made on the other GPU"

    def test_between_two_steps_the_thread_has_its_own_gpu(self, cards: Cards) -> None:
        cards.install()
        runner = open_runner(cards.engine, "tensorrt", device=1, verify=False).runner
        pixels = random_pixels(2, SIDE)
        steps = runner.steps(pixels)
        assert (next(steps), current_gpu()) == ("host-to-device", 0)
        steps.close()
        names, logits_NK = run_steps(runner.steps(pixels))
        assert names == ["host-to-device", "compute", "device-to-host"]
        np.testing.assert_array_equal(logits_NK, expected_logits(pixels, CLASSES))
        runner.close()

    def test_a_plan_is_judged_for_the_gpu_that_was_chosen(self, cards: Cards) -> None:
        cards.install(capabilities=("sm90", "sm89"))
        open_runner(cards.engine, "tensorrt", device=1, verify=False).runner.close()
        with pytest.raises(UnavailableError, match=r"^GPU 0: .* built for sm89, this GPU is sm90"):
            open_runner(cards.engine, "tensorrt", device=0, verify=False)

    @pytest.mark.parametrize("call", ["__call__", "fork"])
    def test_an_error_names_the_gpu_and_closing_a_lost_one_is_no_second_error(self, call: str, cards: Cards) -> None:
        cards.install()
        runner = open_runner(cards.engine, "tensorrt", device=1, verify=False).runner
        cards.devices[1].lost = True
        with pytest.raises(
            UnavailableError, match=r"^GPU 1: \w+: the GPU stopped working in this process; start again"
        ):
            getattr(runner, call)(*[random_pixels(2, SIDE)] * (call == "__call__"))
        runner.close()

    def test_one_that_is_lost_only_at_the_end_is_an_error(self, cards: Cards) -> None:
        cards.install()
        runner = open_runner(cards.engine, "tensorrt", device=1, verify=False).runner
        cards.devices[1].lost = True
        with pytest.raises(UnavailableError, match=r"^GPU 1: "):
            runner.close()

    def test_a_runner_that_does_not_open_closes_the_device(self, cards: Cards) -> None:
        def fail(device: object) -> Runner:
            raise UnavailableError("no room")

        with pytest.raises(UnavailableError, match=r"^GPU 1: no room$"):
            open_on_card(1, fail)
        assert cards.devices[1].calls == ["close"]


class TestOnnxRuntimeCuda:
    def test_session_and_buffers_are_on_its_gpu(self, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
        """The session runs on the CPU; its memory is that of a device that refuses a call for another GPU."""
        bound: list[int] = []

        class Session(RecordingSession):
            def io_binding(self) -> Any:
                real = self._session.io_binding()

                class Binding:
                    def bind_input(self, name: str, kind: str, index: int, *rest: Any) -> None:
                        bound.append(index)
                        real.bind_input(name, "cpu", 0, *rest)

                    def bind_output(self, name: str, kind: str, index: int, *rest: Any) -> None:
                        bound.append(index)
                        real.bind_output(name, "cpu", 0, *rest)

                    def __getattr__(self, name: str) -> Any:
                        return getattr(real, name)

                return Binding()

            def run_with_iobinding(self, binding: Any, options: Any = None) -> None:
                assert current_gpu() == 1
                self._session.run_with_iobinding(binding, options)

        asked: list[int] = []

        def open_on_cuda(path: Path, new_options: object, precision: str, *, index: int, **more: Any) -> CudaSession:
            asked.append(index)
            return CudaSession(Session(open_session(path, session_options("fp32"))), True, False, index)

        device = HostDevice(index=1, count=2)
        monkeypatch.setattr(openers, "require_cuda_package", lambda: None)
        monkeypatch.setattr(onnxruntime_cuda_runner, "open_on_cuda", open_on_cuda)
        for module in (device_module, on_card):
            monkeypatch.setattr(module, "open_device", lambda index=0: device)
        runner = open_runner(engine, "onnxruntime-cuda", device=1, verify=False).runner
        plain = open_runner(engine, "onnxruntime", verify=False).runner
        pixels = random_pixels(3, 32)
        for call in (runner, lambda pixels: in_thread(lambda: runner(pixels))):
            # The same kernels on the same numbers.
            np.testing.assert_allclose(call(pixels), plain(pixels), rtol=1e-5, atol=1e-6)
        runner.close()
        assert asked == [1]
        assert bound
        assert set(bound) == {1}
        assert device.live == set()

    def test_the_provider_gets_the_number(self) -> None:
        assert [provider_options("fp32", index=index)["device_id"] for index in (0, 3)] == ["0", "3"]


class TestChoice:
    @pytest.mark.parametrize("runtime", ["openvino", "onnxruntime"])
    def test_a_runtime_of_the_cpu_has_no_gpu(self, runtime: str, engine: Engine) -> None:
        with pytest.raises(UsageError, match=f"^`device` names a GPU, and `runtime` {runtime} runs on the CPU; leave"):
            open_runner(engine, runtime, device=0)

    def test_auto_tries_gpu_runtimes_only(self, engine: Engine, cards: Cards) -> None:
        with pytest.raises(UnavailableError) as info:
            open_runner(engine, device=1)
        assert f"{engine.name}: no runtime on GPU 1 can run it (tensorrt: " in str(info.value)
        assert "openvino" not in str(info.value)
        assert "onnxruntime-cuda: " in str(info.value)

    def test_a_number_that_is_not_there_is_one_line_whatever_the_runtimes_say(
        self, engine: Engine, cards: Cards
    ) -> None:
        for runtime in ("auto", *select.GPU_RUNTIMES):
            with pytest.raises(UnavailableError, match=r"^`device` 7: this process sees 2 GPUs, numbers 0 to 1; "):
                open_runner(engine, runtime, device=7)

    def test_the_lists_of_runtimes_agree(self) -> None:
        assert set(select.GPU_RUNTIMES) < set(openers.RUNTIMES)
        assert set(select.CALLS_PER_GPU) <= set(select.GPU_RUNTIMES)


def test_without_a_number_nothing_changes_the_current_gpu(cards: Cards, monkeypatch: pytest.MonkeyPatch) -> None:
    cards.install()
    device = FakeDevice()
    monkeypatch.setattr(FakeDevice, "current", None)
    monkeypatch.setattr(tensorrt_plans, "open_device", lambda: device)
    runner = open_runner(cards.engine, "tensorrt", verify=False).runner
    assert not runner.description.endswith("GPU 0")
    runner.close()
