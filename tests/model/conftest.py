"""A server of weights, and ``fetch`` from it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from alexnet_deploy.errors import DeployError
from alexnet_deploy.model.download import fetch
from alexnet_deploy.progress import Progress, no_progress
from tests.helpers.weights_server import WEIGHTS, Server, serving

NAME = f"alexnet-owt-{hashlib.sha256(WEIGHTS).hexdigest()[:8]}.pth"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")  # a proxy of the environment must not see these requests
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serving() as server:
        yield server


@dataclass
class Download:
    """``fetch`` into a fresh cache with recorded instead of slept waits."""

    server: Server
    cache: Path
    waits: list[float] = field(default_factory=list)

    def __call__(
        self,
        name: str = NAME,
        *,
        sha256_prefix: str | None = None,
        on_progress: Progress = no_progress,
        max_bytes: int = 1 << 20,
        tries: int = 4,
    ) -> Path:
        return fetch(
            f"{self.server.url}/models/{name}",
            cache=self.cache,
            sha256_prefix=sha256_prefix,
            on_progress=on_progress,
            max_bytes=max_bytes,
            tries=tries,
            sleep=self.waits.append,
        )

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
