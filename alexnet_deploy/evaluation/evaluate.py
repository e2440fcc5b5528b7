"""Labelled images + open engines -> accuracy, confidence, latency and size of each, and each beside the first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from alexnet_deploy.contract import ModelContract
from alexnet_deploy.errors import ProofError, UsageError
from alexnet_deploy.evaluation.accuracy import Accuracy, Paired, accuracy, paired
from alexnet_deploy.evaluation.answers import Answers, answers_of
from alexnet_deploy.evaluation.engines import Contender, Overlap, unique_names
from alexnet_deploy.images.labelled import Labelled, copies_among
from alexnet_deploy.profiling.latency import measure

LATENCY_S = 0.5
"""Seconds an engine is timed: some hundred calls, steady enough to stand beside its accuracy."""
EPSILON = 1e-9
"""Points. 30 of 1000 images are 3 points, whatever the binary fractions say."""


@dataclass(frozen=True, slots=True)
class EngineResult:
    """What was measured of one engine."""

    name: str
    """Unique among the results."""
    precision: str
    runner: str
    model_bytes: int
    temperature: float
    """Of its contract."""
    accuracy: Accuracy
    latency_ms: float | None
    """Median of calls with one image; None where it was not asked for."""
    calibration_images: int | None
    """How many of the images calibrated it; None where no record says."""
    temperature_images: int | None
    """How many of the images its temperature was fitted on; None where no record says."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Everything that ``evaluate`` found on one folder."""

    data: Path
    naming: str
    contract: ModelContract
    """Of the first engine: names the classes."""
    images: int
    copies: int
    """How many of them have the content of another: each counts, though it tells nothing new."""
    unreadable: tuple[str, ...]
    engines: tuple[EngineResult, ...]
    pairs: tuple[Paired, ...]
    """``engines[i + 1]`` beside ``engines[0]``."""


def evaluate(
    contenders: Sequence[Contender],
    data: Labelled,
    *,
    overlap: Overlap,
    latency_s: float | None = LATENCY_S,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Evaluation, Answers]:
    """Measure all engines on the same pixels; then time each alone, for ``latency_s`` seconds (None: not at all).

    ``overlap`` is what ``calibration_overlap`` found. Raises what ``answers_of`` raises.
    """
    names = unique_names(contenders)
    answers = answers_of([c.runner for c in contenders], data, names=names, on_progress=on_progress)
    results = [
        EngineResult(
            name=name,
            precision=contender.precision,
            runner=contender.runner.description,
            model_bytes=contender.model_bytes,
            temperature=contender.runner.contract.temperature,
            accuracy=accuracy(answers, i, contender.runner.contract),
            latency_ms=None if latency_s is None else measure(contender.runner, duration_s=latency_s).median_ms,
            calibration_images=_shared(contender.calibrated_on, overlap.calibrated.get(contender.name)),
            temperature_images=_shared(contender.fitted_on, overlap.fitted.get(contender.name)),
        )
        for i, (contender, name) in enumerate(zip(contenders, names, strict=True))
    ]
    evaluation = Evaluation(
        data=data.root,
        naming=data.naming,
        contract=contenders[0].runner.contract,
        images=len(answers.files),
        copies=copies_among(answers.files),
        unreadable=answers.unreadable,
        engines=tuple(results),
        pairs=tuple(paired(answers, 0, i) for i in range(1, len(contenders))),
    )
    return evaluation, answers


def _shared(recorded: frozenset[str] | None, files: Sequence[Path] | None) -> int | None:
    return None if recorded is None else len(files or ())


def check_bound(max_drop: float) -> None:
    """UsageError for a ``--max-drop`` that is no bound."""
    if not 0 <= max_drop <= 100:  # false for NaN
        raise UsageError(f"--max-drop {max_drop}: takes points of top-1 accuracy within 0..100, such as 0.3")


def gate(found: Paired, first: str, second: str, max_drop: float, *, confident: bool = False) -> None:
    """ProofError where ``second`` is more than ``max_drop`` points of top-1 below ``first``.

    What is compared is the drop that was measured; with ``confident`` the largest that its 95 % interval allows.
    """
    low, high = found.points_interval.low, found.points_interval.high
    drop = -(low if confident else found.points)
    if drop <= max_drop + EPSILON:
        return
    is_, bound, more = (
        ("may be", " (the bound of the 95 % interval)", "more images, or ") if confident else ("is", "", "")
    )
    raise ProofError(
        f"--max-drop {max_drop:g}: {second} {is_} {drop:.2f} points of top-1 below {first}{bound}; measured "
        f"{found.points:+.2f}, 95 % interval {low:+.2f}..{high:+.2f}; give {more}the worst layers back to float: "
        "alexnet-deploy diagnose ranks them"
    )
