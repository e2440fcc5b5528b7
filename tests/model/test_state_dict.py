"""AlexNet's weights are found in every layout that training scripts leave, and nothing else is taken for them."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from alexnet_deploy.errors import DeployError, InputError, UsageError
from alexnet_deploy.model.architecture import FAMILY, AlexNet, Architecture
from alexnet_deploy.model.state_dict import find_state_dict, fit_architecture

SMALL = dataclasses.replace(FAMILY["alexnet"], num_classes=3, hidden=8)


def weights_of(arch: Architecture, offset: float = 0.0) -> dict[str, Tensor]:
    """Weights of ``arch`` in a few bytes: each tensor repeats a number of its own."""
    with torch.device("meta"):
        shapes = {key: value.shape for key, value in AlexNet(arch).state_dict().items()}
    return {key: torch.full((1,), offset + i).expand(shape) for i, (key, shape) in enumerate(shapes.items())}


WEIGHTS = weights_of(SMALL)
OTHER = weights_of(SMALL, 100.0)


def below(prefix: str, weights: dict[str, Tensor] = WEIGHTS) -> dict[str, Any]:
    return {prefix + key: value for key, value in weights.items()}


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return found.keys() == expected.keys() and all(
        value.shape == expected[key].shape and value.flatten()[0] == expected[key].flatten()[0]
        for key, value in found.items()
    )  # fmt: skip


BESIDE = {
    "epoch": 90,
    "arch": "alexnet",
    "best_acc1": torch.tensor(1.0),
    "optimizer": {"state": {0: {"m": torch.ones(1)}}},
}


@pytest.mark.parametrize(
    ("raw", "wrapper", "prefix"),
    [
        (WEIGHTS, "", ""),
        *((below(prefix), "", prefix) for prefix in (
            "module.", "_orig_mod.", "model.", "backbone.", "net.", "student.", "module._orig_mod.",
            "_orig_mod.module.")),
        *(({**BESIDE, key: below("module.")}, key, "module.") for key in (
            "state_dict", "model", "model_state_dict", "net", "weights")),
        ({**BESIDE, "checkpoint": {"model": WEIGHTS}}, "checkpoint.model", ""),
        ({key: value.numpy() for key, value in WEIGHTS.items()}, "", ""),
        (below("module.") | {"n_averaged": torch.tensor(7)}, "", "module."),
        (WEIGHTS | {"features.1.num_batches_tracked": torch.tensor(7)}, "", ""),
        ({"state_dict": below("model.") | {"criterion.weight": torch.ones(3)}}, "state_dict", "model."),
        (below("student.") | below("teacher.", OTHER), "", "student."),
        ({"model": WEIGHTS, "teacher": OTHER}, "model", ""),
        ({"model": WEIGHTS, "ema": None}, "model", ""),
    ],
)  # fmt: skip
def test_wrappers_and_prefixes_are_taken_off(raw: Any, wrapper: str, prefix: str) -> None:
    found = find_state_dict(raw, source="x")
    assert same(found.weights, WEIGHTS)
    assert (found.wrapper, found.prefix, found.averaged, found.note) == (wrapper, prefix, False, "")
    assert fit_architecture(found.weights, None, source="x") == SMALL


def as_convolutions(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The dense layers by the names and shapes of timm's VGG."""
    names = {"classifier.1": "pre_logits.fc1", "classifier.4": "pre_logits.fc2", "classifier.6": "head.fc"}
    named = {}
    for key, value in weights.items():
        layer, _, kind = key.rpartition(".")
        side = {"pre_logits.fc1": 6, "pre_logits.fc2": 1}.get(names.get(layer, ""))
        shaped = value.reshape(len(value), -1, side, side) if side and kind == "weight" else value
        named[f"{names.get(layer, layer)}.{kind}"] = shaped
    return named


