"""The contract survives its way through JSON, and damaged JSON is an ArtifactError, whatever the damage."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alexnet_deploy.calibration import Calibration, Rejection, Score
from alexnet_deploy.contract import ADDED_FIELDS, MAX_SIDE, BatchProfile, Decoding, ModelContract, Preprocessing
from alexnet_deploy.errors import ArtifactError, UsageError
from tests.helpers.json_values import json_values

CONTRACT = ModelContract("alexnet", ("church", "tench"), ("n03028079", "n01440764"))

texts = st.text(st.characters(exclude_categories=["Cs"]))
sides = st.integers(1, MAX_SIDE)
finite = st.floats(allow_nan=False, allow_infinity=False)
positive = st.floats(min_value=0, exclude_min=True, allow_nan=False, allow_infinity=False)


@st.composite
def preprocessings(draw: st.DrawFn) -> Preprocessing:
    height, width = draw(sides), draw(sides)
    return Preprocessing(
        height=height,
        width=width,
        **draw(
            st.one_of(
                st.just({"resize": "stretch", "resize_to": None}),
                st.fixed_dictionaries({"resize_to": st.integers(max(height, width), MAX_SIDE)}),
            )
        ),
        interpolation=draw(st.sampled_from(["bilinear", "bicubic"])),
        decoding=draw(st.sampled_from(get_args(Decoding))),
        mean=draw(st.tuples(finite, finite, finite)),
        std=draw(st.tuples(positive, positive, positive)),
    )


rejections = st.builds(Rejection, st.sampled_from(get_args(Score)), finite)


@st.composite
def calibrations(draw: st.DrawFn) -> Calibration:
    if draw(st.booleans()):
        return Calibration(mixture=(draw(st.floats(0, 0.5)), draw(st.floats(0, 0.5))))
    from_ = sorted(draw(st.lists(st.floats(0, 1), min_size=1, max_size=4, unique=True)))
    inside = st.floats(0, 1, exclude_min=True, exclude_max=True)
    to = sorted(draw(st.lists(inside, min_size=len(from_), max_size=len(from_))))
    return Calibration(top=tuple(zip(from_, to, strict=True)))


@st.composite
def contracts(draw: st.DrawFn) -> ModelContract:
    class_ids = tuple(draw(st.lists(texts, min_size=1, max_size=5, unique=True)))
    labels = tuple(draw(st.lists(texts, min_size=len(class_ids), max_size=len(class_ids))))
    others = {name: draw(texts) for name in ("architecture", "input_name", "output_name")}
    return ModelContract(
        labels=labels,
        class_ids=class_ids,
        preprocessing=draw(preprocessings()),
        temperature=draw(positive),
        calibration=draw(st.none() | calibrations()),
        rejection=draw(st.none() | rejections),
        **others,
    )


@given(contracts())
def test_it_survives_json(contract: ModelContract) -> None:
    again = ModelContract.from_json(contract.to_json().encode(), source="x")
    assert again == contract
    assert again.to_json() == contract.to_json()


def read_or_refuse(text: str | bytes) -> None:
    """Refused in one line that names the source, or accepted as something that every field's type allows."""
    try:
        contract = ModelContract.from_json(text, source="engines/x/bundle.json")
    except ArtifactError as exc:
        assert str(exc).startswith("engines/x/bundle.json: ")
        assert "\n" not in str(exc)
    else:
        pre = contract.preprocessing
        assert all(type(name) is str for name in (contract.architecture, contract.input_name, contract.output_name))
        assert all(type(name) is str for name in (*contract.labels, *contract.class_ids))
        assert all(isinstance(size, int) for size in (pre.height, pre.width, pre.resize_to or 0))
        assert ModelContract.from_json(contract.to_json().encode(), source="x") == contract


@given(st.sampled_from([(), ("preprocessing",)]), st.data())
def test_any_value_in_any_field_is_taken_or_refused(path: tuple[str, ...], data: st.DataObject) -> None:
    raw = json.loads(CONTRACT.to_json())
    target = raw["preprocessing"] if path else raw
    key = data.draw(st.sampled_from(sorted(target)) | st.text(max_size=3))
    target[key] = data.draw(json_values)
    read_or_refuse(json.dumps(raw))


@pytest.mark.parametrize("key", sorted(json.loads(CONTRACT.to_json()).keys() - ADDED_FIELDS))
def test_a_missing_field_is_refused(key: str) -> None:
    raw = json.loads(CONTRACT.to_json())
    del raw[key]
    with pytest.raises(ArtifactError, match=key):
        ModelContract.from_json(json.dumps(raw), source="x")


def test_a_contract_of_an_earlier_version_has_the_defaults_of_the_fields_it_lacks() -> None:
    raw = json.loads(CONTRACT.to_json())
    del raw["activation"]
    for field in ("channels", "crop_offset", "decoding"):
        del raw["preprocessing"][field]
    assert ModelContract.from_json(json.dumps(raw), source="x") == CONTRACT
    assert CONTRACT.preprocessing.decoding == "full"


