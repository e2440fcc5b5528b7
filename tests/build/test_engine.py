"""build-engine as a function: what a bundle holds, and that nothing is left of one that does not prove out."""

from __future__ import annotations

import re
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from alexnet_deploy.build import engine
from alexnet_deploy.build.engine import build_engine
from alexnet_deploy.build.plans import BuiltPlan, BuiltPlans
from alexnet_deploy.bundle.manifest import LayerPrecision
from alexnet_deploy.bundle.verified import open_bundle, verify
from alexnet_deploy.contract import BatchProfile, ModelContract, Precision
from alexnet_deploy.errors import InputError, ProofError, UnavailableError, UsageError
from alexnet_deploy.images.choose import choose_images
from alexnet_deploy.onnx_graph.onnx_file import contract_in, load_onnx, save_onnx
from alexnet_deploy.runtime.select import open_runner
from tests.helpers.models.bundles import build_bundle


def test_bundle_holds_what_its_manifest_says(tiny_onnx: Path, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    made = build_bundle(tiny_onnx, out, batch=BatchProfile(1, 2, 4), targets=("all",))
    targets = ["sm80", "sm86", "sm89", "sm120", "sm121"]
    assert {path.name for path in out.iterdir()} == {"bundle.json", "model.onnx", *(f"{t}.plan" for t in targets)}
    assert verify(out)[0] == made
    assert [plan.target for plan in made.plans] == targets
    assert [*made.achieved] == [f"{target}.plan" for target in targets]
    assert {"alexnet-deploy", "python", "onnx", "onnxruntime"} <= made.tools.keys()
    (note,) = made.notes
    assert re.match("no plan: .*sm75", note)
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_a_calibration_is_carried_and_a_rule_is_not(
    fitted_onnx: tuple[Path, ModelContract], tmp_path: Path, photo_folder: Path, precision: Precision
) -> None:
    source, fitted = fitted_onnx
    images = {"calibration_data": photo_folder / "train", "calibration_images": 6} if precision == "int8" else {}
    made = build_bundle(source, tmp_path / "bundle", precision, **images)
    assert made.contract == fitted
    assert contract_in(load_onnx(tmp_path / "bundle/model.onnx"), source="bundle") == fitted
    assert any("rule for unknown answers" in note and "calibrate-confidence" in note for note in made.notes)
    # Float16 answers as float32 does; int8 nearly does, which a note says.
    assert any(note.startswith(engine.BORROWED) for note in made.notes) == (precision == "int8")


def test_the_default_place_names_model_and_precision(
    tiny_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(engine, "why_no_plan_here", lambda: "not in this test")
    assert build_engine(str(tiny_onnx), precision="fp16") == Path("engines/tiny-fp16")
    assert engine.default_output(Path("a/net.onnx"), "int8+fp16", Path("store")) == Path("store/net-int8-fp16")
    assert verify(Path("engines/tiny-fp16"))[0].precision == "fp16"


@pytest.mark.parametrize(
    ("precision", "options", "message"),
    [
        ("fp16", {"exclude": "features.0"}, "`exclude` is for quantised precisions; build with one of them, or"),
        ("fp32", {"calibration_method": "max"}, "`calibration_method` is for quantised precisions"),
        ("fp32", {"calibration_data": Path("photos")}, "`calibration_data` is for quantised precisions"),
        ("int2", {}, "`precision` int2: unknown; choose one of fp32, fp16, int8"),
        ("int4", {"calibration_method": "gptq"}, "`calibration_method` gptq: needs `calibration_data`; give both"),
        ("int4", {"calibration_images": 20}, "`calibration_images` 20: needs `calibration_data`; give both"),
        ("fp16", {"calibration_images": 20}, "`calibration_images` is for quantised precisions"),
        (
            "int4",
            {"calibration_method": "max", "calibration_data": Path("photos")},
            "`calibration_method` max: does not fit int4; choose one of gptq",
        ),
        ("int8", {"calibration_method": "gptq", "calibration_data": Path("photos")}, "gptq: does not fit int8; choose"),
        ("fp8+fp16", {}, "fp8 needs `calibration_data`: without the value ranges of real images"),
        ("fp32", {"calibration_images": -1}, "^`calibration_images` -1: must be 1 or more"),
        ("int8", {"calibration_method": "mean"}, "^`calibration_method` mean: unknown; choose one of max"),
        ("int8", {"exclude": ("a",)}, r"^`exclude` \('a',\): is not a regular expression"),
    ],
)
def test_what_does_not_fit_the_precision_is_not_dropped_in_silence(
    tiny_onnx: Path, tmp_path: Path, precision: Precision, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        build_bundle(tiny_onnx, tmp_path / "bundle", precision, **options)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_broken_weight_is_no_engine(tiny_onnx: Path, tmp_path: Path, precision: Precision) -> None:
    model = load_onnx(tiny_onnx)
    weight = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    values = numpy_helper.to_array(weight).copy()
    values.flat[0] = np.nan
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    broken = save_onnx(model, tmp_path / "broken.onnx")
    with pytest.raises(InputError, match=rf"broken.onnx: weight {re.escape(weight.name)} holds NaN"):
        build_bundle(broken, tmp_path / "bundle", precision)
    assert not (tmp_path / "bundle").exists()


def test_all_precisions_answer_alike(tiny_onnx: Path, tmp_path: Path, photo_folder: Path) -> None:
    """The bundle's model, in both runtimes, is the exported model but for rounding."""
    calibration = choose_images(photo_folder / "train", count=18)
    reference_NK = None
    # Relative to the largest logit: fp32 differs by summation order, fp16 keeps 11 bits, int8 8 bits and fp8 4 bits a
    # value, over eight layers whose rounding errors partly cancel.
    tolerances: dict[Precision, float] = {"fp32": 1e-4, "fp16": 0.01, "int8": 0.1, "int8+fp16": 0.1, "fp8+fp16": 0.3}
    for precision, tolerance in tolerances.items():
        out = tmp_path / precision
        quantised = {"calibration_data": calibration, "calibration_method": "max"} if "8" in precision else {}
        contract = build_bundle(tiny_onnx, out, precision, **quantised).contract
        pixels_NHWC = np.concatenate(list(calibration.batches(contract.preprocessing, 6)))
        for runtime in ("openvino", "onnxruntime"):
            with closing(open_runner(open_bundle(out), runtime).runner) as runner:
                logits_NK = runner(pixels_NHWC)
            reference_NK = logits_NK if reference_NK is None else reference_NK
            assert np.abs(logits_NK - reference_NK).max() < tolerance * np.abs(reference_NK).max()


def test_without_tensorrt_the_bundle_says_so(tiny_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("alexnet_deploy.build.targets.installed", dict)
    made = build_bundle(tiny_onnx, tmp_path / "bundle", "fp16", targets=())
    assert made.plans == ()
    assert made.notes == (
        "no TensorRT plan: TensorRT is not installed; pip install 'alexnet-deploy[rtx]' builds plans on any machine",
    )
    with pytest.raises(UnavailableError, match=r"no TensorRT is installed: pip install 'alexnet-deploy\[rtx\]'"):
        build_bundle(tiny_onnx, tmp_path / "other", "fp16")
    assert [p.name for p in tmp_path.iterdir()] == ["bundle"]


def test_a_layer_that_misses_its_precision_fails_the_build(
    tiny_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The seam is the builder's report: a real fallback depends on the TensorRT version."""
    genuine = engine.build_plans

    def one_falls_back(*args: Any, **kwargs: Any) -> BuiltPlans:
        (built,) = genuine(*args, **kwargs).plans
        first, *rest = built.achieved
        fallen = LayerPrecision(first.node, first.op, first.asked, "fp32", first.engine_layer)
        return BuiltPlans((BuiltPlan(built.plan, (fallen, *rest)),))

    monkeypatch.setattr(engine, "build_plans", one_falls_back)
    with pytest.raises(
        ProofError, match=r"1 layers did not get .* sm89.plan: features.0/Conv \(Conv\) requested fp16, achieved fp32"
    ):
        build_bundle(tiny_onnx, tmp_path / "bundle", "fp16")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UsageError, match="`allow_fallback` nix: matches no node of the graph"):
        build_bundle(tiny_onnx, tmp_path / "bundle", "fp16", allow_fallback=("nix",))
    made = build_bundle(tiny_onnx, tmp_path / "bundle", "fp16", allow_fallback=("features.0/Conv",))
    assert [note.startswith("allowed fallback: features.0/Conv") for note in made.notes] == [True]


def test_a_static_model_gets_its_own_batch(tiny_onnx: Path, tmp_path: Path, photo_folder: Path) -> None:
    model = onnx.load(tiny_onnx)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 4
    static = tmp_path / "static.onnx"
    onnx.save(model, static)
    with pytest.raises(UsageError, match="accepts only batches of 4"):
        build_bundle(static, tmp_path / "bundle", batch=BatchProfile(1, 8, 32))
    # One batch and a half calibrate.
    made = build_bundle(static, tmp_path / "bundle", "int8", photo_folder / "train", calibration_images=6)
    assert made.batch == BatchProfile(4, 4, 4)
    with closing(open_runner(open_bundle(tmp_path / "bundle")).runner) as runner:
        assert runner(np.zeros((6, 224, 224, 3), np.uint8)).shape == (6, 3)


def test_progress_counts_images_and_builder_steps(tiny_onnx: Path, tmp_path: Path, photo_folder: Path) -> None:
    seen: dict[str, list[tuple[int, int]]] = {}
    build_bundle(
        tiny_onnx,
        tmp_path / "bundle",
        "int8",
        choose_images(photo_folder / "train", count=5),
        calibration_method="percentile",
        on_progress=lambda stage, done, total: seen.setdefault(stage, []).append((done, total)),
    )
    assert seen["calibration"][-1] == (10, 10)  # five images, two passes
    assert seen["TensorRT sm89"][-1][0] > 0
    assert seen["TensorRT sm89"] == sorted(seen["TensorRT sm89"])
