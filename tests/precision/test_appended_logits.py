"""A logarithm that an import appended stays exact in every precision: float16 would lose probabilities below 6e-8."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from alexnet_deploy.adoption.adopt import adopt
from alexnet_deploy.bundle.manifest import Engine
from alexnet_deploy.contract import Precision
from alexnet_deploy.onnx_graph.onnx_file import contract_in, load_onnx
from alexnet_deploy.precision.convert import to_fp16, to_quantized
from alexnet_deploy.probabilities import activate
from alexnet_deploy.runtime.select import open_runner
from tests.helpers.models.foreign_models import FOREIGN, random_pixels, scores_by_hand
from tests.helpers.models.score_endings import save

PIXELS = random_pixels(8, 4)
# Logits reach 20 and more: without a shift by the largest, their powers exceed float16's 65504.
SPELT_OUT = "big = Mul (z, two); e = Exp (big); s = ReduceSum (e, axis1); y = Div (e, s)"
SIGMOIDS = "big = Mul (z, two); n = Neg (big); e = Exp (n); s = Add (e, one); y = Reciprocal (s)"


def probabilities(path: Path, precision: Precision, runtime: str) -> NDArray[np.float64]:
    contract = contract_in(load_onnx(path), source="x")
    assert contract is not None
    runner = open_runner(Engine("x", path, contract, precision, None), runtime, threads=1).runner
    try:
        return activate(runner(PIXELS), contract.activation)
    finally:
        runner.close()


@pytest.mark.parametrize("ending", [SPELT_OUT, SIGMOIDS], ids=["softmax", "sigmoid"])
@pytest.mark.parametrize(
    ("precision", "tolerance"),
    [
        # Logits up to 30 with 11 bits are right to 0.015, and p changes at most a quarter as much per logit.
        ("fp16", 0.015),
        # One layer of 48 products on steps of 1/127 of the largest: 1 % of logits up to 30, a quarter of it in p.
        ("int8", 0.1),
        ("int8+fp16", 0.1),
    ],
)
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_probabilities_are_those_of_the_original(
    ending: str, precision: Precision, tolerance: float, runtime: str, tmp_path: Path
) -> None:
    source, adopted, out = save(tmp_path, ending), tmp_path / "adopted.onnx", tmp_path / "out.onnx"
    adopt(source, adopted, FOREIGN)
    if precision == "fp16":
        to_fp16(adopted, out)
    else:
        to_quantized(adopted, out, precision=precision, batches=_batches, method="max")
    expected_NK = scores_by_hand(source, PIXELS)
    np.testing.assert_allclose(probabilities(out, precision, runtime), expected_NK, rtol=0, atol=tolerance)
    assert np.ptp(expected_NK) > 0.9


def _batches() -> Iterator[NDArray[np.uint8]]:
    yield random_pixels(16, 4, seed=1)
