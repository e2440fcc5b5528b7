"""What the tests of this folder share: some inputs of a kind, none of which may be a fault."""

from __future__ import annotations

from tests.fuzz.driver import Workers


def assert_no_fault(workers: Workers, kind: str, inputs: int) -> None:
    """Run the first ``inputs`` cases of ``kind``; they are the same in every run."""
    results = list(workers.run([(kind, seed) for seed in range(inputs)]))
    assert len(results) == inputs
    faults = [
        f"{r.outcome}: make fuzz KIND={r.kind} SEED={r.seed}: {r.detail}\n{r.what}" for r in results if r.is_fault
    ]
    assert not faults, "\n".join(faults)
    # A kind whose cases are all refused tests nothing, nor does one whose cases are all sound.
    assert len({result.outcome for result in results}) > 1
