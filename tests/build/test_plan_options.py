"""Options of a plan: what is refused, what a builder gets, what is recorded; with real builds of TensorRT-RTX."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alexnet_deploy.build import plan_builder
from alexnet_deploy.build.plan_config import check_options, remarks, set_options, timing_cache
from alexnet_deploy.bundle.plan_options import DEFAULT_OPTIONS, PlanOptions, profile_for, span
from alexnet_deploy.contract import BatchProfile
from alexnet_deploy.errors import InputError, UsageError
from alexnet_deploy.runtime.tensorrt import library as tensorrt_library
from alexnet_deploy.runtime.tensorrt.library import FULL, RTX, TensorRT
from tests.helpers.models.bundles import build_bundle
from tests.helpers.models.onnx_models import tiny_classifier
from tests.helpers.models.plans import TENSORRT_11, built, full_tensorrt

pytestmark = pytest.mark.usefixtures("machine")

ONE, SOME, MANY = BatchProfile(1, 1, 1), BatchProfile(1, 2, 4), BatchProfile(8, 8, 32)


@pytest.fixture
def full() -> TensorRT:
    """The full TensorRT, with TensorRT-RTX's classes, which have all of its options."""
    return replace(tensorrt_library.load(RTX), name=FULL, version="11.4.0.106")


class RecordingConfig:
    """An IBuilderConfig of the full TensorRT; that of TensorRT-RTX drops the level of compatibility."""

    hardware_compatibility_level: Any = None
    builder_optimization_level: int | None = None

    def __init__(self, api: Any) -> None:
        self.flags = {api.BuilderFlag.TF32}
        self.limits: dict[Any, int] = {}

    def set_flag(self, flag: Any) -> None:
        self.flags.add(flag)

    def clear_flag(self, flag: Any) -> None:
        self.flags.discard(flag)

    def set_memory_pool_limit(self, pool: Any, size: int) -> None:
        self.limits[pool] = size


class TestValues:
    @pytest.mark.parametrize(
        ("options", "says"),
        [
            ({"optimization_level": 6}, "`optimization_level` 6: choose from 0"),
            ({"optimization_level": -1}, "`optimization_level` -1: choose from 0"),
            ({"workspace_mib": 0}, "`workspace` 0: must be 1 or more"),
            ({"hardware_compatible": "all"}, "`hardware_compatible` all: unknown; choose one of none, ampere"),
            ({"profiles": (ONE, MANY)}, "`profiles`: no profile has batches of 2..7; let the profiles meet"),
            ({"profiles": (ONE,) * 9}, "`profiles`: 9 are more than 8"),
        ],
    )
    def test_out_of_range(self, options: dict[str, Any], says: str) -> None:
        with pytest.raises(UsageError, match=says):
            PlanOptions(**options)

    @given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)).map(sorted), min_size=1, max_size=8))
    def test_each_batch_of_the_span_has_a_profile(self, bounds: list[list[int]]) -> None:
        profiles = [BatchProfile(low, low, high) for low, high in bounds]
        try:
            whole = span(profiles)
        except UsageError:
            assert set(range(1, 10)) - {n for low, high in bounds for n in range(low, high + 1)}
            return
        assert whole is not None
        for count in range(whole.min, whole.max + 1):
            chosen = profiles[profile_for(profiles, count)]
            assert chosen.min <= count <= chosen.max
            fitting = [each.max - each.min for each in profiles if each.min <= count <= each.max]
            assert chosen.max - chosen.min == min(fitting)


