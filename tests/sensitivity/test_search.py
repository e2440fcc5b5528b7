"""The bound on what int8 costs: the search by itself, then real builds of a model with a layer that int8 ruins."""

from __future__ import annotations

import json
import math
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alexnet_deploy.build import engine
from alexnet_deploy.build.settings import BuildSettings
from alexnet_deploy.bundle.manifest import Manifest, load_manifest
from alexnet_deploy.bundle.verified import verify
from alexnet_deploy.contract import Precision
from alexnet_deploy.errors import InputError, ProofError, UsageError
from alexnet_deploy.sensitivity.search import AccuracyDrop, build_within_drop, exclude_nodes, fewest
from tests.helpers.command import Command
from tests.helpers.models.bundles import build_bundle
from tests.helpers.models.colour_models import hostile_classifier
from tests.helpers.photos import CLASSES

NAMES = [f"layer{i}" for i in range(40)]


drops_of_heads = st.lists(st.floats(-5, 100), min_size=1, max_size=len(NAMES))
bounds = st.floats(0, 100)


@given(drops_of_heads, bounds)
def test_search_returns_what_was_measured_within_the_bound(drops: list[float], bound: float) -> None:
    """However the drops jump about: the head holds, the one shorter by one does not, and both were built."""
    ranking = NAMES[: len(drops)]
    drop_of = Mock(side_effect=lambda kept: drops[len(kept)])
    kept = fewest(ranking, drop_of, bound)
    built = [call.args[0] for call in drop_of.call_args_list]
    assert all(head == tuple(ranking[: len(head)]) for head in built)
    assert len(set(built)) == len(built) <= 2 * math.log2(len(drops)) + 2
    assert built[0] == ()
    assert all(len(head) < len(ranking) or head == () for head in built)
    if kept is None:
        assert built[-1] == tuple(ranking[:-1])
        assert all(drops[len(head)] > bound for head in built)
    else:
        assert kept in built
        assert drops[len(kept)] <= bound + 1e-9
        if kept:
            assert kept[:-1] in built
            assert drops[len(kept) - 1] > bound


@given(drops_of_heads, bounds)
def test_where_each_layer_kept_helps_the_search_finds_the_fewest(drops: list[float], bound: float) -> None:
    drops = sorted(drops, reverse=True)
    kept = fewest(NAMES[: len(drops)], lambda kept: drops[len(kept)], bound)
    holding = [count for count, drop in enumerate(drops) if drop <= bound + 1e-9]
    assert (None if kept is None else len(kept)) == (holding[0] if holding else None)


@given(st.integers(1, 100_000), st.data())
def test_a_drop_of_exactly_the_bound_holds(images: int, data: st.DataObject) -> None:
    """3 of 1000 images are 0.3 points."""
    lost = data.draw(st.integers(0, images))
    won = data.draw(st.integers(0, images - lost))
    drop = AccuracyDrop(0, 0, lost, won, images)
    bound = float(f"{(lost - won) * 100 / images:.12g}")  # as a user would type it
    assert fewest(NAMES[:2], lambda kept: drop.points, bound) == ()


@given(st.sampled_from([None, "Conv", "(?i)CONV|x", "^a$"]), st.lists(st.sampled_from(["a.0/Conv", "a+b", "("])))
def test_exclude_names_the_nodes_and_what_it_named(exclude: str | None, nodes: list[str]) -> None:
    made = exclude_nodes(exclude, nodes)
    for name in ("a.0/Conv", "a+b", "(", "ab", "aab", "xa.0/Convx", "a", "other"):
        wanted = name in nodes or bool(exclude and re.search(exclude, name))
        assert bool(made and re.search(made, name)) == wanted


