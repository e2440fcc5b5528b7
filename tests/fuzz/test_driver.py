"""The fuzz itself: it must see every kind of fault, and go on behind it."""

from __future__ import annotations

from pathlib import Path

from tests.fuzz.driver import Workers
from tests.fuzz.faulty import KINDS

_SEEN_AS = {"two-lines": "wrong", "dies": "traceback", "hungry": "traceback"}


def test_every_fault_is_seen_and_its_files_are_kept(tmp_path: Path) -> None:
    with Workers(limit_s=1.0, keep=tmp_path, kinds="tests.fuzz.faulty") as workers:
        results = list(workers.run([*((name, 0) for name in KINDS), ("right", 1)]))
    assert [result.kind for result in results] == [*KINDS, "right"]
    found = {result.kind: result for result in results}
    for name, result in found.items():
        assert result.outcome == _SEEN_AS.get(name, name), result
        assert result.is_fault == (name not in ("right", "refused", "unchecked"))
    assert "SIGSEGV" in found["dies"].detail
    assert "KeyError" in found["traceback"].detail
    assert {path.name for path in tmp_path.iterdir()} == {"wrong-0", "two-lines-0", "traceback-0", "hungry-0"}
    assert (tmp_path / "wrong-0" / "input").read_text() == "x"
