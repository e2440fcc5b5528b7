"""Teachers: which are taken, what they answer, and that kept answers are the very ones that were computed."""

from __future__ import annotations

import dataclasses
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from alexnet_deploy.contract import Preprocessing
from alexnet_deploy.errors import InputError, UsageError
from alexnet_deploy.images.decode import load_pixels
from alexnet_deploy.images.ten_crops import picture_for_crops, ten_crops
from alexnet_deploy.model.checkpoint import load_checkpoint, save_checkpoint
from tests.helpers.photos import CLASSES
from tests.training.distil.conftest import MakeTeacher, reordered
from training.data.lists.listing import ImageList, list_class_folders
from training.distil.distillation import Distillation, TeacherSettings, plan_distillation
from training.distil.teacher import TARGETS_FILE, Teachers, cached_targets, compute_targets
from training.packing.hf_folder import write_hf_folder
from training.recipes.named import get_recipe
from training.start.sources import read_teacher

CPU = torch.device("cpu")
MODERN = get_recipe("modern")


def planned(
    folder: Path, *teachers: Path, class_ids: tuple[str, ...] = tuple(CLASSES), **settings: Any
) -> Distillation:
    given = TeacherSettings(teacher=teachers, **settings)
    plan = plan_distillation(given, class_ids, MODERN, folder, read=read_teacher)
    assert plan is not None
    return plan


@pytest.fixture
def images(photo_folder: Path) -> ImageList:
    return list_class_folders(photo_folder / "val")


def test_kept_answers_are_bit_for_bit_those_that_were_computed(
    teacher: MakeTeacher, images: ImageList, tmp_path: Path
) -> None:
    for view in ("single", "ten-crop"):
        plan = planned(tmp_path / view, teacher(0), teacher(1), teacher_view=view, distill_temperature=3.0)
        first = cached_targets(plan, images, CPU, workers=0)
        kept = plan.folder / TARGETS_FILE
        written = kept.stat().st_mtime_ns
        again = cached_targets(plan, images, CPU, workers=0)
        assert kept.stat().st_mtime_ns == written
        assert torch.equal(first, again)
        assert torch.equal(first, compute_targets(plan, images, CPU, workers=0))
        torch.testing.assert_close(first.sum(1), torch.ones(len(images.files)))


@pytest.mark.parametrize("change", ["teacher", "temperature", "view", "images", "photo", "damage"])
def test_answers_to_another_question_are_never_read(
    teacher: MakeTeacher, images: ImageList, tmp_path: Path, change: str
) -> None:
    settings: dict[str, Any] = {"teacher_view": "single", "distill_temperature": 2.0}
    stale = planned(tmp_path / "run", teacher(0), **settings)
    cached_targets(stale, images, CPU, workers=0)
    path = stale.folder / TARGETS_FILE
    if change == "damage":
        path.write_bytes(path.read_bytes()[:-3])
    elif change == "photo":
        images = replaced(images, tmp_path)
        cached_targets(stale, images, CPU, workers=0)
        times = images.files[0].stat()
        images.files[0].write_bytes(images.files[-1].read_bytes().ljust(times.st_size, b"\0")[: times.st_size])
        os.utime(images.files[0], ns=(times.st_atime_ns, times.st_mtime_ns))
    elif change == "images":
        images = images.where(torch.arange(len(images.files)).numpy() != 0)
    elif change == "temperature":
        settings["distill_temperature"] = 1.0
    elif change == "view":
        settings["teacher_view"] = "ten-crop"
    fresh = planned(stale.folder, teacher(1 if change == "teacher" else 0), **settings)
    found = cached_targets(fresh, images, CPU, workers=0)
    assert torch.equal(found, compute_targets(fresh, images, CPU, workers=0))


def replaced(images: ImageList, folder: Path) -> ImageList:
    """The same photos in a folder of the test; the last one is smaller than the first."""
    root = Path(shutil.copytree(images.root, folder / "photos"))
    files = sorted(
        (root / file.relative_to(images.root) for file in images.files), key=lambda file: -file.stat().st_size
    )
    return dataclasses.replace(images, root=root, files=tuple(files))


def test_a_photo_that_is_gone_is_one_line(teacher: MakeTeacher, images: ImageList, tmp_path: Path) -> None:
    images = replaced(images, tmp_path)
    images.files[0].unlink()
    with pytest.raises(InputError, match=r"jpg: cannot be read \(No such file or directory\); repair or remove it"):
        cached_targets(planned(tmp_path / "run", teacher(0), teacher_view="single"), images, CPU, workers=0)


def test_a_teacher_whose_labels_are_the_classes_is_matched_by_them(teacher: MakeTeacher, tmp_path: Path) -> None:
    checkpoint = reordered(load_checkpoint(teacher(0)), [2, 0, 1])
    contract = dataclasses.replace(checkpoint.contract, class_ids=("x", "y", "z"))
    named = save_checkpoint(dataclasses.replace(checkpoint, contract=contract), tmp_path / "named.safetensors")
    pixels_NHWC = torch.randint(0, 256, (4, 64, 64, 3), dtype=torch.uint8)
    expected, found = (Teachers(planned(tmp_path, each), CPU)(pixels_NHWC) for each in (teacher(0), named))
    torch.testing.assert_close(found, expected)


