"""A machine with TensorRT-RTX and no GPU, whatever this one has; a model whose probabilities are calibrated."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from alexnet_deploy.build import targets
from alexnet_deploy.calibration import Calibration, Rejection
from alexnet_deploy.contract import ModelContract
from alexnet_deploy.onnx_graph.onnx_file import contract_in, load_onnx, save_onnx, set_contract
from alexnet_deploy.runtime.tensorrt import library as tensorrt_library
from alexnet_deploy.runtime.tensorrt.library import RTX, TensorRT


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Call it for another one: with a GPU of a compute capability, a full TensorRT, or without TensorRT-RTX."""
    pytest.importorskip("tensorrt_rtx", reason="needs the extra 'rtx'")

    def is_(capability: str | None, full: TensorRT | None = None, rtx: bool = True) -> None:
        libraries = ({"tensorrt": full} if full else {}) | ({RTX: tensorrt_library.load(RTX)} if rtx else {})
        monkeypatch.setattr(targets, "current_capability", lambda: capability)
        monkeypatch.setattr(targets, "installed", lambda: libraries)

    is_(None)
    return is_


@pytest.fixture
def fitted_onnx(tiny_onnx: Path, tmp_path: Path) -> tuple[Path, ModelContract]:
    """A model with a calibration and a rule for unknown answers, and its contract without the rule."""
    model = load_onnx(tiny_onnx)
    bare = contract_in(model, source="exported")
    assert bare is not None
    fitted = dataclasses.replace(bare, temperature=0.8, calibration=Calibration(top=((0.2, 0.3), (0.9, 0.8))))
    set_contract(model, dataclasses.replace(fitted, rejection=Rejection("energy", 3.0)))
    return save_onnx(model, tmp_path / "fitted.onnx"), fitted
