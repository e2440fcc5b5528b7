"""No float16 engine whose inner numbers exceed float16: CPUs compute it in float32, and would answer as if they fit."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import pytest

from alexnet_deploy.adoption.import_options import ImportOptions
from alexnet_deploy.build.engine import build_engine
from alexnet_deploy.build.settings import BuildSettings
from alexnet_deploy.bundle.manifest import load_manifest
from alexnet_deploy.contract import Precision
from alexnet_deploy.errors import ProofError
from alexnet_deploy.precision.convert import to_quantized
from alexnet_deploy.precision.fp16 import cast_to_float16
from alexnet_deploy.verification.float16_range import require_float16_range
from alexnet_deploy.verification.imported import adopt_verified
from tests.helpers.models.graphs import graph_model

SIDE = 8
BODY = (
    "c = Conv<strides=[2,2]>(x, w1, b1); r = Relu(c); f = Flatten(r); g = Gemm<transB=1>(f, w2, b2); h = Relu(g); "
    "y = Gemm<transB=1>(h, w3)"
)


def model(path: Path, *, conv: float = 1.0, dense: float = 1.0) -> Path:
    """A classifier whose layers give numbers ``conv`` and ``dense`` times as large, and logits as before."""
    rng = np.random.default_rng(0)
    weights = {
        "w1": rng.normal(0, 0.3, (16, 3, 3, 3)) * conv,
        "b1": rng.normal(0, 0.1, 16) * conv,
        "w2": rng.normal(0, 0.1, (16, 144)) * dense / conv,
        "b2": rng.normal(0, 0.1, 16) * dense,
        "w3": rng.normal(0, 1, (4, 16)) / dense,
    }
    graph = graph_model(f"(float[N,3,{SIDE},{SIDE}] x) => (float[N,4] y)", BODY, **{
        name: values.astype(np.float32) for name, values in weights.items()
    })  # fmt: skip
    onnx.save(graph, path)
    return path


def build(onnx_path: Path, out: Path, precision: Precision, photos: Path) -> Path:
    calibration = photos / "train" if precision.startswith(("int8+", "fp8")) or precision == "int8" else None
    chosen = {} if calibration is None else {"calibration_images": 6}
    settings = BuildSettings(import_options=ImportOptions((0.5,), (0.25,)), **chosen)
    return build_engine(onnx_path, out, precision=precision, calibration_data=calibration, settings=settings)


@pytest.fixture(autouse=True)
def no_plans(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plans take seconds, and the check comes before them."""
    monkeypatch.setattr("alexnet_deploy.build.engine.why_no_plan_here", lambda: "not in this test")


@pytest.mark.parametrize(
    ("precision", "instead"),
    [
        ("fp16", "build fp32 or int8, whose other numbers are float32"),
        ("int4", "build fp32 or int8, whose other numbers are float32"),
        ("int8-weights", "build fp32 or int8, whose other numbers are float32"),
        ("int8+fp16", "build int8 without fp16"),
        ("fp8+fp16", "build fp8 without fp16"),
    ],
)
@pytest.mark.parametrize(("large", "first"), [({"conv": 5e4}, "c"), ({"dense": 1e5}, "g")], ids=["conv", "dense"])
def test_the_first_layer_beyond_float16_is_named_and_nothing_written(
    precision: Precision, instead: str, large: dict[str, float], first: str, photo_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(ProofError) as refused:
        build(model(tmp_path / "net.onnx", **large), tmp_path / "engine", precision, photo_folder)
    reason = str(refused.value)
    reader = {"c": "the input of g", "g": "the input of y"}[first]  # as the calibration images show it
    assert re.search(f"not written: numbers of ({first}|{reader}) \\(", reason)
    assert "float16 ends at 65504, so a GPU would compute infinity" in reason
    assert reason.endswith(instead)
    assert not (tmp_path / "engine").exists()


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_what_keeps_float32_is_built(precision: Precision, photo_folder: Path, tmp_path: Path) -> None:
    build(model(tmp_path / "net.onnx", conv=5e4, dense=1e5), tmp_path / "engine", precision, photo_folder)


@pytest.mark.parametrize("precision", ["fp16", "int4", "int8+fp16"])
def test_what_fits_is_built_and_a_number_that_comes_close_is_noted(
    precision: Precision, photo_folder: Path, tmp_path: Path
) -> None:
    for conv, close in ((1.0, False), (6e3, True)):
        out = build(model(tmp_path / "net.onnx", conv=conv), tmp_path / f"engine{close}", precision, photo_folder)
        notes = [note for note in load_manifest(out)[0].notes if "float16 ends at 65504" in note]
        assert len(notes) == close
        assert all(note.startswith("numbers of c reach ") for note in notes)


def test_numbers_of_the_calibration_images_count_as_well(tmp_path: Path) -> None:
    path = model(tmp_path / "net.onnx", dense=1e5)
    adopt_verified(path, tmp_path / "ours.onnx", ImportOptions((0.5,), (0.25,)))
    pixels = 255 * np.random.default_rng(1).integers(0, 2, (16, 1, 1, 3)).astype(np.uint8).repeat(SIDE, 1).repeat(
        SIDE, 2
    )
    with pytest.raises(ProofError, match=r"net: not written: numbers of the input of y \(Gemm\) reach .*int8 without"):
        to_quantized(
            tmp_path / "ours.onnx", tmp_path / "out.onnx", precision="int8+fp16", batches=lambda: iter([pixels]),
            source="net",
        )  # fmt: skip
    assert not (tmp_path / "out.onnx").exists()


def test_only_what_is_float16_counts_and_infinity_of_the_model_itself_does_not(tmp_path: Path) -> None:
    """A node kept in float32 may pass the limit; a mask of minus infinity is the same on every runtime."""
    body = "b = Mul(f, big); s = Mul(b, small); m = Where(mask, s, low); y = MatMul(m, w)"
    weights = {"big": np.float32(1e6), "small": np.float32(1e-6), "mask": np.array([True, True, False])}
    weights |= {"low": np.float32(-np.inf), "w": np.eye(3, dtype=np.float32)}
    graph = graph_model("(uint8[N,3] x) => (float[N,3] y)", f"f = Cast<to=1>(x); {body}", **weights)
    pixels = np.full((2, 3), 7, np.uint8)
    for keep, refused in ((frozenset({"b", "s"}), False), (frozenset(), True)):
        onnx.save(cast_to_float16(graph, keep=keep) if keep else _all_float16(graph), tmp_path / "half.onnx")
        try:
            assert require_float16_range(tmp_path / "half.onnx", pixels, name="net", instead="build fp32") == []
        except ProofError as exc:
            assert refused
            assert str(exc).startswith("net: not written: numbers of b (Mul) reach 4.2e+05, and float16 ends at 65504")
        else:
            assert not refused


def _all_float16(graph: onnx.ModelProto) -> onnx.ModelProto:
    """``graph`` with a factor that is float16's largest number or smaller."""
    graph = onnx.ModelProto.FromString(graph.SerializeToString())
    for tensor in graph.graph.initializer:
        if tensor.name in ("big", "small"):
            wanted = 6e4 if tensor.name == "big" else 1e-6
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.float32(wanted), tensor.name))
    return cast_to_float16(graph)
