"""What a peer gets and what it gives: the same network, files and preprocessing as ours, and its answers."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from alexnet_deploy.bundle.manifest import MODEL
from alexnet_deploy.bundle.verified import open_bundle
from alexnet_deploy.contract import Preprocessing

BATCH = 32
Classify = Callable[[], list[int]]
"""Classifies all files and returns the likeliest class of each, in order."""


@dataclass(frozen=True, slots=True)
class Task:
    """Photos to classify; ``bundle`` is the engine and ``weights`` its checkpoint (None: the shipped one).

    ``scratch`` is an empty folder that lives as long as the pass.
    """

    bundle: Path
    files: Sequence[Path]
    scratch: Path
    weights: Path | None = None

    @property
    def onnx(self) -> Path:
        return self.bundle / MODEL

    def preprocessing(self) -> Preprocessing:
        """That of the engine, which every peer has to follow; the benchmark ends if the peers here cannot."""
        pre = open_bundle(self.bundle).contract.preprocessing
        found = (pre.channels, pre.interpolation, "square" if pre.height == pre.width else "not square")
        if found != (needed := ("rgb", "bilinear", "square")):
            sys.exit(f"{self.bundle}: computes on {', '.join(found)}; the peers need {', '.join(needed)}")
        return pre

    def folder(self, name: str) -> Path:
        """A folder of links to the files, in their order by name, in one class folder ``name``; its parent is returned.

        Peers that read a folder sort it by name, and find no classes without class folders.
        """
        root = self.scratch / "folder"
        (root / name).mkdir(parents=True)
        for number, file in enumerate(self.files):
            (root / name / f"{number:06}{file.suffix}").symlink_to(file.resolve())
        return root


def resized_to(pre: Preprocessing) -> int | tuple[int, int]:
    """The argument of torchvision's Resize: the shorter side, or for ``"stretch"`` height and width (equal)."""
    if pre.resize == "stretch":
        return (side := pre.resize_to or pre.height), side
    assert pre.resize_to is not None, "a contract guarantees it"
    return pre.resize_to
