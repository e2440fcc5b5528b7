"""The TensorRT runner against a fake GPU; the real one is tried where there is a GPU (marker ``gpu``)."""

from __future__ import annotations

import dataclasses
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from alexnet_deploy.bundle.manifest import Engine, Plan
from alexnet_deploy.contract import BatchProfile, ModelContract, Preprocessing
from alexnet_deploy.errors import ArtifactError, InputError, UnavailableError
from alexnet_deploy.runtime import tensorrt_runner
from alexnet_deploy.runtime.cuda import current_capability
from alexnet_deploy.runtime.stage_timer import no_lap
from alexnet_deploy.runtime.tensorrt_library import TensorRT, installed
from tests.helpers.fake_device import FakeDevice, FakeEngine, expected_logits, fake_tensorrt
from tests.helpers.onnx_models import CLASSES as TINY_CLASSES
from tests.helpers.onnx_models import SIDE as TINY_SIDE
from tests.helpers.onnx_models import tiny_classifier

SIDE, CLASSES = 4, 3
BATCH = BatchProfile(1, 4, 8)
CONTRACT = ModelContract(
    "alexnet", ("a", "b", "c"), ("n1", "n2", "n3"), Preprocessing(SIDE, SIDE, resize="stretch", resize_to=None)
)


def pixels(count: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, SIDE, SIDE, 3), dtype=np.uint8)


@pytest.fixture
def plan_file(tmp_path: Path) -> Path:
    path = tmp_path / "sm89.plan"
    path.write_bytes(b"plan")
    return path


@pytest.fixture
def library_is(monkeypatch: pytest.MonkeyPatch) -> Callable[[TensorRT], Plan]:
    """Make ``library`` the installed TensorRT; gives a plan that it built."""

    def install(library: TensorRT) -> Plan:
        monkeypatch.setattr(tensorrt_runner, "load", lambda name: library)
        return Plan("sm89.plan", library.name, library.version, "sm89")

    return install


def opened(
    device: FakeDevice,
    library_is: Callable[[TensorRT], Plan],
    path: Path,
    *,
    rtx: bool = False,
    capturable: bool = True,
) -> tuple[tensorrt_runner.TrtRunner, FakeEngine]:
    library, engine = fake_tensorrt(device, rtx=rtx, side=SIDE, classes=CLASSES, capturable=capturable)
    return tensorrt_runner.open_trt(path, library_is(library), CONTRACT, BATCH, device=device), engine


