"""An engine is measured in a process that does nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from alexnet_deploy.profiling.engine import profile_engine
from alexnet_deploy.profiling.settings import ProfileSettings
from tests.helpers.models.onnx_models import tiny_engine


def test_the_comparison_of_the_first_run_is_not_part_of_the_measurement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALEXNET_DEPLOY_CACHE", str(tmp_path / "cache"))
    engine = tiny_engine(tmp_path / "tiny.onnx")
    settings = ProfileSettings(runtime="openvino", duration_s=0.01, warm_up_s=0.01)
    first, second = (profile_engine(engine, settings).peak_rss_bytes for _ in range(2))
    assert (tmp_path / "cache" / "verdicts").is_dir(), "it was compared"
    assert first is not None
    assert second is not None
    # The reference needs ONNX Runtime, 35 MiB in memory after its import; two equal processes differ by a few.
    assert first - second < 20 << 20
