"""ONNX files of other tools: what is taken over answers as the original does in ONNX Runtime."""

from __future__ import annotations

import dataclasses
import os
import random
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

import alexnet_deploy.build.engine
from alexnet_deploy.adoption.import_options import ImportOptions
from alexnet_deploy.build.engine import build_engine
from alexnet_deploy.build.settings import BuildSettings
from alexnet_deploy.contract import Activation, Precision, Preprocessing
from alexnet_deploy.inference.engine import open_engine
from alexnet_deploy.verification.imported import adopt_verified
from tests.fuzz.graph_changes import CHANGING
from tests.fuzz.graph_rewrites import KEEPING
from tests.fuzz.kind import Case, UncheckedError, WrongError
from tests.fuzz.mutate import cut, damage
from tests.helpers.models.foreign_models import MEAN, STD, foreign_classifier
from tests.helpers.photos import save_photo

_TOLERANCE = 2e-3
"""Of logits relative to their range, and of probabilities: ours folds mean and std into float32 nodes of its own."""
_PHOTOS = 3
_WEIGHTS = "weights.bin"


class OnnxKind:
    """``adopt_verified`` of a changed classifier."""

    name = "onnx/adopt"
    share = 2.5

    def prepare(self, folder: Path) -> None:
        self.photos = folder / "photos"
        for index in range(_PHOTOS):
            save_photo(self.photos / f"{index}.png", (200 - 80 * index, 60 * index, 120), seed=index)
        models = [
            foreign_classifier(folder / "gemm.onnx"),
            foreign_classifier(folder / "matmul.onnx", head="matmul", opset=13, softmax=True),
            foreign_classifier(folder / "conv.onnx", head="convolution", opset=11, batch=1),
            foreign_classifier(folder / "nhwc.onnx", channels_last=True, names=("pixels", "logits")),
            foreign_classifier(folder / "old.onnx", opset=9, batch=4),
            foreign_classifier(folder / "constants.onnx", constants=True, softmax=True),
        ]
        external = folder / "external.onnx"
        onnx.save_model(onnx.load(models[0]), external, save_as_external_data=True, location=_WEIGHTS, size_threshold=0)
        self._sound = [path.read_bytes() for path in (*models, external)]
        self._weights = (folder / _WEIGHTS).read_bytes()

    def make(self, rng: random.Random, folder: Path) -> Case:
        path, what, keeps = self.changed(rng, folder)
        options = ImportOptions(MEAN, STD)

        def read() -> None:
            contract, _ = adopt_verified(path, folder / "ours.onnx", options, images=self.photos)
            pixels = _pixels(contract.preprocessing)
            ours = _session(folder / "ours.onnx")
            if ours is None:
                raise UncheckedError
            logits = _run(ours, pixels)
            if logits.shape != (2, len(contract.labels)):
                raise WrongError(f"logits {logits.shape} for 2 images and {len(contract.labels)} labels")
            _compare(path, pixels, logits, contract.activation)

        return Case(what, read, "right" if keeps else "any")

    def changed(self, rng: random.Random, folder: Path) -> tuple[Path, str, bool]:
        """A changed model, what was changed, and whether it still computes the same."""
        index = rng.randrange(len(self._sound))
        path = folder / "model.onnx"
        mode = rng.randrange(10)
        if index == len(self._sound) - 1 and self._write_weights(folder, rng):
            path.write_bytes(self._sound[index])
            return path, f"{index}: {_WEIGHTS} changed", False
        if mode == 0:
            path.write_bytes(cut(self._sound[index], rng) if rng.random() < 0.3 else damage(self._sound[index], rng))
            return path, f"{index}: bytes damaged", False
        model = onnx.ModelProto.FromString(self._sound[index])
        keeps = mode < 4
        changes = [rng.choice(KEEPING if keeps else CHANGING) for _ in range(rng.choice((1, 1, 2, 3)))]
        what = "; ".join([change(model, rng) for change in changes if model.graph.node])
        path.write_bytes(model.SerializeToString())
        return path, f"{index}: {what}", keeps

    def _write_weights(self, folder: Path, rng: random.Random) -> bool:
        """Write the file with the weights of the last model; whether it is another one than it should be."""
        path = folder / _WEIGHTS
        match rng.randrange(8):
            case 0:
                path.write_bytes(cut(self._weights, rng))
            case 1:
                path.write_bytes(damage(self._weights, rng))
            case 2:
                path.symlink_to(rng.choice(("nowhere", "/dev/zero", "/etc/passwd", _WEIGHTS, ".", "model.onnx")))
            case 3:
                os.mkfifo(path)
            case _:
                path.write_bytes(self._weights)
                return False
        return True


