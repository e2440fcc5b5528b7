"""What ``auto`` makes of ONNX Runtime's CUDA provider, and who is given TF32; the GPU is a fake runner."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from alexnet_deploy.bundle.manifest import Engine
from alexnet_deploy.errors import UnavailableError
from alexnet_deploy.machine.onnx_session import open_session
from alexnet_deploy.profiling import engine as profiling
from alexnet_deploy.profiling.settings import ProfileSettings
from alexnet_deploy.runtime import openers, select
from alexnet_deploy.runtime.onnxruntime import cuda as onnxruntime_cuda
from alexnet_deploy.runtime.onnxruntime import cuda_runner as onnxruntime_cuda_runner
from alexnet_deploy.runtime.onnxruntime.runner import session_options
from alexnet_deploy.runtime.select import open_runner
from tests.helpers.command import Command
from tests.helpers.host_device import HostDevice, cuda_runner_on_host
from tests.helpers.models.onnx_models import TINY_CONTRACT, tiny_engine
from tests.helpers.runners import FakeRunner


class TestChoice:
    @pytest.fixture(autouse=True)
    def cuda(self, monkeypatch: pytest.MonkeyPatch) -> Mock:
        """A machine on which ONNX Runtime has CUDA and starts it."""

        def start(engine: Engine, options: Any) -> Any:
            runner = FakeRunner(engine.contract)
            runner.runtime, runner.device = "onnxruntime-cuda", "sm90"  # type: ignore[misc]
            return runner

        opened = Mock(side_effect=start)
        monkeypatch.setattr(select, "require_cuda_package", lambda: None)
        monkeypatch.setattr(select, "has_nvidia_gpu", lambda: True)
        monkeypatch.setitem(openers.RUNTIMES, "onnxruntime-cuda", opened)
        return opened

    @pytest.mark.parametrize("precision", ["fp32", "fp16"])
    def test_auto_takes_it_for_what_cuda_computes(self, precision: str, engine: Engine) -> None:
        selected = open_runner(dataclasses.replace(engine, precision=precision), verify=False)
        assert selected.runner.runtime == "onnxruntime-cuda"

    @pytest.mark.parametrize(
        ("precision", "becomes"),
        [
            ("int8", "fp32"),
            ("int8+fp16", "fp16"),
            ("fp8", "fp32"),
            ("fp8+fp16", "fp16"),
            ("int8-weights", "fp16"),
            ("int4", "fp16"),
        ],
    )
    def test_auto_passes_over_what_it_only_converts_and_says_so(
        self, precision: str, becomes: str, tmp_path: Path, cuda: Mock
    ) -> None:
        engine = tiny_engine(tmp_path / "net.onnx")
        selected = open_runner(dataclasses.replace(engine, precision=precision), verify=False)
        assert selected.runner.device == "cpu"
        (reason,) = [each.reason for each in selected.passed_over if each.runtime == "onnxruntime-cuda"]
        assert reason.startswith(
            f"its CUDA provider has no kernels for {precision.partition('+')[0]} and would turn it "
        )
        assert f"into {becomes} in each call" in reason
        assert not cuda.called
        named = open_runner(dataclasses.replace(engine, precision=precision), "onnxruntime-cuda", verify=False)
        assert named.runner.runtime == "onnxruntime-cuda", "who names it gets it"

    def test_auto_does_not_load_cuda_where_no_gpu_is_seen(
        self, engine: Engine, cuda: Mock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(select, "has_nvidia_gpu", lambda: False)
        selected = open_runner(engine, verify=False)
        assert selected.runner.device == "cpu"
        assert "sees no NVIDIA GPU" in selected.passed_over[1].reason
        assert not cuda.called

    @pytest.mark.parametrize("tf32", [False, True])
    def test_tf32_is_for_who_allows_it(self, tf32: bool, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(openers, "require_cuda_package", lambda: None)
        monkeypatch.setitem(openers.RUNTIMES, "onnxruntime-cuda", openers._onnxruntime_cuda)
        asked = Mock(side_effect=UnavailableError("stop here"))
        monkeypatch.setattr(onnxruntime_cuda_runner, "open_on_cuda", asked)
        with pytest.raises(UnavailableError, match="stop here"):
            open_runner(engine, "onnxruntime-cuda", tf32=tf32)
        assert asked.call_args.kwargs["tf32"] is tf32

    @pytest.mark.parametrize("tf32", [False, True])
    def test_the_commands_that_run_and_measure_allow_it(
        self, tf32: bool, engine: Engine, cuda: Mock, command: Command, photo_folder: Path
    ) -> None:
        profiling.try_engine(engine, ProfileSettings(runtime="onnxruntime-cuda", tf32=tf32))
        photo = next(photo_folder.rglob("*.jpg"))
        flags = ["--tf32"] * tf32
        ran = command(
            "infer", photo, "--engine", engine.onnx_path, "--runtime", "onnxruntime-cuda", "--no-verify", *flags
        )
        assert ran.code == 0, ran.err
        assert [call.args[1].tf32 for call in cuda.call_args_list[-2:]] == [tf32, tf32]

    def test_it_is_left_out_where_machines_would_differ(self, command: Command, photo_folder: Path) -> None:
        ran = command("infer", photo_folder, "--ray", "local", "--output", "out", "--tf32")
        assert ran.code == 2
        assert "--tf32: machines with different GPUs would differ" in ran.err

    def test_the_description_says_tf32(self, engine: Engine) -> None:
        session = open_session(engine.onnx_path, session_options("fp32"))
        opened = onnxruntime_cuda.CudaSession(session, True, False)
        for tf32 in (False, True):
            runner = onnxruntime_cuda_runner.OnnxRuntimeCudaRunner(opened, TINY_CONTRACT, engine.onnx_path, tf32=tf32)
            assert runner.description.endswith(" on CUDA with TF32" if tf32 else " on CUDA")


def test_a_gpu_that_is_lost_in_the_middle_keeps_the_rows_so_far(
    tmp_path: Path, photo_folder: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = tiny_engine(tmp_path / "net.onnx")
    photos = sorted(photo_folder.rglob("*.jpg"))[:6]
    left = [4]

    def open_on_host(engine: Engine, options: Any) -> Any:
        runner, session = cuda_runner_on_host(engine.onnx_path, engine.contract, device=HostDevice())
        run = session.run_with_iobinding

        def run_until_lost(*arguments: Any) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise RuntimeError("CUDA failure 719: unspecified launch failure ; GPU=0")
            run(*arguments)

        session.run_with_iobinding = run_until_lost  # type: ignore[method-assign]
        return runner

    monkeypatch.setitem(openers.RUNTIMES, "onnxruntime-cuda", open_on_host)
    out = tmp_path / "rows.csv"
    asked: list[object] = ["infer", *photos, "--engine", engine.onnx_path, "--runtime", "onnxruntime-cuda"]
    asked += ["--no-verify", "--batch", 1, "--format", "csv", "--output", out]
    ran = command(*asked)
    assert ran.code == 1
    assert "the GPU stopped working in this process" in ran.err
    assert not out.exists()
    left[0] = 100
    ran = command(*asked, "--resume")
    assert ran.code == 0, ran.err
    assert len(out.read_text().splitlines()) == 1 + len(photos)
    assert 100 - left[0] < len(photos), "the rows of the first run were not computed again"