class TestRun:
    @pytest.mark.parametrize(("rtx", "graphs"), [(False, True), (False, False), (True, True), (True, False)])
    def test_logits_belong_to_their_images_at_every_batch_size(
        self, rtx: bool, graphs: bool, library_is: Callable[[TensorRT], Plan], plan_file: Path
    ) -> None:
        runner, _ = opened(FakeDevice(graphs=graphs), library_is, plan_file, rtx=rtx)
        for round_trip in range(3):
            for count in range(BATCH.min, BATCH.max + 1):
                given_pixels = pixels(count, seed=round_trip)
                np.testing.assert_array_equal(runner(given_pixels), expected_logits(given_pixels, CLASSES))

    def test_logits_are_the_callers_own(self, library_is: Callable[[TensorRT], Plan], plan_file: Path) -> None:
        runner, _ = opened(FakeDevice(), library_is, plan_file)
        first = runner(pixels(2, seed=1))
        kept = first.copy()
        runner(pixels(2, seed=2))
        runner.close()
        np.testing.assert_array_equal(first, kept)

    def test_pixels_need_not_be_contiguous(self, library_is: Callable[[TensorRT], Plan], plan_file: Path) -> None:
        runner, _ = opened(FakeDevice(), library_is, plan_file)
        reversed_pixels = pixels(8)[::-2, :, ::-1]
        np.testing.assert_array_equal(runner(reversed_pixels), expected_logits(reversed_pixels, CLASSES))

    def test_buffers_are_allocated_once(self, library_is: Callable[[TensorRT], Plan], plan_file: Path) -> None:
        device = FakeDevice()
        runner, _ = opened(device, library_is, plan_file)
        after_opening = [call for call in device.calls if call.startswith("allocate")]
        for count in (1, 8, 3, 8):
            runner(pixels(count))
        assert [call for call in device.calls if call.startswith("allocate")] == after_opening
        assert sorted(map(len, device.memory.values())) == [BATCH.max * CLASSES * 4, BATCH.max * SIDE * SIDE * 3]

    @pytest.mark.parametrize("rtx", [False, True])
    def test_only_the_images_of_a_call_are_copied(
        self, rtx: bool, library_is: Callable[[TensorRT], Plan], plan_file: Path
    ) -> None:
        device = FakeDevice()
        runner, _ = opened(device, library_is, plan_file, rtx=rtx)
        for _ in range(2):
            runner(pixels(2))
        assert device.moved == [2 * SIDE * SIDE * 3, 2 * CLASSES * 4] * 2

    @pytest.mark.parametrize(
        "wrong",
        [
            np.zeros((9, SIDE, SIDE, 3), np.uint8),
            np.zeros((0, SIDE, SIDE, 3), np.uint8),
            np.zeros((1, SIDE, SIDE, 3), np.float32),
            np.zeros((1, 3, SIDE, SIDE), np.uint8),
        ],
    )
    def test_what_would_not_fit_the_buffers_is_refused(
        self, wrong: NDArray[np.uint8], library_is: Callable[[TensorRT], Plan], plan_file: Path
    ) -> None:
        runner, _ = opened(FakeDevice(), library_is, plan_file)
        with pytest.raises(ValueError, match="are not pixels of"):
            runner(wrong)

    def test_it_says_what_it_runs_on(self, library_is: Callable[[TensorRT], Plan], plan_file: Path) -> None:
        runner, _ = opened(FakeDevice(), library_is, plan_file, rtx=True)
        assert runner.description == "TensorRT-RTX 1.7.1.116 on fake GPU sm89"
        assert runner.batch == BATCH


class TestForks:
    def test_a_fork_has_a_stream_and_buffers_of_its_own_and_leaves_the_parent_usable(
        self, library_is: Callable[[TensorRT], Plan], plan_file: Path
    ) -> None:
        device = FakeDevice()
        runner, engine = opened(device, library_is, plan_file)
        before = set(device.live)
        fork = runner.fork()
        kinds = Counter(kind for kind, _ in device.live - before)
        assert kinds == {"stream": 1, "memory": 2, "pinned": 2}
        assert len(engine.contexts) == 2
        first, second = pixels(2, seed=1), pixels(3, seed=2)
        assert np.array_equal(fork(first), expected_logits(first, CLASSES))
        assert np.array_equal(runner(second), expected_logits(second, CLASSES))
        fork.close()
        assert np.array_equal(runner(first), expected_logits(first, CLASSES))
        runner.close()
        assert device.live == set()
        with pytest.raises(ValueError, match="closed"):
            runner.fork()


class TestLaps:
    def test_each_step_is_waited_for_and_told_and_no_graph_is_made(
        self, library_is: Callable[[TensorRT], Plan], plan_file: Path
    ) -> None:
        device = FakeDevice()
        runner, _ = opened(device, library_is, plan_file)
        told: list[str] = []
        runner.lap = told.append
        device.calls.clear()
        given_pixels = pixels(3)
        np.testing.assert_array_equal(runner(given_pixels), expected_logits(given_pixels, CLASSES))
        assert told == ["host-to-device", "compute", "device-to-host"]
        assert device.calls == ["upload", "synchronize", "synchronize", "download", "synchronize"]
        runner.lap = no_lap
        np.testing.assert_array_equal(runner(given_pixels), expected_logits(given_pixels, CLASSES))
        assert len(told) == 3


