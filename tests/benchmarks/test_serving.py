"""What the benchmarks of ``serve`` count, forgive and decode; and that the page shows the readings of the JSON."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import io
import re
import selectors
import statistics
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from alexnet_deploy.contract import Preprocessing
from alexnet_deploy.images.decode import load_pixels, open_rgb, to_pixels
from benchmarks import rounds
from benchmarks.rounds import Report
from benchmarks.serving import abuse, alone, load
from benchmarks.serving.clients import Ask
from benchmarks.serving.hostile import Hostile, HostileCall
from benchmarks.serving.load import _clients

PRE = Preprocessing(height=32, width=32, resize_to=32, decoding="reduced-2x")
"""Small, so that a photo of a few hundred pixels is decoded at a reduced size."""


class NoWaiting(asyncio.SelectorEventLoop):
    """Its clock jumps to the next timer: a load of seconds takes none, and a busy machine changes nothing."""

    def __init__(self) -> None:
        self._now = 0.0
        super().__init__(_Jumping(self))

    def time(self) -> float:
        return self._now

    def jump(self, seconds: float) -> None:
        self._now += seconds


class _Jumping(selectors.SelectSelector):
    def __init__(self, loop: NoWaiting) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self._loop.jump(max(0.0, timeout or 0.0))
        return super().select(0)


def under_load(monkeypatch: pytest.MonkeyPatch, takes_s: list[list[float]], seconds: float) -> dict[str, float]:
    """``_clients``, one per list of ``takes_s``, whose answers take these times in turn; the last one repeats."""
    remaining = [iter(times) for times in takes_s]

    async def connect() -> Ask:
        times, last = remaining.pop(0), 0.0

        async def ask(_: int) -> None:
            nonlocal last
            await asyncio.sleep(last := next(times, last))

        return ask

    with contextlib.closing(NoWaiting()) as loop:
        monkeypatch.setattr(load, "time", SimpleNamespace(perf_counter=loop.time))
        return loop.run_until_complete(_clients(connect, 1, len(takes_s), seconds))


def test_the_rate_counts_answers_to_requests_that_were_on_their_way_at_the_beginning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # 64 clients, one answer each every 0.2 s, out of step: 320/s.
    found = under_load(monkeypatch, [[0.2 * (client + 0.5) / 64, 0.2] for client in range(64)], 2.0)
    assert found["per_s"] == pytest.approx(320, abs=1)
    assert found["p50_ms"] == pytest.approx(200)


def test_a_request_that_ends_after_the_load_counts_in_its_latencies(monkeypatch: pytest.MonkeyPatch) -> None:
    found = under_load(monkeypatch, [[0.1] * 20 + [3.0]], 2.0)  # the load begins after 0.5 s and ends after 2.5 s
    assert found["per_s"] == pytest.approx(8, abs=0.5)
    assert found["p99_ms"] > 2000


def test_a_load_without_an_answer_ends_the_benchmark(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit, match="no answer within 2 s"):
        under_load(monkeypatch, [[0.4, 5.0]], 2.0)


def test_a_request_is_forgiven_three_times_its_own_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not that of the largest one: the others would hide up to 96 MiB."""
    sent: dict[str, int] = {}

    @contextlib.contextmanager
    def measured(_server: Any, name: str, size: int, _outcome: abuse.Outcome) -> Iterator[None]:
        sent[name] = size
        yield

    calls = [HostileCall("bytes", b"a" * 5), HostileCall("fields", {"model_name": "abc"})]
    monkeypatch.setattr(abuse, "measured", measured)
    monkeypatch.setattr(abuse, "http_cases", lambda _photo: [Hostile("text", b"a" * 7)])
    monkeypatch.setattr(abuse, "json_cases", lambda _model, _photo: [])
    monkeypatch.setattr(abuse, "slow_cases", lambda _photo: [Hostile("slow", b"")])
    monkeypatch.setattr(abuse, "grpc_cases", lambda _model, _photo: calls)
    monkeypatch.setattr(abuse, "send", lambda *_arguments, until_closed: None)
    monkeypatch.setattr(abuse, "call", lambda _stub, content, case: f"{case.name}: {len(content)} bytes")
    abuse.one_by_one(SimpleNamespace(grpc_port=1), "model", b"photo", outcome := abuse.Outcome())  # type: ignore[arg-type]
    assert sent == {"text": 7, "gRPC, bytes": 5, "gRPC, fields": 5}
    assert outcome.problems == ["bytes: 5 bytes", "fields: 5 bytes"]


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A JPEG that our reader decodes at a reduced size, to other pixels than in full."""
    noise = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path := tmp_path / "large.jpg")
    assert (load_pixels(path, PRE) != to_pixels(open_rgb(path), PRE)).any()
    return path


def test_decoding_alone_decodes_as_serve_does(large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[np.ndarray] = []

    def recorded(photo: Any, pre: Preprocessing) -> np.ndarray:
        made.append(to_pixels(photo, pre))
        return made[-1]

    monkeypatch.setattr(alone, "to_pixels", recorded)
    alone.decode_alone([large.read_bytes()], PRE, 0.02)
    assert made
    assert all((pixels == load_pixels(large, PRE)).all() for pixels in made)


def test_litserve_decodes_as_serve_does(large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["litserve_peer", "bundle", "1", "1"])
    api = peer(monkeypatch, "litserve_peer", litserve={"LitAPI": object}, fastapi={"Request": object}).Api()
    api.pre = PRE
    form = {"photo": SimpleNamespace(file=io.BytesIO(large.read_bytes()))}
    assert (api.decode_request(form) == load_pixels(large, PRE)).all()


def test_bentoml_decodes_as_serve_does(large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unchanged(**_: Any) -> Any:
        return lambda decorated: decorated

    monkeypatch.setenv("PEER_WORKERS", "1")
    made = peer(monkeypatch, "bentoml_peer", bentoml={"service": unchanged, "api": unchanged})
    service = made.Classifier.__new__(made.Classifier)
    service.pre = PRE
    assert (service._decode(large) == load_pixels(large, PRE)).all()


def peer(monkeypatch: pytest.MonkeyPatch, name: str, **libraries: dict[str, Any]) -> Any:
    """A peer's module; ``libraries``, which have an environment of their own, are replaced by these names."""
    for library, names in libraries.items():
        monkeypatch.setitem(sys.modules, library, fake := ModuleType(library))
        fake.__dict__.update(names)
    monkeypatch.delitem(sys.modules, module := f"benchmarks.serving.peers.{name}", raising=False)
    try:
        return importlib.import_module(module)
    finally:
        sys.modules.pop(module, None)


def test_the_table_in_docs_is_that_of_the_results() -> None:
    report = Report.load(rounds.RESULTS / "serving.json")
    sides: dict[tuple[str, str], list[float]] = {}
    for row in report.rows:
        kind, _, rest = row.case.partition(", ")
        ours, _, reading = rest.partition(", concurrency ")
        sides[f"{kind}, {reading}", ours] = row.ours
        sides[f"{kind}, {reading}", row.peer] = row.theirs

    def cell(case: str, side: str) -> str:
        rate, p99 = (statistics.median(sides[name, side]) for name in (case, f"{case}, p99"))
        return f"{rate:.0f}, {p99:.{0 if p99 >= 10 else 1}f} ms"

    text = (rounds.ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
    names = ("REST", "gRPC", "LitServe", "BentoML", "Triton")
    lines = re.findall(r"^\| (photo|pixels), (?:concurrency )?(\d+) \| (.*) \|$", text, re.MULTILINE)
    assert [(kind, count) for kind, count, _ in lines] == list(product(("photo", "pixels"), ("1", "4", "16", "64")))
    for kind, count, cells in lines:
        assert cells.split(" | ") == [cell(f"{kind}, {count}", name) for name in names]
