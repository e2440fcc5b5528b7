"""Two engines on the same pixels: how far their logits differ, and on which images their answers differ.

Labels are not needed: the first engine is the reference, right or wrong.
"""

from __future__ import annotations

import math
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from alexnet_deploy.adoption.import_options import NO_IMPORT_OPTIONS, ImportOptions
from alexnet_deploy.bundle.manifest import Engine
from alexnet_deploy.bundle.store import STORE
from alexnet_deploy.bundle.verified import held
from alexnet_deploy.contract import ModelContract
from alexnet_deploy.errors import InputError, ProofError, UnavailableError, UsageError
from alexnet_deploy.evaluation.answers import Answers, collect_answers, find_or_choose
from alexnet_deploy.evaluation.engines import EvaluatedEngine, open_engines, unique_names
from alexnet_deploy.images.labelled import LabelledImages
from alexnet_deploy.inference.batches import read_batches
from alexnet_deploy.probabilities import kl_nats, predicted_classes
from alexnet_deploy.progress import Progress, no_progress
from alexnet_deploy.runtime.select import split_runtime

if TYPE_CHECKING:  # it loads ONNX Runtime
    from alexnet_deploy.evaluation.comparison.compare_layers import LayerDifference

# Legend: N image, K class

MAX_LISTED = 5
"""Images listed as the most divergent: enough to see a common cause."""
LAYER_BATCH = 8
"""Images per batch when layers are compared: memory holds every tensor of the batch twice."""


@dataclass(frozen=True, slots=True)
class Divergence:
    """The logits and answers of both engines for one image; an answer is None if a logit is NaN or infinite."""

    file: Path
    max_abs: float
    kl_nats: float
    answer_a: str | None
    answer_b: str | None


@dataclass(frozen=True, slots=True)
class LogitDifference:
    """How far logits B differ from logits A, over the images with finite logits in both engines.

    Counts and agreement are over all images.
    """

    images: int
    unreadable: tuple[str, ...]
    not_finite_a: int
    not_finite_b: int
    """Images for which a logit of that engine is NaN or infinite; they count as disagreement."""
    max_abs: float
    mean_abs: float
    largest_logit: float
    """The largest magnitude of a logit of A, as a scale for ``max_abs``."""
    cosine_mean: float
    cosine_min: float
    """Of the logits of one image; 1 if both are all 0."""
    kl_nats: float
    """Mean of KL(A || B) of the probabilities, both at temperature 1 (``probabilities.kl_nats``)."""
    disagreements: int
    """Images whose first answers differ."""
    worst: tuple[Divergence, ...]
    """The images whose logits differ most: those with a logit that is not finite first, then by ``max_abs``."""

    @property
    def relative(self) -> float:
        """``max_abs`` as a share of ``largest_logit``; 0 if both are 0."""
        return self.max_abs / self.largest_logit if self.largest_logit else math.inf if self.max_abs else 0.0

    @property
    def agreement_percent(self) -> float:
        """Share of images with the same first answer."""
        return 100 * (self.images - self.disagreements) / self.images


@dataclass(frozen=True, slots=True)
class ComparedEngine:
    """One side of a comparison."""

    name: str
    precision: str
    runner: str
    """Runtime, version, device."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Everything that ``compare`` found."""

    a: ComparedEngine
    b: ComparedEngine
    same_graph: bool
    """Whether both run the same ONNX, so only the runtimes can cause a difference."""
    logits: LogitDifference
    layers: tuple[LayerDifference, ...] | None
    """In the order of graph A; None if layers were not compared."""


def compare(
    a: str | Path,
    b: str | Path,
    data: str | Path,
    *,
    store: str | Path = STORE,
    runtime: str = "auto",
    threads: int | None = None,
    import_options: ImportOptions = NO_IMPORT_OPTIONS,
    images: int | None = None,
    layers: bool = False,
    on_progress: Progress = no_progress,
) -> Comparison:
    """Run the same images through two engines.

    ``a`` and ``b`` are bundles (names in ``store`` or paths), ONNX files or checkpoints, each with an optional
    runtime: ``alexnet-int8@openvino``. ``data`` is a folder of images, labelled or not; ``images`` limits their
    number, drawn evenly from its folders. ``layers`` also compares the tensors of both graphs in ONNX Runtime,
    independent of the runtimes of the engines.

    Raises UsageError if both sides are the same engine on the same runtime, their classes or their preprocessing
    differ, or ``layers`` is given for two identical graphs; InputError if no image can be read.
    """
    if str(a) == str(b):
        raise UsageError(
            f"{a} is compared with itself; name another engine, or two runtimes: {a}@openvino {a}@onnxruntime"
        )
    for side in (a, b):
        split_runtime(str(side), store=Path(store))  # one runtime per side: "all" is not one
    data = Path(data)
    files = find_or_choose(data, images)
    with open_engines([a, b], Path(store), [runtime], threads=threads, import_options=import_options) as opened:
        if len(opened) < 2:
            raise UsageError(
                f"{a} and {b} are the same engine on {opened[0].runner.description}; name another engine, or another "
                f"runtime: {opened[0].name}@onnxruntime"
            )
        engine_a, engine_b = opened
        same = _same_graph(engine_a.source, engine_b.source)
        if layers and same:
            raise UsageError(
                f"`layers` runs both graphs in ONNX Runtime, and {a} and {b} have the same graph: no layer could "
                "differ; leave it out, or name another engine"
            )
        unlabelled = LabelledImages(data, files, (-1,) * len(files))
        runners = [engine.runner for engine in opened]
        answers = collect_answers(runners, unlabelled, names=unique_names(opened), on_progress=on_progress)
        return Comparison(
            a=ComparedEngine(engine_a.name, engine_a.precision, engine_a.runner.description),
            b=ComparedEngine(engine_b.name, engine_b.precision, engine_b.runner.description),
            same_graph=same,
            logits=logit_difference(answers, engine_a.runner.contract),
            layers=_compare_layers(engine_a, engine_b, files) if layers else None,
        )


