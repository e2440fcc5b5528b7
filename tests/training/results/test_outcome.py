"""What a run reached, beside chance: the verdict, and what so few images cannot tell."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alexnet_deploy.errors import ProofError
from training.cli.show import show_outcome
from training.data.lists.listing import ImageList
from training.epochs import Epochs
from training.folds import summarise
from training.loop.run import EpochMetrics, Run
from training.plan import TrainSettings
from training.results.outcome import Outcome, chance_error, describe_accuracy, judge, judge_class_mean, wilson
from training.run_files import METRICS
from training.train import train_and_judge


def outcome_of(run: Run, top1: float, counts: tuple[int, ...], class_mean: float | None = None) -> Outcome:
    """The outcome of a run with so many validation images of each of its three classes."""
    targets = tuple(number for number, count in enumerate(counts) for _ in range(count))
    val = ImageList(Path(), run.train.class_ids, tuple(Path(str(i)) for i in range(len(targets))), targets)
    row = EpochMetrics(2, 0.1, 1.0, 1.0, top1, 1.0, 0.0, class_mean)
    return judge(dataclasses.replace(run, val=val), row, Epochs(2, 3, 3))


@pytest.mark.usefixtures("no_curves")
def test_a_run_lost_at_its_first_save_says_so(tiny_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has a checkpoint, to be judged, and no record of its epochs."""

    def lost(*_: object) -> None:
        raise ProofError("no longer finite")

    monkeypatch.setattr("training.loop.fit.save_state", lost)
    with pytest.raises(ProofError, match="no longer finite"):
        train_and_judge(tiny_run, TrainSettings())
    assert not (tiny_run.output / METRICS).exists()


class TestVerdict:
    @pytest.mark.parametrize(
        ("top1", "counts", "class_mean", "verdict"),
        [
            (100 / 3, (6, 6, 6), None, "chance"),
            (0.0, (6, 6, 6), None, "chance"),
            (100 * 7 / 18, (6, 6, 6), None, "chance"),  # one image more than a constant answer
            (100 * 14 / 24, (12, 12), None, "chance"),
            (100 * 15 / 24, (12, 12), None, "unproven"),  # of models at chance, 15 % get so far
            (100 * 16 / 24, (12, 12), None, "unproven"),
            (100 * 18 / 24, (12, 12), None, "learned"),
            (100 * 11 / 18, (6, 6, 6), None, "learned"),
            (100 * 2 / 3, (1, 1, 1), None, "unproven"),
            (100.0, (1, 1, 0), None, "unproven"),
            (50.0, (1, 1, 0), None, "chance"),
            (100.0, (9, 0, 0), None, "unproven"),  # one class alone tells nothing
            (34.0, (5000, 5000, 5000), None, "chance"),  # within the interval, and hardly above
            (36.0, (5000, 5000, 5000), None, "learned"),  # little, but shown
            # Always the largest class: many right answers and nothing learned.
            (90.0, (90, 5, 5), 100 / 3, "chance"),
            (80.0, (90, 5, 5), 80.0, "learned"),
        ],
    )
    def test_it_is_by_what_a_constant_answer_reaches(
        self, tiny_run: Run, top1: float, counts: tuple[int, ...], class_mean: float | None, verdict: str
    ) -> None:
        if class_mean is None:
            class_mean = top1
        assert outcome_of(tiny_run, top1, counts, class_mean).verdict == verdict

    @given(st.integers(0, 40), st.integers(1, 40))
    def test_wilsons_interval_holds_the_share(self, right: int, more: int) -> None:
        low, high = wilson(100 * right / (right + more), right + more)
        assert 0 <= low <= 100 * right / (right + more) <= high <= 100

    def test_wilsons_interval_is_the_one_that_evaluate_prints(self) -> None:
        from alexnet_deploy.evaluation.statistics import wilson_percent

        for right, images in ((0, 5), (7, 18), (36, 36)):
            expected = wilson_percent(right, images)
            assert wilson(100 * right / images, images) == pytest.approx((expected.low, expected.high))

    def test_classes_of_unequal_size_have_their_mean_beside_top1(self, tiny_run: Run) -> None:
        text = describe_accuracy(outcome_of(tiny_run, 80.0, (90, 5, 5), 70.0))
        assert text.startswith("top-1 80.0 % of 100 validation images, 95 % interval 71.1..86.7; mean over the classes")
        assert text.endswith("a blind guess has 33.3 %, always answering 'red' 90.0 %")

    @given(st.lists(st.integers(1, 400), min_size=2, max_size=5), st.floats(0, 100))
    def test_chance_is_claimed_only_where_a_useful_model_would_have_shown(
        self, sizes: list[int], percent: float
    ) -> None:
        judgement = judge_class_mean(percent, np.array(sizes))
        constant = 100 / len(sizes)
        useful = min(1.5 * constant, (100 + constant) / 2)
        if judgement.verdict == "chance" and not judgement.few:
            assert judgement.interval[1] < useful
        if judgement.verdict == "learned":
            assert judgement.interval[0] > constant
        else:
            assert judgement.verdict != "unproven" or percent > constant

    @pytest.mark.parametrize(
        ("top1", "counts", "claim"),
        [
            (100 * 7 / 18, (6, 6, 6), "the model is not shown to be above chance (top-1 38.9 % of 18"),
            (100 / 3, (300, 300, 300), "the model is at chance (top-1 33.3 % of 900"),
        ],
    )
    def test_its_words(self, tiny_run: Run, top1: float, counts: tuple[int, ...], claim: str) -> None:
        error = str(chance_error(outcome_of(tiny_run, top1, counts, top1), tiny_run.output / "x.safetensors", tiny_run))
        assert claim in error
        assert ("measure it on more images (`val`, or `folds`), or check the labels" in error) is (sum(counts) < 100)

    def test_an_epoch_chosen_by_these_images_and_epochs_at_test_scale_are_said(
        self, tiny_run: Run, capsys: pytest.CaptureFixture[str]
    ) -> None:
        found = outcome_of(tiny_run, 80.0, (50, 50, 50), 80.0)
        for changes, lines in (
            ({}, []),
            # The last epoch as well, if it is the best of several.
            (
                {"chosen": True, "epoch": 3},
                ["kept epoch 3, the best of 3: chosen by these images, so a little too high"],
            ),
            (
                {"test_scale_epochs": 1, "before_test_scale_percent": 79.0},
                ["1 epoch at test scale followed; before 79.0 %"],
            ),
            (
                {"test_scale_epochs": 2, "before_test_scale_percent": 90.0},
                [
                    "2 epochs at test scale followed; before 90.0 %; test-scale/start.safetensors has that model",
                ],
            ),
        ):
            show_outcome(dataclasses.replace(found, **changes))
            assert capsys.readouterr().err.splitlines()[1:] == lines


def test_folds_by_hand(tiny_run: Run) -> None:
    """60 of 100, 70 of 100 and 25 of 50 images: each fold counts once in the mean, each image once in the interval."""
    rows = ((60.0, (40, 30, 30), 50.0), (70.0, (50, 20, 30), 80.0), (50.0, (10, 20, 20), 35.0))
    found = summarise([outcome_of(tiny_run, *row) for row in rows])
    assert (found.mean_percent, found.class_mean_percent, found.images) == (60, 55, 250)
    assert found.spread_percent == pytest.approx(10)  # of three: the root of (0 + 100 + 100) / 2
    assert found.pooled_interval == wilson(62.0, 250)
