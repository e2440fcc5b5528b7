"""Which images a fit may use: one of each content, with no other use, and enough of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from alexnet_deploy.contract import ModelContract
from alexnet_deploy.errors import InputError
from alexnet_deploy.images.find import find_images
from alexnet_deploy.images.identity.shared import image_hashes, refuse_shared_images, shared_images
from alexnet_deploy.images.labelled import LabelledImages, list_labelled

MIN_IMAGES = 100
"""100 images determine a temperature to about 9 % (one standard deviation), 1000 to 2 % (docs/confidence.md)."""


_REMEDY = "a temperature must come from images used for nothing else: give"


def check_images(
    data: Path,
    contract: ModelContract,
    *,
    model: str,
    calibrated_by: Iterable[str] = (),
    used_for: Mapping[str, Path | None],
) -> None:
    """Raise InputError where ``calibrate`` would refuse ``data`` before an image runs: to know it before a long build.

    ``model`` is the name of what has the contract, ``calibrated_by`` the SHA-256 of the images that will calibrate
    the engine, ``used_for`` folders of images with another use, by the caller's parameters.
    """
    refuse_multi_label(contract, model)
    labelled, hash_of, _ = distinct(list_labelled(data, contract))
    refuse_calibrated_by(hash_of, calibrated_by, "the engine")
    refuse_shared(hash_of, used_for)
    require_enough(labelled.targets, str(data))


def distinct(data: LabelledImages) -> tuple[LabelledImages, dict[Path, str], int]:
    """``data`` with one image of each content, the SHA-256 of each, and how many are left out.

    A content that lies in folders of several classes has no certain class; none of its files remains.
    """
    hash_of = image_hashes(data.files)
    classes_of: dict[str, set[int]] = {}
    for file, target in zip(data.files, data.targets, strict=True):
        if file in hash_of:
            classes_of.setdefault(hash_of[file], set()).add(target)
    first_of: dict[str, Path] = {}
    kept = []
    for file, target in zip(data.files, data.targets, strict=True):
        # What cannot be read has no content to compare; opening it as an image reports the cause.
        sha256 = hash_of.get(file)
        if sha256 is None or (len(classes_of[sha256]) == 1 and first_of.setdefault(sha256, file) == file):
            kept.append((file, target))
    files, targets = zip(*kept, strict=True) if kept else ((), ())
    hashes = {file: hash_of[file] for file in files if file in hash_of}
    return replace(data, files=files, targets=targets), hashes, len(data.files) - len(files)


def refuse_calibrated_by(hash_of: dict[Path, str], hashes: Iterable[str], engine: str) -> None:
    """InputError if one of the images set the ranges of ``engine``; ``hashes`` are those of its images."""
    refuse_shared_images(shared_images(hash_of, hashes), f"calibrated {engine}", f"{_REMEDY} other images")


def refuse_shared(hash_of: dict[Path, str], used_for: Mapping[str, Path | None]) -> None:
    """InputError if one of the images serves another purpose as well: ``used_for`` by the names of the parameters."""
    sizes = {file.stat().st_size for file in hash_of}
    for parameter, folder in used_for.items():
        if folder is None:
            continue
        shared = shared_images(hash_of, image_hashes(find_images([folder]), sizes=sizes).values())
        use = f"also lies in `{parameter}` {folder}"
        refuse_shared_images(shared, use, f"{_REMEDY} folders that share no image")


def refuse_multi_label(contract: ModelContract, source: str) -> None:
    """InputError, which names ``source``, for a model whose folders do not name all classes of an image."""
    if contract.activation == "sigmoid":
        raise InputError(
            f"{source}: is multi-label (sigmoid), and a folder names one class per image, not which others it shows: "
            "no temperature can be fitted; use its scores as they are"
        )


def require_enough(targets: Iterable[int], source: str) -> None:
    """InputError if images of these classes are too few for a fit, or of one class."""
    images_of = Counter(targets)
    if (images := images_of.total()) < MIN_IMAGES:
        raise InputError(f"{source}: {images} usable images are too few for a temperature; give {MIN_IMAGES} or more")
    if len(images_of) < 2:
        raise InputError(
            f"{source}: all images are of one class, which is not enough to fit a temperature; give several classes"
        )
