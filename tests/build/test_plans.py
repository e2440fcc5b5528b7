"""Which plans are built for which targets by which TensorRT; errors, progress, Ctrl-C. Real builds of small graphs."""

from __future__ import annotations

import errno
import signal
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alexnet_deploy.build import plan_builder
from alexnet_deploy.build.callbacks import PROGRESS_STEPS, BuildMonitor, defer_interrupt, stream_writer
from alexnet_deploy.build.engine import build_engine
from alexnet_deploy.build.plans import build_plans
from alexnet_deploy.build.settings import BuildSettings
from alexnet_deploy.build.targets import choose_builder
from alexnet_deploy.bundle.plan_options import PlanOptions
from alexnet_deploy.contract import BatchProfile
from alexnet_deploy.errors import DeployError, InputError, UnavailableError, UsageError
from alexnet_deploy.machine.process import ended_by_sigterm
from alexnet_deploy.runtime.tensorrt import library as tensorrt_library
from alexnet_deploy.runtime.tensorrt.library import RTX
from tests.helpers.models.onnx_models import Graph, tiny_classifier
from tests.helpers.models.plans import TENSORRT_11, built, files_in, full_tensorrt

pytestmark = pytest.mark.usefixtures("machine")


class TestPlans:
    def test_a_target_gives_a_plan_and_its_record(self, tmp_path: Path) -> None:
        (plan,) = (made.plan for made in built(tiny_classifier(tmp_path / "m.onnx"), "sm89").plans)
        assert (plan.file, plan.builder, plan.target) == ("sm89.plan", "tensorrt_rtx", "sm89")
        assert plan.version == tensorrt_library.load(RTX).version
        assert files_in(tmp_path / "plans") == {"sm89.plan"}
        # A plan of TensorRT-RTX begins with this tag.
        assert (tmp_path / "plans/sm89.plan").read_bytes()[:4] == b"vtrt"

    @pytest.mark.parametrize(("precision", "target"), [("fp16", "sm80+"), ("fp8", "sm89+")])
    def test_without_target_and_gpu_one_portable_plan(self, precision: str, target: str, tmp_path: Path) -> None:
        (made,) = built(tiny_classifier(tmp_path / "m.onnx", precision)).plans
        assert (made.plan.file, made.plan.target) == ("portable.plan", target)

    def test_without_target_the_gpu_at_hand(self, machine: Callable[..., None], tmp_path: Path) -> None:
        machine("sm86", None)
        (made,) = built(tiny_classifier(tmp_path / "m.onnx")).plans
        assert made.plan.target == "sm86"

    def test_all_stands_for_every_target_that_can_run_the_model(self, tmp_path: Path) -> None:
        result = built(tiny_classifier(tmp_path / "m.onnx", "fp8"), "all")
        assert [made.plan.target for made in result.plans] == ["sm89", "sm120", "sm121"]
        path = tmp_path / "m.onnx"
        assert result.passed_over == tuple(
            f"{path}: {target} has no FP8; choose sm89 or later, or build int8" for target in ("sm75", "sm80", "sm86")
        )
        assert files_in(tmp_path / "plans") == {"sm89.plan", "sm120.plan", "sm121.plan"}

    def test_a_failed_target_does_not_colour_the_next(self, tmp_path: Path) -> None:
        model = tiny_classifier(tmp_path / "m.onnx")
        for _ in range(2):  # the first would carry whatever a test before this one left
            built(model, "sm80")
        alone = (tmp_path / "plans/sm80.plan").stat().st_size
        result = built(model, "all")
        assert "sm75" in result.passed_over[0]
        # TensorRT-RTX itself carries sm75's padding over into sm80's plan, which grows by it.
        assert (tmp_path / "plans/sm80.plan").stat().st_size == alone

    def test_weights_in_a_file_beside_the_onnx(self, tmp_path: Path) -> None:
        model = tiny_classifier(tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
        assert len(built(model, "sm89").plans) == 1

    def test_a_fixed_batch(self, tmp_path: Path) -> None:
        model = tiny_classifier(tmp_path / "m.onnx", batch=4)
        assert build_plans(model, tmp_path, batch=BatchProfile(4, 4, 4), targets=["sm89"]).plans


class TestFullTensorRT:
    """It cannot run here: see ``full_tensorrt``."""

    def test_it_is_preferred_for_the_gpu_at_hand(self, machine: Callable[..., None], tmp_path: Path) -> None:
        machine("sm90", full_tensorrt([TENSORRT_11 | {"Metadata": "[ONNX Layer: gemm_14]"}]))
        (made,) = built(tiny_classifier(tmp_path / "m.onnx", "fp16"), "current").plans
        assert (made.plan.builder, made.plan.version, made.plan.target) == ("tensorrt", "11.4.0.106", "sm90")
        assert {layer.node: layer.got for layer in made.achieved if layer.got != "unknown"} == {"gemm_14": "fp16"}

    def test_ahead_of_time_is_for_rtx(self, machine: Callable[..., None]) -> None:
        machine("sm90", full_tensorrt([]))
        assert choose_builder(["sm89"])[0].name == RTX
        assert choose_builder(["sm90"])[0].name == "tensorrt"
        machine("sm86", full_tensorrt([]))
        with pytest.raises(UsageError, match=r"`targets` sm90: TensorRT-RTX .* builds for sm75"):
            choose_builder(["sm89", "sm90"])
        machine("sm90")
        with pytest.raises(
            UnavailableError, match=r"^TensorRT-RTX does not support sm90; .* pip install 'alexnet-deploy\[gpu\]'"
        ):
            choose_builder()

    def test_alone_it_builds_for_no_other_gpu(self, machine: Callable[..., None]) -> None:
        machine("sm90", full_tensorrt([]), rtx=False)
        with pytest.raises(UnavailableError, match=r"sm89: TensorRT 11.* builds only for its own GPU \(sm90\)"):
            choose_builder(["sm89"])
        machine(None, full_tensorrt([]), rtx=False)
        with pytest.raises(UnavailableError, match=r"^TensorRT 11.* CUDA opens none here; pip install"):
            choose_builder()

    def test_a_plan_that_it_cannot_load_again(self, machine: Callable[..., None], tmp_path: Path) -> None:
        machine("sm90", full_tensorrt(None))
        with pytest.raises(UnavailableError, match="cannot load what it built"):
            built(tiny_classifier(tmp_path / "m.onnx"), "current")
        assert files_in(tmp_path / "plans") == set()


def two_outputs(path: Path) -> Path:
    model = onnx.load(tiny_classifier(path))
    model.graph.output.append(onnx.helper.make_tensor_value_info("gemm_14_out", onnx.TensorProto.FLOAT, ["N", 10]))
    onnx.save(model, path)
    return path


def unknown_operator(path: Path) -> Path:
    model = onnx.load(tiny_classifier(path))
    model.graph.node[-1].op_type, model.graph.node[-1].domain = "Invent", "my.own"
    model.opset_import.append(onnx.helper.make_opsetid("my.own", 1))
    onnx.save(model, path)
    return path


def mixed_types(path: Path) -> Path:
    g = Graph(fp16=True)
    g.save(g.node("Relu", g.node("MatMul", "pixels", g.weight(8, 8))), path, ["N", 8])
    return path


@pytest.mark.parametrize("images", [700_000, 1 << 31, (1 << 32) + 8])
def test_a_batch_that_tensorrt_cannot_count_is_refused(images: int, tmp_path: Path) -> None:
    """TensorRT-RTX 1.7.1 takes a size modulo 2**32, so 4294967304 images became a plan for 8."""
    model = tiny_classifier(tmp_path / "m.onnx")
    for options in (PlanOptions(), PlanOptions(profiles=(BatchProfile(1, 1, 8), BatchProfile(1, 8, images)))):
        with pytest.raises(UsageError, match=rf"`max_batch` {images}: the pixels .* choose 699050 or less"):
            build_plans(model, tmp_path / "plans", batch=BatchProfile(1, 4, images), targets=["sm89"], options=options)
    with pytest.raises(UsageError, match=rf"`max_batch` {images}: "):
        build_engine(model, tmp_path / "bundle", settings=BuildSettings(batch=BatchProfile(1, 4, images)))
    assert files_in(tmp_path / "plans") == set()
    assert not (tmp_path / "bundle").exists()


class TestErrors:
    @pytest.mark.parametrize(
        ("model", "targets", "kind", "says"),
        [
            (two_outputs, "sm89", InputError, "1 inputs and 2 outputs; export it with"),
            (unknown_operator, "sm89", InputError, r"node logits \(Invent\): TensorRT-RTX \S+ does not have this oper"),
            (mixed_types, "sm89", InputError, "m.onnx: "),
            (partial(tiny_classifier, side="S"), "sm89", InputError, "only the batch may vary"),
            (partial(tiny_classifier, batch=4), "sm89", UsageError, "only batches of 4; use `min_batch` 4"),
            (partial(tiny_classifier, precision="fp8"), "sm86", InputError, "m.onnx: sm86 has no FP8; choose sm89 or"),
            # The plan of sm89 is built, and goes with that of sm75.
            (tiny_classifier, "sm89 sm75", InputError, r"sm75: Turing \(sm75\) has no FP32 .*; build with fp16"),
            (
                tiny_classifier,
                "sm89 4090",
                UsageError,
                "`targets` 4090: unknown; did you mean rtx4090.* choose from sm75, .*current, or a GPU",
            ),
            (tiny_classifier, "sm90", UsageError, r"`targets` sm90: TensorRT-RTX \S+ builds for sm75, .*\[gpu\]"),
            (tiny_classifier, "current", UnavailableError, "`targets` current: this machine has no usable CUDA GPU"),
        ],
    )
    def test_one_line_and_nothing_on_disk(
        self, model: Callable[[Path], Path], targets: str, kind: type[DeployError], says: str, tmp_path: Path
    ) -> None:
        path = model(tmp_path / "m.onnx")
        with pytest.raises(kind, match=says) as caught:
            built(path, *targets.split())
        assert "\n" not in str(caught.value)
        assert "_src" not in str(caught.value), "TensorRT's source files are nobody's business"
        assert files_in(tmp_path / "plans") == set()

    def test_a_full_disk(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        class Full:
            def write(self, data: bytes) -> int:
                raise OSError(errno.ENOSPC, "No space left on device")

        def writer(api: Any, stream: BinaryIO, watch: BuildMonitor) -> Any:
            return stream_writer(api, Full(), watch)  # type: ignore[arg-type]  # all that a writer uses

        monkeypatch.setattr(plan_builder, "stream_writer", writer)
        with pytest.raises(UnavailableError, match=r"sm89\.plan: no room left on the disk"):
            built(tiny_classifier(tmp_path / "m.onnx"), "sm89")
        assert files_in(tmp_path / "plans") == set()


def test_progress_never_falls_and_ends_full(tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    built(tiny_classifier(tmp_path / "m.onnx"), "sm89", "sm120", on_progress=lambda *step: seen.append(step))
    for target in ("TensorRT sm89", "TensorRT sm120"):
        steps = [done for name, done, total in seen if name == target and total == PROGRESS_STEPS]
        assert steps == sorted(steps)
        assert len(set(steps)) > 20
        assert steps[-1] == PROGRESS_STEPS


@pytest.mark.parametrize("at", [1, 30])
def test_ctrl_c_cancels_and_leaves_what_was(at: int, tmp_path: Path) -> None:
    model = tiny_classifier(tmp_path / "m.onnx")
    (tmp_path / "plans").mkdir()
    (tmp_path / "plans/sm120.plan").write_bytes(b"the old one")
    ours = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    steps = 0

    def press(stage: str, done: int, total: int) -> None:
        nonlocal steps
        steps += stage == "TensorRT sm120"
        if steps == at:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        built(model, "sm89", "sm120", on_progress=press)
    assert steps == at, "the builder went on"
    assert files_in(tmp_path / "plans") == {"sm120.plan"}
    assert (tmp_path / "plans/sm120.plan").read_bytes() == b"the old one"
    assert signal.signal(signal.SIGINT, ours) is signal.default_int_handler


def test_sigterm_waits_for_the_end_of_a_step_as_ctrl_c_does() -> None:
    """TensorRT would print what comes at the first bytecode of a callback, and go on."""
    reached = False
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)  # whatever other tests have left
    try:
        with pytest.raises(SystemExit), ended_by_sigterm(), defer_interrupt() as interrupt:
            signal.raise_signal(signal.SIGTERM)
            reached = interrupt.is_set()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert reached, "it came at once"


def test_an_ignored_signal_cancels_nothing() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with defer_interrupt() as interrupt:
            signal.raise_signal(signal.SIGINT)
        assert not interrupt.is_set()
    finally:
        signal.signal(signal.SIGINT, before)


def test_what_the_progress_bar_raises_comes_out(tmp_path: Path) -> None:
    def broken(*_: object) -> None:
        raise BrokenPipeError("the terminal is gone")

    with pytest.raises(BrokenPipeError, match="terminal"):
        built(tiny_classifier(tmp_path / "m.onnx"), "sm89", on_progress=broken)
    assert files_in(tmp_path / "plans") == set()


@given(
    st.recursive(
        st.integers(1, 5).map(lambda steps: [None] * steps),
        lambda inner: st.lists(st.none() | inner, min_size=1, max_size=5),
        max_leaves=20,
    )
)
def test_any_nesting_of_phases_gives_a_rising_share(plan: list[Any]) -> None:
    steps_done: list[int] = []
    monitor = BuildMonitor("sm89", lambda stage, done, total: steps_done.append(done), threading.Event())

    def run(steps: list[Any], name: str, parent: str | None) -> None:
        monitor.start(name, parent, len(steps))
        for index, inner in enumerate(steps):
            if inner is not None:
                run(inner, f"{name}.{index}", name)
            assert monitor.step(name, index)
        monitor.finish(name)

    run(plan, "root", None)
    assert steps_done == sorted(steps_done)
    assert steps_done[-1] == PROGRESS_STEPS
