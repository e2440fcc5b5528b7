"""Changed images: the pixels of the original, or one line."""

from __future__ import annotations

import pytest

from tests.fuzz.driver import Workers
from tests.fuzz.images import image_kinds
from tests.fuzz.tested import assert_no_fault


@pytest.mark.parametrize("kind", [kind.name for kind in image_kinds()])
def test_no_image_is_read_wrongly(kind: str, workers: Workers) -> None:
    assert_no_fault(workers, kind, 200)
