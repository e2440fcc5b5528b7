"""Times by kernel, from the profile that ONNX Runtime writes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnxruntime as ort
from numpy.typing import NDArray

from alexnet_deploy.errors import DeployError, InputError, UnavailableError, one_line
from alexnet_deploy.machine.onnx_session import open_session
from alexnet_deploy.profiling.layers.counters.kernel_times import Kernel, KernelTimes, timed_calls
from alexnet_deploy.runtime.onnxruntime.runner import model_for_cpu, session_options

_TYPES = {"float": "fp32", "float16": "fp16", "bfloat16": "bf16", "float8e4m3fn": "fp8"}
_SUFFIX = "_kernel_time"
_INTEGER = ("QLinear", "QGemm", "QAttention", "ConvInteger", "MatMulInteger", "DynamicQuantize")
"""Prefixes of the operators that compute in integers."""
_WIDENED = "InsertedPrecisionFreeCast_"
"""Prefix of a float16 tensor that is computed in float32, because the CPU has no kernel for float16."""

Event = dict[str, Any]


def kernel_times(
    onnx_path: Path, feeds: Mapping[str, NDArray[Any]], *, threads: int | None, calls: int, precision: str = "fp32"
) -> KernelTimes:
    """Run ``calls`` calls with the profile on, with the options and the graph of ``OnnxRuntimeRunner``.

    Raises InputError if ONNX Runtime refuses the model, UnavailableError if its profile cannot be read.
    """
    return profiled_times(
        onnx_path,
        feeds,
        lambda new_options: open_session(model_for_cpu(onnx_path, precision), new_options()),
        calls=calls,
        precision=precision,
        threads=threads,
        on="CPU",
    )


def profiled_times(
    onnx_path: Path,
    feeds: Mapping[str, NDArray[Any]],
    open_: Callable[[Callable[[], Any]], Any],
    *,
    calls: int,
    precision: str,
    on: str,
    threads: int | None = None,
) -> KernelTimes:
    """``kernel_times`` of the session that ``open_`` returns for a function that makes its options.

    ``on`` is the device, for people.
    """
    with TemporaryDirectory(prefix="alexnet-deploy-") as folder:

        def new_options() -> Any:
            options = session_options(precision, threads=threads)
            options.enable_profiling = True
            options.profile_file_prefix = str(Path(folder) / "profile")
            return options

        try:
            session = open_(new_options)
            call_us = timed_calls(lambda: session.run(None, dict(feeds)), calls)
        except DeployError:
            raise
        except Exception as exc:  # its exceptions share no public base
            raise InputError(f"{onnx_path}: ONNX Runtime refuses it ({one_line(exc)}); try `runtime` openvino") from exc
        profile = Path(session.end_profiling())
        try:
            events: list[Event] = json.loads(profile.read_bytes())
        except (OSError, ValueError) as exc:
            raise UnavailableError(
                f"{profile}: ONNX Runtime's profile cannot be read ({exc}); free room there"
            ) from exc
    runs = list(_runs(events))[-calls:]
    if len(runs) < calls or not runs[0]:
        raise UnavailableError(f"ONNX Runtime {ort.__version__} reports no times by node; use `runtime` openvino")
    kernels = tuple(_kernel(event, tuple(float(run[key]["dur"]) for run in runs)) for key, event in runs[0].items())
    return KernelTimes(f"ONNX Runtime {ort.__version__} on {on}", kernels, call_us)


def _runs(events: list[Event]) -> Iterator[dict[str, Event]]:
    """The kernels of each call by name, in order; the event of the call itself comes last."""
    run: dict[str, Event] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith(_SUFFIX):
            run[event["name"].removesuffix(_SUFFIX)] = event
        elif event.get("name") == "model_run":
            yield run
            run = {}


def _kernel(event: Event, us: tuple[float, ...]) -> Kernel:
    args = event["args"]
    name = event["name"].removesuffix(_SUFFIX)
    op = args["op_name"]
    input_type = _first_type(args["input_type_shape"])
    # Weights that were packed earlier are no longer among the inputs; their type follows from the operator.
    precision = "int8" if op.startswith(_INTEGER) else input_type
    return Kernel(
        name=name,
        op=op,
        implementation=op,
        sources=(name.removeprefix("fused ").removeprefix(_WIDENED),),
        precision=precision,
        input_type=input_type,
        weight_type="int4" if op == "MatMulNBits" else precision,  # we make no others (runtime/lowering/nbits.py)
        output_type=_first_type(args["output_type_shape"]),
        us=us,
    )


def _first_type(shapes: list[dict[str, Any]]) -> str:
    name = next(iter(shapes[0])) if shapes else "unknown"
    return _TYPES.get(name, name)
