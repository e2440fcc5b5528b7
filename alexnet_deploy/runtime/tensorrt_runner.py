"""A TensorRT plan on the GPU, through the full TensorRT or TensorRT-RTX, whichever built it.

Everything that can be allocated is allocated once, for the largest batch; a call copies pixels in, runs, and copies
logits out. AlexNet is some twenty kernels, and a CUDA graph launches them, and both copies, in one call: TensorRT-RTX
captures by itself, for the full TensorRT it is done here.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections import OrderedDict
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alexnet_deploy.bundle.manifest import Engine, Plan
from alexnet_deploy.contract import BatchProfile, ModelContract
from alexnet_deploy.errors import ArtifactError, InputError, UnavailableError
from alexnet_deploy.runtime.cuda import Device, open_device
from alexnet_deploy.runtime.stage_timer import Lap, no_lap
from alexnet_deploy.runtime.tensorrt_library import TensorRT, load

# Legend: N batch, H height, W width, C channel (RGB), K class

MAX_GRAPHS = 4
"""Batch sizes kept as CUDA graphs. Each holds an execution context, so activations for the largest batch."""


def open_plan(bundle: Engine) -> TrtRunner:
    """The first plan of ``bundle`` that this machine can run; UnavailableError says why each of them cannot."""
    if bundle.batch is None or not bundle.plans:
        raise UnavailableError(f"{bundle.name} holds no TensorRT plan; build one: alexnet-deploy build-engine")
    reasons = []
    for plan, path in bundle.plans:
        reason = why_not(plan)
        if reason is None:
            return open_trt(path, plan, bundle.contract, bundle.batch)
        reasons.append(f"{plan.file}: {reason}")
    raise UnavailableError(f"{bundle.name}: no plan for this machine ({'; '.join(reasons)})")


def why_not(plan: Plan, device: Device | None = None) -> str | None:
    """Why this machine cannot run ``plan``, in one line; None where nothing speaks against it."""
    with ExitStack() as opened:
        if device is None:
            # Before the library, which stays in memory: some 140 MiB that no machine without a GPU needs.
            try:
                device = open_device()
            except UnavailableError as exc:
                return f"no CUDA device ({exc})"
            opened.callback(device.close)
        try:
            library = load(plan.builder)
        except UnavailableError as exc:
            return str(exc)
        if plan.version != library.version:
            return f"built with {plan.builder} {plan.version}, here is {library.version}; build it again"
        if not _covers(plan.target, device.capability):
            return f"built for {plan.target}, the GPU here is {device.capability}; build it again on this machine"
    return None


def _covers(target: str, capability: str) -> bool:
    """``sm89`` covers itself alone; ``sm80+``, a portable plan's target, covers whatever came later, too."""
    least = re.fullmatch(r"sm(\d+)\+", target)
    return int(capability[2:]) >= int(least[1]) if least else capability == target


def open_trt(
    plan_path: Path, plan: Plan, contract: ModelContract, batch: BatchProfile, *, device: Device | None = None
) -> TrtRunner:
    """Load a plan onto ``device``, or onto the first GPU.

    Raises UnavailableError where the machine cannot run it and ArtifactError where the plan is not what ``plan``,
    ``contract`` and ``batch`` say; nothing stays allocated then.
    """
    with ExitStack() as resources:
        if device is None:
            device = open_device()
            resources.callback(device.close)
        reason = why_not(plan, device)
        if reason is not None:
            raise UnavailableError(f"{plan_path}: {reason}")
        library = load(plan.builder)
        engine = _deserialize(library, plan_path)
        _check_tensors(library, engine, contract, plan_path)
        runner = TrtRunner(library, engine, device, contract, batch, resources)
        runner._resources = resources.pop_all()  # all is well: the runner frees them, not this block
    return runner


