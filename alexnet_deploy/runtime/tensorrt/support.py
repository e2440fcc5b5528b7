"""Which TensorRT runs on which GPU and in which precisions, as NVIDIA documents it; and the names of the GPUs.

``ROWS`` is the only place with this knowledge. A row is what a document says, not what a GPU has shown: nothing in it
was measured. The full TensorRT builds on the GPU itself and judges for itself, so its rows only serve advice.
TensorRT-RTX builds ahead of time, so its rows decide which targets there are.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass

from alexnet_deploy.errors import UsageError
from alexnet_deploy.precision.types import WEIGHTS_ONLY
from alexnet_deploy.runtime.tensorrt.library import FULL, RTX

_RTX_MATRIX = "docs.nvidia.com/deeplearning/tensorrt-rtx/latest/getting-started/support-matrix-1/1.5.html"
_RTX_AHEAD_OF_TIME = "docs.nvidia.com/deeplearning/tensorrt-rtx/latest/inference-library/cpu-engines.html"
_RTX_BUILDER = "the builder of TensorRT-RTX 1.7.1"
_MATRIX = "docs.nvidia.com/deeplearning/tensorrt/11.4.1/getting-started/support-matrix.html"
_MATRIX_10 = "docs.nvidia.com/deeplearning/tensorrt/latest/getting-started/support-matrix-10/10.0.1.html"
_NOTES_10_8 = "docs.nvidia.com/deeplearning/tensorrt/10.8.0/getting-started/release-notes.html"
_NOTES_10_14 = "docs.nvidia.com/deeplearning/tensorrt/release-notes/, 10.14.1"
_NOTES_11_5 = "docs.nvidia.com/deeplearning/tensorrt/latest/getting-started/release-notes-11/11.5.0.html"
_JETPACK_7 = "the components of JetPack 7.0, with TensorRT 10.13"
_DRIVE_7 = (
    "developer.nvidia.com/docs/drive/drive-os/7.0.3/public/drive-os-tensorrt-release-notes/release-properties.html"
)
_RENAMED = "docs.nvidia.com/cuda/nvcompdx/release_notes.html, 0.1.1: CUDA 13 calls Thor sm_110, CUDA 12 sm_101"
_JETSON_11 = "docs.nvidia.com/deeplearning/tensorrt/{}/api/migration/tensorrt-10x-to-11x-jetson.html"
_JETSON_WITHOUT, _JETSON_WITH = _JETSON_11.format("11.3.0"), _JETSON_11.format("11.4.1")


@dataclass(frozen=True, slots=True)
class Row:
    """The precisions that a document lists for one compute capability, from one version of one TensorRT on.

    ``int8`` means weights and activations; ``int8-weights`` and ``int4`` weights alone. The matrices of the full
    TensorRT have no columns for weights alone.
    """

    library: str
    since: tuple[int, int]
    capability: str
    precisions: tuple[str, ...]
    source: str
    accepted: tuple[str, ...] = ()
    """Precisions that its builder accepts and reports, and no document lists."""
    without: tuple[tuple[int, int], tuple[int, int]] | None = None
    """The first version that lacks it again, and the first that has it back."""
    unconfirmed: str = ""
    """What in this row is concluded, and stands in no document that was found."""

    def includes(self, version: tuple[int, int]) -> bool:
        """Whether this version of ``library`` has the capability."""
        return self.since <= version and not (self.without and self.without[0] <= version < self.without[1])


_NO_JETSON = ((11, 0), (11, 4))
"""Versions of the full TensorRT without support for Jetson: before, JetPack brings 10.x; 11.4.1 needs JetPack 7.2.2."""

ROWS = (
    # Its matrix lists FP32 for Turing with a reservation, and its builder refuses a matrix multiply in FP32.
    Row(RTX, (1, 0), "sm75", ("fp16",), f"{_RTX_MATRIX}; {_RTX_BUILDER}"),
    Row(
        RTX,
        (1, 0),
        "sm80",
        ("fp32", "fp16", "int8-weights", "int4"),
        _RTX_AHEAD_OF_TIME,
        ("int8",),
        unconfirmed="its precisions: no matrix found has sm80; they are those of sm86",
    ),
    Row(RTX, (1, 0), "sm86", ("fp32", "fp16", "int8-weights", "int4"), _RTX_MATRIX, ("int8",)),
    Row(RTX, (1, 0), "sm89", ("fp32", "fp16", "fp8", "int8-weights", "int4"), _RTX_MATRIX, ("int8",)),
    Row(RTX, (1, 0), "sm120", ("fp32", "fp16", "fp8", "int8-weights", "int4"), _RTX_MATRIX, ("int8",)),
    Row(RTX, (1, 5), "sm121", ("fp32", "fp16", "fp8", "int8-weights", "int4"), _RTX_MATRIX, ("int8",)),
    Row(FULL, (10, 0), "sm75", ("fp32", "fp16", "int8"), _MATRIX_10),
    Row(FULL, (10, 0), "sm80", ("fp32", "fp16", "int8"), _MATRIX_10),
    Row(FULL, (10, 0), "sm86", ("fp32", "fp16", "int8"), _MATRIX_10),
    Row(
        FULL,
        (10, 0),
        "sm87",
        ("fp32", "fp16", "int8"),
        f"{_MATRIX_10}; {_JETSON_WITHOUT}; {_JETSON_WITH}",
        without=_NO_JETSON,
    ),
    Row(FULL, (10, 0), "sm89", ("fp32", "fp16", "int8", "fp8"), _MATRIX_10),
    Row(FULL, (10, 0), "sm90", ("fp32", "fp16", "int8", "fp8"), _MATRIX_10),
    Row(FULL, (10, 8), "sm100", ("fp32", "fp16", "int8", "fp8"), f"{_NOTES_10_8}; {_MATRIX}"),
    Row(FULL, (10, 8), "sm120", ("fp32", "fp16", "int8", "fp8"), f"{_NOTES_10_8}; {_MATRIX}"),
    Row(
        FULL,
        (10, 13),
        "sm110",
        ("fp32", "fp16", "int8", "fp8"),
        f"{_JETPACK_7}; {_DRIVE_7}; {_RENAMED}; {_JETSON_WITHOUT}; {_JETSON_WITH}",
        without=_NO_JETSON,
        unconfirmed="its precisions: listed for this chip as sm101, in 10.10.10 for DRIVE; no matrix found has sm110",
    ),
    Row(FULL, (10, 14), "sm103", ("fp32", "fp16", "int8", "fp8"), f"{_NOTES_10_14}; {_NOTES_11_5}"),
    Row(FULL, (10, 14), "sm121", ("fp32", "fp16", "int8", "fp8"), f"{_NOTES_10_14}; {_MATRIX}"),
)

RTX_TARGETS = tuple(row.capability for row in ROWS if row.library == RTX)
"""Compute capabilities that TensorRT-RTX builds for: Hopper, data-centre Blackwell and Jetson need the full one."""
RTX_EXCLUDES = f"{_RTX_BUILDER}; {_RTX_MATRIX}"
"""Why there are no others: the builder's ``ComputeCapability`` has these alone, and no matrix (1.0 to 1.5) lists one
that it lacks. No document names Jetson as excluded."""

FP8_SINCE = 89
"""The first compute capability with FP8 tensor cores (Ada)."""

NO_HARDWARE_COMPATIBILITY = ("sm87", "sm101", "sm110")
"""Jetson and DRIVE: the full TensorRT's guide excludes them from hardware compatibility."""

