"""The roofline of a GPU for one engine: the most images per second that its arithmetic and its memory allow.

As in ``layers.roofline``, but not measured: the ceilings are computed from what the card reports of itself, times what
NVIDIA documents of its kind. Nothing is said of a card that reports too little, or of a kind without a document.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

from alexnet_deploy.bundle.manifest import Engine
from alexnet_deploy.machine.gpu import CardData

_STORED_BYTES = {"fp32": 4, "fp16": 2, "int8": 1, "fp8": 1, "int8-weights": 1, "int4": 0.5}
"""Of one weight, by the first part of an engine's precision. Some layers may keep more; a ceiling counts the least."""


@dataclass(frozen=True, slots=True)
class TensorCores:
    """Multiply-adds of the tensor cores without sparsity, for each one of the CUDA cores in float32."""

    fp16: int
    int8: int
    fp8: int | None
    source: str


# The quotients of the peaks in the documents, which name them for whole cards at one clock. On GeForce cards float16
# and FP8 with sums in float32 are half as fast: as a ceiling the faster one counts.
TENSOR_CORES = {
    "sm75": TensorCores(8, 16, None, "NVIDIA, GPU Performance Background, multiply-adds per clock: Turing"),
    "sm80": TensorCores(16, 32, None, "NVIDIA, Hopper Architecture In-Depth, table 3: A100"),
    "sm86": TensorCores(4, 8, None, "NVIDIA, Ampere GA102 GPU Architecture, v2: RTX 3080"),
    "sm89": TensorCores(4, 8, 8, "NVIDIA, Ada GPU Architecture, v2.01: RTX 4090"),
    "sm90": TensorCores(16, 32, 32, "NVIDIA, H100 Tensor Core GPU Architecture: H100 SXM5"),
    "sm120": TensorCores(4, 8, 8, "NVIDIA, RTX Blackwell GPU Architecture: RTX 5090"),
}
"""By compute capability. Others have no roofline: no document that names their peaks was found."""
_OTHERS = re.compile(r"\b(?:H20|L20|L2|5090 ?D)\b", re.IGNORECASE)
"""Cards whose tensor cores are slower than those of their kind, for markets with a limit."""
_TURING = re.compile(r"\b(?:T4|RTX|T10|T40)\b", re.IGNORECASE)
"""Cards of sm75 with tensor cores; GTX 16, T400 to T1200 and MX have none."""
BANDWIDTH_SOURCE = "NVIDIA, How to Implement Performance Metrics in CUDA: two transfers per clock"


@dataclass(frozen=True, slots=True)
class CardRoofline:
    """Ceilings of a card for one engine.

    Calls can be faster only by weights that stay in the card's cache between them (memory), and by algorithms that
    convolve with fewer multiplications than are counted here (arithmetic).
    """

    precision: str
    """Whose peak counts: the fastest one that the engine computes in."""
    peak_tflop_per_s: float
    peak_source: str
    memory_gb_per_s: float
    memory_source: str
    flop_per_image: int
    """2 x multiply-accumulates of convolutions and matrix products."""
    weight_bytes: int
    """Read once per call."""
    image_bytes: int
    """Pixels and outputs of one image."""

    def limit(self, batch: int) -> tuple[float, Literal["arithmetic", "memory"]]:
        """The most images per second in calls of ``batch`` images, and what sets it."""
        arithmetic = 1e12 * self.peak_tflop_per_s / self.flop_per_image
        memory = 1e9 * self.memory_gb_per_s * batch / (self.weight_bytes + batch * self.image_bytes)
        return (arithmetic, "arithmetic") if arithmetic < memory else (memory, "memory")

    def fields(self, batch: int, images_per_s: float) -> dict[str, Any]:
        """For the JSON of one batch size."""
        limit, bound = self.limit(batch)
        return {
            "card_limit_images_per_s": limit,
            "card_bound": bound,
            "of_card_limit_percent": 100 * images_per_s / limit,
        }


def ceilings(card: CardData, capability: str, precision: str) -> tuple[float, str, float, str] | None:
    """The ceilings of ``CardRoofline`` and their sources; None where one of them is not known."""
    tensor = TENSOR_CORES.get(capability)
    if card.name is None or _OTHERS.search(card.name) or (capability == "sm75" and not _TURING.search(card.name)):
        return None
    if tensor is None or card.cuda_cores is None or card.clock_mhz is None:
        return None
    if card.memory_clock_mhz is None or card.memory_bits is None:
        return None
    per_core = {"fp32": 1, "fp16": tensor.fp16, "int8": tensor.int8, "fp8": tensor.fp8}.get(precision)
    if per_core is None:
        return None
    peak = f"{card.cuda_cores} CUDA cores x 2 x {card.clock_mhz:.0f} MHz (NVML)"
    if precision != "fp32":
        peak += f" x {per_core} ({tensor.source})"
    memory = f"{card.memory_bits} bit x 2 x {card.memory_clock_mhz:.0f} MHz (NVML; {BANDWIDTH_SOURCE})"
    return (
        2 * card.cuda_cores * card.clock_mhz * per_core / 1e6,
        peak,
        2 * card.memory_bits / 8 * card.memory_clock_mhz / 1e3,
        memory,
    )


def precision_of(engine: Engine, runtime: str, *, tf32: bool) -> str | None:
    """The fastest precision in which ``runtime`` multiplies; None where it cannot be told.

    ONNX Runtime has CUDA kernels in float alone, and turns other types into float32. In TF32 no document names the peak
    of each card.
    """
    parts = engine.precision.split("+")
    if runtime == "onnxruntime-cuda" or set(parts) & {"int8-weights", "int4"}:
        parts = [part for part in parts if part == "fp16"] or ["fp32"]
    allowed = tf32 or any(plan.options is not None and plan.options.tf32 for plan, _ in engine.plans)
    return None if parts[0] == "fp32" and allowed else parts[0]  # of "int8+fp16" the first is the faster one


def card_roofline(
    engine: Engine, runtime: str, capability: str, card: CardData | None, *, tf32: bool = False
) -> CardRoofline | None:
    """The roofline of the card that ``runtime`` runs ``engine`` on; None for a card that is not known.

    Raises InputError if the ONNX cannot be read.
    """
    precision = precision_of(engine, runtime, tf32=tf32)
    found = None if precision is None or card is None else ceilings(card, capability, precision)
    stored = _STORED_BYTES.get(engine.precision.split("+")[0])
    if found is None or precision is None or stored is None:
        return None
    from alexnet_deploy.profiling.costs import Costs

    costs, pre = Costs(engine.onnx_path, 1), engine.contract.preprocessing
    flop_per_image = costs.flops(costs.nodes)
    if not flop_per_image:
        return None
    peak, peak_source, memory, memory_source = found
    return CardRoofline(
        precision=precision,
        peak_tflop_per_s=peak,
        peak_source=peak_source,
        memory_gb_per_s=memory,
        memory_source=memory_source,
        flop_per_image=flop_per_image,
        weight_bytes=int(costs.elements(costs.nodes).weights * stored),
        image_bytes=pre.height * pre.width * 3 + 4 * engine.contract.outputs,
    )
