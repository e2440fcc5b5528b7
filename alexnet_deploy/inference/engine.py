"""``open_engine``: an engine as a callable object, on a runtime that this machine has."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray

from alexnet_deploy.adoption.import_options import NO_IMPORT_OPTIONS, ImportOptions
from alexnet_deploy.bundle.decoding import decode_in_full
from alexnet_deploy.bundle.feature_engines import cut_engine
from alexnet_deploy.bundle.manifest import Engine
from alexnet_deploy.bundle.replaced import retried
from alexnet_deploy.bundle.store import STORE, TEMPORARY, resolve_engine
from alexnet_deploy.bundle.verified import held
from alexnet_deploy.contract import BatchProfile
from alexnet_deploy.errors import UnavailableError, UsageError
from alexnet_deploy.images.find import find_images
from alexnet_deploy.images.ten_crops import picture_for_crops
from alexnet_deploy.inference.batches import largest_batch
from alexnet_deploy.inference.predict import predict
from alexnet_deploy.inference.prediction import BATCH, TOP_K, Outputs, Prediction
from alexnet_deploy.inference.side_by_side import SideBySide
from alexnet_deploy.runtime.runner import Runner, Steps, batch_near, make_pixels_of
from alexnet_deploy.runtime.select import CALLS_PER_GPU, Runtime, SelectedRunner, open_runner, require_gpu_runtime

# Legend: N batch, H height, W width, C channel (RGB), K class

Devices = Sequence[int] | Literal["all"]
"""Numbers of GPUs, of those that CUDA shows to this process (``CUDA_VISIBLE_DEVICES``), or all of them."""
_log = logging.getLogger(__name__)


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
    device: int | Devices | None = None,
    features: bool | None = False,
    layer: str | None = None,
) -> OpenEngine:
    """Open ``engine``: a bundle (path, or name in ``store``), an ``.onnx`` file, or None for the newest of ``store``.

    ``runtime="auto"`` uses the first runtime that can run it on this machine: a GPU before the CPU. ``threads`` is the
    number of threads of the runtime (None: its default), which the engine and its forks share if ``concurrency`` calls
    are to run at the same time. ``import_options`` describe an ONNX of another tool.

    With ``verify`` the engine answers the sample photos before it is used: an ONNX of another tool as the original
    does, and the runtime as the graph says. The outcome is remembered per content, runtime version and machine.

    ``full_decode`` decodes every photo in full, whatever the contract of the engine says (``Preprocessing.decoding``).
    ``tf32`` lets onnxruntime-cuda multiply float32 with ten bits of mantissa, as float16 has.
    ``device`` chooses GPUs by their numbers, and then only runtimes of GPUs are tried. The engine is loaded onto each;
    ``predict`` uses all of them, a plain call the first one.
    With ``features`` the engine ends at ``layer`` (None: the one before the last): a call returns the layer's output
    ``[N, F]``, of a quantised engine dequantised. Such an engine has no classes, so no ``predict``. A bundle that was
    built to end at a layer needs ``features`` as well; None takes it as it takes one that names classes, each as it is.

    An engine that is replaced meanwhile is opened again. Raises InputError or ArtifactError for one that is missing or
    damaged, ReplacedError for one that is replaced again and again, UsageError for a parameter out of range,
    UnavailableError if this machine cannot run it, ProofError if its answers are not right.
    """
    cards: Sequence[int | None] = (None,)
    if device is not None:
        require_gpu_runtime(runtime)  # before anything is loaded, as is the look for the GPUs
        from alexnet_deploy.runtime.cuda.device import choose_devices

        cards = choose_devices([device] if isinstance(device, int) else device)

    def open_once() -> OpenEngine:
        name = None if engine is None else str(engine)
        with ExitStack() as resources:
            found = resources.enter_context(
                resolve_engine(name, Path(store), import_options, verify=verify, features=features is not False)
            )
            with held(found):
                found = found.hashed()
                if features:
                    folder = resources.enter_context(TemporaryDirectory(prefix=TEMPORARY))
                    with held(found):  # before anything is proved of what was cut
                        found = cut_engine(found, layer, Path(folder))
                elif layer is not None:
                    raise UsageError("`layer` is about `features`; open it with both")
                opened: list[SelectedRunner] = []
                for card in cards:
                    opened.append(
                        open_runner(
                            found,
                            # With another runtime on another GPU, an answer would depend on which one was free.
                            opened[0].runner.runtime if opened else runtime,
                            threads=threads,
                            concurrency=concurrency,
                            verify=verify,
                            refuse_doubted=True,
                            tf32=tf32,
                            device=card,
                        )
                    )
                    resources.callback(opened[-1].runner.close)
                # Not before: what is proved of an engine belongs to its own contract.
                found = decode_in_full(found) if full_decode else found
            return OpenEngine(found, opened[0], resources.pop_all(), others=opened[1:])

    return retried(open_once)


class OpenEngine:
    """An engine that is loaded and ready to run, until ``close`` or the end of its ``with`` block.

    It is a ``Runner`` for batches of any size, so only one thread may use it at a time; ``fork`` opens another one for
    a second thread. Once closed, it raises UsageError.
    """

    batch: BatchProfile | None = None

    def __init__(
        self, engine: Engine, selected: SelectedRunner, resources: ExitStack, others: Sequence[SelectedRunner] = ()
    ) -> None:
        """For ``open_engine`` and ``fork``; ``resources`` are closed with it. ``others`` are those of other GPUs."""
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
        self.make_pixels = make_pixels_of(selected.runner)
        """Makes memory to decode into, for ``in_batches``; None where decoders need none of the engine."""
        self.passed_over = selected.passed_over
        """The runtimes that ``"auto"`` tried before this one, each with the reason against it."""
        self.unused_gpu = selected.unused_gpu
        """Whether it runs on the CPU although this machine has an NVIDIA GPU."""
        self._runner: Runner | None = selected.runner
        self._resources = resources
        self._others: list[OpenEngine] = []
        for each in others:
            own = ExitStack()
            own.callback(each.runner.close)
            self._others.append(OpenEngine(engine, each, own))
            resources.callback(self._others[-1].close)
        self._side_by_side: SideBySide | None = None
        self._turn: AbstractContextManager[object] = nullcontext()
        """Of callers: one inside a loop over ``predict`` may come while a thread of ``side_by_side`` computes."""

    @property
    def cards(self) -> tuple[OpenEngine, ...]:
        """The engine on each of its GPUs: this one, and those that are closed with it."""
        return self, *self._others

    def __call__(self, pixels_NHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Logits ``[N, K]`` of uint8 RGB pixels ``[N, H, W, 3]``, N >= 1; the caller owns the result.

        Raises UsageError for pixels of another type or shape, and the errors of the runtime.
        """
        runner = self._open()
        self._check(pixels_NHWC)
        with self._turn:
            return runner(pixels_NHWC)

    def predict(
        self,
        sources: str | Path | Iterable[str | Path],
        top_k: int = TOP_K,
        batch: int | None = None,
        *,
        threshold: float | None = None,
        outputs: Outputs = "top",
        ten_crop: bool = False,
        workers: int | None = None,
    ) -> Iterator[Prediction]:
        """One Prediction per image, in order and streaming: memory does not grow with their number.

        ``sources`` are image files, folders (recursive) and glob patterns, or one of these; an iterator must yield
        image files, and is read as the predictions are. Of the ``top_k`` classes only those with a probability of at
        least ``threshold`` are kept, which may be none. With ``outputs`` ``"probabilities"`` or ``"logits"``, each
        Prediction has ``values``, one per class. ``ten_crop`` averages the probabilities of ten views of each image
        (``inference.ten_crops``), at ten times the computation. ``batch`` is the number of images computed at once
        (None: ``default_batch()``), ``workers`` the number of decoding threads (None: one per core). A file that cannot
        be used becomes a Prediction with an ``error``.

        Raises at the call InputError for a source that is missing or empty, UsageError for a number out of range.
        """
        self._open()
        if self.contract.features is not None:
            raise UsageError(f"{self.name} ends at layer {self.contract.features.layer} and names no class; call it")
        if isinstance(sources, Iterator):
            files: Iterable[Path] = map(Path, sources)
        else:
            files = find_images([sources] if isinstance(sources, str | Path) else sources)
        batch = self.default_batch(ten_crop=ten_crop) if batch is None else batch
        return predict(
            self.side_by_side() or self, files, top_k=top_k, threshold=threshold, outputs=outputs, ten_crop=ten_crop,
            batch=batch, workers=workers,
        )  # fmt: skip

    def content_sha256(self) -> str:
        """SHA-256 of the files of the engine."""
        return self._engine.content_sha256()

    def model_sha256(self) -> str:
        """SHA-256 of its ONNX, whatever plans were built from it."""
        return self._engine.model_sha256()

    def held(self) -> AbstractContextManager[None]:
        """A block that reads the files of the engine once more; ReplacedError if they are not those that it runs."""
        return held(self._engine)

    def side_by_side(self) -> SideBySide | None:
        """All that computes at the same time for ``predict``: its GPUs, with several calls per GPU where that helps.

        It is closed with the engine. None where one call at a time keeps the engine busy.
        """
        self._open()
        if self._side_by_side is None:
            runners: list[Runner] = []
            for card in self.cards:
                runners.append(card)
                try:
                    runners += [card.fork() for _ in range(CALLS_PER_GPU.get(card.runtime, 1) - 1)]
                except UnavailableError as exc:  # there is room for one
                    _log.info("one call at a time on %s: %s", card.description, exc)
            if len(runners) == 1:
                return None
            for card in self.cards:
                card._turn = threading.Lock()
            self._side_by_side = SideBySide(runners)
            self._resources.callback(self._side_by_side.close)
        return self._side_by_side

    def default_batch(self, *, ten_crop: bool = False) -> int:
        """``BATCH`` images, or near to it what an engine of a fixed batch size computes without filling up a call."""
        pre = self.contract.preprocessing
        return min(batch_near(self._open(), BATCH), largest_batch(picture_for_crops(pre) if ten_crop else pre))

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