def test_a_teacher_sees_what_its_own_contract_says_or_ten_views_of_it(
    teacher: MakeTeacher, images: ImageList, tmp_path: Path
) -> None:
    checkpoint = load_checkpoint(teacher(0))
    pre = Preprocessing(resize="stretch", resize_to=None, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    checkpoint = dataclasses.replace(checkpoint, contract=dataclasses.replace(checkpoint.contract, preprocessing=pre))
    path = save_checkpoint(checkpoint, tmp_path / "stretch.safetensors")
    model, mean, std = checkpoint.build(), torch.tensor(pre.mean), torch.tensor(pre.std)

    def probabilities(pixels_VHWC: torch.Tensor) -> torch.Tensor:
        x_VCHW = ((pixels_VHWC / 255 - mean) / std).permute(0, 3, 1, 2)
        with torch.inference_mode():
            return (model(x_VCHW) / 2.0).softmax(1).mean(0)

    single = [torch.from_numpy(load_pixels(file, pre))[None] for file in images.files]
    ten = [torch.from_numpy(ten_crops(load_pixels(file, picture_for_crops(pre)), pre)) for file in images.files]
    for view, views in (("single", single), ("ten-crop", ten)):
        plan = planned(tmp_path / view, path, teacher_view=view, distill_temperature=2.0)
        found = compute_targets(plan, images, CPU, workers=0)
        # channels-last and another batch sum in another order
        torch.testing.assert_close(found, torch.stack([probabilities(v) for v in views]), rtol=1e-3, atol=1e-4)


def test_of_the_students_pixels_several_teachers_answer_with_their_mean(teacher: MakeTeacher, tmp_path: Path) -> None:
    pixels_NHWC = torch.randint(0, 256, (3, 64, 64, 3), dtype=torch.uint8)
    one, other, both = (
        Teachers(planned(tmp_path, *paths), CPU)(pixels_NHWC)
        for paths in ((teacher(0),), (teacher(1),), (teacher(0), teacher(1)))
    )
    torch.testing.assert_close(both, (one + other) / 2)
    assert not torch.allclose(one, other)


def test_the_same_classes_in_another_order_are_matched_by_name(teacher: MakeTeacher, tmp_path: Path) -> None:
    path = teacher(0)
    mixed = save_checkpoint(reordered(load_checkpoint(path), [2, 0, 1]), tmp_path / "mixed.safetensors")
    pixels_NHWC = torch.randint(0, 256, (4, 64, 64, 3), dtype=torch.uint8)
    expected, found = (Teachers(planned(tmp_path, each), CPU)(pixels_NHWC) for each in (path, mixed))
    torch.testing.assert_close(found, expected)  # another order of the same rows
    assert not torch.allclose(expected, expected[:, [2, 0, 1]])


@pytest.mark.parametrize(
    ("class_ids", "found"),
    [
        (("n01_red", "n02_green"), "has 2 classes, the data has 3 ('n03_blue' is only in one of the two)"),
        (("n01_red", "n02_green", "zebra"), "has 3 classes, the data has 3 ('n03_blue' is only in one of the two)"),
        ((*CLASSES, "zebra"), "has 4 classes, the data has 3 ('zebra' is only in one of the two)"),
    ],
)
def test_a_teacher_of_other_classes_is_refused(
    teacher: MakeTeacher, tmp_path: Path, class_ids: tuple[str, ...], found: str
) -> None:
    path = teacher(0, class_ids)
    with pytest.raises(InputError) as caught:
        planned(tmp_path, teacher(1), path)
    assert str(caught.value) == f"`teacher` {path}: {found}; give a teacher of the same classes"


def test_a_teacher_may_be_the_folder_of_a_run_or_of_the_hub(teacher: MakeTeacher, tmp_path: Path) -> None:
    path = teacher(0)
    run = tmp_path / "run"
    run.mkdir()
    shutil.copyfile(path, run / "checkpoint.safetensors")
    write_hf_folder(load_checkpoint(path), tmp_path / "hub")
    pixels_NHWC = torch.randint(0, 256, (3, 64, 64, 3), dtype=torch.uint8)
    expected, *found = (Teachers(planned(tmp_path, each), CPU)(pixels_NHWC) for each in (path, run, tmp_path / "hub"))
    for one in found:
        assert torch.equal(one, expected)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"distill_temperature": 0.0}, "`distill_temperature` 0.0: must be from 0.1 to 100"),
        ({"distill_temperature": float("nan")}, "`distill_temperature` nan: must be from"),
        ({"distill_weight": 0.0}, "`distill_weight` 0.0: must be a share above 0 and at most 1"),
        ({"distill_weight": 1.5}, "`distill_weight` 1.5: must be a share above 0 and at most 1"),
    ],
)
def test_a_setting_that_cannot_be(
    teacher: MakeTeacher, tmp_path: Path, settings: dict[str, float], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        planned(tmp_path, teacher(0), **settings)


def test_settings_without_an_effect_are_refused(teacher: MakeTeacher, tmp_path: Path) -> None:
    for name, value in (("teacher_view", "single"), ("distill_temperature", 2.0), ("distill_weight", 0.5)):
        with pytest.raises(UsageError, match=f"`{name}` {value}: has no effect without `teacher`; add it"):
            plan_distillation(TeacherSettings(**{name: value}), tuple(CLASSES), MODERN, tmp_path, read=read_teacher)
    mixing = dataclasses.replace(MODERN, mix="cutmix")
    settings = TeacherSettings(teacher=[teacher(0)], teacher_view="single")
    with pytest.raises(
        UsageError, match="`teacher_view` single: its answers are to whole pictures, and the recipe mixes"
    ):
        plan_distillation(settings, tuple(CLASSES), mixing, tmp_path, read=read_teacher)
    same = dataclasses.replace(settings, teacher_view="same")
    assert plan_distillation(same, tuple(CLASSES), mixing, tmp_path, read=read_teacher) is not None
    assert plan_distillation(TeacherSettings(), tuple(CLASSES), MODERN, tmp_path, read=read_teacher) is None