class TestGraphs:
    def test_a_batch_size_is_captured_once_and_launched_from_then_on(
        self, library_is: Callable[[TensorRT], Plan], plan_file: Path
    ) -> None:
        device = FakeDevice()
        runner, _ = opened(device, library_is, plan_file)
        for _ in range(3):
            runner(pixels(2))
        assert device.calls.count("begin_capture") == 1
        assert device.calls.count("launch") == 2

    def test_each_graph_has_a_context_that_nothing_changes_after_the_capture(
        self, library_is: Callable[[TensorRT], Plan], plan_file: Path
    ) -> None:
        runner, engine = opened(FakeDevice(), library_is, plan_file)
        for count in (1, 2, 3, 1, 2, 3):
            runner(pixels(count))
        assert [context.shape[0] for context in engine.contexts] == [1, 2, 3]

    def test_only_the_latest_batch_sizes_keep_their_graph(
        self, library_is: Callable[[TensorRT], Plan], plan_file: Path
    ) -> None:
        device = FakeDevice()
        runner, _ = opened(device, library_is, plan_file)
        for count in (1, 2, 3, 4, 1, 5):  # 2 is the least recently used when 5 comes
            runner(pixels(count))
        assert len(device.recorded) == tensorrt_runner.MAX_GRAPHS
        captures = device.calls.count("begin_capture")
        runner(pixels(1))
        assert device.calls.count("begin_capture") == captures
        runner(pixels(2))
        assert device.calls.count("begin_capture") == captures + 1

    def test_an_engine_that_cannot_be_captured_runs_without(
        self, library_is: Callable[[TensorRT], Plan], plan_file: Path
    ) -> None:
        device = FakeDevice()
        runner, _ = opened(device, library_is, plan_file, capturable=False)
        for _ in range(2):
            np.testing.assert_array_equal(runner(pixels(2)), expected_logits(pixels(2), CLASSES))
        assert device.recording is None
        assert device.calls.count("begin_capture") == 1
        assert not device.recorded
        assert device.last_error == "", "what fails next must not be told this error"

    def test_rtx_captures_by_itself(self, library_is: Callable[[TensorRT], Plan], plan_file: Path) -> None:
        device = FakeDevice()
        runner, engine = opened(device, library_is, plan_file, rtx=True)
        runner(pixels(2))
        assert "begin_capture" not in device.calls
        assert [config.cuda_graph_strategy for config in engine.runtime_configs] == ["whole graph"]


class TestCleanUp:
    def test_close_gives_everything_back_and_may_be_called_twice(
        self, library_is: Callable[[TensorRT], Plan], plan_file: Path
    ) -> None:
        device = FakeDevice()
        runner, _ = opened(device, library_is, plan_file)
        for count in range(1, 7):
            runner(pixels(count))
        runner.close()
        runner.close()
        assert not device.live
        with pytest.raises(ValueError, match="closed"):
            runner(pixels(1))

    def test_whatever_call_fails_nothing_stays_allocated(
        self, library_is: Callable[[TensorRT], Plan], plan_file: Path
    ) -> None:
        def session(device: FakeDevice) -> None:
            runner, _ = opened(device, library_is, plan_file)
            try:
                for count in (2, 2, 3):
                    runner(pixels(count))
            finally:
                runner.close()

        whole = FakeDevice()
        session(whole)
        gives_back = {"free", "free_pinned", "destroy_stream", "destroy_graph"}
        survived = set()
        for index, name in enumerate(whole.calls):
            device = FakeDevice(fail_at=index)
            message = None
            try:
                session(device)
            except UnavailableError as exc:
                message = str(exc)
            else:
                survived.add(name)
            assert message in (None, f"{name}: cudaErrorFake (injected)")
            # A call that gives back and fails keeps its own handle; all the others must still have had their turn.
            assert len(device.live) == (1 if name in gives_back else 0), (index, name, device.live)
        # A capture that fails is no loss: the engine then runs kernel by kernel.
        assert {"begin_capture", "end_capture"} <= survived <= {"begin_capture", "end_capture", "upload", "download"}

    def test_a_device_that_it_opened_is_closed(
        self, monkeypatch: pytest.MonkeyPatch, library_is: Callable[[TensorRT], Plan], plan_file: Path
    ) -> None:
        device = FakeDevice()
        monkeypatch.setattr(tensorrt_runner, "open_device", lambda: device)
        plan = library_is(fake_tensorrt(device, side=SIDE, classes=CLASSES)[0])
        tensorrt_runner.open_trt(plan_file, plan, CONTRACT, BATCH).close()
        assert device.calls[-1] == "close"

    @settings(max_examples=50, deadline=None)
    @given(counts=st.lists(st.integers(1, BATCH.max), max_size=30))
    def test_any_order_of_batch_sizes_is_right_and_leaves_nothing(self, counts: list[int]) -> None:
        device = FakeDevice()
        library, engine = fake_tensorrt(device, side=SIDE, classes=CLASSES)
        with ExitStack() as resources:
            runner = tensorrt_runner.TrtRunner(library, engine, device, CONTRACT, BATCH, resources)
            for seed, count in enumerate(counts):
                np.testing.assert_array_equal(
                    runner(pixels(count, seed)), expected_logits(pixels(count, seed), CLASSES)
                )
                assert len(device.recorded) <= tensorrt_runner.MAX_GRAPHS
        assert not device.live


