"""Logits whose true classes follow from a known temperature."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def drawn_logits(count: int, temperature: float, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Logits, and true classes drawn from softmax(logits / temperature)."""
    rng = np.random.default_rng(seed)
    logits_NK = rng.normal(0, 3, (count, 10)).astype(np.float32)
    # Gumbel's trick: the argmax of logits plus Gumbel noise is a draw from their softmax.
    return logits_NK, (logits_NK / temperature + rng.gumbel(size=logits_NK.shape)).argmax(axis=1)
