"""The classes of a data set among those of a network, by id or by the name for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from alexnet_deploy.contract import ModelContract


def match_classes(contract: ModelContract, class_ids: Sequence[str]) -> list[int | None]:
    """The output of the network for each of ``class_ids``, None for a class that it does not have.

    A class is found by its id, as it is written, or else by a label that only one output has, in any case and with
    ``_`` for spaces: people call the folder of n01440764 tench. No two classes get one output.
    """
    by_id = {class_id: number for number, class_id in enumerate(contract.class_ids)}
    by_label = {label: number for number, label in enumerate(map(_plain, contract.labels))}
    uses = Counter(map(_plain, contract.labels))
    found: list[int | None] = [by_id.get(class_id) for class_id in class_ids]
    for place, class_id in enumerate(class_ids):
        label = _plain(class_id)
        if found[place] is None and uses[label] == 1 and by_label[label] not in found:
            found[place] = by_label[label]
    return found


def _plain(name: str) -> str:
    return " ".join(name.replace("_", " ").split()).casefold()
