"""The ceilings of a GPU are those of its data sheet, and nothing is said of one that is not known."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import onnx
import pytest

from alexnet_deploy.bundle.manifest import Engine, Plan
from alexnet_deploy.bundle.plan_options import PlanOptions
from alexnet_deploy.cli.commands.measure import profile as profile_command
from alexnet_deploy.machine.gpu import CardData
from alexnet_deploy.profiling import engine as profiling_engine
from alexnet_deploy.profiling.card_roofline import TENSOR_CORES, CardRoofline, card_roofline, ceilings, precision_of
from alexnet_deploy.profiling.engine import try_engine
from alexnet_deploy.profiling.settings import ProfileSettings
from alexnet_deploy.runtime.tensorrt.support import ROWS
from tests.helpers.cards import Cards
from tests.helpers.models.onnx_models import tiny_engine
from tests.helpers.report_sample import batch_result, engine_profile

L4 = CardData("NVIDIA L4", 7424, 2040, 6251, 192)

# CUDA cores, the clock of the tensor cores' peaks, the clock and the width of the memory; then TFLOP/s and GB/s,
# without sparsity, as NVIDIA's data sheets and the tables of its architecture papers name them.
DATA_SHEETS = {
    "T4": ("sm75", CardData("Tesla T4", 2560, 1590, 5001, 256), {"fp32": 8.1, "fp16": 65, "int8": 130}, 320),
    "A100": (
        "sm80",
        CardData("NVIDIA A100-SXM4-40GB", 6912, 1410, 1215, 5120),
        {"fp32": 19.5, "fp16": 312, "int8": 624},
        1555,
    ),
    "A10": ("sm86", CardData("NVIDIA A10", 9216, 1695, 6251, 384), {"fp32": 31.2, "fp16": 125, "int8": 250}, 600),
    "L4": ("sm89", L4, {"fp32": 30.3, "fp16": 121, "int8": 242.5, "fp8": 242.5}, 300),
    "RTX 4090": (
        "sm89",
        CardData("NVIDIA GeForce RTX 4090", 16384, 2520, 10501, 384),
        {"fp32": 82.6, "fp16": 330.3, "int8": 660.6, "fp8": 660.6},
        1008,
    ),
    "H100 SXM": (
        "sm90",
        CardData("NVIDIA H100 80GB HBM3", 16896, 1830, 2619, 5120),
        {"fp16": 989.4, "int8": 1978.9, "fp8": 1978.9},
        3350,
    ),
    "RTX 5090": (
        "sm120",
        CardData("NVIDIA GeForce RTX 5090", 21760, 2407, 14001, 512),
        {"fp32": 104.8, "fp16": 419, "int8": 838, "fp8": 838},
        1792,
    ),
}


@pytest.mark.parametrize("name", DATA_SHEETS)
def test_the_ceilings_are_those_of_the_data_sheet(name: str) -> None:
    capability, card, peaks, gb_per_s = DATA_SHEETS[name]
    for precision, tflop_per_s in peaks.items():
        found = ceilings(card, capability, precision)
        assert found is not None
        # A data sheet has three digits.
        assert (found[0], found[2]) == (pytest.approx(tflop_per_s, rel=0.006), pytest.approx(gb_per_s, rel=0.006))


def test_each_kind_of_card_has_a_data_sheet_and_is_one_that_tensorrt_knows() -> None:
    assert {capability for capability, *_ in DATA_SHEETS.values()} == set(TENSOR_CORES)
    assert set(TENSOR_CORES) <= {row.capability for row in ROWS}
    for capability, cores in TENSOR_CORES.items():
        has_fp8 = any(row.capability == capability and "fp8" in row.precisions for row in ROWS)
        assert (cores.fp8 is not None) is has_fp8
        assert cores.source


@pytest.mark.parametrize("missing", [field.name for field in dataclasses.fields(CardData)])
def test_a_card_that_reports_too_little_has_no_ceilings(missing: str) -> None:
    unknown: dict[str, Any] = {missing: None}
    assert ceilings(dataclasses.replace(L4, **unknown), "sm89", "fp16") is None


@pytest.mark.parametrize(
    ("capability", "name"),
    [
        ("sm75", "NVIDIA GeForce GTX 1660 Ti"),
        ("sm75", "NVIDIA T600 Laptop GPU"),
        ("sm89", "NVIDIA L20"),
        ("sm90", "NVIDIA H20"),
        ("sm120", "NVIDIA GeForce RTX 5090 D"),
    ],
)
def test_a_card_with_other_tensor_cores_than_its_kind_has_no_ceilings(capability: str, name: str) -> None:
    assert ceilings(dataclasses.replace(L4, name=name), capability, "fp16") is None


@pytest.mark.parametrize(("capability", "precision"), [("sm100", "fp16"), ("sm75", "fp8"), ("sm89", "bf16")])
def test_a_peak_that_no_document_names_is_none(capability: str, precision: str) -> None:
    assert ceilings(L4, capability, precision) is None


@pytest.mark.parametrize(
    ("precision", "runtime", "tf32", "computed"),
    [
        ("fp32", "tensorrt", False, "fp32"),
        ("fp32", "onnxruntime-cuda", True, None),
        ("fp16", "onnxruntime-cuda", True, "fp16"),
        ("int8+fp16", "tensorrt", False, "int8"),
        ("int8+fp16", "onnxruntime-cuda", False, "fp16"),
        ("int8", "onnxruntime-cuda", False, "fp32"),
        ("fp8", "tensorrt", False, "fp8"),
        ("int8-weights", "tensorrt", False, "fp32"),
        ("int4", "onnxruntime-cuda", False, "fp32"),
    ],
)
def test_the_precision_whose_peak_counts(
    tmp_path: Path, precision: str, runtime: str, tf32: bool, computed: str | None
) -> None:
    engine = dataclasses.replace(tiny_engine(tmp_path / "tiny.onnx"), precision=precision)
    assert precision_of(engine, runtime, tf32=tf32) == computed


def test_a_plan_that_was_built_for_tf32_has_no_peak(tmp_path: Path) -> None:
    plan = Plan("sm89.plan", "tensorrt", "11.4", "sm89", PlanOptions(tf32=True))
    engine = dataclasses.replace(tiny_engine(tmp_path / "tiny.onnx"), precision="fp32", plans=((plan, tmp_path),))
    assert precision_of(engine, "tensorrt", tf32=False) is None


def by_hand(**changes: Any) -> CardRoofline:
    values: dict[str, Any] = {
        "precision": "fp16",
        "peak_tflop_per_s": 100.0,
        "peak_source": "P",
        "memory_gb_per_s": 500.0,
        "memory_source": "M",
        "flop_per_image": 2_000_000_000,
        "weight_bytes": 100_000_000,
        "image_bytes": 100_000,
    }
    return CardRoofline(**values | changes)


def test_the_limits_by_hand() -> None:
    roofline = by_hand()
    # 500 GB/s bring the weights, and one image, 4995 times per second: fewer than 100 TFLOP/s compute.
    assert roofline.limit(1) == (pytest.approx(4995.0, rel=1e-4), "memory")
    assert roofline.limit(32) == (50_000.0, "arithmetic")  # 2 GFLOP each
    assert roofline.fields(32, 20_000) == {
        "card_limit_images_per_s": 50_000.0,
        "card_bound": "arithmetic",
        "of_card_limit_percent": 40.0,
    }


def test_the_work_is_that_of_the_graph(tmp_path: Path) -> None:
    engine = dataclasses.replace(tiny_engine(tmp_path / "tiny.onnx"), precision="fp16")
    found = card_roofline(engine, "tensorrt", "sm89", L4)
    assert found is not None
    weights = sum(
        len(onnx.numpy_helper.to_array(each).ravel()) for each in onnx.load(engine.onnx_path).graph.initializer
    )
    assert found.weight_bytes == 2 * weights
    assert found.image_bytes == engine.contract.preprocessing.height**2 * 3 + 4 * len(engine.contract.labels)
    assert found.flop_per_image > 0
    assert "7424 CUDA cores x 2 x 2040 MHz (NVML) x 4 (NVIDIA, Ada GPU Architecture" in found.peak_source
    assert found.memory_source.startswith("192 bit x 2 x 6251 MHz (NVML; ")
    for engine_, card, capability in ((engine, None, "sm89"), (engine, L4, "sm100"), (engine, CardData(), "sm89")):
        assert card_roofline(engine_, "tensorrt", capability, card) is None


class Card:
    def card(self) -> CardData:
        return L4


@pytest.mark.parametrize("reported", [True, False])
def test_profile_asks_the_card_that_it_ran_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reported: bool) -> None:
    Cards(monkeypatch, tmp_path, count=2).take_over()
    asked: list[int] = []

    def opened(*, index: int) -> Card | None:
        asked.append(index)
        return Card() if reported else None

    monkeypatch.setattr(profiling_engine, "open_gpu", opened)
    engine: Engine = dataclasses.replace(tiny_engine(tmp_path / "tiny.onnx"), precision="fp16")
    found = try_engine(engine, ProfileSettings(runtime="tensorrt", device=1))
    assert asked == [1]
    assert (found is not None) is reported
    assert try_engine(engine, ProfileSettings(runtime="onnxruntime")) is None
    assert asked == [1]


def test_it_is_printed_with_its_sources_and_not_without_a_card(capsys: pytest.CaptureFixture[str]) -> None:
    rows = batch_result(1, 1.0), batch_result(32, 2.0)
    plain = engine_profile(*rows)
    profile_command._print_profiles([plain])
    assert "roofline" not in capsys.readouterr().out
    assert plain.to_dict()["card"] is None
    assert "card_bound" not in plain.to_dict()["batches"][0]

    profile = dataclasses.replace(plain, card=by_hand())
    profile_command._print_profiles([profile])
    printed = " ".join(capsys.readouterr().out.split())
    one, many = (100 * row.latency.images_per_s / limit for row, limit in zip(rows, (4995.0, 50_000), strict=True))
    assert f"any batch 1: {one:.3g} % of the card's roofline, 4995 images/s by its memory" in printed
    assert f"any batch 32: {many:.3g} % of the card's roofline, 50000 images/s by its arithmetic" in printed
    assert "roofline: arithmetic fp16 100.0 TFLOP/s = P; memory 500 GB/s = M" in printed
    raw = profile.to_dict()
    assert raw["card"]["peak_source"] == "P"
    assert [batch["card_bound"] for batch in raw["batches"]] == ["memory", "arithmetic"]
