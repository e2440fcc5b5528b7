"""Files of features with damaged bytes: the same vectors and names as before, or refused."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np

from alexnet_deploy.contract import FeatureOutput, ModelContract, Preprocessing
from alexnet_deploy.features.index import open_index, open_writer
from alexnet_deploy.features.space import FeatureSpace
from tests.fuzz.kind import Case, WrongError
from tests.fuzz.mutate import cut, damage

_NAMES = [f"photos/{number}-ü.jpg" for number in range(9)]
_VECTORS = np.random.default_rng(0).normal(size=(9, 5)).astype(np.float32)


class FeaturesKind:
    """The file of one format."""

    share = 1.0

    def __init__(self, suffix: str) -> None:
        self.name = f"records/features{suffix}"
        self._suffix = suffix

    def prepare(self, folder: Path) -> None:
        features = FeatureOutput("classifier.5", (5,), "0" * 64)
        contract = ModelContract("any", (), (), Preprocessing(8, 8, "stretch", None), features=features)
        self._space = FeatureSpace("any", "fp32", "1" * 64, contract, "any runtime")
        with open_writer(folder / f"v{self._suffix}", self._space) as write:
            write(_NAMES[:4], _VECTORS[:4])
            write(_NAMES[4:], _VECTORS[4:])
        self._content = (folder / f"v{self._suffix}").read_bytes()

    def make(self, rng: random.Random, folder: Path) -> Case:
        change = rng.choice((damage, damage, cut))
        path = folder / f"v{self._suffix}"
        path.write_bytes(change(self._content, rng))

        def read() -> None:
            with open_index(path) as index:
                vectors = np.concatenate(list(index.blocks()))
                names, space = index.names(range(index.rows)), index.space
            if space != self._space or names != _NAMES or not np.array_equal(vectors, _VECTORS):
                raise WrongError(f"{len(names)} rows, {space.engine}")

        return Case(change.__name__, read)
