"""Where one or two engines look on photos: occlusion by each of them, and Grad-CAM of the checkpoint beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from alexnet_deploy.contract import ModelContract
from alexnet_deploy.errors import InputError, UsageError
from alexnet_deploy.explanation.occlusion import Occlusion, corners, occlude
from alexnet_deploy.explanation.settings import OcclusionSettings
from alexnet_deploy.images.sources import Source, load_source
from alexnet_deploy.inference.engine import OpenEngine
from alexnet_deploy.probabilities import predicted_classes, probabilities
from alexnet_deploy.progress import Progress, no_progress

if TYPE_CHECKING:  # it loads SciPy, which only two engines need
    from alexnet_deploy.explanation.agreement import Agreement

# Legend: H height, W width, C channel (RGB), K class

GradCamOf = Callable[[NDArray[np.uint8], int], NDArray[np.float32]]
"""The Grad-CAM map of a picture ``[H, W, C]`` and a class."""
_LABELS_NAMED = 10


@dataclass(frozen=True, slots=True)
class View:
    """What one engine answers for a photo, and where it looks."""

    answer: int
    answer_probability: float
    probability: float
    """Of the class that is explained; both as ``infer`` gives them."""
    occlusion: Occlusion
    """Of the class that is explained, which need not be the engine's answer."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """One photo. ``error`` says why there is none; the other fields are then empty."""

    file: str
    error: str | None = None
    pixels_HWC: NDArray[np.uint8] | None = None
    """What the network saw."""
    target: int = -1
    """The class that is explained."""
    views: tuple[View, ...] = ()
    """Of the engine, then of the one beside it."""
    agreement: Agreement | None = None
    """Of both engines; None for one."""
    grad_cam_HW: NDArray[np.float32] | None = None


def explain_photos(
    engines: Sequence[OpenEngine],
    photos: Sequence[Path | Source],
    settings: OcclusionSettings,
    *,
    class_name: str | None = None,
    grad_cam: GradCamOf | None = None,
    on_progress: Progress = no_progress,
) -> Iterator[Explanation]:
    """One Explanation per photo, in order.

    ``engines`` are the engine and, if it is compared, the one beside it (``check_beside``). Both explain the same
    class: ``class_name``, or the first engine's answer. A photo that cannot be used gets an Explanation with an error,
    and the others go on; a failing runtime ends the run with its exception. Raises UsageError at the call for an
    unknown class.
    """
    contract = engines[0].contract
    named = None if class_name is None else class_number(contract, class_name)
    pre = contract.preprocessing
    each = len(corners(pre.height, settings)) * len(corners(pre.width, settings))
    total = each * len(engines) * len(photos)
    return _explain(engines, photos, settings, named, grad_cam, each * len(engines), total, on_progress)


def _explain(
    engines: Sequence[OpenEngine],
    photos: Sequence[Path | Source],
    settings: OcclusionSettings,
    named: int | None,
    grad_cam: GradCamOf | None,
    each: int,
    total: int,
    on_progress: Progress,
) -> Iterator[Explanation]:
    pre = engines[0].contract.preprocessing
    for number, photo in enumerate(photos):
        done = number * each

        def count(pictures: int) -> None:
            nonlocal done
            done += pictures
            on_progress("pictures", done, total)

        pixels_HWC = np.empty((pre.height, pre.width, 3), np.uint8)
        try:
            load_source(photo, pre, pixels_HWC)
        except InputError as exc:
            yield Explanation(str(photo), str(exc))
            continue
        try:
            yield _explanation(engines, str(photo), pixels_HWC, settings, named, grad_cam, count)
        except _NotFiniteError as exc:
            yield Explanation(str(photo), f"{photo}: {exc}")
    on_progress("pictures", total, total)


class _NotFiniteError(InputError):
    """An answer for this photo is of no use."""


def _explanation(
    engines: Sequence[OpenEngine],
    file: str,
    pixels_HWC: NDArray[np.uint8],
    settings: OcclusionSettings,
    named: int | None,
    grad_cam: GradCamOf | None,
    count: Callable[[int], None],
) -> Explanation:
    target, views = named, []
    for engine in engines:
        logits_NK = engine(pixels_HWC[None])
        answer = int(predicted_classes(logits_NK)[0])
        if answer < 0:
            raise _NotFiniteError(f"the output of {engine.name} is not finite; try an engine of higher precision")
        target = answer if target is None else target
        shares_K = probabilities(logits_NK, engine.contract)[0]
        try:
            found = occlude(engine, pixels_HWC, target, settings, batch=engine.default_batch(), on_batch=count)
        except InputError as exc:
            raise _NotFiniteError(f"{engine.name}: {exc}") from exc
        views.append(View(answer, float(shares_K[answer]), float(shares_K[target]), found))
    assert target is not None
    both = None
    if len(views) == 2:
        from alexnet_deploy.explanation.agreement import agreement

        both = agreement(*(view.occlusion.drop_YX for view in views))
    cam_HW = None if grad_cam is None else grad_cam(pixels_HWC, target)
    return Explanation(file, None, pixels_HWC, target, tuple(views), both, cam_HW)


def check_beside(engine: OpenEngine, beside: OpenEngine) -> None:
    """UsageError unless both engines see the same pixels and answer with the same classes."""
    first, second = engine.contract, beside.contract
    if first.class_ids != second.class_ids:
        raise UsageError(
            f"`beside` {beside.name}: answers with other classes than {engine.name}; choose an engine of the same model"
        )
    # What the graph does with the pixels is its own affair.
    ours, theirs = (
        replace(each.preprocessing, mean=(0, 0, 0), std=(1, 1, 1), channels="rgb") for each in (first, second)
    )
    if ours != theirs:
        raise UsageError(
            f"`beside` {beside.name}: sees other pixels than {engine.name} ({theirs.describe()}; {ours.describe()}), "
            "so their maps cannot be compared; choose an engine with the same preprocessing"
        )


def class_number(contract: ModelContract, name: str) -> int:
    """The class with the label or the class id ``name``, in any case; UsageError with those there are."""
    for known in (contract.class_ids, contract.labels):
        for same in (str, str.casefold):
            found = [k for k, each in enumerate(known) if same(each) == same(name)]
            if len(found) > 1:
                ids = " and ".join(contract.class_ids[k] for k in found)
                raise UsageError(f"`class` {name}: is the label of {ids}; name one of them")
            if found:
                return found[0]
    labels = contract.labels
    if len(labels) <= _LABELS_NAMED:
        choice = f"choose one of {', '.join(labels)}"
    else:
        near = get_close_matches(name, labels)
        choice = f"did you mean {', '.join(near)}?" if near else "name a label or a class id of its contract"
    raise UsageError(f"`class` {name}: the engine has no such class; {choice}")
