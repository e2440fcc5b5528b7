"""``build_within_drop``: a quantised engine with just enough layers in float16 to keep a bound on the drop of top-1.

The layers are ranked by the cost of each alone (``layers.rank_layers``), and the worst are kept. The bound is checked
on the model as built, on every validation image, against the float model; the ranking only sets the order.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from alexnet_deploy.build.engine import Accept, UnfinishedBundle, choose_calibration, finish_bundle, new_bundle
from alexnet_deploy.build.settings import BuildSettings
from alexnet_deploy.build.typed_onnx import open_cache, write_typed_onnx
from alexnet_deploy.bundle.manifest import CALIBRATION, MODEL, Engine
from alexnet_deploy.contract import Precision
from alexnet_deploy.errors import ProofError, UsageError
from alexnet_deploy.evaluation.answers import collect_answers
from alexnet_deploy.evaluation.max_drop import check_max_drop, holds_max_drop
from alexnet_deploy.images.choose import CalibrationSet
from alexnet_deploy.images.identity.shared import image_hashes, refuse_shared_images, shared_images
from alexnet_deploy.images.labelled import LabelledImages, list_labelled
from alexnet_deploy.precision.types import QuantizedType, float_type, quantized_type
from alexnet_deploy.probabilities import predicted_classes
from alexnet_deploy.profiling.latency import measure
from alexnet_deploy.progress import Progress, no_progress
from alexnet_deploy.runtime.runner import Runner
from alexnet_deploy.runtime.select import open_runner
from alexnet_deploy.sensitivity.layers import SHARED_IMAGES_REMEDY, rank_layers
from alexnet_deploy.sensitivity.settings import DiagnoseSettings
from alexnet_deploy.sensitivity.variants import calibrate_variants

# Legend: N image

LATENCY_S = 1.0
"""Seconds to measure each of two models: enough to see the cost of a layer, short compared with the search."""


def build_within_drop(
    onnx: str | Path,
    output: str | Path | None = None,
    *,
    max_drop: float,
    validation_data: str | Path,
    calibration_data: str | Path | CalibrationSet | None,
    precision: Precision = "int8+fp16",
    settings: BuildSettings | None = None,
    accept: Accept | None = None,
    on_progress: Progress = no_progress,
) -> Path:
    """Build as ``build_engine`` does, with the fewest layers in float16 that keep the drop of top-1 within a bound.

    The drop on the images of ``validation_data`` (one folder per class) is at most ``max_drop`` percentage points,
    compared with the float32 model. ``precision`` is one whose other layers are float16. The record's ``exclude`` names
    the layers kept, and a note in the manifest their cost. Plans are built once, for the model that meets the bound.

    Raises ProofError if no try meets the bound, InputError if an image of ``validation_data`` also calibrates, and the
    errors of ``build_engine``; ``output`` then stays as it was.
    """
    check_max_drop(max_drop)
    settings = settings or BuildSettings()
    dtype = quantized_type(precision)
    if dtype is None or float_type(precision) != "fp16":
        raise UsageError(
            "`max_drop` needs int8 or fp8 with fp16, int8-weights or int4, because it keeps layers in float16"
        )
    images = choose_calibration(precision, calibration_data, settings)
    with new_bundle(Path(onnx), output, precision, settings, images) as bundle:
        on_progress("precision", 0, 1)
        search = _Search(
            bundle, dtype, images, list_labelled(Path(validation_data), bundle.model.contract), on_progress
        )
        folder, note = search.run(max_drop)
        for name in (MODEL, CALIBRATION) if images is not None else (MODEL,):
            os.rename(folder / name, bundle.folder / name)
        bundle.notes.append(note)
        on_progress("precision", 1, 1)
        finish_bundle(bundle, on_progress, accept)
    return bundle.path


@dataclass(frozen=True, slots=True)
class AccuracyDrop:
    """Top-1 of a model as built and of float32: ``lost``: only float32 is right, ``won``: only the other."""

    top1_percent: float
    float_top1_percent: float
    lost: int
    won: int
    images: int

    @property
    def points(self) -> float:
        """The drop of accuracy, a point estimate; negative if the built model is right more often."""
        return 100 * (self.lost - self.won) / self.images

    def __str__(self) -> str:
        return (
            f"top-1 drops by {self.points:.2f} points, from {self.float_top1_percent:.2f} to {self.top1_percent:.2f} % "
            f"({self.lost} lost, {self.won} won of {self.images} images)"
        )


def fewest(
    ranking: Sequence[str], drop_of: Callable[[tuple[str, ...]], float], max_drop: float
) -> tuple[str, ...] | None:
    """The shortest head of ``ranking`` found to meet ``max_drop`` if kept in float; None if none was found.

    ``drop_of`` builds with these kept and measures. Heads of 0, 1, 2, 4, ... are tried until one meets it, then the gap
    to the last one that did not is halved: at most 2 log2(n) + 2 tries. The returned head was measured, and so was
    the one shorter by one, which did not meet it. The whole ranking is never kept: nothing would be quantised.
    """
    most = max(len(ranking) - 1, 0)
    fails, holds = -1, 0
    while not holds_max_drop(drop_of(tuple(ranking[:holds])), max_drop):
        if holds == most:
            return None
        fails, holds = holds, min(max(1, 2 * holds), most)
    while holds - fails > 1:
        middle = (fails + holds) // 2
        if holds_max_drop(drop_of(tuple(ranking[:middle])), max_drop):
            holds = middle
        else:
            fails = middle
    return tuple(ranking[:holds])


class _Search:
    """What was built and measured so far, by the nodes that were kept in float16."""

    def __init__(
        self,
        bundle: UnfinishedBundle,
        dtype: QuantizedType,
        images: CalibrationSet | None,
        data: LabelledImages,
        on_progress: Progress,
    ) -> None:
        if images is not None:
            shared = shared_images(image_hashes(data.files), images.sha256)
            refuse_shared_images(shared, "also calibrates", SHARED_IMAGES_REMEDY)
        # One calibration serves every try, also without a cache that outlives this build.
        cache = bundle.settings.calibration_cache or bundle.scratch / "calibration"
        self._settings = replace(bundle.settings, calibration_cache=cache)
        self._bundle, self._dtype, self._images, self._on_progress = bundle, dtype, images, on_progress
        self._data = data
        self._runtime = ""
        self._drops: dict[tuple[str, ...], AccuracyDrop] = {}
        self._float_right_N = self._right(bundle.model.path, "fp32", "float32")

    def run(self, max_drop: float) -> tuple[Path, str]:
        """The folder of the model that meets ``max_drop``, and a note on the layers kept and their cost."""
        bound = f"accuracy bound of {max_drop:g} points"
        if holds_max_drop(self._drop_of(()), max_drop):
            return self._folder(()), f"{bound}: met with all layers quantised: {self._drops[()]}"
        layer_by_node = self._rank()
        kept = fewest([*layer_by_node], self._drop_of, max_drop)
        if kept is None:
            most = max(self._drops, key=len)
            raise ProofError(
                f"`max_drop` {max_drop:g}: not met, nothing written: with {len(most)} of {len(layer_by_node)} "
                f"layers in float16, {self._drops[most]}; use another `calibration_method` or more "
                "`calibration_images`, raise `max_drop`, or build fp16 alone"
            )
        layers = ", ".join(layer_by_node[node] for node in kept)
        note = (
            f"{bound}: {len(kept)} of {len(layer_by_node)} layers are float16 ({layers}): {self._drops[kept]}. "
            f"All quantised, {self._drops[()]}. {self._describe_cost(kept)}"
        )
        return self._folder(kept), note

    def _folder(self, kept: tuple[str, ...]) -> Path:
        """Where the model with ``kept`` is built; all are heads of one ranking, so their lengths differ."""
        return self._bundle.scratch / f"kept-{len(kept)}"

    def _drop_of(self, kept: tuple[str, ...]) -> float:
        """Build with ``kept`` in float16 and measure the drop in points, only once per ``kept``."""
        if kept not in self._drops:
            folder, bundle = self._folder(kept), self._bundle
            folder.mkdir()
            settings = replace(self._settings, exclude=exclude_nodes(self._settings.exclude, kept))
            notes = write_typed_onnx(bundle.model, folder, bundle.precision, self._images, settings, self._on_progress)
            if not self._drops:  # later tries always find the ranges in the cache
                bundle.notes.extend(notes)
            right_N = self._right(folder / MODEL, self._dtype, f"top-1 with {len(kept)} kept")
            exact_N = self._float_right_N
            self._drops[kept] = AccuracyDrop(
                top1_percent=100 * float(right_N.mean()),
                float_top1_percent=100 * float(exact_N.mean()),
                lost=int((exact_N & ~right_N).sum()),
                won=int((right_N & ~exact_N).sum()),
                images=len(right_N),
            )
        return self._drops[kept].points

    def _rank(self) -> dict[str, str]:
        """Node and layer names, the most expensive first, on images spread evenly over the classes."""
        spread = np.linspace(0, len(self._data.files) - 1, DiagnoseSettings().images).round()
        files = [self._data.files[i] for i in sorted({int(i) for i in spread})]
        settings, model, images = self._settings, self._bundle.model, self._images
        cache = open_cache(model, images, settings.calibration_cache)
        variants = calibrate_variants(model, self._dtype, images, settings, files, cache=cache)
        return rank_layers(variants, self._on_progress)

    def _describe_cost(self, kept: tuple[str, ...]) -> str:
        """Size and latency with ``kept`` in float16 and with everything quantised, both measured here."""
        mib = [(self._folder(k) / MODEL).stat().st_size / 2**20 for k in (kept, ())]
        ms = []
        for k in (kept, ()):
            with self._running(self._folder(k) / MODEL, self._dtype) as runner:
                ms.append(measure(runner, duration_s=LATENCY_S).median_ms)
        return (
            f"The cost: model.onnx of {mib[0]:.1f} instead of {mib[1]:.1f} MiB, batch 1 in {ms[0]:.2f} instead of "
            f"{ms[1]:.2f} ms ({self._runtime})"
        )

    def _right(self, onnx_path: Path, precision: str, stage: str) -> NDArray[np.bool_]:
        """Whether the model is right, for each image."""
        with self._running(onnx_path, precision) as runner:
            answers = collect_answers(
                [runner], self._data, on_progress=lambda _, done, total: self._on_progress(stage, done, total)
            )
        # From here on only images that could be read: every model answers the same ones.
        self._data = LabelledImages(self._data.root, answers.files, tuple(answers.target_N.tolist()))
        right_N: NDArray[np.bool_] = predicted_classes(answers.logits_NK[0]) == answers.target_N
        return right_N

    @contextlib.contextmanager
    def _running(self, onnx_path: Path, precision: str) -> Iterator[Runner]:
        engine = Engine(onnx_path.stem, onnx_path, self._bundle.model.contract, precision, None)
        with contextlib.closing(open_runner(engine).runner) as runner:
            self._runtime = runner.description
            yield runner


def exclude_nodes(exclude: str | None, nodes: Iterable[str]) -> str | None:
    """A pattern that matches ``nodes`` and what ``exclude`` matches; ``exclude`` first, as it may begin with (?i)."""
    names = "|".join(map(re.escape, nodes))
    return "|".join(filter(None, (exclude, f"^({names})$" if names else None))) or None