_NAMES = {
    "sm75": "t4 t400 t600 t1000 gtx1650 gtx1650ti gtx1660 gtx1660ti "
    "rtx2060 rtx2070 rtx2080 rtx2080ti quadrortx4000 quadrortx5000 quadrortx6000 quadrortx8000 titanrtx",
    "sm80": "a100 a30 a800",
    "sm86": "a2 a10 a10g a16 a40 a4000 a5000 a6000 rtxa4000 rtxa5000 rtxa6000 "
    "rtx3050 rtx3060 rtx3060ti rtx3070 rtx3070ti rtx3080 rtx3080ti rtx3090 rtx3090ti",
    "sm87": "orin agxorin jetsonorin orinnx orinnano",
    "sm89": "l4 l20 l40 l40s rtx4050 rtx4060 rtx4060ti rtx4070 rtx4070ti rtx4080 rtx4090 rtx4000ada rtx5000ada "
    "rtx6000ada",
    "sm90": "h20 h100 h200 h800 gh200",
    "sm100": "b100 b200 gb200",
    "sm103": "b300 gb300",
    "sm110": "thor agxthor jetsonthor",
    "sm120": "rtx5050 rtx5060 rtx5060ti rtx5070 rtx5070ti rtx5080 rtx5090 rtxpro4000 rtxpro5000 rtxpro6000",
    "sm121": "gb10 spark dgxspark",
}
GPUS = {name: capability for capability, names in _NAMES.items() for name in names.split()}
"""Compute capability by the name of a GPU, in small letters without spaces (developer.nvidia.com/cuda-gpus)."""

