"""Changed ONNX files and bundles: the answers of the original, or one line."""

from __future__ import annotations

import pytest

from tests.fuzz.driver import Workers
from tests.fuzz.tested import assert_no_fault


@pytest.mark.parametrize(("kind", "inputs"), [("onnx/adopt", 120), ("onnx/build", 15), ("bundles", 150)])
def test_no_engine_answers_otherwise(kind: str, inputs: int, workers: Workers) -> None:
    assert_no_fault(workers, kind, inputs)
