"""Changed records, weights and texts: what they say, or one line."""

from __future__ import annotations

import pytest

from tests.fuzz.driver import Workers
from tests.fuzz.kinds import KINDS
from tests.fuzz.tested import assert_no_fault

_INPUTS = {"records": 50, "weights": 100, "text": 150}


@pytest.mark.parametrize("kind", [name for name in KINDS if name.partition("/")[0] in _INPUTS])
def test_no_file_is_misread(kind: str, workers: Workers) -> None:
    assert_no_fault(workers, kind, _INPUTS[kind.partition("/")[0]])
