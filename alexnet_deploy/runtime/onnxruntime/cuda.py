"""ONNX Runtime's CUDA provider: its options, and why it does not start."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alexnet_deploy.errors import UnavailableError, one_line
from alexnet_deploy.machine.onnx_session import built_for_cuda, open_session, preload_cuda
from alexnet_deploy.machine.packages import installed_cuda, onnxruntime_version
from alexnet_deploy.precision.types import float_type
from alexnet_deploy.runtime.cuda.device import open_device

CUDA = "CUDAExecutionProvider"
INSTALL = "pip install 'onnxruntime-gpu[cuda,cudnn]'"
"""Its extras bring the CUDA and cuDNN that it was built for."""
_NOT_ALL_ON_CUDA = ("fallback to cpu ep has been explicitly disabled", "graph capture feature")
"""Parts of what ONNX Runtime says, in lower case, of a graph with nodes that CUDA has no kernels for."""


@dataclass(frozen=True, slots=True)
class CudaSession:
    """A session on CUDA."""

    session: Any
    whole: bool
    """Every node runs on the GPU. Otherwise tensors go back and forth for those without a CUDA kernel."""
    graphs: bool
    """Runs may be captured as CUDA graphs, and replayed."""
    index: int = 0
    """Number of its GPU, as ``cuda.Device.index``."""


def provider_options(precision: str, *, tf32: bool = False, graphs: bool = False, index: int = 0) -> dict[str, str]:
    """Options of the CUDA provider; each is stated, whatever the default of a version."""
    return {
        "device_id": str(index),
        # On by default: products of float32 with ten bits of mantissa, as in float16, under the name of float32.
        "use_tf32": "1" if tf32 else "0",
        # Tries each algorithm once per shape. It costs some time, so `bound_session.py` keeps the shapes few.
        "cudnn_conv_algo_search": "EXHAUSTIVE",
        "cudnn_conv_use_max_workspace": "1",
        # Copies on a stream of their own race with the computation, by its documentation.
        "do_copy_in_default_stream": "1",
        # Tensor cores read float16 with the channels last; float32 without TF32 does not use them.
        "prefer_nhwc": "1" if float_type(precision) == "fp16" else "0",
        "enable_cuda_graph": "1" if graphs else "0",
    }


def require_libraries() -> None:
    """Load CUDA and cuDNN; UnavailableError that names what is missing, and the CUDA that is there instead."""
    major = built_for_cuda()
    if major is None:
        raise UnavailableError(f"ONNX Runtime {onnxruntime_version()} is built without CUDA", fix=INSTALL)
    missing = preload_cuda()
    if not missing:
        return
    there = installed_cuda()
    cause = f"ONNX Runtime {onnxruntime_version()} is built for CUDA {major} and does not find {', '.join(missing)}"
    if there and major not in there:
        raise UnavailableError(
            f"{cause}: what is installed here is CUDA {' and '.join(map(str, sorted(there)))}",
            fix=f"{INSTALL}, which adds CUDA {major}, or the version for your CUDA (docs/gpu.md)",
        )
    raise UnavailableError(cause, fix=INSTALL)


def open_on_cuda(
    model: Path | bytes,
    new_options: Callable[[], Any],
    precision: str,
    *,
    tf32: bool = False,
    graphs: bool = True,
    index: int = 0,
) -> CudaSession:
    """Open ``model`` on GPU ``index``; ``new_options`` makes options of a session, which this function may change.

    Raises UnavailableError with the cause if CUDA does not start, and what ONNX Runtime raises if it refuses the model.
    """
    require_libraries()
    # A model may refuse graphs (control flow), or have nodes without a kernel, or both.
    for whole, captures in dict.fromkeys(((True, graphs), (True, False), (False, False))):
        options = new_options()
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1" if whole else "0")
        try:
            settings = provider_options(precision, tf32=tf32, graphs=captures, index=index)
            session = open_session(model, options, CUDA, settings)
        except Exception as exc:  # its exceptions share no public base
            if not whole or not any(part in one_line(exc, 2000).lower() for part in _NOT_ALL_ON_CUDA):
                raise
            continue
        break
    if session.get_providers()[0] != CUDA:
        raise _did_not_start(index)
    return CudaSession(session, whole, captures, index)


def _did_not_start(index: int) -> UnavailableError:
    """ONNX Runtime falls back to the CPU without an error: the cause is what the driver says."""
    version = onnxruntime_version()
    try:
        open_device(index).close()
    except UnavailableError as exc:
        return UnavailableError(f"ONNX Runtime {version} could not start CUDA: {exc.cause}", fix=exc.fix)
    return UnavailableError(
        f"ONNX Runtime {version} could not start CUDA, although the GPU and CUDA's libraries are there",
        fix="install a newer onnxruntime-gpu[cuda,cudnn], or use `runtime` onnxruntime",
    )


def try_cuda() -> str:
    """Run a small model with a convolution and a matrix product on CUDA; what worked, for people.

    Raises UnavailableError if CUDA does not start, and what ONNX Runtime raises if it fails.
    """
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    from alexnet_deploy.runtime.onnxruntime.runner import session_options

    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, 3, 3])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1, 1, 1])
    weight = numpy_helper.from_array(np.ones((1, 1, 3, 3), np.float32), "w")
    factor = numpy_helper.from_array(np.full((1, 1), 2, np.float32), "f")
    nodes = [helper.make_node("Conv", ["x", "w"], ["c"]), helper.make_node("MatMul", ["c", "f"], ["y"])]
    graph = helper.make_graph(nodes, "a sum", [x], [y], [weight, factor])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    opened = open_on_cuda(model.SerializeToString(), lambda: session_options("fp32"), "fp32", graphs=False)
    (found,) = opened.session.run(None, {"x": np.ones((1, 1, 3, 3), np.float32)})
    if found.item() != 18:  # sums of small integers are exact
        raise UnavailableError(f"it computes {found.item():g} where 18 is right", fix="check nvidia-smi")
    return "runs a model"
