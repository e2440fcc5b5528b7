"""Runs with teachers: what they learn from, that they resume bit by bit, and what is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from alexnet_deploy.errors import InputError, UsageError
from alexnet_deploy.model.checkpoint import load_checkpoint, save_checkpoint
from tests.helpers.command import Command
from tests.helpers.models import tiny_runs as tiny
from tests.helpers.photos import CLASSES
from tests.training.distil.conftest import MakeTeacher
from training.choices import TeacherView
from training.distil.distillation import TeacherSettings, plan_distillation
from training.distil.teacher import TARGETS_FILE, Teachers
from training.loop.fit import Interrupted
from training.loop.run import Run
from training.start.sources import read_teacher

pytestmark = pytest.mark.usefixtures("no_curves")
VIEWS: list[TeacherView] = ["same", "single"]


def taught(run: Run, *teachers: Path, output: Path | None = None, **settings: Any) -> Run:
    folder = output or run.output
    given = TeacherSettings(teacher=teachers, **settings)
    plan = plan_distillation(given, run.train.class_ids, run.recipe, folder, read=read_teacher)
    return dataclasses.replace(run, distillation=plan, output=folder)


@pytest.mark.parametrize("view", VIEWS)
def test_stopping_and_resuming_changes_no_bit(
    tiny_run: Run, teacher: MakeTeacher, tmp_path: Path, view: TeacherView
) -> None:
    undisturbed = taught(tiny_run, teacher(0), teacher(1), output=tmp_path / "undisturbed", teacher_view=view)
    assert [row.epoch for row in tiny.rows_of(undisturbed)] == [1, 2]
    run = taught(tiny_run, teacher(0), teacher(1), output=tmp_path / "stopped", teacher_view=view)
    for step in (1, 4):
        with pytest.raises(Interrupted, match=f"stopped at step {step}"):
            tiny.rows_of(run, on_progress=interrupt_training_at(step))
        run = dataclasses.replace(run, resume=True)
    tiny.rows_of(run)
    weights = tiny.weights_of(run.output)
    assert tiny.identical(weights, tiny.weights_of(undisturbed.output))
    assert (run.output / TARGETS_FILE).exists() is (view == "single")
    alone = dataclasses.replace(tiny_run, output=tmp_path / "alone")
    tiny.rows_of(alone)
    assert not tiny.identical(weights, tiny.weights_of(alone.output)), "the teachers change what is learnt"
    recorded = load_checkpoint(run.output / "checkpoint.safetensors").recipe["teacher"]
    assert (recorded["view"], recorded["temperature"], recorded["weight"]) == (view, 2.0, 0.9)
    assert len(recorded["sha256"]) == 2


def interrupt_training_at(step: int) -> Any:
    """A signal after a step of training, not after as many pictures that the teachers have seen."""
    interrupt = tiny.interrupt_at(step)
    return lambda stage, done, total: interrupt(stage, done, total) if stage == "training" else None


@pytest.mark.parametrize("view", VIEWS)
def test_with_all_weight_on_the_teacher_the_labels_do_not_matter(
    tiny_run: Run, teacher: MakeTeacher, tmp_path: Path, view: TeacherView
) -> None:
    found = []
    for name, turn in (("right", 0), ("wrong", 1)):
        labels = tuple((target + turn) % len(CLASSES) for target in tiny_run.train.targets)
        run = tiny.changed(tiny_run, train={"targets": labels}, recipe={"epochs": 1})
        run = taught(run, teacher(), output=tmp_path / name, teacher_view=view, distill_weight=1.0)
        (row,) = tiny.rows_of(run)
        found.append((tiny.weights_of(run.output), row.train_loss))
    assert tiny.identical(found[0][0], found[1][0])
    assert found[0][1] != found[1][1], "the loss that is reported is that of the labels"


def test_each_picture_gets_its_own_kept_answer(tiny_run: Run, teacher: MakeTeacher, tmp_path: Path) -> None:
    """Where the student sees what the teacher saw, kept answers and those to the student's pixels are the same."""
    run = tiny.changed(tiny_run, recipe={"epochs": 1, "view": "inference", "flip": False}, precision="fp32")
    weights = []
    for view in VIEWS:
        taught_run = taught(run, teacher(), output=tmp_path / view, teacher_view=view, distill_weight=1.0)
        tiny.rows_of(taught_run)
        weights.append(tiny.weights_of(taught_run.output))
    for name, value in weights[0].items():
        # Another batch sums in another order, and AdamW turns a tiny gradient into a whole step of 5e-4.
        torch.testing.assert_close(weights[1][name], value, rtol=0, atol=2e-4)
    start = dataclasses.replace(run, output=tmp_path / "alone")
    tiny.rows_of(start)
    assert any((weights[0][name] - value).abs().max() > 2e-4 for name, value in tiny.weights_of(start.output).items())


