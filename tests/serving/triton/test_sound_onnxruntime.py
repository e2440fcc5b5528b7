"""Triton's ONNX Runtime, with the options that a repository gives it, computes what the graph says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from tests.helpers.command import Command
from tests.helpers.models.foreign_models import random_pixels
from tests.helpers.models.onnx_models import SIDE, large_sums, small_scales, tiny_model
from tests.serving.triton.reading import config_of

LEVELS = {None: 99, "-1": 1, "1": 2, "2": 0}
"""ONNX Runtime's level by the one in ``config.pbtxt``, as in the source of Triton's backend."""


@pytest.mark.parametrize(
    "precision", ["fp32", "fp16", "int8", "int8+fp16", "fp8", "fp8+fp16", "small scales", "large sums"]
)
def test_tritons_onnx_runtime_answers_as_the_graph_says(precision: str, command: Command, tmp_path: Path) -> None:
    """With the options of ``config.pbtxt`` alone: Triton opens the file without the ones of our own sessions."""
    path = tmp_path / "net.onnx"
    if precision == "small scales":
        small_scales(path)
    elif precision == "large sums":
        large_sums(path)
    else:
        tiny_model(path, precision)
    result = command("package", path, "--triton", tmp_path / "repo")
    assert result.code == 0
    optimization = config_of(tmp_path / "repo/net")["optimization"]
    (on_gpu,) = optimization["execution_accelerators"]["gpu_execution_accelerator"]
    assert on_gpu == {"name": "cuda", "parameters": {"use_tf32": "0"}}, "float32 has 24 bits of mantissa"
    level = LEVELS[str(optimization["graph"]["level"]) if "graph" in optimization else None]
    assert (level == 1) == (precision in ("int8", "fp8", "large sums"))
    pixels = random_pixels(16, SIDE, seed=0)

    def answers(of_level: int) -> NDArray[np.float32]:
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.graph_optimization_level = ort.GraphOptimizationLevel(of_level)
        session = ort.InferenceSession(tmp_path / "repo/net/1/model.onnx", options, providers=["CPUExecutionProvider"])
        (logits_NK,) = session.run(["logits"], {"pixels": pixels})
        return np.asarray(logits_NK, np.float32)

    exact_NK = answers(0)
    # Sums in another order, and values that fall on the neighbouring step of int8 or fp8; 1 where scales became 0
    np.testing.assert_allclose(answers(level), exact_NK, atol=0.05 * float(np.ptp(exact_NK)))
    assert ("without ONNX Runtime's optimisations" in result.err) == (level == 0)
