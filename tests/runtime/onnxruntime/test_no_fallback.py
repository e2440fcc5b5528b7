"""No session of ONNX Runtime falls back to another provider in silence."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from onnxruntime.capi.onnxruntime_pybind11_state import EPFail

from alexnet_deploy.bundle.manifest import Engine
from alexnet_deploy.machine import onnx_session
from alexnet_deploy.machine.onnx_session import open_session
from alexnet_deploy.runtime.onnxruntime.runner import session_options
from tests.helpers.models.onnx_models import TINY_CONTRACT


class TestNothingFallsBackInSilence:
    def test_an_error_of_the_provider_is_raised_and_nothing_is_printed(
        self, engine: Engine, capfd: pytest.CaptureFixture[str]
    ) -> None:
        """ONNX Runtime's own way: print to standard output, and go on with the CPU for good."""
        session = open_session(engine.onnx_path, session_options("fp32"))
        real = session._sess
        session._sess = Mock(
            **{"run.side_effect": EPFail("it is gone"), "is_webgpu_graph_capture_enabled.return_value": False}
        )
        with pytest.raises(EPFail, match="it is gone"):
            session.run(None, {TINY_CONTRACT.input_name: np.zeros((1, 32, 32, 3), np.uint8)})
        session._sess = real
        assert capfd.readouterr() == ("", "")

    def test_a_model_that_is_refused_is_not_tried_again(self, capfd: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(Exception, match="INVALID_PROTOBUF"):
            open_session(b"garbage", session_options("fp32"))
        assert capfd.readouterr() == ("", "")

    def test_sessions_are_opened_in_one_place(self) -> None:
        """One that is opened elsewhere has ONNX Runtime's fallback, and its unsound optimisations."""
        package = Path(onnx_session.__file__).parents[1]
        opened = [
            path.relative_to(package).as_posix()
            for path in package.rglob("*.py")
            if "InferenceSession(" in path.read_text(encoding="utf-8")
        ]
        assert opened == ["machine/onnx_session.py"]