class TestTheFullTensorRT:
    def test_gets_every_option(self, full: TensorRT) -> None:
        options = PlanOptions(
            hardware_compatible="ampere+", version_compatible=True, optimization_level=5, workspace_mib=512, tf32=True
        )
        check_options(options, full)
        (note,) = remarks(options, full)
        assert note.startswith("float32 layers of the plans may round")
        assert remarks(PlanOptions(), full) == ()
        api, config = full.api, RecordingConfig(full.api)
        set_options(options, full, config)
        assert config.hardware_compatibility_level == api.HardwareCompatibilityLevel.AMPERE_PLUS
        assert config.flags == {api.BuilderFlag.TF32, api.BuilderFlag.VERSION_COMPATIBLE}
        assert config.builder_optimization_level == 5
        assert config.limits == {api.MemoryPoolType.WORKSPACE: 512 << 20}

    def test_its_defaults_stay_but_for_tf32(self, full: TensorRT) -> None:
        config = RecordingConfig(full.api)
        set_options(PlanOptions(), full, config)
        untouched = RecordingConfig(full.api)
        untouched.flags.clear()
        assert vars(config) == vars(untouched)

    @pytest.mark.parametrize(("precision", "target"), [("fp16", "sm80+"), ("fp8", "sm89+")])
    def test_a_compatible_plan_is_recorded_for_later_gpus(
        self, precision: str, target: str, machine: Callable[..., None], tmp_path: Path
    ) -> None:
        machine("sm90", full_tensorrt([TENSORRT_11]))
        options = PlanOptions(hardware_compatible="ampere+")
        (made,) = built(tiny_classifier(tmp_path / "m.onnx", precision), "h100", options=options).plans
        assert (made.plan.file, made.plan.target, made.plan.options) == ("sm90.plan", target, options)

    def test_the_model_of_card_is_recorded_where_the_plan_is_tuned_for_it(
        self, machine: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(plan_builder, "current_card", lambda: "NVIDIA H100 80GB HBM3")
        machine("sm90", full_tensorrt([TENSORRT_11]))
        model = tiny_classifier(tmp_path / "m.onnx", "fp16")

        def card(target: str, options: PlanOptions = DEFAULT_OPTIONS) -> str:
            (made,) = built(model, target, options=options).plans
            return made.plan.card

        assert card("sm90") == "NVIDIA H100 80GB HBM3"
        assert card("sm90", PlanOptions(hardware_compatible="sameComputeCapability")) == ""
        assert card("sm89") == "", "TensorRT-RTX builds for any card of the capability"

    def test_one_compute_capability(self, full: TensorRT) -> None:
        config = RecordingConfig(full.api)
        set_options(PlanOptions(hardware_compatible="sameComputeCapability"), full, config)
        level = full.api.HardwareCompatibilityLevel.SAME_COMPUTE_CAPABILITY
        assert config.hardware_compatibility_level == level


class TestRtx:
    @pytest.mark.parametrize(
        ("options", "says"),
        [
            ({"hardware_compatible": "ampere+"}, "`hardware_compatible` ampere.*`targets` portable runs on every RTX"),
            ({"version_compatible": True}, "`version_compatible`: is for the full TensorRT"),
        ],
    )
    def test_refuses(self, options: dict[str, Any], says: str, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match=says):
            built(tiny_classifier(tmp_path / "m.onnx"), "sm89", options=PlanOptions(**options))

    def test_says_what_it_does_not_use(self, tmp_path: Path) -> None:
        options = PlanOptions(optimization_level=5)
        result = built(tiny_classifier(tmp_path / "m.onnx"), "sm89", options=options)
        (remark,) = result.remarks
        assert remark.startswith("`optimization_level` 5 is not used: TensorRT-RTX 1.7")
        assert result.plans[0].plan.options == options

    def test_keeps_to_the_workspace(self, tmp_path: Path) -> None:
        model = tiny_classifier(tmp_path / "m.onnx")
        assert built(model, "sm89", options=PlanOptions(workspace_mib=1024)).plans
        with pytest.raises(InputError, match=r"no plan for sm89: `workspace` 1 MiB is too little") as caught:
            built(model, "sm89", options=PlanOptions(workspace_mib=1))
        assert "\n" not in str(caught.value)

    def test_has_tf32_on_by_default_as_well(self) -> None:
        library = tensorrt_library.load(RTX)
        config = library.api.Builder(library.logger).create_builder_config()
        assert config.get_flag(library.api.BuilderFlag.TF32)
        set_options(PlanOptions(), library, config)
        assert not config.get_flag(library.api.BuilderFlag.TF32)

    def test_builds_several_profiles(self, tmp_path: Path) -> None:
        model = tiny_classifier(tmp_path / "m.onnx")
        (one,) = built(model, "sm89").plans
        before = (tmp_path / "plans/sm89.plan").stat().st_size
        (two,) = built(model, "sm89", options=PlanOptions(profiles=(ONE, SOME))).plans
        # Kernels, and here the weights in their order, are there twice.
        assert (tmp_path / "plans/sm89.plan").stat().st_size > 1.5 * before
        assert [layer.got for layer in two.achieved] == [layer.got for layer in one.achieved]


class TestBundle:
    def test_records_the_options_and_spans_the_profiles(self, tiny_onnx: Path, tmp_path: Path) -> None:
        options = PlanOptions(profiles=(ONE, SOME), workspace_mib=2048)
        made = build_bundle(tiny_onnx, tmp_path / "b", "fp16", plan_options=options)
        assert made.plans[0].options == options
        assert made.batch == SOME

    def test_profiles_and_a_batch_contradict_each_other(self, tiny_onnx: Path, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="`profiles` sets the batch sizes: leave out `min_batch`"):
            build_bundle(tiny_onnx, tmp_path / "b", plan_options=PlanOptions(profiles=(ONE,)), batch=SOME)
        assert list(tmp_path.iterdir()) == []


class Timings:
    """An ITimingCache: timings of one GPU, to which each build adds."""

    def __init__(self, content: bytes) -> None:
        self.content = content

    def serialize(self) -> bytes:
        return self.content


class TimedConfig:
    """An IBuilderConfig that accepts timings of its own GPU."""

    def __init__(self, card: bytes = b"L4") -> None:
        self.card = card
        self.cache: Timings | None = None

    def create_timing_cache(self, content: bytes) -> Timings:
        return Timings(content or self.card)

    def set_timing_cache(self, cache: Timings, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch, "timings of another GPU would choose slow kernels"
        if not cache.content.startswith(self.card):
            return False
        self.cache = cache
        return True

    def build(self) -> bytes:
        """What the build started with; it adds a timing."""
        assert self.cache is not None
        before = self.cache.content
        self.cache.content += b"+"
        return before


class TestTimingCache:
    def test_the_next_build_has_the_timings_of_the_last(self, full: TensorRT, tmp_path: Path) -> None:
        started = []
        for _ in range(3):
            config = TimedConfig()
            with timing_cache(tmp_path / "t", full, config, "sm89-NVIDIA L4"):
                started.append(config.build())
        assert started == [b"L4", b"L4+", b"L4++"]
        assert [file.name for file in (tmp_path / "t").iterdir()] == ["tensorrt-11.4.0.106-sm89-NVIDIA-L4.cache"]

    def test_each_version_and_card_has_its_own(self, full: TensorRT, tmp_path: Path) -> None:
        for library, card in ((full, "sm89"), (full, "sm90"), (replace(full, version="10.16.1.11"), "sm89")):
            config = TimedConfig()
            with timing_cache(tmp_path, library, config, card):
                assert config.build() == b"L4"
        assert len(list(tmp_path.iterdir())) == 3

    def test_timings_that_tensorrt_refuses_are_replaced(self, full: TensorRT, tmp_path: Path) -> None:
        file = tmp_path / "tensorrt-11.4.0.106-sm89.cache"
        file.write_bytes(b"of another GPU")
        config = TimedConfig()
        with timing_cache(tmp_path, full, config, "sm89"):
            assert config.build() == b"L4"
        assert file.read_bytes() == b"L4+"

    def test_a_folder_that_cannot_be_written_costs_only_time(self, full: TensorRT, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("not a folder")
        config = TimedConfig()
        with timing_cache(tmp_path / "file", full, config, "sm89"):
            assert config.build() == b"L4"

    def test_a_failed_build_keeps_nothing(self, full: TensorRT, tmp_path: Path) -> None:
        with pytest.raises(KeyboardInterrupt), timing_cache(tmp_path / "t", full, TimedConfig(), "sm89"):
            raise KeyboardInterrupt
        assert not (tmp_path / "t").exists()

    @pytest.mark.parametrize(
        ("smi", "card"),
        [
            ("NVIDIA A10, 570.1, 8.6\nNVIDIA L4, 570.1, 8.9\n", "sm89-NVIDIA L4"),
            ("NVIDIA A10, 570.1, 8.6\n", "sm89"),
            ("it does not answer", "sm89"),
            (None, "sm89"),
        ],
    )
    def test_the_card_is_the_one_that_builds(
        self, smi: str | None, card: str, machine: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: list[tuple[Path, str]] = []

        @contextmanager
        def recorded(folder: Path, library: TensorRT, config: Any, card: str) -> Iterator[None]:
            asked.append((folder, card))
            yield

        monkeypatch.setattr(plan_builder, "timing_cache", recorded)
        monkeypatch.setattr(plan_builder, "nvidia_smi", lambda: smi)
        machine("sm89", full_tensorrt([TENSORRT_11]))
        built(tiny_classifier(tmp_path / "m.onnx", "fp16"), "rtx4090", timings=tmp_path / "t")
        assert asked == [(tmp_path / "t", card)]

    def test_rtx_is_never_asked(self, tmp_path: Path) -> None:
        with timing_cache(tmp_path / "t", tensorrt_library.load(RTX), object(), "sm89"):
            pass
        assert not (tmp_path / "t").exists()
