"""A TensorRT plan on the GPU, through the full TensorRT or TensorRT-RTX, whichever built it.

Everything that can be allocated is allocated once, for the largest batch; a call copies pixels in, runs, and copies
logits out. AlexNet is some twenty kernels. A CUDA graph launches them, and the copy of the logits, in one call:
TensorRT-RTX captures by itself; for the full TensorRT it is done here. The pixels may come from any memory that a
decoder has filled (``make_pixels``), so their copy is outside the graph.
"""

from __future__ import annotations

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alexnet_deploy.bundle.manifest import Plan
from alexnet_deploy.bundle.plan_options import profile_for
from alexnet_deploy.contract import BatchProfile, ModelContract
from alexnet_deploy.errors import UnavailableError
from alexnet_deploy.runtime.cuda.device import Device
from alexnet_deploy.runtime.cuda.errors import gpu_error
from alexnet_deploy.runtime.cuda.memory import allocated, is_shared, pinned, shared_pixels
from alexnet_deploy.runtime.runner import MakePixels, Steps, single_caller
from alexnet_deploy.runtime.tensorrt.library import TensorRT, kernel_profiler
from alexnet_deploy.runtime.tensorrt.rtx_kernels import RtxKernels

# Legend: N batch, H height, W width, C channel (RGB), K class

MAX_GRAPHS = 4
"""Batch sizes kept as CUDA graphs. Each holds an execution context, so activations for the largest batch."""


