"""One engine measured in a process of its own, with the real runtimes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from alexnet_deploy.bundle.manifest import Engine, Plan
from alexnet_deploy.contract import BatchProfile, ModelContract, Preprocessing
from alexnet_deploy.errors import InputError, UnavailableError, UsageError
from alexnet_deploy.profiling import engine as engine_module
from alexnet_deploy.profiling.engine import EngineProfile, measure_engine, peak_rss_bytes, profile, profile_engine
from alexnet_deploy.profiling.settings import ProfileSettings
from tests.helpers.onnx_models import TINY_CONTRACT, tiny_classifier, tiny_engine, tiny_model

SHORT = ProfileSettings(duration_s=0.001, warm_up_s=0)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    found = tiny_engine(tmp_path_factory.mktemp("tiny") / "tiny.onnx")
    return dataclasses.replace(found, batch=BatchProfile(1, 2, 4))


@pytest.fixture(scope="module")
def measured(engine: Engine) -> EngineProfile:
    """Measured while this process has held 512 MiB more than it otherwise would."""
    np.ones(2**29, np.uint8)
    return profile_engine(engine, ProfileSettings((4, 1), 2, "openvino", 1, 0.01, 0, 30))


def test_every_batch_size_is_measured_in_the_order_asked(measured: EngineProfile) -> None:
    assert (measured.name, measured.precision, measured.passed_over) == ("tiny", "fp32", ())
    assert measured.runner.startswith("OpenVINO")
    assert [row.latency.batch for row in measured.rows] == [4, 1]
    assert all(row.latency.iterations == len(row.latency.samples_ns) >= 30 for row in measured.rows)
    assert all(row.latency.concurrency == 2 for row in measured.rows)
    assert measured.load_s > 0
    assert measured.first_call_ms > 0


def test_the_memory_is_that_of_the_other_process(measured: EngineProfile) -> None:
    """ru_maxrss would be passed on to it: the most that the process which started it has held."""
    mine = peak_rss_bytes()
    assert measured.peak_rss_bytes is not None
    assert mine is not None
    assert 2**24 < measured.peak_rss_bytes < mine - 2**28


def test_json_has_units_and_no_samples(measured: EngineProfile) -> None:
    raw = measured.to_dict()
    assert {"engine", "precision", "runner", "load_s", "first_call_ms", "peak_rss_bytes", "concurrency"} < set(raw)
    assert all(batch["p99_9_ms"] is None and "samples_ns" not in batch for batch in raw["batches"])
    assert [batch["mark"] for batch in raw["batches"]] == [row.mark for row in measured.rows]


def test_an_engine_is_found_by_its_path_or_its_name(tmp_path: Path) -> None:
    found = profile(str(tiny_model(tmp_path / "tiny.onnx")), SHORT)
    assert (found.name, found.settings) == ("tiny", SHORT)
    assert all(": " in reason for reason in found.to_dict()["passed_over"])
    with pytest.raises(InputError, match="absent: no such engine in"):
        profile("absent", SHORT, store=tmp_path)


def test_an_error_over_there_is_the_same_error_here(engine: Engine, tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"\xff\xff no model")
    with pytest.raises(InputError, match=r"broken\.onnx: OpenVINO refuses it"):
        profile_engine(dataclasses.replace(engine, onnx_path=broken), ProfileSettings(runtime="openvino"))
    with pytest.raises(UsageError, match="`runtime` abacus: unknown"):
        profile_engine(engine, ProfileSettings(runtime="abacus"))


@pytest.mark.parametrize(
    ("plan", "reason"),
    [
        (Plan("x.plan", "tensorrt_rtx", "0.0.1", "sm89"), "no CUDA device|built with tensorrt_rtx 0.0.1, here is"),
        (None, "holds no TensorRT plan; build one"),
    ],
)
def test_a_plan_that_cannot_run_is_refused_there(engine: Engine, plan: Plan | None, reason: str) -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")
    plans = () if plan is None else ((plan, engine.onnx_path),)
    with pytest.raises(UnavailableError, match=reason):
        profile_engine(dataclasses.replace(engine, plans=plans), ProfileSettings(runtime="tensorrt"))


@pytest.mark.parametrize("batch", [0, 5, 1000])
def test_a_batch_outside_the_profile_is_refused_before_anything_runs(
    engine: Engine, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "IsolatedProcess", None)
    with pytest.raises(UsageError, match=f"`batch_sizes` {batch}: (tiny has a profile of 1..4; choose wi|takes 1 or)"):
        profile_engine(engine, ProfileSettings((1, batch)))


def test_an_onnx_frozen_to_a_batch_has_that_profile(tmp_path: Path) -> None:
    frozen = tiny_engine(tmp_path / "frozen.onnx", batch=2)
    with pytest.raises(UsageError, match=r"`batch_sizes` 4: tiny has a profile of 2\.\.2; .*export it for any batch"):
        profile_engine(frozen, ProfileSettings((2, 4)))
    assert measure_engine(frozen, dataclasses.replace(SHORT, batch_sizes=(2,))).rows[0].latency.batch == 2


def test_more_than_the_memory_holds_is_one_line(tmp_path: Path) -> None:
    contract = ModelContract(
        "tiny", TINY_CONTRACT.labels, TINY_CONTRACT.labels, Preprocessing(4096, 4096, "stretch", None)
    )
    free = Engine("tiny", tiny_classifier(tmp_path / "tiny.onnx", side="S"), contract, "fp32", None)
    with pytest.raises(UnavailableError, match="tiny: batch 100000000 does not fit into memory; choose smaller"):
        profile_engine(free, ProfileSettings((100_000_000,)))
