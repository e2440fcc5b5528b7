"""A tiny classifier whose graph ends in any operators behind its logits, and what it answers once adopted."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import FunctionProto

from alexnet_deploy.adoption.adopt import adopt
from alexnet_deploy.adoption.import_options import ImportOptions
from alexnet_deploy.bundle.manifest import Engine
from alexnet_deploy.inference.rows import top_answers
from alexnet_deploy.runtime.select import open_runner
from tests.helpers.models.foreign_models import FOREIGN, W, graph_of, random_pixels

EXACT = 1e-6
"""log p in float32 is right to 6e-8 of itself, and p is at most 1: p |log p| <= 0.37, so p is right to 1e-7; the
graph's own float32 softmax adds as much again."""
HALF = 2e-3
"""Logits up to 8 in float16 are right to 2e-3, and p changes at most a quarter as much; p itself is right to 2.4e-4."""

PIXELS = random_pixels(3, 4)
BODY = "flat = Flatten (x); z = Gemm <transB = 1> (flat, w)"
SOFTMAX, SIGMOID = "y = Softmax <axis = 1> (z)", "y = Sigmoid (z)"

F32, I64 = np.float32, np.int64
CONSTANTS: dict[str, NDArray[Any]] = W | {
    "w": W["w"] / 2,  # probabilities from 1e-9 to 1 - 1e-6: all of them count
    "one": F32(1), "two": F32(2), "half": F32(0.5), "ten": F32(10), "zero": F32(0), "hundred": F32(100),
    "hundredth": F32(0.01), "almost_one": F32(1 - 1e-7), "tiny": F32(1e-7), "mix": F32(0.9), "rest": F32(0.02),
    "axis0": I64([0]), "axis1": I64([1]), "axis2": I64([2]), "axes23": I64([2, 3]), "last": I64([-1]),
    "row": I64([-1, 5]), "row3": I64([-1, 1, 5]), "flat5": I64([5]), "all": I64([0, 1, 2, 3, 4]), "five": I64([5]),
    "q_scale": F32(1 / 255), "q_zero": np.uint8(0), "z_scale": F32(0.1), "z_zero": np.int8(0),
    "parts": I64([2, 3]), "k": I64([5]), "ratio": np.float32(0.5), "identity": np.eye(5, dtype=F32),
    "kernel": np.eye(5, dtype=F32)[:, :, None, None],
}  # fmt: skip
MAPS = f"{BODY}; m0 = Unsqueeze (z, axes23); m = Conv (m0, kernel)"
"""Its output ``m`` is [N, 5, 1, 1]."""


def answers(
    source: Path, options: ImportOptions = FOREIGN, *, runtime: str = "onnxruntime"
) -> tuple[NDArray[np.float64], str]:
    """Probabilities ``[N, K]`` of ``top_answers`` in the order of the classes, and the contract's activation."""
    out = source.with_suffix(".adopted.onnx")
    contract = adopt(source, out, options)
    opened = open_runner(Engine("x", out, contract, "fp32", None), runtime, threads=1)
    try:
        rows = top_answers(opened.runner(PIXELS), contract, len(contract.labels))
    finally:
        opened.runner.close()
    probabilities_NK = [[a.probability for a in sorted(row, key=lambda a: a.index)] for row in rows]
    return np.array(probabilities_NK), contract.activation


def save(
    path: Path,
    ending: str,
    output: str = "float[N,5] y",
    *,
    body: str = BODY,
    batch: str = "N",
    opset: int = 21,
    functions: list[FunctionProto] | None = None,
) -> Path:
    used = set(re.findall(r"\w+", f"{body};{ending}"))
    weights = {name: value for name, value in CONSTANTS.items() if name in used}
    return graph_of(
        path / f"net{len(list(path.iterdir()))}.onnx",
        f"{body}; {ending}",
        weights,
        signature=f"(float[{batch},3,4,4] x) => ({output})",
        opset=opset,
        domain="my" if functions else "",
        functions=functions or [],
    )
