"""A version that could not be used is tried again, after longer and longer pauses, and reported once."""

from __future__ import annotations

from alexnet_deploy.serving.engines.failures import Failures


def test_the_pauses_grow_until_the_files_change() -> None:
    failures, now, pauses = Failures(2.0), 100.0, []
    assert not failures.due(now)
    for changed in (True, False, False, False, False, False, False, True):
        failures.failed("no memory", now, changed=changed)
        pauses.append(next(pause for pause in range(100) if failures.due(now + pause)))
        now += pauses[-1]
    assert pauses == [2, 4, 8, 16, 32, 60, 60, 2]
    failures.forget()
    assert not failures.due(now + 1000)


def test_each_cause_is_reported_once_until_the_files_are_used() -> None:
    failures = Failures(1.0)
    causes = ("has 10 bytes, not 30", "has 20 bytes, not 30", "was edited", "has 25 bytes, not 30")
    assert [failures.failed(cause, 0.0, changed=True) for cause in causes] == [True, False, True, False]
    failures.forget()
    assert failures.failed("was edited", 0.0, changed=True)
