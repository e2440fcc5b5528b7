"""What a network of other classes keeps of trained weights, and the account of it."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from alexnet_deploy.errors import UsageError
from alexnet_deploy.model.architecture import Architecture
from alexnet_deploy.model.checkpoint import Checkpoint
from tests.training.start.files import SMALL, small_checkpoint, small_weights
from training.recipes.named import get_recipe
from training.start.begin import StartReport, begin_with
from training.start.network import NetworkSettings, architecture_for, check_freeze
from training.start.sources import Source

CHECKPOINT = small_checkpoint("ant", "bee", "cat")
SOURCE = Source("x.safetensors", SMALL, CHECKPOINT.contract, CHECKPOINT.weights, True)


def begin(source: Source, *class_ids: str, seed: int = 0) -> tuple[Checkpoint, StartReport]:
    arch = dataclasses.replace(source.arch, num_classes=len(class_ids))
    return begin_with(source, arch, class_ids, init="kaiming", seed=seed)


def last_row(report: StartReport) -> tuple[str, str]:
    row = next(row for row in report.rows if row.layer == "classifier.6")
    return row.outcome, row.why


class TestLastLayer:
    def test_the_same_classes_keep_everything(self) -> None:
        checkpoint, report = begin(SOURCE, "ant", "bee", "cat")
        assert all(torch.equal(checkpoint.weights[key], value) for key, value in SOURCE.weights.items())
        assert {row.outcome for row in report.rows} == {"loaded"}
        assert report.drawn == ()

    @given(st.permutations(("ant", "bee", "cat")))
    def test_in_another_order_the_rows_follow_their_names(self, class_ids: list[str]) -> None:
        checkpoint, report = begin(SOURCE, *class_ids)
        for row, class_id in enumerate(class_ids):
            old = SOURCE.contract.class_ids.index(class_id)
            for kind in ("weight", "bias"):
                key = f"classifier.6.{kind}"
                assert torch.equal(checkpoint.weights[key][row], SOURCE.weights[key][old])
        if class_ids != ["ant", "bee", "cat"]:
            assert last_row(report) == ("loaded by name", "the source has the same classes in another order")

    @pytest.mark.parametrize(
        ("class_ids", "rows"),
        [
            (("the cat", "the ant", "the bee"), (2, 0, 1)),
            (("The_Cat", "ant"), (2, 0)),
            (("the bee", "cat"), (1, 2)),
        ],
    )
    def test_a_class_may_be_called_as_people_call_it(self, class_ids: tuple[str, ...], rows: tuple[int, ...]) -> None:
        checkpoint, report = begin(SOURCE, *class_ids)
        expected = SOURCE.weights["classifier.6.weight"][list(rows)]
        assert torch.equal(checkpoint.weights["classifier.6.weight"], expected)
        assert checkpoint.contract.class_ids == class_ids
        some = "2 of the source's 3 classes"
        assert last_row(report) == ("loaded by name", some if len(rows) < 3 else "by the labels of the source")

    def test_two_classes_never_share_an_output_and_a_label_of_two_is_none(self) -> None:
        assert last_row(begin(SOURCE, "ant", "the ant")[1]) == (
            "drawn anew",
            "1 of 2 classes is new to the source (the ant)",
        )
        contract = dataclasses.replace(SOURCE.contract, labels=("crane", "owl", "crane"))
        cranes = dataclasses.replace(SOURCE, contract=contract)
        assert last_row(begin(cranes, "crane", "owl")[1])[0] == "drawn anew"
        assert last_row(begin(cranes, "cat", "owl")[1])[0] == "loaded by name"

    def test_some_of_its_classes_keep_their_rows(self) -> None:
        checkpoint, report = begin(SOURCE, "ant", "cat")
        assert torch.equal(checkpoint.weights["classifier.6.weight"], SOURCE.weights["classifier.6.weight"][[0, 2]])
        assert last_row(report) == ("loaded by name", "2 of the source's 3 classes")

    @pytest.mark.parametrize(
        ("source", "why"),
        [
            (SOURCE, "2 of 3 classes are new to the source (dog)"),
            (dataclasses.replace(SOURCE, has_names=False), "the source does not name its classes"),
        ],
    )
    def test_other_classes_get_a_new_one_and_keep_the_rest(self, source: Source, why: str) -> None:
        checkpoint, report = begin(source, "ant", "dog", "elk")
        kept = [key for key in SOURCE.weights if not key.startswith("classifier.6.")]
        assert all(torch.equal(checkpoint.weights[key], SOURCE.weights[key]) for key in kept)
        assert last_row(report) == ("drawn anew", why)
        assert (report.drawn, report.rows[-1].layer) == (("classifier.6",), "classifier.6 of the source")
        assert report.rows[-1].outcome == "left over"
        assert checkpoint.recipe["started_from"]["drawn_anew"] == ["classifier.6"]
        # Kaiming's before the softmax: variance 1 / fan_in
        assert checkpoint.weights["classifier.6.weight"].std().item() == pytest.approx(8**-0.5, rel=0.5)
        assert not checkpoint.weights["classifier.6.bias"].any()

    def test_it_follows_from_the_seed_and_leaves_torchs_own_numbers_alone(self) -> None:
        torch.manual_seed(7)
        expected = torch.rand(1)
        torch.manual_seed(7)
        drawn = [begin(SOURCE, "dog", "elk", seed=seed)[0].weights["classifier.6.weight"] for seed in (0, 0, 1)]
        assert torch.equal(torch.rand(1), expected)
        assert torch.equal(drawn[0], drawn[1])
        assert not torch.equal(drawn[0], drawn[2])


def test_layers_that_the_source_lacks_are_drawn_and_what_is_beside_is_left_over() -> None:
    convolutions = {key: value for key, value in SOURCE.weights.items() if key.startswith("features.")}
    source = dataclasses.replace(SOURCE, weights=convolutions, has_names=False, left_over=("head.weight",))
    checkpoint, report = begin(source, "ant", "bee")
    assert all(torch.equal(checkpoint.weights[key], value) for key, value in convolutions.items())
    assert report.drawn == ("classifier.1", "classifier.4", "classifier.6")
    assert [row.layer for row in report.rows if row.outcome == "left over"] == ["head.weight"]
    checkpoint.build()


def test_float16_becomes_float32() -> None:
    half = {key: value.half() for key, value in SOURCE.weights.items()}
    checkpoint, _ = begin(dataclasses.replace(SOURCE, weights=half), "ant", "bee", "cat")
    assert {value.dtype for value in checkpoint.weights.values()} == {torch.float32}


class TestNetwork:
    def network(self, source: Source = SOURCE, **asked: object) -> Architecture:
        return architecture_for(NetworkSettings(**asked), 7, source)  # type: ignore[arg-type]

    def test_it_is_the_sources_with_other_classes(self) -> None:
        own = dataclasses.replace(SMALL, num_classes=7)
        assert self.network() == own
        assert self.network(arch="alexnet", groups=(1, 1, 1, 1, 1)) == own

    @pytest.mark.parametrize(
        ("asked", "message"),
        [
            ({"arch": "alexnet-2012"}, "`arch` alexnet-2012: `start` x.safetensors holds alexnet; leave `arch` out"),
            ({"dense_rank": 4}, "`dense_rank` 4: `start` x.safetensors has full rank; leave `dense_rank` out, and"),
            ({"groups": (1, 2, 1, 2, 2)}, "`groups` 1,2,1,2,2: `start` x.safetensors has 1,1,1,1,1; leave `groups`"),
        ],
    )
    def test_what_its_weights_do_not_fit_is_refused(self, asked: dict[str, object], message: str) -> None:
        with pytest.raises(UsageError) as caught:
            self.network(**asked)
        assert str(caught.value).startswith(message)

    def test_so_is_another_rank(self) -> None:
        arch = dataclasses.replace(SMALL, dense_rank=2)
        source = dataclasses.replace(SOURCE, arch=arch, weights=small_weights(rank=2))
        assert self.network(source, dense_rank=2).dense_rank == 2
        with pytest.raises(UsageError, match=r"`dense_rank` 3: `start` x.safetensors has rank 2; leave"):
            self.network(source, dense_rank=3)


class TestFreeze:
    def test_only_trained_weights_can_be_kept(self) -> None:
        _, report = begin(SOURCE, "dog", "elk")
        convolutions = {key: value for key, value in SOURCE.weights.items() if key.startswith("features.")}
        _, partial = begin(dataclasses.replace(SOURCE, weights=convolutions), "dog", "elk")
        features, head = (get_recipe("transfer", freeze=freeze) for freeze in ("features", "all-but-head"))
        for recipe, given_report in ((features, report), (head, report), (features, partial)):
            check_freeze(recipe, given_report)
        with pytest.raises(UsageError, match="`freeze` features: there are no trained weights to keep; add `start`"):
            check_freeze(features, None)
        with pytest.raises(
            UsageError, match=r"`freeze` all-but-head: `start` x.safetensors has no classifier.1, which"
        ):
            check_freeze(head, partial)

    def test_nothing_frozen_is_never_unfrozen(self) -> None:
        with pytest.raises(UsageError, match="`unfreeze_every` 2: nothing is frozen; add `freeze` features"):
            check_freeze(get_recipe("transfer", unfreeze_every=2), None)