_MAKERS = re.compile(r"^(nvidia|geforce|tesla)+")
_FORMS = re.compile(
    r"[0-9]+gb|hbm[0-9]\w?|pcie|sxm[0-9]?|nvl|super|laptop|mobile|max|q|gpu|nvgpu|generation|blackwell|server"
    r"|workstation|edition",
    re.ASCII,
)
"""Words after the name of a model that leave its compute capability as it is: memory, socket, form."""


def capability_of(name: str) -> str | None:
    """The compute capability that ``name`` means: ``"sm89"`` for ``sm89``, ``rtx4090`` or ``NVIDIA L4``; None: none.

    It takes the names that nvidia-smi prints, such as ``NVIDIA H100 80GB HBM3``.
    """
    words = re.split(r"[\s_()-]+", name.lower().strip(" ()"))
    while len(words) > 1 and _FORMS.fullmatch(words[-1]):
        words.pop()
    plain = "".join(words)
    if re.fullmatch(r"sm[0-9]{2,3}", plain):
        return plain
    return GPUS.get(plain) or GPUS.get(_MAKERS.sub("", plain).removesuffix("super"))


def require_capability(name: str, others: Iterable[str]) -> str:
    """``capability_of``, or a UsageError that names similar GPUs and the ``others`` that may stand there."""
    found = capability_of(name)
    if found is None:
        text = re.sub(r"[\s_-]", "", name.lower())
        close = [each for each in GPUS if text and text in each] or difflib.get_close_matches(text, GPUS)
        similar = f"did you mean {', '.join(close[:3])}? " if close else ""
        raise UsageError(
            f"`targets` {name}: unknown; {similar}choose from {', '.join(others)}, or a GPU such as t4, a100, l40s, "
            "rtx4090 or h100"
        )
    return found


def row_of(library: str, version: str, capability: str) -> Row | None:
    """The row for a capability in a version of ``library`` (``"tensorrt"`` or ``"tensorrt_rtx"``)."""
    for row in ROWS:
        if (row.library, row.capability) == (library, capability) and row.includes(_version(version)):
            return row
    return None


def why_unsupported(library: str, version: str, capability: str) -> str | None:
    """Why this TensorRT does not run on a GPU of ``capability``, with a package that does; None if it may.

    A capability beyond all that are listed is left to the library itself.
    """
    listed = [row for row in ROWS if row.library == library]
    number = int(capability.removeprefix("sm"))
    if row_of(library, version, capability) is not None or number > max(int(row.capability[2:]) for row in listed):
        return None
    title = "TensorRT-RTX" if library == RTX else "TensorRT"
    later = next((row for row in listed if row.capability == capability), None)
    if later is not None:
        first = later.since if later.without is None or _version(version) < later.since else later.without[1]
        return f"{title} supports {capability} from {first[0]}.{first[1]} on, not in {version}; update it"
    if library == FULL:
        return f"{title} {version} does not support {capability}; run the ONNX with `runtime` onnxruntime"
    return f"{title} does not support {capability}; {package_for(capability)}"


