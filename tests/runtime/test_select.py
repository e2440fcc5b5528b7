"""Which runtime runs an engine, why others did not, and that all of them answer alike and hand over their results."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto

from alexnet_deploy import runtime
from alexnet_deploy.bundle.manifest import Engine, Plan
from alexnet_deploy.contract import BatchProfile, ModelContract, Preprocessing
from alexnet_deploy.errors import InputError, UnavailableError, UsageError
from alexnet_deploy.machine.cpu import cores
from alexnet_deploy.runtime.cuda import current_capability
from alexnet_deploy.runtime.onnxruntime_runner import OrtRunner
from alexnet_deploy.runtime.runner import Runner
from alexnet_deploy.runtime.select import MAX_STREAMS_A_CORE, RUNTIMES, open_runner
from tests.helpers.foreign_models import random_pixels
from tests.helpers.onnx_models import CLASSES, SIDE, Graph, tiny_classifier

LABELS = tuple(map(str, range(CLASSES)))
CONTRACT = ModelContract("tiny", LABELS, LABELS, Preprocessing(SIDE, SIDE, "stretch", None))
ON_CPU = ("onnxruntime", "openvino")

no_gpu = pytest.mark.skipif(
    current_capability() is not None or "CUDAExecutionProvider" in ort.get_available_providers(),
    reason="says what a machine without a GPU passes over",
)


def engine_of(path: Path, contract: ModelContract = CONTRACT) -> Engine:
    return Engine("tiny", path, contract, "fp32", None)


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    return engine_of(tiny_classifier(tmp_path_factory.mktemp("dynamic") / "net.onnx"))


@pytest.fixture(params=ON_CPU)
def runner(request: pytest.FixtureRequest, engine: Engine) -> Iterator[Runner]:
    runner = open_runner(engine, request.param, threads=1).runner
    yield runner
    runner.close()


def pixels(count: int, seed: int = 0) -> NDArray[np.uint8]:
    return random_pixels(count, SIDE, seed)


class TestChoice:
    @no_gpu
    def test_auto_takes_openvino_and_says_why_not_the_others(self, engine: Engine) -> None:
        opened = open_runner(engine)
        assert opened.runner.description.startswith("OpenVINO ")
        tensorrt, cuda = opened.passed_over
        assert tensorrt == "tensorrt: tiny holds no TensorRT plan; build one: alexnet-deploy build-engine"
        assert cuda.startswith("onnxruntime-cuda: ONNX Runtime here has no CUDA; pip install 'alexnet-deploy[gpu]'")

    @no_gpu
    def test_a_plan_does_not_help_without_its_gpu(self, engine: Engine, tmp_path: Path) -> None:
        plan = tmp_path / "sm89.plan"
        plan.write_bytes(b"plan")
        bundle = Engine(
            "tiny",
            engine.onnx_path,
            CONTRACT,
            "fp32",
            BatchProfile(),
            ((Plan(plan.name, "tensorrt_rtx", "1.7.1", "sm89"), plan),),
        )
        opened = open_runner(bundle)
        assert opened.runner.description.startswith("OpenVINO ")
        assert opened.passed_over[0].startswith("tensorrt: ")
        assert "sm89.plan" in opened.passed_over[0]
        with pytest.raises(UnavailableError, match=r"sm89.plan"):
            open_runner(bundle, "tensorrt")

    @pytest.mark.parametrize(("runtime", "name"), [("openvino", "OpenVINO "), ("onnxruntime", "ONNX Runtime ")])
    def test_what_was_asked_for_is_taken(self, runtime: str, name: str, engine: Engine) -> None:
        opened = open_runner(engine, runtime)
        assert opened.runner.description.startswith(name)
        assert opened.runner.description.endswith(" on CPU")
        assert opened.passed_over == ()
        assert opened.runner.contract == CONTRACT

    def test_an_unknown_runtime(self, engine: Engine) -> None:
        names = ", ".join(RUNTIMES)
        with pytest.raises(UsageError, match=rf"--runtime tensorflow: unknown; choose auto, {names}"):
            open_runner(engine, "tensorflow")

    @pytest.mark.parametrize("threads", [0, -1])
    def test_threads_out_of_range(self, threads: int, engine: Engine) -> None:
        with pytest.raises(UsageError, match=rf"--threads {threads}: takes 1 or more"):
            open_runner(engine, threads=threads)

    def test_streams_out_of_range(self, engine: Engine) -> None:
        with pytest.raises(UsageError, match="--concurrency 0: takes 1 or more"):
            open_runner(engine, streams=0)
        most = MAX_STREAMS_A_CORE * cores()
        with pytest.raises(
            UsageError, match=rf"--concurrency {most + 1}: past {MAX_STREAMS_A_CORE} a core, {most} here"
        ):
            open_runner(engine, streams=most + 1)
        open_runner(engine, streams=most).runner.close()

    def test_no_heavy_library_before_a_runner_is_opened(self) -> None:
        code = (
            "import sys, alexnet_deploy.runtime.select as r, alexnet_deploy.runtime.any_batch\n"
            "heavy = {'onnx', 'onnxruntime', 'openvino', 'tensorrt', 'tensorrt_rtx', 'cuda', 'pycuda', 'torch'}\n"
            "print(sorted(heavy & sys.modules.keys()))"
        )
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert run.stdout.strip() == "[]"


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
            "opened = open_runner(Engine('tiny', path, contract, 'fp32', BatchProfile(), plans))\n"
            "print(len(opened.passed_over), sorted({'tensorrt_rtx', 'onnxruntime'} & sys.modules.keys()))"
        )
        command = [sys.executable, "-c", code, engine.onnx_path, CONTRACT.to_json()]
        run = subprocess.run(command, capture_output=True, text=True, check=True)
        assert run.stdout.strip() == "2 []"

    def test_auto_goes_on_to_the_next(self, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "openvino", None)
        opened = open_runner(engine)
        assert opened.runner.description.startswith("ONNX Runtime ")
        assert any(reason.startswith("openvino: OpenVINO is not installed") for reason in opened.passed_over)

    @no_gpu
    def test_nothing_at_all(self, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
        for module in ("openvino", "onnxruntime"):
            monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(
            UnavailableError, match=r"^tiny: nothing here can run it \(tensorrt: .*openvino: .*\)$"
        ) as info:
            open_runner(engine)
        assert all(f"{runtime}: " in str(info.value) for runtime in RUNTIMES)
        assert "\n" not in str(info.value)

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
        with pytest.raises(UnavailableError, match=r"openvino does not load \(libtbb.so.12: .*\); install it anew"):
            open_runner(engine, "openvino")
        assert open_runner(engine).runner.description.startswith("ONNX Runtime ")


class TestBothOnnxruntimes:
    @pytest.fixture(autouse=True)
    def _both_installed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("onnxruntime", "onnxruntime-gpu"):
            info = tmp_path / f"{name.replace('-', '_')}-1.99.0.dist-info"
            info.mkdir()
            (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.99.0\n")
        monkeypatch.syspath_prepend(tmp_path)

    @pytest.mark.parametrize("runtime", ["onnxruntime", "onnxruntime-cuda"])
    def test_they_are_refused(self, runtime: str, engine: Engine) -> None:
        with pytest.raises(UnavailableError, match=r"onnxruntime and onnxruntime-gpu are both installed"):
            open_runner(engine, runtime)

    def test_auto_passes_them_over(self, engine: Engine) -> None:
        opened = open_runner(engine)
        assert opened.runner.description.startswith("OpenVINO ")
        assert any("are both installed" in reason for reason in opened.passed_over)


class TestAnswers:
    def test_the_runtimes_agree(self, engine: Engine) -> None:
        first_NK, second_NK = (open_runner(engine, runtime, threads=1).runner(pixels(5)) for runtime in ON_CPU)
        # float32 sums in another order; bfloat16, which OpenVINO would like to take, is off by some 1e-3.
        np.testing.assert_allclose(first_NK, second_NK, rtol=0, atol=2e-5 * np.abs(first_NK).max())
        assert np.ptp(first_NK, axis=0).max() > 1e-3

    def test_logits_have_their_form(self, runner: Runner) -> None:
        logits_NK = runner(pixels(3))
        assert logits_NK.shape == (3, CLASSES)
        assert logits_NK.dtype == np.float32

    def test_the_caller_owns_the_logits(self, runner: Runner) -> None:
        first_NK = runner(pixels(2, seed=1))
        kept_NK = first_NK.copy()
        second_NK = runner(pixels(2, seed=2))
        assert not np.array_equal(second_NK, kept_NK)
        np.testing.assert_array_equal(first_NK, kept_NK)
        first_NK[:] = 0  # writable, and nobody else's
        np.testing.assert_allclose(runner(pixels(2, seed=1)), kept_NK, rtol=1e-6)

    def test_the_pixels_stay_the_callers(self, runner: Runner) -> None:
        mine_NHWC = pixels(2)
        expected_NK = runner(mine_NHWC)
        np.testing.assert_array_equal(mine_NHWC, pixels(2))
        mine_NHWC[:] = 0
        assert not np.array_equal(runner(mine_NHWC), expected_NK)

    def test_pixels_in_any_memory_layout(self, runner: Runner) -> None:
        expected_NK = runner(pixels(4))
        wide_NHWC = np.zeros((4, SIDE, 2 * SIDE, 3), np.uint8)
        wide_NHWC[:, :, ::2] = pixels(4)
        locked_NHWC = pixels(4)
        locked_NHWC.flags.writeable = False
        for same_NHWC in (wide_NHWC[:, :, ::2], locked_NHWC, pixels(4)[::-1][::-1]):
            np.testing.assert_array_equal(runner(same_NHWC), expected_NK)

    @pytest.mark.parametrize("runtime", ["openvino", "onnxruntime"])
    def test_forks_in_threads_answer_as_one_does(self, runtime: str, engine: Engine) -> None:
        runner = open_runner(engine, runtime, threads=2, streams=2).runner
        fork = runner.fork()
        batches = [pixels(3, seed=i) for i in range(20)]
        expected = [runner(batch) for batch in batches]
        with ThreadPoolExecutor(2) as pool:
            found = [pool.submit(lambda each: list(map(each, batches)), each) for each in (runner, fork)]
            for answers in found:
                assert all(map(np.array_equal, answers.result(), expected))
        fork.close()
        assert np.array_equal(runner(batches[0]), expected[0])

    def test_close_may_be_called_twice(self, runner: Runner) -> None:
        runner(pixels(1))
        runner.close()
        runner.close()


STATIC = 3


@pytest.fixture(scope="session")
def static_runners(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Runner, Runner]]:
    """By runtime: the same network with a batch of exactly ``STATIC`` and with any."""
    folder = tmp_path_factory.mktemp("static")
    static, free = (engine_of(tiny_classifier(folder / f"{b}.onnx", batch=b)) for b in (STATIC, "N"))
    return {
        name: (open_runner(static, name, threads=1).runner, open_runner(free, name, threads=1).runner)
        for name in ON_CPU
    }


@given(count=st.integers(1, 3 * STATIC + 2))
@settings(max_examples=12, deadline=None)
def test_a_static_batch_takes_any_number(count: int, static_runners: dict[str, tuple[Runner, Runner]]) -> None:
    for static, free in static_runners.values():
        assert static.batch is None
        expected_NK = free(pixels(count))
        # Another batch size may take another kernel, which sums in another order.
        np.testing.assert_allclose(static(pixels(count)), expected_NK, rtol=0, atol=2e-5 * np.abs(expected_NK).max())


class TestRefused:
    @pytest.mark.parametrize("runtime", ON_CPU)
    def test_a_file_that_is_no_model(self, runtime: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        bad = tmp_path / "bad.onnx"
        bad.write_bytes(b"garbage")
        with pytest.raises(
            InputError, match=r"bad.onnx: (ONNX Runtime|OpenVINO) refuses it \(.+\); try --runtime"
        ) as info:
            open_runner(engine_of(bad), runtime)
        assert "\n" not in str(info.value)
        if runtime == "onnxruntime":
            assert capfd.readouterr().err == ""

    @no_gpu
    def test_auto_tells_what_every_runtime_said(self, tmp_path: Path) -> None:
        bad = tmp_path / "bad.onnx"
        bad.write_bytes(b"garbage")
        with pytest.raises(UnavailableError, match=r"OpenVINO refuses it .*ONNX Runtime refuses it"):
            open_runner(engine_of(bad))

    def test_a_graph_that_takes_one_image_for_all_it_says(
        self, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        """OpenVINO would answer two images with what it said of the one before, and later end the process."""
        g = Graph()
        flat = g.node("Reshape", g.node("Cast", "pixels", to=1), g.constant(np.array([1, SIDE * SIDE * 3])))
        path = g.save(
            g.node("MatMul", flat, g.weight(SIDE * SIDE * 3, CLASSES)),
            tmp_path / "net.onnx",
            ["N", SIDE, SIDE, 3],
            TensorProto.UINT8,
        )
        one_by_one, refusing = (open_runner(engine_of(path), runtime, threads=1).runner for runtime in ON_CPU[::-1])
        images_NHWC = pixels(2)
        single_NK = np.concatenate([refusing(images_NHWC[:1]), refusing(images_NHWC[1:])])
        # float32 sums of 3072 products in another order
        np.testing.assert_allclose(one_by_one(images_NHWC), single_NK, rtol=0, atol=2e-5 * np.abs(single_NK).max())
        with pytest.raises(InputError, match=r"net.onnx: fails on pixels \(2, 32, 32, 3\)") as info:
            refusing(images_NHWC)
        assert "\n" not in str(info.value)
        assert capfd.readouterr().err == ""

    @no_gpu
    @pytest.mark.filterwarnings("ignore:Specified provider")
    def test_onnxruntime_falling_back_from_cuda_in_silence(self, engine: Engine) -> None:
        with pytest.raises(UnavailableError, match=r"could not start CUDA"):
            OrtRunner(engine.onnx_path, engine.contract, device="cuda")


def test_a_signal_after_several_openvino_runners_is_only_a_signal(engine: Engine) -> None:
    """A core that went before a later one left the thread a freed signal stack, and Ctrl-C became a segfault."""
    code = f"""
import faulthandler, os, signal
faulthandler.enable()
from pathlib import Path
from alexnet_deploy.contract import ModelContract
from alexnet_deploy.runtime.openvino_runner import OpenVinoRunner

contract = ModelContract("tiny", {LABELS!r}, {LABELS!r})
runners = [OpenVinoRunner(Path({str(engine.onnx_path)!r}), contract) for _ in range(3)]
while runners:
    runners.pop(0)
heard = []
signal.signal(signal.SIGINT, lambda *_: heard.append(1))
os.kill(os.getpid(), signal.SIGINT)
print(heard)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "[1]\n"), done.stderr