class TestWhyNot:
    @pytest.mark.parametrize(
        ("target", "capability", "runs"),
        [
            ("sm89", "sm89", True),
            ("sm89", "sm86", False),
            ("sm86", "sm89", False),
            ("sm80+", "sm80", True),
            ("sm80+", "sm120", True),
            ("sm80+", "sm75", False),
            ("sm89+", "sm86", False),
            ("sm89+", "sm121", True),
            ("anything", "sm89", False),
        ],
    )
    def test_a_plan_runs_on_its_own_target(
        self, target: str, capability: str, runs: bool, library_is: Callable[[TensorRT], Plan]
    ) -> None:
        device = FakeDevice(capability=capability)
        plan = dataclasses.replace(library_is(fake_tensorrt(device)[0]), target=target)
        reason = tensorrt_runner.why_not(plan, device)
        assert (reason is None) is runs
        if reason is not None:
            assert target in reason
            assert capability in reason

    def test_another_version(self, library_is: Callable[[TensorRT], Plan]) -> None:
        device = FakeDevice()
        plan = dataclasses.replace(library_is(fake_tensorrt(device)[0]), version="10.16.1.11")
        assert (
            tensorrt_runner.why_not(plan, device)
            == "built with tensorrt 10.16.1.11, here is 11.4.0.106; build it again"
        )

    def test_not_installed(self) -> None:
        absent = "tensorrt" if "tensorrt" not in installed() else None
        if absent is None:
            pytest.skip("both TensorRTs are installed")
        assert tensorrt_runner.why_not(Plan("sm89.plan", absent, "11.4.0.106", "sm89"), FakeDevice()) == (
            "tensorrt is not installed; pip install 'alexnet-deploy[gpu]'"
        )

    def test_a_manifest_cannot_name_a_module_to_import(self) -> None:
        sys.modules.pop("this", None)
        reason = tensorrt_runner.why_not(Plan("sm89.plan", "this", "1", "sm89"), FakeDevice())
        assert reason == "'this' is not a TensorRT that this version knows (tensorrt, tensorrt_rtx)"
        assert "this" not in sys.modules

    def test_no_gpu_costs_no_tensorrt(
        self, monkeypatch: pytest.MonkeyPatch, library_is: Callable[[TensorRT], Plan]
    ) -> None:
        def no_device() -> FakeDevice:
            raise UnavailableError("cudaGetDeviceCount: cudaErrorNoDevice")

        plan = library_is(fake_tensorrt(FakeDevice())[0])
        monkeypatch.setattr(tensorrt_runner, "open_device", no_device)
        monkeypatch.setattr(tensorrt_runner, "load", None)
        assert tensorrt_runner.why_not(plan) == "no CUDA device (cudaGetDeviceCount: cudaErrorNoDevice)"
        bundle = Engine("alexnet-fp16", Path("model.onnx"), CONTRACT, "fp16", BATCH, ((plan, Path("sm89.plan")),))
        with pytest.raises(
            UnavailableError, match=r"alexnet-fp16: no plan for this machine \(sm89.plan: no CUDA device"
        ):
            tensorrt_runner.open_plan(bundle)

    def test_the_plan_for_the_gpu_at_hand_is_taken(
        self, monkeypatch: pytest.MonkeyPatch, library_is: Callable[[TensorRT], Plan], plan_file: Path
    ) -> None:
        device = FakeDevice(capability="sm89")
        monkeypatch.setattr(tensorrt_runner, "open_device", lambda: device)
        fits = library_is(fake_tensorrt(device, side=SIDE, classes=CLASSES)[0])
        other = dataclasses.replace(fits, file="sm86.plan", target="sm86")
        plans = ((other, plan_file.with_name("not-there.plan")), (fits, plan_file))
        runner = tensorrt_runner.open_plan(Engine("b", Path("model.onnx"), CONTRACT, "fp16", BATCH, plans))
        np.testing.assert_array_equal(runner(pixels(1)), expected_logits(pixels(1), CLASSES))

    def test_a_bundle_without_plans(self) -> None:
        with pytest.raises(UnavailableError, match="holds no TensorRT plan"):
            tensorrt_runner.open_plan(Engine("b", Path("model.onnx"), CONTRACT, "fp16", BATCH))


