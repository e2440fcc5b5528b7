"""What TensorRT calls back while it builds: progress, Ctrl-C and errors."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alexnet_deploy.build import callbacks
from alexnet_deploy.build.plans import PROGRESS_STEPS
from tests.helpers.onnx_models import tiny_classifier
from tests.helpers.plans import built, files_in

pytestmark = pytest.mark.usefixtures("machine")


def test_progress_never_falls_and_ends_full(tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    built(tiny_classifier(tmp_path / "m.onnx"), "sm89", "sm120", on_progress=lambda *step: seen.append(step))
    for target in ("TensorRT sm89", "TensorRT sm120"):
        steps = [done for name, done, total in seen if name == target and total == PROGRESS_STEPS]
        assert steps == sorted(steps)
        assert len(set(steps)) > 20
        assert steps[-1] == PROGRESS_STEPS


@pytest.mark.parametrize("at", [1, 30])
def test_ctrl_c_cancels_and_leaves_what_was(at: int, tmp_path: Path) -> None:
    model = tiny_classifier(tmp_path / "m.onnx")
    (tmp_path / "plans").mkdir()
    (tmp_path / "plans/sm120.plan").write_bytes(b"the old one")
    before = signal.getsignal(signal.SIGINT)
    steps = 0

    def press(stage: str, done: int, total: int) -> None:
        nonlocal steps
        steps += stage == "TensorRT sm120"
        if steps == at:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        built(model, "sm89", "sm120", on_progress=press)
    assert steps == at, "the builder went on"
    assert files_in(tmp_path / "plans") == {"sm120.plan"}
    assert (tmp_path / "plans/sm120.plan").read_bytes() == b"the old one"
    assert signal.getsignal(signal.SIGINT) is before


def test_what_the_progress_bar_raises_comes_out(tmp_path: Path) -> None:
    def broken(*_: object) -> None:
        raise BrokenPipeError("the terminal is gone")

    with pytest.raises(BrokenPipeError, match="terminal"):
        built(tiny_classifier(tmp_path / "m.onnx"), "sm89", on_progress=broken)
    assert files_in(tmp_path / "plans") == set()


@given(
    st.recursive(
        st.integers(1, 5).map(lambda steps: [None] * steps),
        lambda inner: st.lists(st.none() | inner, min_size=1, max_size=5),
        max_leaves=20,
    )
)
def test_any_nesting_of_phases_gives_a_rising_share(plan: list[Any]) -> None:
    shares: list[float] = []
    monitor = callbacks.BuildMonitor(shares.append, callbacks.Interrupt())

    def run(steps: list[Any], name: str, parent: str | None) -> None:
        monitor.start(name, parent, len(steps))
        for index, inner in enumerate(steps):
            if inner is not None:
                run(inner, f"{name}.{index}", name)
            assert monitor.step(name, index)
        monitor.finish(name)

    run(plan, "root", None)
    assert shares == sorted(shares)
    assert shares[0] > 0
    assert shares[-1] == 1.0
