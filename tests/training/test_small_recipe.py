"""Little data: what the recipe becomes."""

from __future__ import annotations

import dataclasses
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.recipes.named import RECIPES, get_recipe
from training.recipes.recipe import RecipeName
from training.recipes.small_data import MIN_BATCH, MIN_STEPS, describe_fit, fit_to_data


class TestRecipe:
    @pytest.mark.parametrize("name", get_args(RecipeName))
    def test_enough_images_change_nothing(self, name: RecipeName) -> None:
        recipe = RECIPES[name]
        for images in (9469, MIN_STEPS * recipe.batch, 1_281_167):
            assert fit_to_data(recipe, images) is recipe
        assert describe_fit(recipe, recipe, 9469) is None

    @given(
        st.sampled_from(get_args(RecipeName)),
        st.integers(1, 2559),
        st.one_of(st.none(), st.integers(1, 200)),
        st.one_of(st.none(), st.integers(1, 300)),
    )
    def test_an_epoch_of_few_images_has_enough_steps(
        self, name: RecipeName, images: int, epochs: int | None, batch: int | None
    ) -> None:
        asked = get_recipe(name, epochs=epochs, batch=batch)
        fitted = fit_to_data(asked, images, {"batch"} if batch else ())
        if fitted.batch <= images:  # an asked batch may exceed them, which is an error later
            assert fitted.steps_per_epoch(images) >= MIN_STEPS
        assert fitted.batch <= asked.batch
        assert fitted.batch >= min(MIN_BATCH, asked.batch, images / 2)
        assert fitted.epochs == asked.epochs
        assert bool(fitted.warmup_epochs) is bool(asked.warmup_epochs)
        if fitted is not asked:
            assert fitted.warmup_epochs <= fitted.epochs / 4
        assert fit_to_data(fitted, images, {"batch", "lr"}) == fitted  # so a recorded recipe means the same again

    def test_the_rate_follows_the_batch_that_the_data_chose(self) -> None:
        adam, sgd = (fit_to_data(RECIPES[name], 144) for name in ("modern", "torchvision"))
        assert (adam.batch, adam.lr) == (32, pytest.approx(5e-4 / 2))
        assert (sgd.batch, sgd.lr) == (32, pytest.approx(0.01 / 4))
        groups = fit_to_data(get_recipe("modern", conv_lr=1e-4), 144)
        assert groups.conv_lr == pytest.approx(5e-5)

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"repeats": 1}, "30 training images: 1 epoch of 1 step"),
            ({"epochs": 2, "batch": 15, "warmup_epochs": 0.5}, "a warm-up of 1 step; 2 epochs of 2 steps"),
        ],
    )
    def test_one_of_a_thing_is_no_plural_and_none_is_left_out(self, changes: dict[str, Any], said: str) -> None:
        before = get_recipe("torchvision", epochs=1, batch=16, lr=0.1)
        after = dataclasses.replace(before, **({"lr": 0.1, "repeats": 1, "warmup_epochs": 0.1} | changes))
        text = describe_fit(dataclasses.replace(after, clip_norm=9.0), after, 30)
        assert text is not None
        assert said in text

    def test_what_is_asked_stays(self) -> None:
        asked = get_recipe("modern", batch=64, lr=0.1, repeats=2, warmup_epochs=9.0)
        fixed = {"batch", "lr", "repeats", "warmup_epochs"}
        assert fit_to_data(asked, 144, fixed) == asked
        assert fit_to_data(asked, 144, {"batch"}).lr == asked.lr  # a rate is for the batch it is given with
        assert fit_to_data(asked, 144, {"lr"}).lr == asked.lr

    def test_a_short_run_warms_up_for_a_quarter_of_it_and_a_long_one_for_a_hundred_steps(self) -> None:
        short, long = (fit_to_data(get_recipe("modern", epochs=epochs), 160) for epochs in (8, 64))
        assert (short.warmup_epochs, long.warmup_epochs) == (2, 100 / 20)
        assert fit_to_data(RECIPES["torchvision"], 160).warmup_epochs == 0
