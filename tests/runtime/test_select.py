"""Which runtime runs an engine, and why the others do not."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import onnxruntime as ort
import pytest

from alexnet_deploy import runtime
from alexnet_deploy.bundle.manifest import Engine, Plan
from alexnet_deploy.contract import BatchProfile
from alexnet_deploy.errors import UnavailableError, UsageError
from alexnet_deploy.machine.cpu import cores
from alexnet_deploy.runtime import select
from alexnet_deploy.runtime.cuda.device import current_capability
from alexnet_deploy.runtime.openers import RUNTIMES
from alexnet_deploy.runtime.select import MAX_CALLS_PER_CORE, PassedOver, Runtime, open_runner, split_runtime
from tests.helpers.models.onnx_models import TINY_CONTRACT

no_gpu = pytest.mark.skipif(
    current_capability() is not None or "CUDAExecutionProvider" in ort.get_available_providers(),
    reason="says what a machine without a GPU passes over",
)


@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime"])
@pytest.mark.parametrize("tf32", [False, True])
def test_tf32_that_a_runtime_does_not_use_is_said(
    runtime: str, tf32: bool, engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    open_runner(engine, runtime, tf32=tf32, verify=False).runner.close()
    said = [record.getMessage() for record in caplog.records if "`tf32` has no effect on" in record.getMessage()]
    assert len(said) == tf32
    assert all(text.endswith("it runs on the CPU, which computes in full float32") for text in said)


class TestChoice:
    @no_gpu
    def test_auto_takes_openvino_and_has_the_reasons_against_the_others(self, engine: Engine) -> None:
        selected = open_runner(engine)
        assert (selected.runner.runtime, selected.runner.device) == ("openvino", "cpu")
        tensorrt, cuda = selected.passed_over
        assert tensorrt == PassedOver("tensorrt", "tiny holds no TensorRT plan; build one: alexnet-deploy build-engine")
        assert str(cuda).startswith(
            "onnxruntime-cuda: the installed ONNX Runtime has no CUDA; pip install 'alexnet-deploy[gpu]'"
        )

    @no_gpu
    @pytest.mark.parametrize(
        ("precision", "saturates", "runtime"),
        [
            ("int8", True, "onnxruntime"),
            ("int8+fp16", True, "onnxruntime"),
            ("int8", False, "openvino"),
            ("int8-weights", True, "openvino"),
            ("fp32", True, "openvino"),
        ],
    )
    def test_int8_takes_the_runtime_that_is_exact_and_fast_here(
        self, precision: str, saturates: bool, runtime: str, engine: Engine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(select, "saturates_int8", lambda: saturates)
        assert open_runner(dataclasses.replace(engine, precision=precision)).runner.runtime == runtime

    @pytest.mark.parametrize("present", [False, True])
    def test_a_gpu_that_is_not_used_is_reported(
        self, present: bool, engine: Engine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(select, "has_nvidia_gpu", lambda: present)
        assert open_runner(engine).unused_gpu is present
        assert not open_runner(engine, "openvino").unused_gpu, "the CPU was asked for"

    @no_gpu
    def test_a_plan_does_not_help_without_its_gpu(self, engine: Engine, tmp_path: Path) -> None:
        plan = tmp_path / "sm89.plan"
        plan.write_bytes(b"plan")
        plans = ((Plan(plan.name, "tensorrt_rtx", "1.7.1", "sm89"), plan),)
        bundle = Engine("tiny", engine.onnx_path, TINY_CONTRACT, "fp32", BatchProfile(), plans)
        selected = open_runner(bundle)
        assert selected.runner.runtime == "openvino"
        assert selected.passed_over[0].runtime == "tensorrt"
        assert "sm89.plan" in selected.passed_over[0].reason
        with pytest.raises(UnavailableError, match=r"sm89.plan"):
            open_runner(bundle, "tensorrt")

    @pytest.mark.parametrize(("runtime", "name"), [("openvino", "OpenVINO "), ("onnxruntime", "ONNX Runtime ")])
    def test_what_was_asked_for_is_taken(self, runtime: str, name: str, engine: Engine) -> None:
        selected = open_runner(engine, runtime)
        assert (selected.runner.runtime, selected.runner.device) == (runtime, "cpu")
        assert selected.runner.description.startswith(name)
        assert selected.runner.description.endswith(" on CPU")
        assert selected.passed_over == ()
        assert selected.runner.contract == TINY_CONTRACT

    def test_the_type_lists_every_runtime(self) -> None:
        assert get_args(Runtime) == ("auto", *RUNTIMES)

    def test_parameters_out_of_range(self, engine: Engine) -> None:
        most = MAX_CALLS_PER_CORE * cores()
        wrong: list[tuple[dict[str, Any], str]] = [
            ({"runtime": "tensorflow"}, rf"`runtime` tensorflow: unknown; choose auto, {', '.join(RUNTIMES)}"),
            ({"threads": 0}, "`threads` 0: must be 1 or more"),
            ({"threads": -1}, "`threads` -1: must be 1 or more"),
            ({"concurrency": 0}, "`concurrency` 0: must be 1 or more"),
            ({"concurrency": most + 1}, rf"`concurrency` {most + 1}: above {MAX_CALLS_PER_CORE} per core, {most} here"),
        ]
        for parameters, message in wrong:
            with pytest.raises(UsageError, match=message):
                open_runner(engine, **parameters)
        open_runner(engine, concurrency=most).runner.close()


class TestMissing:
    @pytest.mark.parametrize(
        ("module", "runtime", "message"),
        [
            ("openvino", "openvino", r"OpenVINO is not installed; pip install 'alexnet-deploy\[cpu\]'"),
            ("onnxruntime", "onnxruntime", r"ONNX Runtime is not installed; pip install 'alexnet-deploy\[cpu\]'"),
            ("onnxruntime", "onnxruntime-cuda", r"ONNX Runtime is not installed; .*\[gpu\]"),
        ],
    )
    def test_a_runtime_that_is_not_installed_names_its_extra(
        self, module: str, runtime: str, message: str, engine: Engine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(UnavailableError, match=message):
            open_runner(engine, runtime)

    @no_gpu
    def test_what_auto_passes_over_is_not_loaded(self, engine: Engine) -> None:
        """TensorRT and ONNX Runtime stay in memory once they are imported, as if they were the engine's own."""
        code = (
            "import sys\nfrom pathlib import Path\n"
            "from alexnet_deploy.bundle.manifest import BatchProfile, Engine, Plan\n"
            "from alexnet_deploy.contract import ModelContract\n"
            "from alexnet_deploy.runtime.select import open_runner\n"
            "path, contract = Path(sys.argv[1]), ModelContract.from_json(sys.argv[2], source='test')\n"
            "plans = ((Plan('x.plan', 'tensorrt_rtx', '1', 'sm89'), path),)\n"
            "engine = Engine('tiny', path, contract, 'fp32', BatchProfile(), plans)\n"
            "opened = open_runner(engine, verify=bool(sys.argv[3]))\n"
            "print(len(opened.passed_over), sorted({'tensorrt_rtx', 'onnxruntime'} & sys.modules.keys()))"
        )
        command = [sys.executable, "-c", code, engine.onnx_path, TINY_CONTRACT.to_json()]
        run = subprocess.run([*command, ""], capture_output=True, text=True, check=True)
        assert run.stdout.strip() == "2 []"
        # Nor by the comparison with the reference, once its verdict is there.
        for _ in range(2):
            run = subprocess.run([*command, "verify"], capture_output=True, text=True, check=True)
        assert run.stdout.strip() == "2 []"

    @no_gpu
    def test_nothing_at_all(self, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
        for module in ("openvino", "onnxruntime"):
            monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(
            UnavailableError, match=r"^tiny: no runtime on this machine can run it \(tensorrt: .*openvino: .*\)$"
        ) as info:
            open_runner(engine)
        assert all(f"{runtime}: " in str(info.value) for runtime in RUNTIMES)
        assert "\n" not in str(info.value)

    @no_gpu
    def test_auto_reports_the_reason_of_every_runtime(self, engine: Engine, tmp_path: Path) -> None:
        bad = tmp_path / "bad.onnx"
        bad.write_bytes(b"garbage")
        with pytest.raises(UnavailableError, match=r"OpenVINO refuses it .*ONNX Runtime refuses it"):
            open_runner(dataclasses.replace(engine, onnx_path=bad))

    def test_a_package_that_does_not_load(
        self, engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Found, but broken: a missing shared library, or a wheel for another Python."""
        broken = tmp_path / "openvino"
        broken.mkdir()
        (broken / "__init__.py").write_text("raise ImportError('libtbb.so.12: cannot open shared object file')\n")
        monkeypatch.syspath_prepend(tmp_path)
        for module in [name for name in sys.modules if name.partition(".")[0] == "openvino"]:
            monkeypatch.delitem(sys.modules, module)
        monkeypatch.delitem(sys.modules, "alexnet_deploy.runtime.openvino_runner", raising=False)
        monkeypatch.delattr(runtime, "openvino_runner", raising=False)
        with pytest.raises(UnavailableError, match=r"openvino does not start \(libtbb.so.12: .*\); reinstall its"):
            open_runner(engine, "openvino")
        selected = open_runner(engine)
        assert (selected.runner.runtime, selected.passed_over[-1].runtime) == ("onnxruntime", "openvino")
        assert selected.passed_over[-1].reason.startswith("openvino does not start")


class TestBothOnnxruntimes:
    @pytest.fixture(autouse=True)
    def _both_installed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("onnxruntime", "onnxruntime-gpu"):
            info = tmp_path / f"{name.replace('-', '_')}-1.99.0.dist-info"
            info.mkdir()
            (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.99.0\n")
        monkeypatch.syspath_prepend(tmp_path)

    @pytest.mark.parametrize("runtime", ["onnxruntime", "onnxruntime-cuda"])
    def test_they_are_refused_and_auto_passes_them_over(self, runtime: str, engine: Engine) -> None:
        with pytest.raises(UnavailableError, match=r"onnxruntime and onnxruntime-gpu are both installed"):
            open_runner(engine, runtime)
        selected = open_runner(engine)
        assert selected.runner.runtime == "openvino"
        assert "are both installed" in selected.passed_over[-1].reason


def test_a_runtime_behind_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is called like that as a whole is not split."""
    monkeypatch.chdir(tmp_path)
    Path("a@auto").touch()
    Path("store/b@auto").mkdir(parents=True)
    store = Path("store")
    assert split_runtime("alexnet-int8@openvino") == ("alexnet-int8", "openvino")
    assert split_runtime("alexnet-int8") == ("alexnet-int8", None)
    assert split_runtime("a@auto", store=store) == ("a@auto", None)
    assert split_runtime("b@auto", store=store) == ("b@auto", None)
    assert split_runtime("b@auto") == ("b", "auto")
    with pytest.raises(UsageError, match="a@gpu: 'gpu' is not a runtime; write NAME@RUNTIME with one of auto, "):
        split_runtime("a@gpu")
