"""Verdicts that are kept between runs, and those that are not."""

from __future__ import annotations

from pathlib import Path

import pytest

from alexnet_deploy.verification.verdicts import Verdict, remembered


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ALEXNET_DEPLOY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def compared(verdict: Verdict, key: str = "a") -> tuple[Verdict, int]:
    """What two runs get of ``key``, and how often they compare."""
    calls = []

    def compare() -> Verdict:
        calls.append(verdict)
        return verdict

    first, second = remembered({"model": key}, compare), remembered({"model": key}, compare)
    assert first == second
    return second, len(calls)


@pytest.mark.parametrize("verdict", [Verdict(None), Verdict("differs", ("a note",))], ids=["good", "bad"])
def test_what_is_sure_is_measured_once(verdict: Verdict) -> None:
    assert compared(verdict) == (verdict, 1)
    assert compared(Verdict("of another model"), "b") == (Verdict("of another model"), 1)


def test_what_may_change_is_measured_again(cache: Path) -> None:
    """Too little memory today would otherwise be the verdict for ever."""
    verdict = Verdict(None, ("not compared",), may_change=True)
    assert compared(verdict) == (verdict, 2)
    assert not cache.exists()


def test_a_damaged_verdict_is_measured_again(cache: Path) -> None:
    assert compared(Verdict("differs")) == (Verdict("differs"), 1)
    (file,) = cache.rglob("*.json")
    file.write_text("{}")
    assert compared(Verdict("differs")) == (Verdict("differs"), 1)


def test_a_cache_that_cannot_be_written_costs_only_time(cache: Path) -> None:
    cache.write_text("in the way")
    assert compared(Verdict("differs")) == (Verdict("differs"), 2)
