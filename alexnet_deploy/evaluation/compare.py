"""Two engines on the same pixels: how far their logits are apart, and on which images they answer otherwise.

Needs no labels: the first engine is the reference, right or wrong.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from alexnet_deploy.contract import ModelContract
from alexnet_deploy.errors import InputError, ProofError, UsageError
from alexnet_deploy.evaluation.accuracy import log_softmax
from alexnet_deploy.evaluation.answers import Answers, answers_of, predicted
from alexnet_deploy.files import sha256_of
from alexnet_deploy.images.labelled import Labelled
from alexnet_deploy.runtime.runner import Runner

# Legend: N image, K class

_FIND = "find where the engines part with --layers"
WORST = 5
"""Images shown: enough to see what they have in common."""


@dataclass(frozen=True, slots=True)
class Parted:
    """One image and what the two engines say of it; an answer is None where a logit is NaN or infinite."""

    file: Path
    max_abs: float
    kl_nats: float
    answer_a: str | None
    answer_b: str | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """How far logits B are from logits A. All but counts and agreement are over the images finite in both engines."""

    images: int
    unreadable: tuple[str, ...]
    not_finite_a: int
    not_finite_b: int
    """Images for which a logit of that engine is NaN or infinite: they count as disagreement."""
    max_abs: float
    mean_abs: float
    largest_logit: float
    """The largest magnitude of a logit of A: what ``max_abs`` is to be seen against."""
    cosine_mean: float
    cosine_min: float
    """Of the logits of one image; 1 where both are all 0."""
    kl_nats: float
    """Mean of KL(softmax(A) || softmax(B)), both at temperature 1."""
    disagreements: int
    """Images whose first answers differ."""
    worst: tuple[Parted, ...]
    """The images whose logits differ most, the worst first; before all others those that are not finite."""

    @property
    def relative(self) -> float:
        """``max_abs`` as a share of ``largest_logit``; 0 where both are 0."""
        return self.max_abs / self.largest_logit if self.largest_logit else math.inf if self.max_abs else 0.0

    @property
    def agreement_percent(self) -> float:
        """Share of images with the same first answer."""
        return 100 * (self.images - self.disagreements) / self.images


def compare(
    a: Runner,
    b: Runner,
    files: Sequence[Path],
    *,
    root: Path,
    names: Sequence[str] | None = None,
    worst: int = WORST,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Comparison:
    """Run image ``files`` of folder ``root`` through both engines; errors call these by ``names``.

    Raises UsageError where the two have other classes or preprocess differently, InputError where no image can be read.
    """
    refuse_other_classes(a.contract, b.contract)
    unlabelled = Labelled(root, tuple(files), (-1,) * len(files))
    return difference(answers_of([a, b], unlabelled, names=names, on_progress=on_progress), a.contract, worst=worst)


def refuse_other_classes(a: ModelContract, b: ModelContract) -> None:
    """UsageError unless logit k means the same class in both."""
    if len(a.labels) != len(b.labels) or (a.class_ids != b.class_ids and a.labels != b.labels):
        raise UsageError(
            f"the engines have other classes ({len(a.labels)}: {a.labels[0]}, ...; {len(b.labels)}: {b.labels[0]}, "
            "...); compare two builds of one model"
        )


def difference(answers: Answers, contract: ModelContract, *, worst: int = WORST) -> Comparison:
    """The comparison of the two engines of ``answers``; ``contract`` names the classes."""
    a_NK, b_NK = answers.logits_NK
    answer_a_N, answer_b_N = predicted(a_NK), predicted(b_NK)
    finite_N = (answer_a_N >= 0) & (answer_b_N >= 0)
    if not finite_N.any():
        raise InputError(f"no image has finite logits in both engines ({answers.files[0]}, ...); build them again")
    max_N, mean_N, cosine_N, kl_N = (np.full(len(finite_N), np.nan) for _ in range(4))
    max_N[~finite_N] = np.inf
    for i in np.flatnonzero(finite_N):
        x, y = a_NK[i].astype(np.float64), b_NK[i].astype(np.float64)
        gap = np.abs(x - y)
        max_N[i], mean_N[i], cosine_N[i], kl_N[i] = gap.max(), gap.mean(), _cosine(x, y), _kl_nats(a_NK[i], b_NK[i])
    order = np.argsort(-max_N, kind="stable")[:worst]
    return Comparison(
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
            Parted(
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


def same_graph(a: Path, b: Path) -> bool:
    """Whether two ONNX files are the same, byte for byte: then only what runs them can set their logits apart."""
    return a.samefile(b) or (a.stat().st_size == b.stat().st_size and sha256_of(a) == sha256_of(b))


def gate(
    found: Comparison,
    *,
    max_error: float | None = None,
    min_agreement: float | None = None,
    same_graph: bool = False,
) -> None:
    """ProofError where a logit differs by more than ``max_error``, or fewer than ``min_agreement`` % of answers agree.

    An image that is not finite in one of the engines breaks both bounds. Where both run the ``same_graph`` the next
    step is another than to look for the layer.
    """
    step = "it is the runtimes that differ: hold a third against them" if same_graph else _FIND
    broken = found.not_finite_a + found.not_finite_b
    if broken and (max_error is not None or min_agreement is not None):
        raise ProofError(f"{broken} answers are not finite; build the engine with a higher precision")
    if max_error is not None and found.max_abs > max_error:
        raise ProofError(
            f"--max-error {max_error:g}: a logit differs by {found.max_abs:.4g} ({found.worst[0].file}); {step}"
        )
    if min_agreement is not None and found.agreement_percent < min_agreement:
        raise ProofError(
            f"--min-agreement {min_agreement:g}: {found.agreement_percent:.2f} % of {found.images} answers agree; "
            f"{step}"
        )


def check_bounds(max_error: float | None, min_agreement: float | None) -> None:
    """UsageError for a bound that is none."""
    if max_error is not None and not 0 <= max_error < math.inf:  # false for NaN
        raise UsageError(f"--max-error {max_error}: takes a difference of logits, 0 or more")
    if min_agreement is not None and not 0 <= min_agreement <= 100:
        raise UsageError(f"--min-agreement {min_agreement}: takes percent within 0..100, such as 99.5")


def _cosine(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    lengths = float(np.linalg.norm(x) * np.linalg.norm(y))
    return float(x @ y) / lengths if lengths else float(not x.any() and not y.any())


def _kl_nats(p_K: NDArray[np.float32], q_K: NDArray[np.float32]) -> float:
    log_p_K, log_q_K = log_softmax(p_K[None], 1.0)[0], log_softmax(q_K[None], 1.0)[0]
    return max(float(np.exp(log_p_K) @ (log_p_K - log_q_K)), 0.0)  # rounding can leave a 0 just below it


def _label(contract: ModelContract, answer: np.int64) -> str | None:
    return contract.labels[answer] if answer >= 0 else None
