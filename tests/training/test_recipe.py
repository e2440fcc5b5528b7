"""The numbers of a recipe, what they mean over a run, and what an override may change."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alexnet_deploy.errors import UsageError
from training.recipes.named import RECIPES, get_recipe
from training.recipes.recipe import Recipe, RecipeName, apply_overrides


class TestRecipe:
    def test_cosine_warms_up_to_the_peak_and_ends_at_zero_and_steps_divide_by_ten(self) -> None:
        modern = get_recipe("modern", epochs=10)
        rates = [modern.lr_at(epoch) for epoch in np.linspace(0, 10, 101)]
        assert 0 < rates[0] < modern.lr / 1000
        assert rates[10] == pytest.approx(modern.lr / 2, rel=0.01)
        assert rates[20] == max(rates) == modern.lr
        assert rates[60] == pytest.approx(modern.lr / 2)
        assert rates[100] == pytest.approx(0)
        assert rates[:21] == sorted(rates[:21])
        assert rates[20:] == sorted(rates[20:], reverse=True)
        rates = [RECIPES["torchvision"].lr_at(epoch) for epoch in (0, 29.9, 30, 60)]
        assert rates == pytest.approx([0.01, 0.01, 0.001, 0.0001])

    def test_the_average_of_a_short_run_forgets_how_it_began(self) -> None:
        """What is left of the first weights after n steps is decay ** n: e ** -8 where it spans an eighth of them."""
        modern = get_recipe("modern", ema_decay=0.998)
        assert modern.average_decay(9469) == modern.ema_decay  # 64 epochs of Imagenette: 4,672 steps
        short = replace(modern, epochs=15).average_decay(9469)
        assert short is not None
        assert short ** (15 * 73) == pytest.approx(math.exp(-8), rel=0.05)
        assert replace(modern, epochs=1).average_decay(100) == 0  # one step: nothing to average
        assert replace(modern, ema_decay=None).average_decay(9469) is None

    def test_a_plateau_divides_by_ten_after_five_epochs_without_a_new_lowest_error(self) -> None:
        paper = RECIPES["paper"]

        def rates(errors: list[float]) -> list[float]:
            found = list(enumerate(errors, 1))
            return [paper.lr_at(epoch, found[:epoch]) for epoch in range(len(errors) + 1)]

        assert rates([50.0 - k for k in range(30)]) == [0.01] * 31
        # Equal is not better; after a drop the count starts anew against the same lowest error.
        assert rates([50.0, 40.0, 40.0, 41.0, 40.0, 45.0, 40.0, 42.0, 42.0]) == [0.01] * 7 + [0.001] * 3
        assert rates([50.0, *[60.0] * 4, 49.0, *[60.0] * 5]) == [0.01] * 11 + [0.001]
        assert rates([50.0] * 40)[-1] == pytest.approx(1e-5)  # three times, as in the paper, and no more
        # Epochs count, however many of them are validated: 6 after epoch 3 is the first above 5.
        errors = [(epoch, 50.0) for epoch in range(3, 16, 3)]
        third = [paper.lr_at(last, errors[:count]) for count, (last, _) in enumerate(errors, 1)]
        assert third == pytest.approx([0.01, 0.01, 0.001, 0.001, 0.0001])

    @given(st.lists(st.floats(0, 100), max_size=60), st.integers(0, 60), st.integers(1, 9))
    def test_a_plateau_never_raises_the_rate(self, errors: list[float], cut: int, val_every: int) -> None:
        found = [(val_every * number, error) for number, error in enumerate(errors, 1)]
        assert RECIPES["paper"].lr_at(0, found[:cut]) >= RECIPES["paper"].lr_at(0, found)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"lr": 0.0}, "`lr` 0.0: must be a number from 1e-08 to 100$"),
            ({"lr": -1.0}, "`lr` -1.0"),
            ({"lr": math.nan}, "`lr` nan"),
            ({"lr": math.inf}, "`lr` inf"),
            ({"epochs": 0}, "`epochs` 0: must be a whole number from 1 to 10000$"),
            ({"batch": 0}, "`batch` 0"),
            ({"weight_decay": 2.0}, "`weight_decay` 2.0"),
        ],
    )
    def test_a_number_out_of_range_names_the_field(self, changes: dict[str, float], message: str) -> None:
        with pytest.raises(UsageError, match=message):
            get_recipe("modern", **changes)

    def test_an_unknown_recipe_names_the_known(self) -> None:
        with pytest.raises(UsageError, match="`recipe` quick: unknown; choose one of torchvision, modern, paper"):
            get_recipe("quick")  # type: ignore[arg-type]
        assert get_args(RecipeName) == tuple(RECIPES)
        assert get_recipe("modern", epochs=None, lr=None) == RECIPES["modern"]  # what is None stays as it is


class TestOverrides:
    def test_they_change_one_field_each(self) -> None:
        overrides = ["standardise=false", "ema_decay=0.9", "clip_norm=null", "sides=[[0, 96]]", 'mix="cutmix"']
        assert apply_overrides(get_recipe("modern"), [*overrides, "momentum=0", "augment=rand"]) == replace(
            get_recipe("modern", standardise=False, ema_decay=0.9, sides=((0, 96),), mix="cutmix", momentum=0),
            augment="rand",
            clip_norm=None,
        )

    @pytest.mark.parametrize(
        ("override", "message"),
        [
            ("speed=9", "has no field 'speed'; the fields are optimizer, weight_decay, init, "),
            ("lr=9", "lr has its own option; use `lr`"),
            ("pixel_std=[1, 1, 1]", "has no field 'pixel_std'; the fields are "),
            ("flip", "is not FIELD=VALUE; the fields are "),
            ("flip=yes", "flip must be true or false; modern has true"),
            ("momentum=NaN", "momentum must be a number from 0 to 0.9999; modern has 0.9"),
            ("patience=1.5", "patience must be a whole number from 1 to 10000; modern has 5"),
            ("augment=auto", 'augment must be none, trivial or rand; modern has "trivial"'),
            (
                "crop_scale=[0.5, 2]",
                "must be two rising shares of the area, such as [0.25, 1], or null; modern has [",
            ),
            ("crop_scale=[0.5, 0.2]", "must be two rising shares"),
            ("label_smoothing=1", "label_smoothing must be a number from 0 to 0.9"),
            ("ema_decay=1", "ema_decay must be a number from 0 to 0.999999, or null; modern has null"),
            ("ema_decay=-0.1", "ema_decay must be"),
            ("clip_norm=-1", "clip_norm must be"),
            ("clip_norm=0", "clip_norm must be a number from 1e-06 to 1000000, or null"),
            (f"weight_decay=1{'0' * 400}", "weight_decay must be a number from 0 to 1; modern has 0.05"),
            (
                "sides=[[0, 32]]",
                "must be pairs of a share of the epochs and a side of 63 to 4096, such as [[0, 128]",
            ),
            ("sides=[[0, 4097]]", "must be pairs"),
            ("sides=[[0.5, 128], [0.0, 64]]", "has shares of the epochs that do not rise from 0 and stay below 1"),
            ("sides=[[0, 128], [0, 64]]", "has shares"),
            ("sides=[[0.5, 128]]", "has shares"),
            ("sides=[[0, 128], [1, 64]]", "has shares"),
        ],
    )
    def test_what_does_not_fit_is_a_usage_error(self, override: str, message: str) -> None:
        with pytest.raises(UsageError) as caught:
            apply_overrides(get_recipe("modern"), [override])
        assert str(caught.value).startswith(f"`overrides` {override}: ")
        assert message in str(caught.value)

    def test_a_side_begins_in_the_epoch_of_its_decimal_share(self) -> None:
        for percent in range(1, 100):
            recipe = apply_overrides(get_recipe("modern", epochs=100), [f"sides=[[0, 128], [{percent / 100}, 224]]"])
            assert [recipe.side_at(percent - 1, 224), recipe.side_at(percent, 224)] == [128, 224]

    @given(name=st.sampled_from(get_args(RecipeName)), field=st.sampled_from([field.name for field in fields(Recipe)]))
    def test_any_text_gives_a_recipe_or_one_line(self, name: RecipeName, field: str) -> None:
        for text in ("", "1", "-1", "true", "null", "[]", "{}", "1e999", '"x"', "[[1,2,3]]", "[null]", "none"):
            try:
                made = apply_overrides(get_recipe(name), [f"{field}={text}"])
            except UsageError as exc:
                assert "\n" not in str(exc)
            else:
                assert math.isfinite(made.lr_at(1.0))
                assert made.side_at(0, 224) > 0