class TestBadPlans:
    def test_refused_before_it_is_loaded(self, library_is: Callable[[TensorRT], Plan], plan_file: Path) -> None:
        plan_file.write_bytes(b"old")
        with pytest.raises(UnavailableError, match=r"refuses it \(VERSION_MISMATCH, OLD_CUDA_DRIVER\)"):
            opened(FakeDevice(), library_is, plan_file, rtx=True)

    def test_does_not_load(self, library_is: Callable[[TensorRT], Plan], plan_file: Path) -> None:
        plan_file.write_bytes(b"bad")
        device = FakeDevice()
        with pytest.raises(UnavailableError, match=r"cannot load it \(it is bad\)"):
            opened(device, library_is, plan_file)
        assert not device.live

    def test_is_missing(self, library_is: Callable[[TensorRT], Plan], tmp_path: Path) -> None:
        with pytest.raises(InputError, match="No such file"):
            opened(FakeDevice(), library_is, tmp_path / "gone.plan")

    @pytest.mark.parametrize(("side", "classes"), [(SIDE + 1, CLASSES), (SIDE, CLASSES + 1)])
    def test_of_other_shapes_than_the_contract_says(
        self, side: int, classes: int, library_is: Callable[[TensorRT], Plan], plan_file: Path
    ) -> None:
        device = FakeDevice()
        library, _ = fake_tensorrt(device, side=side, classes=classes)
        with pytest.raises(ArtifactError, match=rf"pixels uint8 \[N, {side}, {side}, 3\]"):
            tensorrt_runner.open_trt(plan_file, library_is(library), CONTRACT, BATCH, device=device)
        assert not device.live


@pytest.mark.gpu
class TestOnGpu:
    def test_a_plan_answers_as_onnx_runtime_does(self, tmp_path: Path) -> None:
        if current_capability() is None:
            pytest.skip("no usable CUDA GPU")
        from alexnet_deploy.build.plans import build_plans
        from alexnet_deploy.runtime.onnxruntime_runner import OrtRunner

        path = tiny_classifier(tmp_path / "model.onnx")
        side, classes = TINY_SIDE, TINY_CLASSES
        contract = ModelContract(
            "tiny",
            tuple(map(str, range(classes))),
            tuple(map(str, range(classes))),
            Preprocessing(side, side, resize="stretch", resize_to=None),
        )
        (built,) = build_plans(path, tmp_path, batch=BATCH).plans
        assert built.plan.target == current_capability()
        runner = tensorrt_runner.open_trt(tmp_path / built.plan.file, built.plan, contract, BATCH)
        reference = OrtRunner(path, contract)
        for count in (1, 8, 3, 8, 1):
            images = np.random.default_rng(count).integers(0, 256, (count, side, side, 3), dtype=np.uint8)
            # TF32 products carry 10 bits of mantissa; the sums here have some hundred terms of order 1.
            np.testing.assert_allclose(runner(images), reference(images), atol=2e-2)
        runner.close()
