"""``open_engine``: an engine as a callable object, on a runtime that this machine has."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from alexnet_deploy.adoption.import_options import NO_IMPORT_OPTIONS, ImportOptions
from alexnet_deploy.bundle.decoding import decode_in_full
from alexnet_deploy.bundle.manifest import Engine
from alexnet_deploy.bundle.store import STORE, resolve_engine
from alexnet_deploy.contract import BatchProfile
from alexnet_deploy.errors import UsageError
from alexnet_deploy.images.find import find_images
from alexnet_deploy.inference.predict import largest_batch, predict
from alexnet_deploy.inference.prediction import BATCH, Prediction
from alexnet_deploy.runtime.runner import Runner, Steps, batch_near
from alexnet_deploy.runtime.select import Runtime, SelectedRunner, open_runner

# Legend: N batch, H height, W width, C channel (RGB), K class


def open_engine(
    engine: str | Path | None = None,
    *,
    runtime: Runtime = "auto",
    threads: int | None = None,
    concurrency: int = 1,
    store: str | Path = STORE,
    import_options: ImportOptions = NO_IMPORT_OPTIONS,
    verify: bool = True,
    full_decode: bool = False,
    tf32: bool = False,
) -> OpenEngine:
    """Open ``engine``: a bundle (path, or name in ``store``), an ``.onnx`` file, or None for the newest of ``store``.

    ``runtime="auto"`` uses the first runtime that can run it on this machine: a GPU before the CPU. ``threads`` is the
    number of threads of the runtime (None: its default), which the engine and its forks share if ``concurrency`` calls
    are to run at the same time. ``import_options`` describe an ONNX of another tool.

    With ``verify`` the engine answers the sample photos before it is used: an ONNX of another tool as the original
    does, and the runtime as the graph says. The outcome is remembered per content, runtime version and machine.

    ``full_decode`` decodes every photo in full, whatever the contract of the engine says (``Preprocessing.decoding``).
    ``tf32`` lets onnxruntime-cuda multiply float32 with ten bits of mantissa, as float16 has.

    Raises InputError or ArtifactError for an engine that is missing or damaged, UsageError for a parameter out of
    range, UnavailableError if this machine cannot run it, ProofError if its answers are not right.
    """
    with ExitStack() as resources:
        name = None if engine is None else str(engine)
        found = resources.enter_context(resolve_engine(name, Path(store), import_options, verify=verify))
        selected = open_runner(
            found, runtime, threads=threads, concurrency=concurrency, verify=verify, refuse_doubted=True, tf32=tf32
        )
        resources.callback(selected.runner.close)
        # Not before: what is proved of an engine belongs to its own contract.
        return OpenEngine(decode_in_full(found) if full_decode else found, selected, resources.pop_all())


class OpenEngine:
    """An engine that is loaded and ready to run, until ``close`` or the end of its ``with`` block.

    It is a ``Runner`` for batches of any size, so only one thread may use it at a time; ``fork`` opens another one for
    a second thread. Once closed, it raises UsageError.
    """

    batch: BatchProfile | None = None

    def __init__(self, engine: Engine, selected: SelectedRunner, resources: ExitStack) -> None:
        """For ``open_engine`` and ``fork``; ``resources`` are closed with it."""
        self._engine = engine
        self._selected = selected
        self.name = engine.name
        self.precision = engine.precision
        self.contract = engine.contract
        self.onnx_path = engine.onnx_path
        """The ONNX file that it runs, or that its TensorRT plan was built from."""
        self.runtime = selected.runner.runtime
        self.device = selected.runner.device
        self.description = selected.runner.description
        self.passed_over = selected.passed_over
        """The runtimes that ``"auto"`` tried before this one, each with the reason against it."""
        self.unused_gpu = selected.unused_gpu
        """Whether it runs on the CPU although this machine has an NVIDIA GPU."""
        self._runner: Runner | None = selected.runner
        self._resources = resources

    def __call__(self, pixels_NHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Logits ``[N, K]`` of uint8 RGB pixels ``[N, H, W, 3]``, N >= 1; the caller owns the result.

        Raises UsageError for pixels of another type or shape, and the errors of the runtime.
        """
        runner = self._open()
        self._check(pixels_NHWC)
        return runner(pixels_NHWC)

    def predict(
        self,
        sources: str | Path | Iterable[str | Path],
        top_k: int = 5,
        batch: int | None = None,
        *,
        threshold: float | None = None,
        workers: int | None = None,
    ) -> Iterator[Prediction]:
        """One Prediction per image, in order and streaming: memory does not grow with their number.

        ``sources`` are image files, folders (recursive) and glob patterns, or one of these; an iterator must yield
        image files, and is read as the predictions are. Of the ``top_k`` classes only those with a probability of at
        least ``threshold`` are kept, which may be none. ``batch`` is the number of images computed at once (None:
        ``default_batch()``), ``workers`` the number of decoding threads (None: one per core). A file that cannot be
        used becomes a Prediction with an ``error``.

        Raises at the call InputError for a source that is missing or has no image, UsageError for a number out of
        range.
        """
        self._open()
        if isinstance(sources, Iterator):
            files: Iterable[Path] = map(Path, sources)
        else:
            files = find_images([sources] if isinstance(sources, str | Path) else sources)
        batch = self.default_batch() if batch is None else batch
        return predict(self, files, top_k=top_k, threshold=threshold, batch=batch, workers=workers)

    def default_batch(self) -> int:
        """``BATCH`` images, or near to it what an engine of a fixed batch size computes without filling up a call."""
        return min(batch_near(self._open(), BATCH), largest_batch(self.contract.preprocessing))

    def steps(self, pixels_NHWC: NDArray[np.uint8]) -> Steps:
        """See ``Runner.steps``; raises UsageError at the call, as ``__call__`` does."""
        runner = self._open()
        self._check(pixels_NHWC)
        return runner.steps(pixels_NHWC)

    def fork(self) -> OpenEngine:
        """Another engine for another thread; only the weights are shared.

        Close it when its thread ends; it ends with this one at the latest.
        """
        resources = ExitStack()
        runner = self._open().fork()
        resources.callback(runner.close)
        other = OpenEngine(self._engine, replace(self._selected, runner=runner), resources)
        self._resources.callback(other.close)
        return other

    def close(self) -> None:
        """Release memory and threads, and close every fork; may be called twice."""
        self._runner = None
        self._resources.close()

    def __enter__(self) -> Self:
        self._open()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _open(self) -> Runner:
        if self._runner is None:
            raise UsageError(f"the engine {self.name} is closed; open it again with open_engine")
        return self._runner

    def _check(self, pixels_NHWC: object) -> None:
        """UsageError unless these are pixels of the contract: a runtime converts others in silence, or fails later."""
        pre = self.contract.preprocessing
        needs = f"{self.name} needs uint8 [N, {pre.height}, {pre.width}, 3]"
        if not isinstance(pixels_NHWC, np.ndarray):
            raise UsageError(f"`pixels_NHWC` {type(pixels_NHWC).__name__}: {needs} in a NumPy array")
        shape = pixels_NHWC.shape
        if pixels_NHWC.dtype != np.uint8 or shape[1:] != (pre.height, pre.width, 3) or not len(pixels_NHWC):
            raise UsageError(
                f"`pixels_NHWC` {pixels_NHWC.dtype} {list(shape)}: {needs}; the contract of the engine has the "
                "preprocessing"
            )