@pytest.fixture(autouse=True)
def _short_latency(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("alexnet_deploy.sensitivity.search.LATENCY_S", 0.01)


@pytest.fixture
def hostile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    # Plans are built after the search; one test has them.
    monkeypatch.setattr(engine, "why_no_plan_here", lambda: "not in this test")
    return hostile_classifier(tmp_path / "colours.onnx")


CALIBRATED = BuildSettings(calibration_images=18, calibration_method="max")


def build_within(
    onnx: Path, out: Path, photos: Path, max_drop: float, settings: BuildSettings = CALIBRATED, **arguments: Any
) -> Manifest:
    """Calibrated with the 18 images of ``train``, within ``max_drop`` on those of ``val``."""
    folders = {"validation_data": photos / "val", "calibration_data": photos / "train"}
    build_within_drop(onnx, out, max_drop=max_drop, settings=settings, **folders | arguments)
    return load_manifest(out)[0]


def quantised_nodes(bundle: Path) -> set[str]:
    """Convolutions and Gemms that read a dequantised weight."""
    nodes = onnx.load(bundle / "model.onnx").graph.node
    dequantised = {name for node in nodes if node.op_type == "DequantizeLinear" for name in node.output}
    return {node.name for node in nodes if node.op_type in ("Conv", "Gemm") and node.input[1] in dequantised}


def test_the_ruined_layer_is_kept_and_no_other(hostile: Path, photo_folder: Path, tmp_path: Path) -> None:
    stages: list[str] = []
    made = build_within(hostile, tmp_path / "b", photo_folder, 0.0, on_progress=lambda stage, *_: stages.append(stage))
    assert verify(tmp_path / "b")[0] == made
    assert quantised_nodes(tmp_path / "b") == {"features.0/Conv", "classifier/Gemm"}
    record = json.loads((tmp_path / "b/calibration.json").read_text())
    assert record["exclude"] == r"^(features\.1/Conv)$"
    assert "b" not in record["threshold_by_tensor"]
    (note,) = (note for note in made.notes if "accuracy bound" in note)
    assert note.startswith(
        "accuracy bound of 0 points: 1 of 3 layers are float16 (features.1): top-1 drops by 0.00 points, from 100.00 "
        "to 100.00 % (0 lost, 0 won of 6 images). All quantised, top-1 drops by 66.67 points, from 100.00 to 33.33 % "
        "(4 lost, "
    )
    assert re.search(r"model\.onnx of 0\.0 instead of 0\.0 MiB, batch 1 in [\d.]+ instead of [\d.]+ ms \(", note)
    assert {"layers", "float32", "top-1 with 0 kept", "top-1 with 1 kept"} <= set(stages)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["b", "colours.onnx"]


def test_where_nothing_need_be_kept_nothing_is(photo_folder: Path, hostile: Path, tmp_path: Path) -> None:
    """The search ends with its first build; 66.67 points is what the ruined layer costs."""
    made = build_within(hostile, tmp_path / "b", photo_folder, 66.7)
    assert len(quantised_nodes(tmp_path / "b")) == 3
    holds = "accuracy bound of 66.7 points: met with all layers quantised: top-1 drops by 66.67 points"
    assert made.notes[0].startswith(holds)
    assert json.loads((tmp_path / "b/calibration.json").read_text())["exclude"] is None


def test_the_bundle_is_the_one_its_exclude_makes(hostile: Path, photo_folder: Path, tmp_path: Path) -> None:
    build_within(hostile, tmp_path / "a", photo_folder, 0.0)
    exclude = json.loads((tmp_path / "a/calibration.json").read_text())["exclude"]
    settings = {"calibration_images": 18, "calibration_method": "max", "exclude": exclude, "targets": ()}
    build_bundle(hostile, tmp_path / "b", "int8+fp16", photo_folder / "train", **settings)
    for name in ("model.onnx", "calibration.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_a_bound_out_of_reach_leaves_the_old_bundle(hostile: Path, photo_folder: Path, tmp_path: Path) -> None:
    """The ruined layer is the only one left to quantise, and a bundle with none would be int8 in name alone."""
    out = tmp_path / "b"
    build_bundle(hostile, out, targets=())
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(ProofError) as caught:
        build_within(hostile, out, photo_folder, 0.3, replace(CALIBRATED, exclude="features.0|classifier"))
    assert str(caught.value).startswith(
        "`max_drop` 0.3: not met, nothing written: with 0 of 1 layers in float16, top-1 drops by 66.67 points"
    )
    assert "\n" not in str(caught.value)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["b", "colours.onnx"]


def test_plans_are_built_once_for_what_was_kept(
    photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorrt_rtx")
    build = Mock(wraps=engine.build_plans)
    monkeypatch.setattr(engine, "build_plans", build)
    path = hostile_classifier(tmp_path / "colours.onnx")
    made = build_within(path, tmp_path / "b", photo_folder, 0.0, replace(CALIBRATED, targets=("sm89",)))
    build.assert_called_once()
    proved = {layer.node: (layer.asked, layer.got) for layer in made.achieved["sm89.plan"]}
    assert proved["features.1/Conv"] == ("fp16", "fp16")
    assert proved["features.0/Conv"] == ("int8", "int8")


def test_images_that_judge_do_not_calibrate(hostile: Path, photo_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(photo_folder / "val", tmp_path / "val")
    first = next(iter(CLASSES))
    shutil.copy(photo_folder / "train" / first / "0.jpg", tmp_path / "val" / first / "renamed.jpg")
    with pytest.raises(InputError, match=r"\.jpg: also calibrates; the result would look better"):
        build_within(hostile, tmp_path / "b", photo_folder, 0.3, validation_data=tmp_path / "val")
    assert not (tmp_path / "b").exists()


def test_an_unreadable_image_judges_nothing(hostile: Path, photo_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(photo_folder / "val", tmp_path / "val")
    first = next(iter(CLASSES))
    (tmp_path / "val" / first / "broken.jpg").write_bytes(b"no image")
    (tmp_path / "val" / first / "dangling.jpg").symlink_to("nowhere")
    made = build_within(hostile, tmp_path / "b", photo_folder, 0, validation_data=tmp_path / "val")
    assert "of 6 images" in made.notes[0]


@pytest.mark.parametrize(
    ("max_drop", "precision", "message"),
    [
        *((bound, "int8+fp16", "must be points of top-1 accuracy") for bound in (-0.1, 100.1, math.nan, math.inf)),
        (1, "int8", "needs int8 or fp8 with fp16"),
        (1, "fp16", "needs int8 or fp8 with fp16"),
    ],
)
def test_what_is_no_bound(
    max_drop: float, precision: Precision, message: str, hostile: Path, photo_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=rf"^`max_drop` .*{message}"):
        build_within(hostile, tmp_path / "b", photo_folder, max_drop, precision=precision)
    assert not (tmp_path / "b").exists()


def test_command(hostile: Path, photo_folder: Path, tmp_path: Path, command: Command) -> None:
    calibrated = ("--calibration-data", photo_folder / "train", "--calibration-images", 18)
    calibrated += ("--calibration-method", "max", "--no-calibration-cache")
    bound = ("--max-drop", 0.3, "--validation-data", photo_folder / "val")
    for arguments, message in (
        (("--int8", *calibrated, *bound[:2]), "--max-drop is measured on --validation-data: give both"),
        (("--int8", *calibrated, *bound[2:]), "--max-drop is measured on --validation-data: give both"),
        (("--fp16", *bound), "--max-drop needs int8 or fp8 with fp16"),
        (("--int8", *bound), "int8 needs --calibration-data: without the value ranges"),
    ):
        ran = command("build-engine", hostile, *arguments)
        assert (ran.code, ran.err.splitlines()[-1].startswith(f"error: {message}")) == (2, True)
    ran = command("build-engine", hostile, "--int8", *calibrated, *bound, "--store", tmp_path)
    assert "1 of 3 layers are float16 (features.1)" in ran.out
    assert verify(tmp_path / "colours-int8-fp16")[0].precision == "int8+fp16"
