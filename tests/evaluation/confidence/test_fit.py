"""The fit of a temperature: against theory, on what tells none, and the record that is kept of it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from alexnet_deploy.bundle.manifest import CONFIDENCE
from alexnet_deploy.contract import ModelContract
from alexnet_deploy.errors import ArtifactError, InputError
from alexnet_deploy.evaluation.accuracy import confidence
from alexnet_deploy.evaluation.confidence.calibrate import quality, require_fittable
from alexnet_deploy.evaluation.confidence.choose import choose_method
from alexnet_deploy.evaluation.confidence.methods import fit_temperature
from alexnet_deploy.evaluation.confidence.record import ConfidenceRecord, read_confidence


def drawn_logits(count: int, temperature: float, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Logits, and true classes drawn from softmax(logits / temperature)."""
    rng = np.random.default_rng(seed)
    logits_NK = rng.normal(0, 3, (count, 10)).astype(np.float32)
    # Gumbel's trick: the argmax of logits plus Gumbel noise is a draw from their softmax.
    return logits_NK, (logits_NK / temperature + rng.gumbel(size=logits_NK.shape)).argmax(axis=1)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_the_fit_finds_the_temperature_that_made_the_classes(temperature: float) -> None:
    found = fit_temperature(*drawn_logits(20_000, temperature))
    assert found == pytest.approx(temperature, rel=0.03)  # four standard deviations at 20,000 images


@given(factor=st.floats(0.2, 5.0), seed=st.integers(0, 50))
@settings(max_examples=15)
def test_logits_scaled_scale_the_temperature(factor: float, seed: int) -> None:
    logits_NK, target_N = drawn_logits(200, 1.0, seed)
    once = fit_temperature(logits_NK, target_N)
    scaled = fit_temperature(logits_NK * np.float32(factor), target_N)
    assert scaled == pytest.approx(factor * once, rel=1e-4)  # float32 logits, and a minimum is flat


@pytest.mark.parametrize("factor", [1e-6, 1e-3, 1.0, 1e4, 1e6])
def test_a_model_may_have_logits_of_any_scale(factor: float) -> None:
    """Dividing them by a constant is no fault of a model; all ways of calibrating find what they found before."""
    logits_NK, target_N = drawn_logits(400, 1.5)
    scaled_NK = logits_NK * np.float32(factor)
    require_fittable(scaled_NK, target_N, source="photos")
    once, scaled = (choose_method(each_NK, target_N, TEN) for each_NK in (logits_NK, scaled_NK))
    assert scaled.chosen == once.chosen
    assert scaled.contract.temperature == pytest.approx(factor * once.contract.temperature, rel=1e-4)
    for a, b in zip(once.rows, scaled.rows, strict=True):
        if a.method not in ("none", "ensemble of temperatures"):  # these two contain the bare softmax
            assert b.nll_nats == pytest.approx(a.nll_nats, rel=1e-3)  # two searches that stop near the same minimum


def test_at_the_fit_the_true_class_has_the_logit_that_the_model_expects() -> None:
    """The derivative of the likelihood by 1 / T is 0 exactly there, whatever found it."""
    logits_NK, target_N = drawn_logits(500, 1.7)
    powers_NK = np.exp(logits_NK.astype(np.float64) / fit_temperature(logits_NK, target_N))
    expected = ((powers_NK / powers_NK.sum(axis=1, keepdims=True)) * logits_NK).sum(axis=1).mean()
    assert np.take_along_axis(logits_NK, target_N[:, None], axis=1).mean() == pytest.approx(expected, abs=1e-4)


GOOD, RIGHT = drawn_logits(200, 1.0)
TEN = ModelContract("any", tuple("abcdefghij"), tuple("abcdefghij"))
WARM = dataclasses.replace(TEN, temperature=2.0)


@pytest.mark.parametrize(
    ("logits_NK", "target_N", "words"),
    [
        (GOOD[:99], RIGHT[:99], "99 usable images are too few"),
        (GOOD, np.zeros_like(RIGHT), "one class"),
        (np.where(np.arange(200)[:, None] == 7, np.float32("nan"), GOOD), RIGHT, "not finite"),
        (np.ones_like(GOOD), RIGHT, "every image alike"),
        (np.repeat(GOOD[:1], 200, axis=0), RIGHT, "every image alike"),
        (GOOD, GOOD.argmax(axis=1), "all 200 answers are right"),
        (GOOD, GOOD.argmin(axis=1), "no temperature within"),
        (1e-4 * GOOD, GOOD.argmin(axis=1), "no temperature within"),
    ],
)
def test_what_tells_no_temperature(logits_NK: NDArray[np.float32], target_N: NDArray[np.int64], words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        require_fittable(logits_NK, target_N, source="photos")
    assert str(caught.value).startswith("photos: ")


def test_quality_is_what_evaluate_says() -> None:
    found, measured = quality(GOOD, RIGHT, WARM), confidence(GOOD, RIGHT, WARM)
    assert (found.nll_nats, found.ece_percent) == (measured.nll_nats, measured.ece_percent)
    by_bin = sum(r.images * (r.accuracy_percent or 0) for r in found.bins) / 200
    assert by_bin == pytest.approx(100 * (GOOD.argmax(axis=1) == RIGHT).mean())


@pytest.fixture
def record(tmp_path: Path) -> ConfidenceRecord:
    """One of temperature 2, as it lies in ``tmp_path``."""
    hashes = tuple(f"{i:064x}" for i in range(200))
    before, after = (quality(GOOD, RIGHT, contract) for contract in (TEN, WARM))
    found = ConfidenceRecord(2.0, 10, hashes, before, after, "fake", {})
    (tmp_path / CONFIDENCE).write_text(found.to_json())
    return found


def at_temperature(temperature: float) -> ModelContract:
    return ModelContract("any", ("a", "b"), ("a", "b"), temperature=temperature)


@pytest.mark.parametrize(
    "damage",
    [
        lambda raw: raw | {"temperature": -1.0},
        lambda raw: raw | {"temperature": "warm"},
        lambda raw: raw | {"images": 199},
        lambda raw: raw | {"sha256": raw["sha256"][::-1]},
        lambda raw: raw | {"sha256": ["0" * 63] * 200},
        lambda raw: raw | {"sha256": [1] * 200},
        lambda raw: raw | {"sha256": None},
        lambda raw: {key: value for key, value in raw.items() if key != "sha256"},
        lambda raw: raw | {"schema": 99},
        lambda raw: raw | {"more": 1},
        lambda raw: raw | {"tools": ["numpy"]},
        lambda raw: raw | {"before": raw["before"] | {"ece_percent": 10**400}},
        lambda raw: raw | {"after": raw["after"] | {"bins": [{"low": 0}]}},
        lambda raw: [raw],
    ],
)
def test_a_damaged_record_is_one_line(record: ConfidenceRecord, tmp_path: Path, damage: Callable[[Any], Any]) -> None:
    assert read_confidence(tmp_path, at_temperature(2.0)) == record
    (tmp_path / CONFIDENCE).write_text(json.dumps(damage(json.loads(record.to_json()))))
    with pytest.raises(ArtifactError, match="calibrate-confidence") as caught:
        read_confidence(tmp_path, at_temperature(2.0))
    assert len(str(caught.value)) < 400


@pytest.mark.usefixtures("record")
def test_a_record_of_another_temperature_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="fitted temperature 2, the bundle's contract has 1"):
        read_confidence(tmp_path, at_temperature(1.0))
