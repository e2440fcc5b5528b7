"""A bundle of TensorRT plans for a fake GPU."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from alexnet_deploy.bundle.manifest import Engine, Plan
from alexnet_deploy.runtime.tensorrt import plans as tensorrt_plans
from tests.helpers.fake_device import FakeDevice
from tests.helpers.fake_tensorrt import FakeMachine, fake_tensorrt


class FakeBundle:
    """A bundle of plans for the fake GPU; the content of each file decides what the fake TensorRT says of it."""

    def __init__(self, folder: Path, machine: FakeMachine, monkeypatch: pytest.MonkeyPatch, *, rtx: bool) -> None:
        self.device = FakeDevice(capability="sm89")
        monkeypatch.setattr(tensorrt_plans, "open_device", lambda: self.device)
        self.library, self.loaded = fake_tensorrt(self.device, rtx=rtx)
        self._plan = machine.install(self.library)
        self._folder = folder

    def engine(self, *contents: bytes, onnx: Path = Path("model.onnx"), **record: object) -> Engine:
        plans: list[tuple[Plan, Path]] = []
        for index, content in enumerate(contents):
            path = self._folder / f"{index}.plan"
            path.write_bytes(content)
            plans.append((dataclasses.replace(self._plan, file=path.name, **record), path))  # type: ignore[arg-type]
        return Engine("b", onnx, FakeMachine.contract, "fp16", FakeMachine.batch, tuple(plans))