def test_a_teacher_never_learns_and_drops_nothing_out(tiny_run: Run, teacher: MakeTeacher) -> None:
    plan = taught(tiny_run, teacher()).distillation
    assert plan is not None
    teachers = Teachers(plan, torch.device("cpu"))
    pixels_NHWC = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8)
    assert torch.equal(teachers(pixels_NHWC), teachers(pixels_NHWC))
    assert not teachers(pixels_NHWC).requires_grad
    assert not any(parameter.requires_grad for parameter in teachers.parameters())


def test_a_batch_that_cannot_be_is_refused_before_the_teachers_compute(tiny_run: Run, teacher: MakeTeacher) -> None:
    run = taught(tiny.changed(tiny_run, recipe={"batch": 19}), teacher(), teacher_view="single")
    with pytest.raises(UsageError, match="`batch` 19: exceeds the 18 training images"):
        tiny.rows_of(run)
    assert not (run.output / TARGETS_FILE).exists()


def test_another_teacher_cannot_continue_a_run(tiny_run: Run, teacher: MakeTeacher) -> None:
    run = tiny.changed(tiny_run, recipe={"epochs": 1, "batch": 18})
    tiny.rows_of(taught(run, teacher(0)))
    resumed = dataclasses.replace(run, resume=True)
    for changed, message in (
        (taught(resumed, teacher(1)), "this run had other teachers; use the same settings"),
        (taught(resumed, teacher(0), teacher(1)), "this run had other teachers; use"),
        (resumed, "this run had other teachers; use"),
        (taught(resumed, teacher(0), distill_temperature=3.0), "`distill_temperature` 2.0, now it is 3.0; use"),
        (taught(resumed, teacher(0), distill_weight=0.5), "`distill_weight` 0.9, now it is 0.5; use"),
        (taught(resumed, teacher(0), teacher_view="single"), "`teacher_view` same, now it is single; use"),
    ):
        with pytest.raises(InputError) as caught:
            tiny.rows_of(changed)
        assert message in str(caught.value)
    assert (
        tiny.rows_of(taught(resumed, teacher(0))) == []
    )  # the same weights in a file of another name would do as well


class TestCommands:
    def test_train(
        self, cli: Command, planned: list[Run], teacher: MakeTeacher, photo_folder: Path, tmp_path: Path
    ) -> None:
        run = ("train", photo_folder, "--output", tmp_path / "run", "--dense-rank", 4, "--batch", 9)
        one, two, other = teacher(0), teacher(1), teacher(2, ("a", "b"))
        cli(*run, "--teacher", one, "--teacher", two, "--distill-temperature", 4, "--teacher-view", "ten-crop")
        (plan,) = [each.distillation for each in planned]
        assert plan is not None
        assert (len(plan.teachers), plan.view, plan.temperature, plan.weight) == (2, "ten-crop", 4.0, 0.9)
        assert plan.folder == tmp_path / "run"
        for flags, code, message in (
            (
                ("--teacher", other),
                1,
                f"error: --teacher {other}: has 2 classes, the data has 3 ('a' is only in one of",
            ),
            (("--distill-weight", 0.5), 2, "error: --distill-weight 0.5: has no effect without --teacher; add it"),
            (("--teacher", one, "--distill-weight", 2), 2, "error: --distill-weight 2.0: must be a share above 0"),
            (
                ("--teacher", tmp_path / "none"),
                1,
                f"error: --teacher {tmp_path / 'none'}: no such file or folder; give",
            ),
            (("--teacher", "shipped"), 1, "error: --teacher shipped: has 10 classes, the data has 3 ("),
        ):
            result = cli(*run, *flags)
            assert result.code == code
            assert result.err.startswith(message)
            assert result.err.count("\n") == 1

    def test_compress(self, cli: Command, teacher: MakeTeacher, photo_folder: Path, tmp_path: Path) -> None:
        full, out = teacher(0), tmp_path / "small.safetensors"
        command = ("compress", full, photo_folder, "--rank", 4, "--images", 9, "--workers", 0, "--output", out)
        tuned = ("--epochs", 1, "--batch", 9)
        error = "error: --teacher: takes part in a fine-tuning; give its --epochs\n"
        assert cli(*command, "--teacher", full) == (2, "", error)
        # The parent is the usual teacher; its copy under another name is the same one.
        copy = save_checkpoint(load_checkpoint(full), tmp_path / "copy.safetensors")
        assert cli(*command, *tuned, "--teacher", full, "--teacher-view", "single").code == 0
        small = load_checkpoint(out)
        assert small.arch.dense_rank == 4
        assert small.recipe["teacher"]["view"] == "single"
        assert cli(*command, *tuned, "--teacher", copy, "--teacher-view", "single", "--resume").code == 0
        again = cli(*command, *tuned, "--teacher", teacher(1), "--teacher-view", "single", "--resume")
        assert again.code == 1
        assert "this run had other teachers" in again.err
