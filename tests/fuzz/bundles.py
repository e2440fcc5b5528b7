"""Bundles with changed manifests and changed, exchanged or missing files: the same answers as before, or refused."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alexnet_deploy.bundle.listing import list_bundles
from alexnet_deploy.bundle.manifest import (
    CALIBRATION,
    MANIFEST,
    MODEL,
    Manifest,
    Plan,
    save_manifest,
    unlisted_files,
    write_bundle,
)
from alexnet_deploy.contract import BatchProfile
from alexnet_deploy.errors import DeployError
from alexnet_deploy.inference.engine import open_engine
from tests.fuzz.kind import Case, WrongError
from tests.fuzz.mutate import cut, damage, damaged_json, json_text
from tests.helpers.models.onnx_models import TINY_CONTRACT, tiny_model

_PLAN = "sm89.plan"
_FILES = (MODEL, CALIBRATION, _PLAN, MANIFEST)


class BundleKind:
    """A store with one changed bundle and a sound one."""

    name = "bundles"
    share = 2.0

    def prepare(self, folder: Path) -> None:
        self._stores = folder
        self._answers: dict[str, NDArray[np.float32]] = {}
        self._pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
        for name, temperature, precision in (("first", 1.0, "fp32"), ("second", 2.0, "int8")):
            contract = dataclasses.replace(TINY_CONTRACT, architecture=name, temperature=temperature)
            with write_bundle(folder / name) as new:
                tiny_model(new / MODEL, precision)
                (new / _PLAN).write_bytes(b"ftrt" + name.encode() * 50)
                (new / CALIBRATION).write_text("{}")
                plan = Plan(_PLAN, "tensorrt_rtx", "1.7", "sm89")
                save_manifest(Manifest(precision, contract, BatchProfile(), {"onnx": "1"}, (plan,)), new)
            self._answers[name] = self._logits(folder / name)[0]

    def _logits(self, bundle: Path) -> tuple[NDArray[np.float32], float]:
        with open_engine(bundle, runtime="onnxruntime", verify=False, threads=1) as engine:
            return engine(self._pixels), engine.contract.temperature

    def make(self, rng: random.Random, folder: Path) -> Case:
        store = folder / "engines"
        shutil.copytree(self._stores, store)
        (store / "first" / MANIFEST).chmod(0o644)
        rehash = rng.random() < 0.15
        what = "; ".join(self._change(store / "first", store / "second", rng) for _ in range(rng.choice((1, 1, 2))))
        if rehash:
            what += _rehash(store / "first")

        def read() -> None:
            for directory, _ in list_bundles(store):
                try:
                    unlisted_files(directory)
                except DeployError:
                    continue
            logits, temperature = self._logits(store / "first")
            if rehash:  # the owner of all hashes may change anything; the shape is promised all the same
                if logits.shape != (3, 10):
                    raise WrongError(f"logits {logits.shape}")
                return
            # A folder that holds the other bundle as a whole is that bundle.
            if not (np.array_equal(logits, self._answers["first"]) and temperature == 1.0) and not (
                np.array_equal(logits, self._answers["second"]) and temperature == 2.0
            ):
                raise WrongError("answers as neither of the two bundles")

        return Case(what, read)

    def _change(self, bundle: Path, other: Path, rng: random.Random) -> str:
        name = rng.choice(_FILES)
        path = bundle / name
        match rng.randrange(10):
            case 0 | 1 | 2 | 3:
                path = bundle / MANIFEST
                if path.is_symlink() or not path.is_file():
                    return "a manifest that is none already"
                try:
                    raw = json.loads(path.read_bytes())
                except (ValueError, RecursionError):
                    return "a manifest that is none already"
                changed, what = damaged_json(raw, rng)
                text, how = json_text(changed, rng)
                path.write_bytes(text)
                return f"{what} {how}"
            case 4:
                _remove(path)
                shutil.copyfile(other / name, path)
                return f"{name} of the other bundle"
            case 5 if path.is_file() and not path.is_symlink():
                data = path.read_bytes()
                path.write_bytes(damage(data, rng) if data and rng.random() < 0.7 else cut(data + b" ", rng))
                return f"{name} damaged"
            case 6:
                _remove(path)
                target = rng.choice(
                    (other / name, Path("/dev/zero"), Path("nowhere"), path, other, Path("/proc/self/mem"))
                )
                path.symlink_to(target)
                return f"{name} a link to {target.name}"
            case 7:
                _remove(path)
                kind = rng.choice(("nothing", "a folder", "a FIFO"))
                if kind == "a folder":
                    path.mkdir()
                elif kind == "a FIFO":
                    os.mkfifo(path)
                return f"{kind} for {name}"
            case 8:
                extra = bundle / rng.choice(("more.plan", "a\nb", "sm80.plan", "\u202ex", "notes.txt"))
                extra.write_bytes(rng.randbytes(20))
                return f"{extra.name!r} more"
            case _:
                for file in rng.sample(_FILES, rng.choice((2, 4))):
                    _remove(bundle / file)
                    shutil.copyfile(other / file, bundle / file)
                return "files of the other bundle"


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _rehash(bundle: Path) -> str:
    """Make the manifest fit the files again, as someone who means harm would."""
    if (bundle / MANIFEST).is_symlink() or not (bundle / MANIFEST).is_file():
        return ""
    try:
        raw: Any = json.loads((bundle / MANIFEST).read_bytes())
        raw["files"] = {
            path.name: {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "bytes": path.stat().st_size}
            for path in sorted(bundle.iterdir())
            if path.name != MANIFEST and path.is_file() and not path.is_symlink()
        }
        raw["contract_sha256"] = hashlib.sha256(json.dumps(raw["contract"], sort_keys=True).encode()).hexdigest()
        (bundle / MANIFEST).write_text(json.dumps(raw))
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return ""
    return "; hashes made again"
