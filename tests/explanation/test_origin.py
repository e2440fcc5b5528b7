"""Whether an engine was made from a checkpoint: yes in every precision, no for weights of another training."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from alexnet_deploy.contract import IMAGENET_MEAN, Precision, Preprocessing
from alexnet_deploy.explanation.origin import reason_against
from alexnet_deploy.images.samples import parity_pixels
from alexnet_deploy.model.architecture import AlexNet, initialise
from alexnet_deploy.model.checkpoint import Checkpoint
from alexnet_deploy.precision.convert import to_fp16, to_quantized
from tests.helpers.models.onnx_models import tiny_model


def converted(onnx: Path, out: Path, precision: Precision) -> Path:
    if precision == "fp32":
        return onnx
    if precision == "fp16":
        return to_fp16(onnx, out)

    def batches() -> Iterator[NDArray[np.uint8]]:
        yield parity_pixels(None, Preprocessing())

    to_quantized(onnx, out, precision=precision, batches=batches)
    return out


def changed(checkpoint: Checkpoint, **weights: torch.Tensor) -> Checkpoint:
    return dataclasses.replace(checkpoint, weights=checkpoint.weights | weights)


@pytest.mark.parametrize("precision", get_args(Precision))
def test_an_engine_of_any_precision_is_known_by_its_weights(
    tiny_onnx: Path, tiny_checkpoint: Checkpoint, tmp_path: Path, precision: Precision
) -> None:
    engine = converted(tiny_onnx, tmp_path / "m.onnx", precision)
    assert reason_against(engine, tiny_checkpoint.contract, tiny_checkpoint) is None
    torch.manual_seed(1)
    other = AlexNet(tiny_checkpoint.arch)
    initialise(other, "kaiming")
    reason = reason_against(engine, tiny_checkpoint.contract, changed(tiny_checkpoint, **other.state_dict()))
    assert reason is not None
    assert "the weights of features.0/Conv differ by" in reason


def test_one_layer_that_was_trained_on_is_enough(tiny_onnx: Path, tiny_checkpoint: Checkpoint) -> None:
    for key, words in (("weight", "weights of classifier.6"), ("bias", "biases of classifier.6")):
        name = f"classifier.6.{key}"
        trained = changed(tiny_checkpoint, **{name: torch.rand(tiny_checkpoint.weights[name].shape)})
        reason = reason_against(tiny_onnx, tiny_checkpoint.contract, trained)
        assert reason is not None
        assert words in reason


def test_other_classes_other_pixels_and_another_network_are_named(
    tiny_onnx: Path, tiny_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    contract = tiny_checkpoint.contract
    classes = dataclasses.replace(contract, labels=("a", "b", "c"), class_ids=("1", "2", "3"))
    assert "other classes (3: a, b, c)" in str(
        reason_against(tiny_onnx, contract, dataclasses.replace(tiny_checkpoint, contract=classes))
    )
    pre = dataclasses.replace(contract.preprocessing, std=IMAGENET_MEAN)
    other = dataclasses.replace(contract, preprocessing=pre)
    assert "another std" in str(reason_against(tiny_onnx, other, tiny_checkpoint))
    assert "8 layers with weights, the engine 5" in str(
        reason_against(tiny_model(tmp_path / "tiny.onnx"), contract, tiny_checkpoint)
    )
    wide = dataclasses.replace(tiny_checkpoint.arch, hidden=tiny_checkpoint.arch.hidden + 16)
    model = AlexNet(wide)
    initialise(model, "kaiming")
    wider = Checkpoint(wide, contract, dict(model.state_dict()) | {
        key: value for key, value in tiny_checkpoint.weights.items() if key.startswith("features")
    })  # fmt: skip
    assert "classifier.1/Gemm has another shape" in str(reason_against(tiny_onnx, contract, wider))


def test_how_large_jpegs_are_decoded_and_the_temperature_do_not_matter(
    tiny_onnx: Path, tiny_checkpoint: Checkpoint
) -> None:
    contract = dataclasses.replace(tiny_checkpoint.contract.decoded("reduced-4x"), temperature=2.0)
    assert reason_against(tiny_onnx, contract, tiny_checkpoint) is None
