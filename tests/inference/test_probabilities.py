"""Softmax and KL against their textbook formulas."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from alexnet_deploy.inference.probabilities import kl_nats

LOGITS = arrays(np.float32, (2, 5), elements=st.floats(-50, 50, width=32))


@given(LOGITS, LOGITS, st.floats(-100, 100, width=32))
def test_kl_is_that_of_the_textbook(p: np.ndarray, q: np.ndarray, shift: float) -> None:
    def softmax(x: np.ndarray) -> Any:
        powers = np.exp(x.astype(np.float64))
        return powers / powers.sum(axis=1, keepdims=True)

    expected = (softmax(p) * np.log(softmax(p) / softmax(q))).sum(axis=1)
    assert kl_nats(p, q) == pytest.approx(expected, abs=1e-9)
    assert (kl_nats(p, q) >= 0).all()
    # Adding a number to all logits changes no probability; float32 rounds the sum to some 1e-5.
    assert kl_nats(p, p + np.float32(shift)) == pytest.approx(0, abs=1e-8)