class TensorRTRunner:
    """A loaded plan, with its own stream and buffers."""

    runtime = "tensorrt"

    def __init__(
        self,
        library: TensorRT,
        engine: Any,
        device: Device,
        contract: ModelContract,
        batch: BatchProfile,
        resources: ExitStack | None = None,
        *,
        plan: Plan | None = None,
        kernels: RtxKernels | None = None,
    ) -> None:
        """``engine`` is TensorRT's, loaded from ``plan``, with the tensors of ``contract``.

        ``kernels`` is for an engine of TensorRT-RTX; the caller saves it. Takes over ``resources``, which are closed
        after everything else, even if this raises.
        """
        self.contract = contract
        self.batch: BatchProfile | None = batch
        self.device = device.capability
        self.description = f"{library} on {device.name}"
        self.card = device.card
        self.plan = None if plan is None else plan.file
        """File name of the plan in its bundle."""
        self.make_pixels: MakePixels = partial(shared_pixels, device)
        self._library = library
        self._engine = engine
        self._record = plan
        self._profiles = () if plan is None or plan.options is None else plan.options.profiles
        self._kernels = kernels
        self._device = device
        self._sizes = range(batch.min, batch.max + 1)
        self._image = (contract.preprocessing.height, contract.preprocessing.width, 3)
        self._graphs: OrderedDict[int, tuple[int, Any]] = OrderedDict()
        self._contexts: dict[int, Any] = {}
        """Execution contexts that no graph owns, by their optimisation profile."""
        self._captures = device.graphs and kernels is None
        self._closed = False
        self._running = threading.Lock()
        with ExitStack() as self._resources:
            if resources is not None:
                self._resources.push(resources.pop_all())
            self._stream = device.create_stream()
            self._resources.callback(device.destroy_stream, self._stream)
            self._pixels_NHWC = pinned(self._device, self._resources, (batch.max, *self._image), np.uint8)
            self._logits_NK = pinned(self._device, self._resources, (batch.max, contract.outputs), np.float32)
            self._input = allocated(self._device, self._resources, self._pixels_NHWC.nbytes)
            self._output = allocated(self._device, self._resources, self._logits_NK.nbytes)
            # Last in, first out: graphs and contexts go before the memory that they point to.
            self._resources.callback(self._drop)
            self._context(batch.opt)
            self._resources = self._resources.pop_all()

    def __call__(self, pixels_NHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Logits ``[N, K]`` of uint8 RGB pixels ``[N, H, W, 3]``, N within ``batch``; the caller owns the result.

        Raises UnavailableError if the GPU fails (the runner stays usable if the GPU does), UsageError in another call.
        """
        with single_caller(self._running, self.description):
            return self._run(pixels_NHWC)

    def _run(self, pixels_NHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        count = self._count(pixels_NHWC)
        captured = count in self._graphs
        with self._uploading(pixels_NHWC):
            if captured:
                self._graphs.move_to_end(count)
                self._device.launch(self._graphs[count][0], self._stream)
            else:
                self._enqueue(self._context(count), count)
            # Before any capture: the first run of a shape does work on the host that a graph cannot hold.
            self._device.synchronize(self._stream)
        if self._captures and not captured:
            self._capture(count)
        return self._logits_NK[:count].copy()

    def steps(self, pixels_NHWC: NDArray[np.uint8]) -> Steps:
        """The same call without a graph, which has no steps, and with a wait after each step."""
        with single_caller(self._running, self.description):
            return (yield from self._run_in_steps(pixels_NHWC))

    def _run_in_steps(self, pixels_NHWC: NDArray[np.uint8]) -> Steps:
        count = self._count(pixels_NHWC)
        context = self._context(count)
        with self._uploading(pixels_NHWC):
            self._device.synchronize(self._stream)
        yield "host-to-device"
        self._execute(context, count)
        self._device.synchronize(self._stream)
        yield "compute"
        self._device.download(self._logits_NK[:count], self._output, self._stream)
        self._device.synchronize(self._stream)
        yield "device-to-host"
        return self._logits_NK[:count].copy()

    def fork(self) -> TensorRTRunner:
        """The same engine with its own context, stream and buffers: its calls overlap with those of this one."""
        if self._closed:
            raise ValueError("the runner is closed")
        assert self.batch is not None  # set above; None is for runtimes without a profile
        return TensorRTRunner(
            self._library,
            self._engine,
            self._device,
            self.contract,
            self.batch,
            plan=self._record,
            kernels=self._kernels,
        )

    def close(self) -> None:
        """Release all GPU and pinned memory; may be called twice."""
        self._resources.close()

    def report_kernels(self, report: Callable[[str, float], None]) -> None:
        """Call ``report`` with the name and the milliseconds of each kernel of every call of ``steps`` from now on."""
        # Without TensorRT-RTX's runtime config: a profiler does not see kernels captured as a graph.
        for index in range(max(1, len(self._profiles))):
            context = self._engine.create_execution_context()
            self._bind(context, index)
            context.profiler = kernel_profiler(self._library.api, report)
            self._contexts[index] = context

    def _count(self, pixels_NHWC: NDArray[np.uint8]) -> int:
        """The number of images in ``pixels_NHWC``; ValueError if they are not those of a call."""
        if self._closed:
            raise ValueError("the runner is closed")
        count = len(pixels_NHWC)
        if pixels_NHWC.shape[1:] != self._image or pixels_NHWC.dtype != np.uint8 or count not in self._sizes:
            raise ValueError(f"{pixels_NHWC.dtype} {pixels_NHWC.shape} are not pixels of {self._sizes} x {self._image}")
        return count

    @contextlib.contextmanager
    def _uploading(self, pixels_NHWC: NDArray[np.uint8]) -> Iterator[None]:
        """Enqueue the copy of the pixels; the block waits for it, and whatever it raises, the copy has ended.

        They go through pinned memory of its own, unless they lie in such memory already.
        """
        shared = is_shared(pixels_NHWC)
        source_NHWC = pixels_NHWC if shared else self._pixels_NHWC[: len(pixels_NHWC)]
        if not shared:
            np.copyto(source_NHWC, pixels_NHWC)
        try:
            self._device.upload(self._input, source_NHWC, self._stream)
            yield
        except BaseException:
            with contextlib.suppress(UnavailableError):  # their owner may free them at once
                self._device.synchronize(self._stream)
            raise

    def _enqueue(self, context: Any, count: int) -> None:
        self._execute(context, count)
        self._device.download(self._logits_NK[:count], self._output, self._stream)

    def _execute(self, context: Any, count: int) -> None:
        if not context.set_input_shape(self.contract.input_name, (count, *self._image)):
            raise self._error("set_input_shape")
        if not context.execute_async_v3(self._stream):
            raise self._error("execute_async_v3")

    def _capture(self, count: int) -> None:
        """Record one batch size, for the calls to come.

        By TensorRT's guide, a captured graph depends on the state of its context, which must not change afterwards:
        from then on the context belongs to the graph.
        """
        index = profile_for(self._profiles, count)
        try:
            self._device.begin_capture(self._stream)
            self._enqueue(self._contexts[index], count)
            graph = self._device.end_capture(self._stream)
        except UnavailableError:
            # Some engines cannot be captured and run kernel by kernel. Capture mode must be left in any case.
            with contextlib.suppress(UnavailableError):
                self._device.destroy_graph(self._device.end_capture(self._stream))
            self._device.clear_error()
            self._captures = False
            return
        self._graphs[count] = (graph, self._contexts.pop(index))
        if len(self._graphs) > MAX_GRAPHS:
            _, (oldest, _context) = self._graphs.popitem(last=False)
            self._device.destroy_graph(oldest)

    def _context(self, count: int) -> Any:
        """The execution context for batches of ``count``, outside graphs."""
        index = profile_for(self._profiles, count)
        if index not in self._contexts:
            self._library.messages.clear()
            if self._kernels is None:
                context = self._engine.create_execution_context()
            else:
                context = self._engine.create_execution_context(self._kernels.configured(self._engine))
            self._bind(context, index)
            self._contexts[index] = context
        return self._contexts[index]

    def _bind(self, context: Any, index: int) -> None:
        """Set the profile and the addresses of input and output; UnavailableError also for a context that is None."""
        if context is None:
            raise self._error("create_execution_context")
        # A context has the first profile until another one is set, which the stream does before the next run.
        if index > 0 and not context.set_optimization_profile_async(index, self._stream):
            raise self._error(f"set_optimization_profile_async {index}")
        for name, pointer in ((self.contract.input_name, self._input), (self.contract.output_name, self._output)):
            if not context.set_tensor_address(name, pointer):
                raise self._error(f"set_tensor_address {name}")

    def _error(self, call: str) -> UnavailableError:
        said = self._library.messages.cause()
        fix = "check nvidia-smi, or use `runtime` onnxruntime"
        return gpu_error(call, said) or UnavailableError(f"{call}: {said}", fix)

    def _drop(self) -> None:
        self._closed = True
        graphs = list(self._graphs.values())  # keeps their contexts until they are destroyed
        self._graphs.clear()
        self._contexts.clear()
        self._engine = self._kernels = None
        del self._pixels_NHWC, self._logits_NK  # views of pinned memory that is about to be freed
        with ExitStack() as each:
            for graph, _context in graphs:
                each.callback(self._device.destroy_graph, graph)
