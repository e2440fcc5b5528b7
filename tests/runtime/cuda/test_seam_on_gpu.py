"""What ``runtime.cuda.Device`` promises, asked of each library on a GPU and of the fake that stands in for them.

The fake takes part everywhere, so where a GPU answers otherwise, it is the fake that the other tests believed in vain.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from alexnet_deploy.errors import UnavailableError
from alexnet_deploy.runtime.cuda.device import Device
from tests.helpers.fake_device import FakeDevice

NBYTES = 1 << 20


GPUS = [
    pytest.param("cuda_python.CudartDevice", marks=pytest.mark.gpu),
    pytest.param("pycuda.PycudaDevice", marks=pytest.mark.gpu),
]


@pytest.fixture(params=["fake", *GPUS])
def opened(request: pytest.FixtureRequest) -> Callable[[], Device]:
    """Opens the first GPU through one library; skips with the cause where that is not possible."""
    if request.param == "fake":
        return FakeDevice
    module, _, name = request.param.partition(".")
    try:
        implementation = getattr(importlib.import_module(f"alexnet_deploy.runtime.cuda.{module}"), name)
        implementation().close()
    except (ImportError, UnavailableError) as exc:
        pytest.skip(str(exc))
    return implementation  # type: ignore[no-any-return]


@pytest.fixture
def device(opened: Callable[[], Device]) -> Iterator[Device]:
    with closing(opened()) as device:
        yield device


@pytest.fixture
def owned(device: Device) -> Iterator[ExitStack]:
    """What a test allocates, released before the device."""
    with ExitStack() as resources:
        yield resources


def stream_of(device: Device, owned: ExitStack) -> int:
    stream = device.create_stream()
    owned.callback(device.destroy_stream, stream)
    return stream


def memory_of(device: Device, owned: ExitStack) -> int:
    pointer = device.allocate(NBYTES)
    owned.callback(device.free, pointer)
    return pointer


def pinned_of(device: Device, owned: ExitStack, seed: int | None = None) -> NDArray[Any]:
    array = device.allocate_pinned(NBYTES)
    owned.callback(device.free_pinned, array)
    array[:] = 0 if seed is None else np.random.default_rng(seed).integers(0, 256, NBYTES, np.uint8)
    return array


def test_two_streams_keep_their_work_apart(device: Device, owned: ExitStack) -> None:
    sent = [pinned_of(device, owned, seed) for seed in (1, 2)]
    received = [pinned_of(device, owned) for _ in sent]
    streams = [stream_of(device, owned) for _ in sent]
    pointers = [memory_of(device, owned) for _ in sent]
    for stream, pointer, source, target in zip(streams, pointers, sent, received, strict=True):
        device.upload(pointer, source, stream)
        device.download(target, pointer, stream)
    for stream in reversed(streams):
        device.synchronize(stream)
    for source, target in zip(sent, received, strict=True):
        np.testing.assert_array_equal(target, source)


def test_part_of_a_buffer_leaves_the_rest(device: Device, owned: ExitStack) -> None:
    """As the last, shorter batch of a run does."""
    sent, received = pinned_of(device, owned, 1), pinned_of(device, owned)
    stream, pointer = stream_of(device, owned), memory_of(device, owned)
    device.upload(pointer, sent[:100], stream)
    device.download(received[:100], pointer, stream)
    device.synchronize(stream)
    np.testing.assert_array_equal(received[:100], sent[:100])
    assert not received[100:].any()


def test_a_graph_copies_what_is_in_memory_when_it_is_launched(device: Device, owned: ExitStack) -> None:
    if not device.graphs:
        pytest.skip(f"{device.name}: this library has no graphs")
    sent, received = pinned_of(device, owned, 1), pinned_of(device, owned)
    stream, pointer = stream_of(device, owned), memory_of(device, owned)
    device.begin_capture(stream)
    device.upload(pointer, sent, stream)
    device.download(received, pointer, stream)
    graph = device.end_capture(stream)
    owned.callback(device.destroy_graph, graph)
    device.synchronize(stream)
    assert not received.any(), "recorded work must not run"
    for seed in (2, 3):
        sent[:] = np.random.default_rng(seed).integers(0, 256, NBYTES, np.uint8)
        device.launch(graph, stream)
        device.synchronize(stream)
        np.testing.assert_array_equal(received, sent)


def test_the_free_memory(device: Device) -> None:
    free, total = device.memory_info()
    assert 0 < free <= total


def test_it_may_be_closed_twice_and_the_next_one_works(opened: Callable[[], Device]) -> None:
    first = opened()
    first.close()
    first.close()
    with closing(opened()) as second:
        second.free(second.allocate(NBYTES))


@pytest.mark.parametrize("opened", GPUS, indirect=True)
def test_a_spoilt_capture_harms_no_later_call(device: Device, owned: ExitStack) -> None:
    """The fake has no such thing: it forbids it with an assertion."""
    if not device.graphs:
        pytest.skip(f"{device.name}: this library has no graphs")
    stream = stream_of(device, owned)
    device.begin_capture(stream)
    with pytest.raises(UnavailableError):
        device.synchronize(stream)
    with suppress(UnavailableError):  # CUDA may refuse to end it, and the capture is over in any case
        device.destroy_graph(device.end_capture(stream))
    device.clear_error()
    test_two_streams_keep_their_work_apart(device, owned)
    test_a_graph_copies_what_is_in_memory_when_it_is_launched(device, owned)


@pytest.mark.parametrize("opened", GPUS, indirect=True)
def test_after_close_another_library_finds_cuda_sound(opened: Callable[[], Device]) -> None:
    cudart = pytest.importorskip("cuda.bindings.runtime")
    device = opened()
    device.free(device.allocate(NBYTES))
    device.close()
    error, pointer = cudart.cudaMalloc(NBYTES)
    assert error == cudart.cudaError_t.cudaSuccess
    cudart.cudaFree(pointer)
