"""Occlusion by a network whose answer depends on one known square: places and values are those computed by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alexnet_deploy.contract import Activation, Preprocessing
from alexnet_deploy.errors import InputError, UsageError
from alexnet_deploy.explanation.occlusion import Occlusion, corners, occlude
from alexnet_deploy.explanation.settings import OcclusionSettings, occlusion_settings
from alexnet_deploy.inference.engine import open_engine
from alexnet_deploy.onnx_graph.onnx_file import contract_in, load_onnx, set_contract
from tests.helpers.models.region_model import LEFT, REGION, SIDE, STRENGTH, TOP, region_model

WHITE = np.full((SIDE, SIDE, 3), 255, np.uint8)
BLACK = OcclusionSettings(patch=8, stride=4, fill=(0, 0, 0))
ROUNDING = 1e-6
"""float32 sums of 192 products; the drops themselves are up to 0.45."""


def by_hand(settings: OcclusionSettings = BLACK) -> np.ndarray:
    """The drop of each place: what the patch leaves of the square, through the two-class softmax (a logistic)."""
    places = range(0, SIDE - settings.patch + 1, settings.stride)

    def overlap(start: int, first: int) -> int:
        return max(0, min(start + settings.patch, first + REGION) - max(start, first))

    covered = np.array([[overlap(y, TOP) * overlap(x, LEFT) / REGION**2 for x in places] for y in places])
    return 1 / (1 + np.exp(-STRENGTH)) - 1 / (1 + np.exp(-STRENGTH * (1 - covered)))


def occluded(path: Path, runtime: str = "onnxruntime", *, batch: int = 7, target: int = 0) -> Occlusion:
    with open_engine(path, runtime=runtime, verify=False) as engine:  # type: ignore[arg-type]
        return occlude(engine, WHITE, target, BLACK, batch=batch)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])  # of two classes with one logit at 0 both are the same
def test_the_drop_of_each_place_is_the_one_computed_by_hand(
    tmp_path: Path, runtime: str, activation: Activation
) -> None:
    found = occluded(region_model(tmp_path / "m.onnx", activation=activation), runtime)
    assert found.probability == pytest.approx(1 / (1 + np.exp(-STRENGTH)), abs=ROUNDING)
    np.testing.assert_allclose(found.drop_YX, by_hand(), atol=ROUNDING)
    assert found.strongest()[:2] == (LEFT, TOP)
    assert found.strongest()[2] == pytest.approx(1 / (1 + np.exp(-STRENGTH)) - 0.5, abs=ROUNDING)


def test_the_other_class_gains_what_this_one_loses(tmp_path: Path) -> None:
    found = occluded(region_model(tmp_path / "m.onnx"), target=1)
    np.testing.assert_allclose(found.drop_YX, -by_hand(), atol=ROUNDING)


def test_the_map_has_its_largest_value_in_the_square_and_is_0_far_from_it(tmp_path: Path) -> None:
    map_HW = occluded(region_model(tmp_path / "m.onnx")).pixels(SIDE, SIDE)
    y, x = np.unravel_index(int(map_HW.argmax()), map_HW.shape)
    assert TOP <= y < TOP + REGION
    assert LEFT <= x < LEFT + REGION
    far = np.ones((SIDE, SIDE), bool)
    far[TOP - 8 : TOP + REGION + 8, LEFT - 8 : LEFT + REGION + 8] = False
    np.testing.assert_allclose(map_HW[far], 0, atol=ROUNDING)
    # By hand: the pixel in the corner of the picture is covered by one patch alone.
    assert map_HW[0, 0] == pytest.approx(by_hand()[0, 0], abs=ROUNDING)


@pytest.mark.parametrize("batch", [1, 3, 64])
def test_batches_change_nothing_also_for_an_engine_of_a_fixed_batch(tmp_path: Path, batch: int) -> None:
    found = occluded(region_model(tmp_path / "m.onnx", batch=3), batch=batch)
    np.testing.assert_allclose(found.drop_YX, by_hand(), atol=ROUNDING)


def test_an_output_that_is_not_finite_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not finite"):
        occluded(region_model(tmp_path / "m.onnx", strength=1e39))


def test_a_calibration_does_not_change_the_map(tmp_path: Path) -> None:
    plain = region_model(tmp_path / "plain.onnx")
    model = load_onnx(plain)
    contract = contract_in(model, source="plain.onnx")
    assert contract is not None
    set_contract(model, replace(contract, temperature=0.3))
    onnx.save(model, tmp_path / "fitted.onnx")
    np.testing.assert_array_equal(occluded(tmp_path / "fitted.onnx").drop_YX, occluded(plain).drop_YX)


def test_progress_counts_every_picture(tmp_path: Path) -> None:
    counts: list[int] = []
    with open_engine(region_model(tmp_path / "m.onnx"), runtime="onnxruntime", verify=False) as engine:
        occlude(engine, WHITE, 0, BLACK, batch=20, on_batch=counts.append)
    assert counts == [20, 20, 9]


@given(st.integers(1, 70), st.data())
def test_every_pixel_is_covered_and_no_patch_leaves_the_picture(side: int, data: st.DataObject) -> None:
    patch = data.draw(st.integers(1, side))
    settings = OcclusionSettings(patch, data.draw(st.integers(1, patch)), (0, 0, 0))
    found = corners(side, settings)
    assert set().union(*(range(start, start + patch) for start in found)) == set(range(side))
    assert len(set(found)) == len(found)


def test_the_mean_over_the_patches_of_a_pixel_is_the_value_of_the_map() -> None:
    found = Occlusion((0, 2), (0, 2), 4, 0.9, np.array([[0.1, 0.3], [0.5, 0.7]]))
    map_HW = found.pixels(6, 6)
    assert map_HW[0, 0] == 0.1
    assert map_HW[0, 3] == pytest.approx(0.2)  # covered by both patches of the first row
    assert map_HW[3, 3] == pytest.approx(0.4)  # by all four
    assert map_HW[5, 5] == 0.7


def test_defaults_follow_the_size_and_the_mean_of_the_model() -> None:
    assert occlusion_settings(Preprocessing()) == OcclusionSettings(45, 11, (124, 116, 104))
    assert occlusion_settings(Preprocessing(), patch=3) == OcclusionSettings(3, 1, (124, 116, 104))
    assert occlusion_settings(Preprocessing(), fill="0,127,255").fill == (0, 127, 255)
    tiny = Preprocessing(1, 1, "stretch", None, mean=(-1.0, 0.5, 2.0))
    assert occlusion_settings(tiny) == OcclusionSettings(1, 1, (0, 128, 255))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"patch": 225}, "`patch` 225: the picture has 224 x 224 pixels; choose 224 or less"),
        ({"patch": 0}, "`patch` 0: must be 1 or more"),
        ({"patch": 8, "stride": 9}, "`stride` 9: above the patch of 8"),
        ({"fill": "pink"}, "`fill` pink: is no colour; choose mean"),
        ({"fill": "1,2,256"}, "`fill` 1,2,256"),
        ({"fill": "1,2"}, "`fill` 1,2"),
    ],
)
def test_settings_out_of_range_are_refused(given: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError) as raised:
        occlusion_settings(Preprocessing(), **given)  # type: ignore[arg-type]
    assert words in str(raised.value)
