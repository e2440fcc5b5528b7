"""Calls of an ONNX Runtime session on CUDA whose input and output stay in the same memory of the GPU.

Pixels go through page-locked memory, logits come back through it. A batch size that returns keeps its buffers, and its
calls are replayed as a CUDA graph: one launch for all kernels.
"""

from __future__ import annotations

import threading
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alexnet_deploy.contract import ModelContract
from alexnet_deploy.machine.onnx_session import graph_options
from alexnet_deploy.runtime.cuda.captures import capturing
from alexnet_deploy.runtime.cuda.device import Device
from alexnet_deploy.runtime.cuda.memory import allocated, is_shared, pinned
from alexnet_deploy.runtime.runner import Steps

# Legend: N batch, H height, W width, C channel (RGB), K class

MAX_KEPT = 4
"""Batch sizes with buffers and a graph of their own. The memory of a graph is given back with the session alone."""
_PIXELS, _LOGITS = "tensor(uint8)", "tensor(float)"


@dataclass(slots=True)
class SharedState:
    """What all callers of one session know of it; each of them runs in its own thread."""

    captures: bool
    """Whether the session was opened for CUDA graphs. Then each run must say that it wants none, if so."""
    graphs: bool
    """Whether calls may be captured. ONNX Runtime forbids calls from several threads while there are graphs."""
    ran: set[int] = field(default_factory=set)
    """Batch sizes for which cuDNN's search for algorithms is done."""
    came: set[int] = field(default_factory=set)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def options(self, graph: int | None = None) -> Any:
        """The options of a run that uses the CUDA graph with this number, or none."""
        return graph_options(graph) if self.captures else None

    def padded(self, count: int) -> int:
        """The batch size to run for ``count`` images: ``count``, or a larger one that ran before.

        A size that comes for the first time may be the last, shorter batch of a run, which is not worth a search of
        its own. One that comes again is.
        """
        with self.lock:
            larger = [size for size in self.ran if size > count]
            size = count if count in self.came else min(larger, default=count)
            self.came.add(count)
            return size

    def note(self, size: int) -> None:
        """A batch of ``size`` ran: one that fails, for want of memory say, is no size to pad smaller ones to."""
        with self.lock:
            self.ran.add(size)


def with_padding(pixels_NHWC: NDArray[np.uint8], count: int) -> NDArray[np.uint8]:
    """``pixels_NHWC`` with its last image repeated up to ``count``."""
    missing = count - len(pixels_NHWC)
    return np.concatenate([pixels_NHWC, np.repeat(pixels_NHWC[-1:], missing, axis=0)]) if missing else pixels_NHWC


def fits(session: Any, contract: ModelContract) -> bool:
    """Whether the session takes uint8 and returns float32 logits of the contract's classes, and so can be bound."""
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if len(inputs) != 1 or (inputs[0].type, outputs[0].type) != (_PIXELS, _LOGITS):
        return False
    return len(outputs[0].shape) == 2 and outputs[0].shape[1] == contract.outputs


class _Buffers:
    """Memory for one batch size, on the host and on the GPU, and the binding of a session to it."""

    def __init__(self, session: Any, device: Device, contract: ModelContract, count: int, on: str) -> None:
        pre = contract.preprocessing
        self.calls = 0
        self.captured = False
        with ExitStack() as resources:
            self.pixels_NHWC = pinned(device, resources, (count, pre.height, pre.width, 3), np.uint8)
            self.logits_NK = pinned(device, resources, (count, contract.outputs), np.float32)
            self.input, self.output = (
                allocated(device, resources, array.nbytes) for array in (self.pixels_NHWC, self.logits_NK)
            )
            self.binding: Any = session.io_binding()
            shapes = self.pixels_NHWC.shape, self.logits_NK.shape
            self.binding.bind_input(contract.input_name, on, device.index, np.uint8, shapes[0], self.input)
            self.binding.bind_output(contract.output_name, on, device.index, np.float32, shapes[1], self.output)
            self._resources = resources.pop_all()

    def close(self) -> None:
        self.binding = None  # before the memory that it points to
        del self.pixels_NHWC, self.logits_NK
        self._resources.close()


