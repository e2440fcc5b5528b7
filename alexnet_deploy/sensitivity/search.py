"""Which layers an int8 (or fp8) model keeps in float16 so that its top-1 drops by no more than a bound.

The layers are ranked by what each costs alone (``diagnose.py``), and the worst are kept. What decides is the drop of
the model as built, measured on every validation image beside the float model; the ranking only says who comes first.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from alexnet_deploy.bundle.manifest import MODEL, Engine
from alexnet_deploy.errors import ProofError
from alexnet_deploy.evaluation.answers import answers_of, predicted
from alexnet_deploy.files import sha256_or_none
from alexnet_deploy.images.labelled import Labelled, list_labelled
from alexnet_deploy.profiling.latency import measure
from alexnet_deploy.runtime.runner import Runner
from alexnet_deploy.runtime.select import open_runner
from alexnet_deploy.sensitivity.layers import DEFAULT_IMAGES, Report, Subject, ranking, refuse_shared

# Legend: N image

LATENCY_S = 1.0
"""Seconds to measure each of two models: enough to see what a layer takes, short beside the search."""
EPSILON = 1e-9
"""Points: 3 of 1000 images are 0.3 points, whatever binary fractions make of it."""

Build = Callable[[str | None, Path], None]
"""Writes into a folder the model with all quantised but what the --exclude names."""


@dataclass(frozen=True, slots=True)
class Drop:
    """Top-1 of a model as built beside float32's. ``lost`` images only float32 gets right, ``won`` only the other."""

    top1_percent: float
    float_top1_percent: float
    lost: int
    won: int
    images: int

    @property
    def points(self) -> float:
        """The drop of accuracy, a point estimate; negative where the built model is right more often."""
        return 100 * (self.lost - self.won) / self.images


@dataclass(frozen=True, slots=True)
class Kept:
    """The model within the bound: where it was built, and a sentence on what was kept and what that costs."""

    layers: tuple[str, ...]
    folder: Path
    note: str


def keep_worst(
    subject: Subject, validation: Path, max_drop: float, build: Build, scratch: Path, *, on_progress: Report
) -> Kept:
    """Build with the fewest layers in float16 that bring the drop on ``validation`` (labelled) within ``max_drop``.

    Raises ProofError where even the last try is beyond the bound, InputError where an image of ``validation`` also
    calibrates.
    """
    data = list_labelled(validation, subject.contract)
    refuse_shared(subject.calibration, filter(None, map(sha256_or_none, data.files)), f"--validation-data {validation}")
    search = _Search(subject, data, build, scratch, on_progress)
    if search.drop_of(()) <= max_drop + EPSILON:
        return Kept(
            (), search.folder(()), f"--max-drop {max_drop:g}: holds with all layers quantised: {search.told(())}"
        )
    layer_by_node = search.ranking()
    chosen = fewest([*layer_by_node], search.drop_of, max_drop)
    if chosen is None:
        most = max(search.drops, key=len)
        raise ProofError(
            f"--max-drop {max_drop:g}: not reached, nothing written: with {len(most)} of {len(layer_by_node)} layers "
            f"in float16, {search.told(most)}; take another --calibration-method or more --calibration-images, raise "
            "--max-drop, or build --fp16 alone"
        )
    layers = tuple(layer_by_node[node] for node in chosen)
    note = (
        f"--max-drop {max_drop:g}: {len(layers)} of {len(layer_by_node)} layers are float16 ({', '.join(layers)}): "
        f"{search.told(chosen)}. All quantised, {search.told(())}. {search.price(chosen)}"
    )
    return Kept(layers, search.folder(chosen), note)


def fewest(ranking: Sequence[str], drop_of: Callable[[tuple[str, ...]], float], bound: float) -> tuple[str, ...] | None:
    """The shortest head of ``ranking`` found to hold ``bound`` when kept; None where none was found.

    ``drop_of`` builds with these kept and measures. Heads of 0, 1, 2, 4, ... are tried until one holds, then the gap
    to the last that did not is halved: at most 2 log2(n) + 2 tries. The head returned was measured, and so was the
    one shorter by one, which did not hold. The end of the ranking is never kept: nothing would be quantised.
    """
    most = max(len(ranking) - 1, 0)
    fails, holds = -1, 0
    while drop_of(tuple(ranking[:holds])) > bound + EPSILON:
        if holds == most:
            return None
        fails, holds = holds, min(max(1, 2 * holds), most)
    while holds - fails > 1:
        middle = (fails + holds) // 2
        if drop_of(tuple(ranking[:middle])) > bound + EPSILON:
            fails = middle
        else:
            holds = middle
    return tuple(ranking[:holds])


