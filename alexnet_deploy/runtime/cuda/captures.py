"""Who uses a GPU in this process, so that ONNX Runtime captures CUDA graphs only while nobody else does.

It captures in CUDA's global mode, and no option changes that (``cudaStreamCaptureModeGlobal`` in its cuda_graph.cc).
Until such a capture ends, CUDA refuses in every thread of the process whatever may wait for a GPU, such as an
allocation, and the refusal spoils the capture as well. Sessions allocate when they like, and TensorRT-RTX compiles in
threads of its own. To replay a graph is always allowed.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

_lock = threading.RLock()
"""Held during a capture, and by whoever begins to use a GPU or allocates meanwhile."""
_users = 0


@contextlib.contextmanager
def present() -> Iterator[None]:
    """For the length of the block an engine uses a GPU: from before it allocates until it has freed everything."""
    global _users
    with _lock:
        _users += 1
    try:
        yield
    finally:
        with _lock:
            _users -= 1


@contextlib.contextmanager
def capturing() -> Iterator[bool]:
    """Whether a graph may be captured in the block: nobody else is ``present``, and whoever comes waits for its end."""
    with _lock:
        yield _users <= 1


def allocating() -> contextlib.AbstractContextManager[object]:
    """For a block that allocates or frees memory of a GPU, or page-locked memory: it waits for the end of a capture."""
    return _lock


def is_alone() -> bool:
    """Whether a graph may be captured now."""
    return _users <= 1