class BoundSession:
    """One caller of a session, for one thread at a time, with a stream and buffers of its own on ``device``.

    Raises UnavailableError if the GPU fails, and what ONNX Runtime raises.
    """

    def __init__(
        self, session: Any, device: Device, contract: ModelContract, shared: SharedState, *, on: str = "cuda"
    ) -> None:
        """``on`` is ONNX Runtime's name of the kind of memory that ``device`` has."""
        self._session: Any = session
        self._device, self._contract, self._shared, self._on = device, contract, shared, on
        self._kept: dict[int, _Buffers] = {}
        self._spare: tuple[int, _Buffers] | None = None
        self._capturing: int | None = None
        """The thread whose calls are captured: ONNX Runtime keeps the graphs of each thread apart."""
        self._stream = device.create_stream()

    def __call__(self, pixels_NHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Logits ``[N, K]`` of pixels ``[N, H, W, 3]``; the caller owns the result."""
        count = len(pixels_NHWC)
        buffers = self._upload(pixels_NHWC)
        self._compute(buffers, self._graph(buffers))
        self._download(buffers)
        return buffers.logits_NK[:count].copy()

    def steps(self, pixels_NHWC: NDArray[np.uint8]) -> Steps:
        """The same call without a graph, step by step."""
        count = len(pixels_NHWC)
        buffers = self._upload(pixels_NHWC)
        yield "host-to-device"
        self._compute(buffers, None)
        yield "compute"
        self._download(buffers)
        yield "device-to-host"
        return buffers.logits_NK[:count].copy()

    def close(self) -> None:
        """Release the stream and all memory; the session, with its graphs, must not run again."""
        with ExitStack() as each:
            each.callback(self._device.destroy_stream, self._stream)
            for buffers in self._kept.values():
                each.callback(buffers.close)
            if self._spare is not None:
                each.callback(self._spare[1].close)
        self._kept, self._spare, self._session = {}, None, None

    def _upload(self, pixels_NHWC: NDArray[np.uint8]) -> _Buffers:
        """Copy the pixels to the GPU, the last one again for each image that pads the batch.

        They go through page-locked memory of its own, unless they lie in such memory already.
        """
        count = len(pixels_NHWC)
        buffers = self._buffers(self._shared.padded(count))
        source_NHWC = buffers.pixels_NHWC
        if len(source_NHWC) == count and is_shared(pixels_NHWC):
            source_NHWC = pixels_NHWC
        else:
            np.copyto(source_NHWC[:count], pixels_NHWC)
            source_NHWC[count:] = pixels_NHWC[-1:]
        buffers.calls += 1
        self._device.upload(buffers.input, source_NHWC, self._stream)
        self._device.synchronize(self._stream)  # the session computes on a stream of its own
        return buffers

    def _buffers(self, size: int) -> _Buffers:
        if size in self._kept:
            return self._kept[size]
        if len(self._kept) < MAX_KEPT:
            self._kept[size] = _Buffers(self._session, self._device, self._contract, size, self._on)
            return self._kept[size]
        if self._spare is None or self._spare[0] != size:
            if self._spare is not None:
                self._spare[1].close()
                self._spare = None
            self._spare = size, _Buffers(self._session, self._device, self._contract, size, self._on)
        return self._spare[1]

    def _graph(self, buffers: _Buffers) -> int | None:
        """The number of the graph for a call: its batch size, if it came before and this thread may use graphs.

        ``_compute`` captures it, if nothing else uses a GPU in this process.
        """
        size = len(buffers.pixels_NHWC)
        if not self._shared.graphs or buffers.calls < 2 or size not in self._kept:
            return None
        return size if self._capturing in (None, threading.get_ident()) else None

    def _compute(self, buffers: _Buffers, graph: int | None) -> None:
        if graph is None or buffers.captured:
            self._run(buffers, graph)
            return
        with capturing() as may_capture:
            if may_capture:
                self._capturing = threading.get_ident()
                self._run(buffers, graph)
                buffers.captured = True
        if not buffers.captured:
            self._run(buffers, None)

    def _run(self, buffers: _Buffers, graph: int | None) -> None:
        self._session.run_with_iobinding(buffers.binding, self._shared.options(graph))
        buffers.binding.synchronize_outputs()
        self._shared.note(len(buffers.pixels_NHWC))

    def _download(self, buffers: _Buffers) -> None:
        self._device.download(buffers.logits_NK, buffers.output, self._stream)
        self._device.synchronize(self._stream)