def _deserialize(library: TensorRT, plan_path: Path) -> Any:
    api = library.api
    try:
        data = plan_path.read_bytes()
    except OSError as exc:
        raise InputError(f"{plan_path}: cannot be read ({exc.strerror}); build the bundle again") from exc
    library.messages.clear()
    runtime = api.Runtime(library.logger)
    if hasattr(runtime, "get_engine_validity"):
        validity, found = runtime.get_engine_validity(data)
        if validity == api.EngineValidity.INVALID:
            kinds = api.EngineInvalidityDiagnostics.__members__.items()
            reasons = ", ".join(name for name, kind in kinds if int(kind) & found) or library.messages.cause()
            raise UnavailableError(f"{plan_path}: {library} refuses it ({reasons}); build the bundle again here")
    engine = runtime.deserialize_cuda_engine(data)
    if engine is None:
        cause = library.messages.cause()
        raise UnavailableError(f"{plan_path}: {library} cannot load it ({cause}); build the bundle again here")
    return engine


def _check_tensors(library: TensorRT, engine: Any, contract: ModelContract, plan_path: Path) -> None:
    """Our buffers are sized by the contract: an engine of other shapes would write past them."""
    api = library.api
    image = (contract.preprocessing.height, contract.preprocessing.width, 3)
    expected = {
        contract.input_name: (api.TensorIOMode.INPUT, api.DataType.UINT8, image),
        contract.output_name: (api.TensorIOMode.OUTPUT, api.DataType.FLOAT, (len(contract.labels),)),
    }
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    found = {
        name: (engine.get_tensor_mode(name), engine.get_tensor_dtype(name), tuple(engine.get_tensor_shape(name))[1:])
        for name in names
    }
    if found != expected:
        tensors = ", ".join(
            f"{name} {kind.name.lower()} [N, {str(shape)[1:-1]}]" for name, (_, kind, shape) in found.items()
        )
        raise ArtifactError(f"{plan_path}: its tensors ({tensors}) are not its contract's; build the bundle again")


