"""``confidence.json``: whatever is wrong with it is one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from alexnet_deploy.bundle.manifest import CONFIDENCE
from alexnet_deploy.contract import ModelContract
from alexnet_deploy.errors import ArtifactError
from alexnet_deploy.evaluation.temperature import quality
from alexnet_deploy.evaluation.temperature_record import ConfidenceRecord, read_confidence
from tests.helpers.logits import drawn_logits


def a_record() -> ConfidenceRecord:
    hashes = tuple(f"{i:064x}" for i in range(200))
    logits_NK, target_N = drawn_logits(200, 1.0)
    before, after = (quality(logits_NK, target_N, temperature) for temperature in (1.0, 2.0))
    return ConfidenceRecord(2.0, 10, hashes, before, after, "fake", {})


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
def test_a_damaged_record_is_one_line(tmp_path: Path, damage: Callable[[Any], Any]) -> None:
    record = a_record()
    (tmp_path / CONFIDENCE).write_text(record.to_json())
    contract = colours(2.0)
    assert read_confidence(tmp_path, contract) == record
    (tmp_path / CONFIDENCE).write_text(json.dumps(damage(json.loads(record.to_json()))))
    with pytest.raises(ArtifactError, match="calibrate-confidence") as caught:
        read_confidence(tmp_path, contract)
    assert len(str(caught.value)) < 400


def test_a_record_of_another_temperature_is_refused(tmp_path: Path) -> None:
    record = a_record()
    (tmp_path / CONFIDENCE).write_text(record.to_json())
    with pytest.raises(ArtifactError, match="fitted temperature 2, the bundle's contract has 1"):
        read_confidence(tmp_path, colours(1.0))


def colours(temperature: float) -> ModelContract:
    return ModelContract("colours", ("a", "b"), ("a", "b"), temperature=temperature)
