"""Both atomic writers."""

from __future__ import annotations

import pytest

from alexnet_deploy.files import atomic_directory, atomic_file
from tests.helpers.writers import Writer


@pytest.fixture(params=[atomic_file, atomic_directory], ids=["file", "directory"])
def writer(request: pytest.FixtureRequest) -> Writer:
    made: Writer = request.param
    return made
