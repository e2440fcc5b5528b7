"""A machine with several fake GPUs, and a TensorRT on each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from alexnet_deploy.bundle.manifest import Engine
from alexnet_deploy.runtime import openers
from alexnet_deploy.runtime.cuda import device as device_module
from alexnet_deploy.runtime.cuda import on_card
from alexnet_deploy.runtime.runner import Runner
from alexnet_deploy.runtime.tensorrt import plans as tensorrt_plans
from alexnet_deploy.runtime.tensorrt.library import TensorRT
from alexnet_deploy.runtime.tensorrt.runner import TensorRTRunner
from tests.helpers.fake_device import FakeDevice, current_gpu
from tests.helpers.fake_tensorrt import FakeMachine, fake_tensorrt
from tests.helpers.host_device import RecordingSession, cuda_runner_on_host


class Cards:
    """``count`` GPUs, each a ``devices[i]``; ``install`` gives them a TensorRT with a plan for sm89."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path, *, count: int) -> None:
        self._monkeypatch, self._machine = monkeypatch, FakeMachine(monkeypatch, folder)
        self.devices = [FakeDevice(index=index, count=count) for index in range(count)]
        for module in (device_module, on_card, tensorrt_plans):
            monkeypatch.setattr(module, "open_device", lambda index=0: self.devices[index])

    def install(self, *, capabilities: Sequence[str] = (), devices: Sequence[FakeDevice] = (), **options: Any) -> None:
        """``options`` are those of ``fake_tensorrt``; ``devices`` replace those that are there."""
        self.devices[:] = devices or self.devices
        for device, capability in zip(self.devices, capabilities, strict=False):
            device.capability = capability
        libraries = [fake_tensorrt(device, **options) for device in self.devices]
        self.engines = [engine for _, engine in libraries]
        first = libraries[0][0]

        def deserialize(library: TensorRT) -> Any:
            return library.api.Runtime(library.logger)

        # A plan becomes an engine on the GPU that is current, as in TensorRT.
        runtimes = [deserialize(library) for library, _ in libraries]
        first.api.Runtime = lambda logger: runtimes[current_gpu()]
        plan = self._machine.install(first)
        self.engine = Engine(
            "cards",
            self._machine.plan_file.with_name("model.onnx"),
            FakeMachine.contract,
            "fp16",
            FakeMachine.batch,
            plans=((plan, self._machine.plan_file),),
        )

    def take_over(self) -> None:
        """From now on ``tensorrt`` and ``onnxruntime-cuda`` open every engine, on the fake GPUs.

        The first answers as ``expected_logits`` does; the second computes on the CPU, with the right GPU current.
        """

        def plan(engine: Engine, options: Any) -> Runner:
            def on(card: FakeDevice) -> Runner:
                side = engine.contract.preprocessing.height
                library, made = fake_tensorrt(card, side=side, classes=len(engine.contract.labels))
                return TensorRTRunner(library, made, card, engine.contract, FakeMachine.batch)

            return self._on(options.device, on)

        def session(engine: Engine, options: Any) -> Runner:
            self.tf32.append(options.tf32)

            def on(card: FakeDevice) -> Runner:
                runner, session = cuda_runner_on_host(engine.onnx_path, engine.contract)
                runner.device = "sm89"
                self.sessions[card.index] = session
                return runner

            return self._on(options.device, on)

        self.sessions: dict[int, RecordingSession] = {}
        self.tf32: list[bool] = []
        """Of each session that was opened."""
        self._monkeypatch.setitem(openers.RUNTIMES, "tensorrt", plan)
        self._monkeypatch.setitem(openers.RUNTIMES, "onnxruntime-cuda", session)

    def _on(self, index: int | None, open_runner: Callable[[Any], Runner]) -> Runner:
        if index is None:
            return open_runner(self.devices[0])
        return on_card.open_on_card(index, open_runner)