def why_not_built(library: str, version: str, capability: str) -> str | None:
    """Why this TensorRT builds no plan for a GPU of ``capability``, with a package that does; None if it may.

    TensorRT-RTX builds for the capabilities of the table alone. A newer GPU is left to the full TensorRT.
    """
    reason = why_unsupported(library, version, capability)
    if reason is None and library == RTX and capability not in RTX_TARGETS:
        return f"TensorRT-RTX {version} does not build for {capability}; {package_for(capability)}"
    return reason


def package_for(capability: str) -> str:
    """What has the full TensorRT, which builds a plan on a machine with that GPU; or that none supports it."""
    if capability in NO_HARDWARE_COMPATIBILITY:
        return (
            "the full TensorRT builds for it on the device: JetPack 7 has it, for an environment that sees the "
            "system's packages, else pip install 'alexnet-deploy[gpu]'"
        )
    listed = [row.capability for row in ROWS if row.library == FULL]
    if capability not in listed and int(capability[2:]) < max(int(each[2:]) for each in listed):
        return "no TensorRT of today supports it; run the ONNX with `runtime` onnxruntime"
    return "on a machine with that GPU, pip install 'alexnet-deploy[gpu]' builds for it"


def covers(library: str, version: str, target: str, capability: str) -> bool:
    """Whether a plan's ``target`` includes a GPU: ``sm89`` itself alone, ``sm80+`` each supported one from sm80 on."""
    least = re.fullmatch(r"sm([0-9]{2,3})\+", target)
    if least is None:
        return target == capability
    if int(capability[2:]) < int(least[1]):
        return False
    if library == FULL:
        return capability not in NO_HARDWARE_COMPATIBILITY
    return why_unsupported(library, version, capability) is None


def describe(library: str, version: str, capability: str) -> str:
    """One line for people: what this TensorRT does on a GPU of ``capability``."""
    reason = why_not_built(library, version, capability)
    if reason is not None:
        return reason
    row = row_of(library, version, capability)
    if row is None:
        return f"{capability} is newer than what this version knows of it; the library decides"
    weights = [precision for precision in row.precisions if precision in ("int8-weights", "int4")]
    whole = [precision for precision in row.precisions if precision not in weights]
    text = f"{capability}: {', '.join(whole)}"
    if library == RTX:
        text += f"; weights alone in int8 and int4: {'yes' if weights else 'no'}; int8 activations: not documented"
    return text


def is_limit(library: str, version: str, capability: str, precision: str) -> bool:
    """Whether no layer of a bundle's ``precision`` (such as ``int8+fp16``) can be expected from this TensorRT there."""
    row = row_of(library, version, capability)
    # The matrices of the full TensorRT do not say which weights alone it takes.
    unlisted = WEIGHTS_ONLY if library == FULL else ()
    return row is None or not set(precision.split("+")) <= {*row.precisions, *row.accepted, *unlisted}


UNDOCUMENTED_INT8 = (
    "int8 activations in a plan of TensorRT-RTX: the builder reports int8 layers, but NVIDIA documents int8 there for "
    "weights alone, and no GPU has confirmed these layers here; its answers are compared with the CPU's when a GPU "
    "first loads the plan; documented are the precisions int8-weights and int4, and int8 in the full TensorRT"
)
"""The note of a bundle with such a plan."""


def undocumented(plans: Iterable[tuple[str, Iterable[str]]]) -> tuple[str, ...]:
    """Notes about plans, given as their builder and the precisions that their layers got."""
    doubted = any(builder == RTX and "int8" in got for builder, got in plans)
    return (UNDOCUMENTED_INT8,) if doubted else ()


def _version(text: str) -> tuple[int, int]:
    """``(1, 7)`` for ``1.7.1.116``; the highest one for text that is no version, so that no row is ruled out."""
    found = re.match(r"(\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2])) if found else (1 << 30, 0)
