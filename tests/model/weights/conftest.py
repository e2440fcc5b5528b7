"""A download of the weights as a test asks for it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from alexnet_deploy.errors import DeployError
from alexnet_deploy.model.weights.download import fetch
from tests.helpers.weights_server import WEIGHTS, Server

NAME = f"alexnet-owt-{hashlib.sha256(WEIGHTS).hexdigest()[:8]}.pth"
OTHER = WEIGHTS[::-1]


@dataclass
class Download:
    """``fetch`` into a fresh cache with recorded instead of slept waits."""

    server: Server
    cache: Path
    waits: list[float] = field(default_factory=list)

    def __call__(self, name: str = NAME, *, max_bytes: int = 1 << 20, **options: Any) -> Path:
        url = f"{self.server.url}/models/{name}"
        options = {"allow_http": True} | options
        return fetch(url, cache=self.cache, max_bytes=max_bytes, tries=4, sleep=self.waits.append, **options)

    def refused(self, kind: type[DeployError]) -> str:
        """The message, which must be one line that names the URL."""
        with pytest.raises(kind) as caught:
            self()
        message = str(caught.value)
        assert "\n" not in message
        assert message.startswith(self.server.url)
        return message

    def leftovers(self) -> set[str]:
        return {path.name for path in self.cache.iterdir() if path.suffix != ".lock"}


@pytest.fixture
def download(server: Server, tmp_path: Path) -> Download:
    return Download(server, tmp_path / "cache")