def logit_difference(answers: Answers, contract: ModelContract, *, listed: int = MAX_LISTED) -> LogitDifference:
    """Compare the logits of two engines; ``contract`` is that of both, ``listed`` bounds ``worst``."""
    a_NK, b_NK = answers.logits_NK
    answer_a_N, answer_b_N = predicted_classes(a_NK), predicted_classes(b_NK)
    finite_N = (answer_a_N >= 0) & (answer_b_N >= 0)
    if not finite_N.any():
        raise InputError(f"no image has finite logits in both engines ({answers.files[0]}, ...); build them again")
    max_N, mean_N, cosine_N, kl_N = (np.full(len(finite_N), np.nan) for _ in range(4))
    max_N[~finite_N] = np.inf
    kl_N[finite_N] = kl_nats(a_NK[finite_N], b_NK[finite_N], contract.activation)
    for i in np.flatnonzero(finite_N):
        x, y = a_NK[i].astype(np.float64), b_NK[i].astype(np.float64)
        gap = np.abs(x - y)
        max_N[i], mean_N[i], cosine_N[i] = gap.max(), gap.mean(), _cosine(x, y)
    order = np.argsort(-max_N, kind="stable")[:listed]
    return LogitDifference(
        images=len(finite_N),
        unreadable=answers.unreadable,
        not_finite_a=int((answer_a_N < 0).sum()),
        not_finite_b=int((answer_b_N < 0).sum()),
        max_abs=float(max_N[finite_N].max()),
        mean_abs=float(mean_N[finite_N].mean()),
        largest_logit=float(np.abs(a_NK[finite_N]).max()),
        cosine_mean=float(cosine_N[finite_N].mean()),
        cosine_min=float(cosine_N[finite_N].min()),
        kl_nats=float(kl_N[finite_N].mean()),
        disagreements=int(((answer_a_N != answer_b_N) | ~finite_N).sum()),
        worst=tuple(
            Divergence(
                answers.files[i],
                float(max_N[i]),
                float(kl_N[i]),
                _label(contract, answer_a_N[i]),
                _label(contract, answer_b_N[i]),
            )
            for i in order
            if max_N[i] > 0
        ),
    )


def check_bounds(max_error: float | None, min_agreement: float | None) -> None:
    """Raise UsageError if a bound of ``gate`` is out of range."""
    if max_error is not None and not 0 <= max_error < math.inf:  # false for NaN
        raise UsageError(f"`max_error` {max_error:g}: must be a difference of logits, 0 or more")
    if min_agreement is not None and not 0 <= min_agreement <= 100:
        raise UsageError(f"`min_agreement` {min_agreement:g}: must be a percentage within 0..100, such as 99.5")


def gate(found: Comparison, *, max_error: float | None = None, min_agreement: float | None = None) -> None:
    """Raise ProofError if a logit differs by more than ``max_error``, or too few answers agree.

    ``min_agreement`` is in percent of the images. An image with a logit that is not finite breaks both bounds.
    """
    logits = found.logits
    step = (
        "both run the same graph, so the runtimes disagree: compare with a third runtime"
        if found.same_graph
        else "find the layer where the engines differ with `layers`"
    )
    broken = logits.not_finite_a + logits.not_finite_b
    if broken and (max_error is not None or min_agreement is not None):
        raise ProofError(f"{broken} answers are not finite; build the engine with a higher precision")
    if max_error is not None and logits.max_abs > max_error:
        raise ProofError(
            f"`max_error` {max_error:g}: a logit differs by {logits.max_abs:.4g} ({logits.worst[0].file}); {step}"
        )
    if min_agreement is not None and logits.agreement_percent < min_agreement:
        raise ProofError(
            f"`min_agreement` {min_agreement:g}: {logits.agreement_percent:.2f} % of {logits.images} answers agree; "
            f"{step}"
        )


def _same_graph(a: Engine | None, b: Engine | None) -> bool:
    """Whether two ONNX files are the same, byte for byte, and so are the files of their weights."""
    if a is None or b is None:
        return False
    with held(a), held(b):
        return a.model_sha256() == b.model_sha256()


def _compare_layers(a: EvaluatedEngine, b: EvaluatedEngine, files: tuple[Path, ...]) -> tuple[LayerDifference, ...]:
    if a.source is None or b.source is None:
        raise UsageError("`layers` compares ONNX graphs, and a checkpoint has none; export it first")
    try:
        from alexnet_deploy.evaluation.comparison.compare_layers import compare_layers
    except ModuleNotFoundError as exc:
        raise UnavailableError(f"`layers` needs {exc.name}; pip install 'alexnet-deploy[cpu]'") from exc
    pre = a.runner.contract.preprocessing
    with held(a.source), held(b.source), closing(read_batches(files, pre, batch=LAYER_BATCH)) as batches:
        pixels = (read.pixels_NHWC for read in batches if len(read.pixels_NHWC))
        return tuple(compare_layers(a.source.onnx_path, b.source.onnx_path, pixels))


def _cosine(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    lengths = float(np.linalg.norm(x) * np.linalg.norm(y))
    return float(x @ y) / lengths if lengths else float(not x.any() and not y.any())


def _label(contract: ModelContract, answer: np.int64) -> str | None:
    return contract.labels[answer] if answer >= 0 else None