class EngineKind(OnnxKind):
    """``build_engine`` of a changed classifier, in any precision."""

    name = "onnx/build"
    share = 0.5

    def prepare(self, folder: Path) -> None:
        super().prepare(folder)
        # A TensorRT plan takes seconds, and the graph that it is built from is checked here as it is.
        assert "why_no_plan_here" in vars(alexnet_deploy.build.engine)
        alexnet_deploy.build.engine.why_no_plan_here = lambda: "not here"  # type: ignore[attr-defined]

    def make(self, rng: random.Random, folder: Path) -> Case:
        path, what, keeps = self.changed(rng, folder)
        precision: Precision = rng.choice(("fp32", "fp16", "int8", "int8+fp16"))
        settings = BuildSettings(import_options=ImportOptions(MEAN, STD), verify_images=self.photos)
        if "int8" in precision:
            settings = dataclasses.replace(settings, calibration_images=_PHOTOS)

        def read() -> None:
            data = self.photos if "int8" in precision else None
            bundle = build_engine(
                path, folder / "bundle", precision=precision, calibration_data=data, settings=settings
            )
            with open_engine(bundle, threads=1) as engine:  # as users do: the fastest runtime that answers right
                pixels = _pixels(engine.contract.preprocessing)
                logits = engine(pixels)
                labels, activation = len(engine.contract.labels), engine.contract.activation
            if logits.shape != (2, labels) or not np.isfinite(logits).all():
                raise WrongError(f"{precision}: logits {logits.shape}, finite {np.isfinite(logits).all()}")
            if precision == "fp32":
                _compare(path, pixels, logits, activation)

        # A change that keeps the meaning may leave values that no float16 holds.
        return Case(f"{precision} {what}", read, "right" if keeps and precision in ("fp32", "int8") else "any")


def _pixels(pre: Preprocessing) -> NDArray[np.uint8]:
    return np.random.default_rng(1).integers(0, 256, (2, pre.height, pre.width, 3), dtype=np.uint8)


def _session(path: Path) -> ort.InferenceSession | None:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    try:
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception:
        return None


def _run(session: ort.InferenceSession, images: NDArray[np.generic]) -> NDArray[np.float64]:
    """Scores ``[N, K]``; a fixed batch is filled up with copies."""
    (feed,) = session.get_inputs()
    batch = feed.shape[0] if isinstance(feed.shape[0], int) else len(images)
    rows = []
    for start in range(0, len(images), batch):
        part = images[start : start + batch]
        filled = np.concatenate([part, np.repeat(part[-1:], batch - len(part), axis=0)])
        scores = np.asarray(session.run(None, {feed.name: filled})[0])
        rows.append(scores.reshape(batch, -1)[: len(part)])
    return np.concatenate(rows).astype(np.float64)


def _compare(path: Path, pixels: NDArray[np.uint8], logits: NDArray[np.floating], activation: Activation) -> None:
    """WrongError unless ``logits`` say what the file says in ONNX Runtime; UncheckedError if that does not run it."""
    session = _session(path)
    if session is None or len(session.get_inputs()) != 1:
        raise UncheckedError
    (feed,) = session.get_inputs()
    images = (pixels / 255.0 - np.array(MEAN)) / np.array(STD)
    if feed.shape[1:2] == [3]:
        images = images.transpose(0, 3, 1, 2)
    kinds = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64}
    if feed.type not in kinds:
        raise UncheckedError
    try:
        scores = _run(session, images.astype(kinds[feed.type]))
    except Exception as exc:
        raise UncheckedError from exc
    ours = np.asarray(logits, np.float64)
    if scores.shape != ours.shape or not np.isfinite(scores).all():
        raise UncheckedError
    sums = scores.sum(axis=1)
    if activation == "sigmoid":
        found, expected, span = 1 / (1 + np.exp(-ours)), scores, 1.0
        if scores.min() < 0 or scores.max() > 1:
            raise UncheckedError
    elif scores.min() >= 0 and (np.allclose(sums, 1, atol=1e-3) or np.allclose(sums, 100, atol=0.1)):
        powers = np.exp(ours - ours.max(axis=1, keepdims=True))
        found, expected, span = powers / powers.sum(axis=1, keepdims=True), scores / sums[:, None], 1.0
    else:
        found, expected = (v - v.mean(axis=1, keepdims=True) for v in (ours, scores))
        span = max(float(np.ptp(expected)), 1e-6)
    largest = float(np.abs(found - expected).max()) / span
    if largest > _TOLERANCE:
        raise WrongError(
            f"differs from the original by {largest:.1%} ({activation}): {ours[0][:4]} for {scores[0][:4]}"
        )