class TrtRunner:
    """A loaded plan. Not for two threads at once: its buffers and its stream are one."""

    lap: Lap = staticmethod(no_lap)

    def __init__(
        self,
        library: TensorRT,
        engine: Any,
        device: Device,
        contract: ModelContract,
        batch: BatchProfile,
        resources: ExitStack,
    ) -> None:
        self.contract = contract
        self.batch: BatchProfile | None = batch
        self._profile = batch
        self.description = f"{library} on {device.name}"
        self._library = library
        self._engine = engine
        self._device = device
        self._sizes = range(batch.min, batch.max + 1)
        self._image = (contract.preprocessing.height, contract.preprocessing.width, 3)
        self._graphs: OrderedDict[int, tuple[int, Any]] = OrderedDict()
        self._captures = device.graphs and not hasattr(library.api, "CudaGraphStrategy")
        self._resources = resources

        self._stream = device.create_stream()
        resources.callback(device.destroy_stream, self._stream)
        self._pixels_NHWC = self._pinned((batch.max, *self._image), np.uint8)
        self._logits_NK = self._pinned((batch.max, len(contract.labels)), np.float32)
        self._input = self._allocated(self._pixels_NHWC.nbytes)
        self._output = self._allocated(self._logits_NK.nbytes)
        # Last in, first out: graphs and contexts go before the memory that they point to.
        resources.callback(self._drop)
        self._context: Any = self._new_context()
        self._closed = False

    def __call__(self, pixels_NHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Logits ``[N, K]`` of uint8 RGB pixels ``[N, H, W, 3]``, N within ``batch``; the caller owns the result.

        Raises UnavailableError where the GPU fails; the runner stays usable if the GPU does.
        """
        if self._closed:
            raise ValueError("the runner is closed")
        count = len(pixels_NHWC)
        if pixels_NHWC.shape[1:] != self._image or pixels_NHWC.dtype != np.uint8 or count not in self._sizes:
            raise ValueError(f"{pixels_NHWC.dtype} {pixels_NHWC.shape} are not pixels of {self._sizes} x {self._image}")
        np.copyto(self._pixels_NHWC[:count], pixels_NHWC)
        if self.lap is not no_lap:
            self._in_steps(count)
        elif count in self._graphs:
            self._graphs.move_to_end(count)
            self._device.launch(self._graphs[count][0], self._stream)
            self._device.synchronize(self._stream)
        else:
            self._context = self._context or self._new_context()
            self._enqueue(self._context, count)
            # Before any capture: the first run of a shape does work on the host that no graph can hold.
            self._device.synchronize(self._stream)
            if self._captures:
                self._capture(count)
        return self._logits_NK[:count].copy()

    def fork(self) -> TrtRunner:
        """The same engine with a context, a stream and buffers of its own: its calls overlap with this one's."""
        if self._closed:
            raise ValueError("the runner is closed")
        with ExitStack() as resources:
            runner = TrtRunner(self._library, self._engine, self._device, self.contract, self._profile, resources)
            runner._resources = resources.pop_all()
        return runner

    def close(self) -> None:
        """Give back all GPU and pinned memory; calling it twice is fine."""
        self._resources.close()

    def _in_steps(self, count: int) -> None:
        """One call with a wait after each step, so that ``lap`` can tell them apart; a graph has no steps."""
        self._context = self._context or self._new_context()
        self._device.upload(self._input, self._pixels_NHWC[:count], self._stream)
        self._device.synchronize(self._stream)
        self.lap("host-to-device")
        self._execute(self._context, count)
        self._device.synchronize(self._stream)
        self.lap("compute")
        self._device.download(self._logits_NK[:count], self._output, self._stream)
        self._device.synchronize(self._stream)
        self.lap("device-to-host")

    def _enqueue(self, context: Any, count: int) -> None:
        self._device.upload(self._input, self._pixels_NHWC[:count], self._stream)
        self._execute(context, count)
        self._device.download(self._logits_NK[:count], self._output, self._stream)

    def _execute(self, context: Any, count: int) -> None:
        if not context.set_input_shape(self.contract.input_name, (count, *self._image)):
            raise UnavailableError(f"set_input_shape: {self._cause()}")
        if not context.execute_async_v3(self._stream):
            raise UnavailableError(f"execute_async_v3: {self._cause()}")

    def _capture(self, count: int) -> None:
        """Record one batch size, for the calls to come.

        TensorRT's guide ties a captured graph to the state of its context, which nothing may change afterwards: the
        context is the graph's own from then on.
        """
        try:
            self._device.begin_capture(self._stream)
            self._enqueue(self._context, count)
            graph = self._device.end_capture(self._stream)
        except UnavailableError:
            # Some engines cannot be captured; they run kernel by kernel. Capture mode must be left in any case.
            with contextlib.suppress(UnavailableError):
                self._device.destroy_graph(self._device.end_capture(self._stream))
            self._device.clear_error()
            self._captures = False
            return
        self._graphs[count] = (graph, self._context)
        self._context = None
        if len(self._graphs) > MAX_GRAPHS:
            _, (oldest, _context) = self._graphs.popitem(last=False)
            self._device.destroy_graph(oldest)

    def _new_context(self) -> Any:
        api, engine = self._library.api, self._engine
        self._library.messages.clear()
        if hasattr(api, "CudaGraphStrategy"):
            # TensorRT-RTX compiles kernels for a shape while it runs, and captures when they are ready.
            runtime_config = engine.create_runtime_config()
            runtime_config.cuda_graph_strategy = api.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
            context = engine.create_execution_context(runtime_config)
        else:
            context = engine.create_execution_context()
        if context is None:
            raise UnavailableError(f"create_execution_context: {self._cause()}")
        for name, pointer in ((self.contract.input_name, self._input), (self.contract.output_name, self._output)):
            if not context.set_tensor_address(name, pointer):
                raise UnavailableError(f"set_tensor_address {name}: {self._cause()}")
        return context

    def _cause(self) -> str:
        return f"{self._library.messages.cause()}; check nvidia-smi, or use --runtime onnxruntime"

    def _pinned(self, shape: tuple[int, ...], dtype: type[Any]) -> NDArray[Any]:
        memory = self._device.allocate_pinned(math.prod(shape) * np.dtype(dtype).itemsize)
        self._resources.callback(self._device.free_pinned, memory)
        return np.ndarray(shape, dtype, buffer=memory)

    def _allocated(self, nbytes: int) -> int:
        pointer = self._device.allocate(nbytes)
        self._resources.callback(self._device.free, pointer)
        return pointer

    def _drop(self) -> None:
        self._closed = True
        graphs = list(self._graphs.values())  # keeps their contexts until they are destroyed
        self._graphs.clear()
        self._context = self._engine = None
        del self._pixels_NHWC, self._logits_NK  # views of pinned memory that is about to go
        with ExitStack() as each:
            for graph, _context in graphs:
                each.callback(self._device.destroy_graph, graph)