class _Search:
    """What was built and measured so far, by the nodes that were kept."""

    def __init__(self, subject: Subject, data: Labelled, build: Build, scratch: Path, report: Report) -> None:
        self.drops: dict[tuple[str, ...], Drop] = {}
        self._subject, self._build, self._scratch, self._report = subject, build, scratch, report
        self._data = data
        self._runtime = ""
        self._float_right_N = self._right(subject.onnx_path, "fp32", "float32")

    def folder(self, kept: tuple[str, ...]) -> Path:
        """Where the model with ``kept`` is built; all are heads of one ranking, so their length tells them apart."""
        return self._scratch / f"kept-{len(kept)}"

    def drop_of(self, kept: tuple[str, ...]) -> float:
        """Build and measure with ``kept``, once however often it is asked; in points."""
        if kept not in self.drops:
            self.folder(kept).mkdir()
            self._build(_excluding(self._subject.exclude, kept), self.folder(kept))
            right_N = self._right(self.folder(kept) / MODEL, self._subject.kind, f"top-1 with {len(kept)} kept")
            exact_N = self._float_right_N
            self.drops[kept] = Drop(
                top1_percent=100 * float(right_N.mean()),
                float_top1_percent=100 * float(exact_N.mean()),
                lost=int((exact_N & ~right_N).sum()),
                won=int((right_N & ~exact_N).sum()),
                images=len(right_N),
            )
        return self.drops[kept].points

    def ranking(self) -> dict[str, str]:
        """Node and layer names, what costs most alone first; on images spread evenly over the classes."""
        spread = np.linspace(0, len(self._data.files) - 1, DEFAULT_IMAGES).round()
        files = [self._data.files[i] for i in sorted({int(i) for i in spread})]
        return ranking(self._subject, files, on_progress=self._report)

    def told(self, kept: tuple[str, ...]) -> str:
        """The measured drop in words."""
        drop = self.drops[kept]
        return (
            f"top-1 drops by {drop.points:.2f} points, from {drop.float_top1_percent:.2f} to {drop.top1_percent:.2f} % "
            f"({drop.lost} lost, {drop.won} won of {drop.images} images)"
        )

    def price(self, kept: tuple[str, ...]) -> str:
        """Size and latency beside the model with everything quantised, both measured here."""
        mib = [(self.folder(k) / MODEL).stat().st_size / 2**20 for k in (kept, ())]
        ms = []
        for k in (kept, ()):
            with self._running(self.folder(k) / MODEL, self._subject.kind) as runner:
                ms.append(measure(runner, duration_s=LATENCY_S).median_ms)
        return (
            f"The price: model.onnx of {mib[0]:.1f} instead of {mib[1]:.1f} MiB, batch 1 in {ms[0]:.2f} instead of "
            f"{ms[1]:.2f} ms ({self._runtime})"
        )

    def _right(self, onnx_path: Path, precision: str, stage: str) -> NDArray[np.bool_]:
        with self._running(onnx_path, precision) as runner:
            answers = answers_of([runner], self._data, on_progress=lambda done, all_: self._report(stage, done, all_))
        # From here on only what could be read: every model answers for the same images.
        self._data = Labelled(self._data.root, answers.files, tuple(answers.target_N.tolist()))
        right_N: NDArray[np.bool_] = predicted(answers.logits_NK[0]) == answers.target_N
        return right_N

    @contextlib.contextmanager
    def _running(self, onnx_path: Path, precision: str) -> Iterator[Runner]:
        runner = open_runner(Engine(onnx_path.stem, onnx_path, self._subject.contract, precision, None)).runner
        self._runtime = runner.description
        with contextlib.closing(runner):
            yield runner


def _excluding(exclude: str | None, nodes: Iterable[str]) -> str | None:
    """An --exclude that names ``nodes`` beside what it named already; the user's first, as it may begin with (?i)."""
    names = "|".join(map(re.escape, nodes))
    return "|".join(filter(None, (exclude, f"^({names})$" if names else None))) or None
