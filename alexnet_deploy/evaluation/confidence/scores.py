"""Which score tells best which answers to trust: all of them on labelled images, and on outliers if there are any."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from alexnet_deploy.calibration import Score
from alexnet_deploy.contract import ModelContract
from alexnet_deploy.evaluation.confidence.record import ScoreRow
from alexnet_deploy.evaluation.selective import aurc, auroc, fpr_at_95
from alexnet_deploy.probabilities import certainty

# Legend: N image, O outlier, K class

RESAMPLES = 200


@dataclass(frozen=True, slots=True)
class ScoreChoice:
    """The rows of all scores, the chosen one and the reason."""

    rows: tuple[ScoreRow, ...]
    score: Score
    why: str


def choose_score(
    logits_NK: NDArray[np.float32],
    right_N: NDArray[np.bool_],
    outlier_logits_OK: NDArray[np.float32] | None,
    contract: ModelContract,
    *,
    seed: int = 0,
) -> ScoreChoice:
    """Compare the scores by the area under the risk-coverage curve and choose one.

    Outliers count as wrong answers in it (Jaeger et al. 2023, A call to reflect on evaluation practices for failure
    detection, arXiv:2211.15259). Scores within one standard error of the best (paired bootstrap) are equally good; of
    these the one that lets the fewest outliers pass at 95 % of the images is chosen, without outliers the first of
    ``Score``. All logits must be finite.
    """
    scores: tuple[Score, ...] = get_args(Score)
    known = {score: certainty(logits_NK, contract, score) for score in scores}
    outliers = (
        {} if outlier_logits_OK is None else {score: certainty(outlier_logits_OK, contract, score) for score in scores}
    )
    all_right = right_N
    together = known
    if outlier_logits_OK is not None:
        all_right = np.r_[right_N, np.zeros(len(outlier_logits_OK), bool)]
        together = {score: np.r_[known[score], outliers[score]] for score in scores}
    areas = {score: aurc(together[score], all_right) for score in scores}
    rows = tuple(
        ScoreRow(
            score,
            100 * areas[score],
            *(
                (100 * auroc(known[score], outliers[score]), 100 * fpr_at_95(known[score], outliers[score]))
                if outliers
                else (None, None)
            ),
        )
        for score in scores
    )
    best = min(scores, key=lambda score: areas[score])
    alike = [
        score
        for score in scores
        if areas[score] - areas[best] <= _standard_error(together[score], together[best], all_right, seed)
    ]
    of = {row.score: row for row in rows}
    chosen = min(alike, key=lambda score: (of[score].fpr95_percent or 0.0, scores.index(score)))
    why = f"risk-coverage area {100 * areas[chosen]:.2f} %"
    why += (
        ", the smallest" if chosen == best else f", as good as the smallest ({100 * areas[best]:.2f} %) within chance"
    )
    if outliers:
        lets = f"{of[chosen].fpr95_percent:.1f} % of the outliers pass where 95 % of the images do"
        why += f"; {lets}" + (", the fewest of these scores" if len(alike) > 1 else "")
    elif len(alike) > 1 and chosen == scores[0]:
        why += "; a probability is the easiest to read"
    return ScoreChoice(rows, chosen, why)


def _standard_error(a_N: NDArray[np.float64], b_N: NDArray[np.float64], right_N: NDArray[np.bool_], seed: int) -> float:
    """The bootstrap standard deviation of the difference of two areas on the same images."""
    if a_N is b_N:
        return 0.0
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(RESAMPLES):
        drawn = rng.integers(0, len(right_N), len(right_N))
        found.append(aurc(a_N[drawn], right_N[drawn]) - aurc(b_N[drawn], right_N[drawn]))
    return float(np.std(found))