def last_layer_outside(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """As transformers has it: the last layer beside the base model."""
    last = "classifier.6."
    return {key.replace(last, "classifier.") if key.startswith(last) else f"alexnet.{key}": value
            for key, value in weights.items()}  # fmt: skip


@pytest.mark.parametrize("prefix", ["", "module.", "model."])
@pytest.mark.parametrize(("rename", "layout"), [(as_convolutions, "timm's"), (last_layer_outside, "transformers'")])
def test_names_of_other_libraries(rename: Any, layout: str, prefix: str) -> None:
    found = find_state_dict({"state_dict": below(prefix, rename(WEIGHTS))}, source="x")
    assert same(found.weights, WEIGHTS)
    assert found.where().endswith(f", {layout} names")
    assert fit_architecture(found.weights, None, source="x") == SMALL


def test_what_stands_beside_the_weights_is_left_over_where_that_is_allowed() -> None:
    found = find_state_dict(below("backbone.") | {"head.weight": torch.ones(10, 3)}, source="x", beside=True)
    assert same(found.weights, WEIGHTS)
    assert found.left_over == ("head.weight",)


@pytest.mark.parametrize(
    "raw",
    [
        *(
            {"model": WEIGHTS, key: OTHER}
            for key in ("ema", "model_ema", "state_dict_ema", "ema_state_dict", "swa_model")
        ),
        {"state_dict": WEIGHTS, "state_dict_ema": below("module.", OTHER)},
        {"model": WEIGHTS, "ema": {"decay": 0.99, "module": OTHER, "n_averaged": torch.tensor(3)}},
        {"state_dict": below("model.") | below("ema_model.", OTHER)},
    ],
)
def test_averaged_weights_come_first_unless_they_are_not_wanted(raw: Any) -> None:
    found = find_state_dict(raw, source="x")
    assert found.averaged
    assert same(found.weights, OTHER)
    plain = find_state_dict(raw, source="x", ema=False)
    assert not plain.averaged
    assert same(plain.weights, WEIGHTS)


def test_an_average_without_names_is_passed_over_and_mentioned() -> None:
    found = find_state_dict({"model": WEIGHTS, "ema": {"decay": 0.9, "shadow_params": [torch.ones(1)]}}, source="x")
    assert same(found.weights, WEIGHTS)
    assert found.note == "ema holds no weights by name and is left out"
    with pytest.raises(InputError, match=r"x: holds averaged weights alone \(ema\)"):
        find_state_dict({"ema": WEIGHTS}, source="x", ema=False)


@pytest.mark.parametrize("name", FAMILY)
@pytest.mark.parametrize("changes", [{}, {"num_classes": 7, "hidden": 16}, {"dense_rank": 4, "hidden": 16}])
def test_the_architecture_follows_from_the_shapes(name: str, changes: dict[str, int]) -> None:
    arch = dataclasses.replace(FAMILY[name], **changes)  # type: ignore[arg-type]
    weights = weights_of(arch)
    assert fit_architecture(weights, None, source="x") == arch
    assert fit_architecture(weights, name, source="x") == arch
    other = next(member for member in FAMILY if member != name)
    with pytest.raises(UsageError, match=rf"`architecture` {other}: does not fit x, which holds {name}; leave it out"):
        fit_architecture(weights, other, source="x")


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        ([torch.ones(1)], "holds one list, not a state dict; save model.state_dict"),
        (torch.ones(1), "holds one Tensor, not a state dict"),
        ({"epoch": 3}, "holds no tensors with names"),
        ({0: torch.ones(1)}, "holds no tensors with names"),
        ({"state_dict": {"conv1.weight": torch.ones(1), "layer1.0.conv1.weight": torch.ones(1)}}, "of a ResNet (lay"),
        ({"patch_embed.proj.weight": torch.ones(1)}, "of a vision transformer (patch_embed.proj.w"),
        ({"features.0.0.weight": torch.ones(1)}, "of a MobileNet or EfficientNet"),
        ({"features.0.weight": torch.ones(64, 3, 3, 3)}, "of a VGG or the like (its first kernel is 3 x 3)"),
        ({"fc.weight": torch.ones(1)}, "holds no AlexNet of this family (its first keys: fc.weight)"),
        ({"model": WEIGHTS, "best": OTHER}, "holds 2 state dicts that fit (model, best); save the one that you want"),
        # The answer would be the backbone's, not that of the head on top of it.
        (below("backbone.") | {"head.weight": torch.ones(10, 3)}, "holds head.weight beside the weights below"),
        # A normalisation inside the model would be applied on top of the contract's.
        (below("1.") | {"0.mean": torch.ones(3)}, "holds 0.mean beside the weights below '1.', so"),
        (WEIGHTS | {"features.1.running_mean": torch.ones(64)}, "features.1.running_mean is (64,), expected absent"),
        (WEIGHTS | {"classifier.6.bias": torch.ones(4)}, "classifier.6.bias is (4,), expected (3,)"),
        (WEIGHTS | {"classifier.6.weight": torch.ones(1, 8), "classifier.6.bias": torch.ones(1)}, "has one output"),
        (weights_of(dataclasses.replace(SMALL, hidden=65_536)), "numbers, more than the 1073741824 allowed"),
    ],
)  # fmt: skip
def test_anything_else_is_refused_with_what_it_is(raw: Any, says: str) -> None:
    with pytest.raises(InputError) as caught:
        fit_architecture(find_state_dict(raw, source="x.pth").weights, None, source="x.pth")
    assert str(caught.value).startswith("x.pth: ")
    assert says in str(caught.value)


def test_a_dict_within_itself_ends() -> None:
    raw: dict[str, Any] = {"model": {}}
    raw["model"]["again"] = raw
    with pytest.raises(InputError, match="holds no tensors with names"):
        find_state_dict(raw, source="x")
    raw["model"]["state_dict"] = WEIGHTS
    assert same(find_state_dict(raw, source="x").weights, WEIGHTS)


KEYS = st.sampled_from(["state_dict", "model", "net", "module", "weights", "backbone"])
PREFIXES = st.sampled_from(["", "module.", "_orig_mod.", "model.", "backbone.", "net."])


@settings(max_examples=60, deadline=None)
@given(keys=st.lists(KEYS, max_size=3), prefixes=st.lists(PREFIXES, max_size=3), data=st.data())
def test_any_nesting_gives_the_same_weights_and_any_loss_is_noticed(
    keys: list[str], prefixes: list[str], data: st.DataObject
) -> None:
    weights = dict(WEIGHTS)
    damage = data.draw(st.sampled_from(["none", "lost", "renamed", "reshaped", "not a tensor"]))
    key = data.draw(st.sampled_from(sorted(weights)))
    value = weights.pop(key)
    changed = {
        "none": {key: value},
        "lost": {},
        "renamed": {f"{key}_": value},
        "reshaped": {key: torch.zeros(1).expand(*value.shape, 1)},
        "not a tensor": {key: None},
    }[damage]
    raw: dict[str, Any] = below("".join(prefixes), weights | changed)
    for wrapper in keys:
        raw = {"epoch": 3, wrapper: raw}
    if damage == "none":
        found = find_state_dict(raw, source="x")
        assert fit_architecture(found.weights, None, source="x") == SMALL
        assert same(found.weights, WEIGHTS)
    else:
        with pytest.raises(DeployError, match=r"^x: [^\n]+; [^\n]+$"):
            fit_architecture(find_state_dict(raw, source="x").weights, None, source="x")
