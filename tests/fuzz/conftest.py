"""One worker process per file of tests: it loads the libraries once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fuzz.driver import Workers


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    with Workers() as started:
        yield started
