"""What ``evaluate`` measured, as JSON."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # it loads SciPy; only the type is needed here
    from alexnet_deploy.evaluation.evaluate import Evaluation


def evaluation_json(found: Evaluation) -> dict[str, Any]:
    """Everything that was measured, with all classes of every pair."""
    names = found.contract
    engines = []
    for i, result in enumerate(found.engines):
        row: dict[str, Any] = dataclasses.asdict(result)
        accuracy = row.pop("accuracy")
        engines.append({"engine": row.pop("name")} | row | accuracy | _mistakes(found, i))
    pairs = []
    for result, delta in zip(found.engines[1:], found.deltas, strict=True):
        classes = [
            {"class_id": names.class_ids[c.target], "label": names.labels[c.target], "points": c.points}
            | {key: value for key, value in dataclasses.asdict(c).items() if key != "target"}
            for c in delta.classes
        ]
        raw = dataclasses.asdict(delta) | {"classes": classes}
        pairs.append({"reference": found.engines[0].name, "engine": result.name} | raw)
    return {
        "data": found.data,
        "folders_named_by": found.naming,
        "images": found.images,
        "views": found.views,
        "copies": found.copies,
        "unreadable": found.unreadable,
        "engines": engines,
        "pairs": pairs,
    }


def _mistakes(found: Evaluation, index: int) -> dict[str, Any]:
    """The confusion matrix of an engine without its zeros: the diagonal by class, and every pair that occurs."""
    from alexnet_deploy.evaluation.mistakes import class_results, confusions  # late: it loads NumPy

    ids, labels = (*found.contract.class_ids, None), (*found.contract.labels, None)  # -1: no finite answer
    return {
        "classes": [
            {"class_id": ids[c.target], "label": labels[c.target], "images": c.images, "right": c.right}
            for c in class_results(found.answers, index)
        ],
        "confusions": [
            {
                "class_id": ids[c.truth],
                "label": labels[c.truth],
                "answer_class_id": ids[c.answer],
                "answer_label": labels[c.answer],
                "images": c.images,
            }
            for c in confusions(found.answers, index)
        ],
    }