@pytest.mark.parametrize(
    ("rule", "pre", "side"),
    [
        ("full", Preprocessing(), None),
        ("reduced-2x", Preprocessing(), 512),
        ("reduced-4x", Preprocessing(10, 30, "stretch", None), 120),
        ("reduced-2x", Preprocessing(10, 10, "stretch", 12), 24),
        ("reduced-2x", Preprocessing(interpolation="nearest"), None),
    ],
)
def test_the_rule_of_decoding_is_in_the_contract(rule: Decoding, pre: Preprocessing, side: int | None) -> None:
    contract = replace(CONTRACT, preprocessing=pre).decoded(rule)
    assert contract.preprocessing.decoded_side == side
    text = contract.preprocessing.describe()
    assert text.removeprefix(pre.describe()) == ("" if side is None else f"; large JPEGs decoded to {side} or more")


@given(json_values)
def test_any_json_is_refused(value: Any) -> None:
    with pytest.raises(ArtifactError):
        ModelContract.from_json(json.dumps(value), source="x")


@given(st.integers(0, len(CONTRACT.to_json()) - 1))
def test_a_truncated_text_is_refused(length: int) -> None:
    with pytest.raises(ArtifactError):
        ModelContract.from_json(CONTRACT.to_json()[:length], source="x")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"height": 0}, "height 0 is not a whole number within 1..4096"),
        ({"width": 4097}, "width 4097 is not"),
        ({"height": 224.0}, "height 224.0 is not a whole number"),
        ({"resize": "crop"}, "unknown resize rule 'crop'"),
        ({"interpolation": "cubic"}, "unknown interpolation 'cubic'"),
        ({"decoding": "reduced-1x"}, "unknown decoding 'reduced-1x'"),
        ({"resize_to": 223}, "223 pixels before the crop are fewer than its 224 x 224"),
        ({"resize_to": None}, "resize 'shorter-side' needs resize_to"),
        ({"resize": "stretch", "resize_to": 223}, "223 pixels before the crop are fewer than its 224 x 224"),
        ({"mean": (0.5, 0.5)}, "three values"),
        ({"std": (1.0, 1.0, 0.0)}, "std above 0"),
        ({"mean": (0.5, 0.5, float("nan"))}, "finite numbers"),
        ({"labels": (), "class_ids": ()}, "at least one label"),
        ({"labels": ("a",)}, "1 labels but 2 class ids"),
        ({"class_ids": ("a", "a")}, "not unique"),
        ({"temperature": 0.0}, "temperature 0.0"),
        ({"temperature": float("inf")}, "temperature inf"),
        ({"labels": ("a", "\udcff")}, "surrogates not allowed"),
    ],
)
def test_preprocessing_or_a_contract_that_cannot_be_is_refused(change: dict[str, Any], says: str) -> None:
    of_a_contract = change.keys() & {"labels", "class_ids", "temperature"}
    with pytest.raises(ValueError, match=says):
        replace(CONTRACT, **change) if of_a_contract else Preprocessing(**change)


@pytest.mark.parametrize(
    ("sizes", "says"),
    [
        ((0, 8, 32), "`min_batch` 0: a batch has at least one image; use 1 or more"),
        ((64, 64, 32), "`min_batch` 64 exceeds `max_batch` 32; raise `max_batch`"),
        ((1, 64, 32), "`opt_batch` 64 exceeds `max_batch` 32; raise `max_batch`"),
        ((4, 2, 32), "`opt_batch` 2 is below `min_batch` 4; raise `opt_batch`"),
    ],
)
def test_batch_sizes_that_contradict_name_the_parameter(sizes: tuple[int, int, int], says: str) -> None:
    with pytest.raises(UsageError) as caught:
        BatchProfile(*sizes)
    assert str(caught.value) == says
    assert BatchProfile(4, 4, 4).max == 4


@pytest.mark.parametrize(
    "field", [{"calibration": Calibration(mixture=(0.1, 0.1))}, {"rejection": Rejection("energy", 1)}]
)
def test_what_is_fitted_to_one_right_class_is_not_for_several(field: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="softmax"):
        replace(CONTRACT, activation="sigmoid", **field)


def test_uncalibrated_keeps_what_belongs_to_the_model() -> None:
    fitted = replace(CONTRACT, temperature=2.0, calibration=Calibration(mixture=(0.1, 0.1)))
    fitted = replace(fitted, rejection=Rejection("energy", 1.0))
    assert fitted.is_calibrated
    assert fitted.uncalibrated() == CONTRACT
    assert not CONTRACT.is_calibrated
    assert CONTRACT.uncalibrated() is CONTRACT
