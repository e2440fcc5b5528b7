"""What is wrong with a data set is told, and refused where training would lie, before the first step."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from rich.console import Console

from alexnet_deploy.errors import InputError
from tests.helpers.command import Command
from tests.helpers.photos import CLASSES, save_photo
from training.data.listing import list_class_folders
from training.data.preflight import ALLOW_LEAK, ALLOW_TWO_CLASSES, ALLOW_UNREADABLE, PreflightReport, inspect_data
from training.loop.run import Run
from training.show import preflight_table

EVERYTHING = (ALLOW_LEAK, ALLOW_TWO_CLASSES, ALLOW_UNREADABLE)


@pytest.fixture
def photos(photo_folder: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(photo_folder, tmp_path / "photos"))


def cut_off(file: Path) -> Path:
    """The header and a little more: the size and mode still read well."""
    file.write_bytes(file.read_bytes()[:-200])
    return file


def inspected(photos: Path) -> PreflightReport:
    train = list_class_folders(photos / "train")
    return inspect_data(train, list_class_folders(photos / "val", class_ids=train.class_ids), threads=2)


def findings(photos: Path) -> dict[str, tuple[str, ...]]:
    return {finding.kind: finding.cases for finding in inspected(photos).findings}


class TestFindings:
    def test_a_sound_data_set_has_none(self, photo_folder: Path) -> None:
        report = inspected(photo_folder)
        assert report.findings == ()
        assert report.readable.all()
        assert len(report.readable) == 24
        report.check(())

    def test_a_file_that_is_cut_off_is_found_and_left_out(self, photos: Path) -> None:
        in_val = cut_off(photos / "val" / "n03_blue" / "1.jpg")
        in_train = cut_off(photos / "train" / "n01_red" / "2.jpg")
        report = inspected(photos)
        (finding,) = report.findings
        assert [case.partition(": ")[0] for case in finding.cases] == [str(in_train), str(in_val)]
        assert [i for i, good in enumerate(report.readable) if not good] == [2, 23]
        with pytest.raises(InputError) as caught:
            report.check((ALLOW_LEAK, ALLOW_TWO_CLASSES))
        assert str(caught.value).startswith(f"{in_train}: cannot be decoded")
        assert str(caught.value).endswith(
            " (and 1 more); training would stop there: repair or remove it, or pass `allow_unreadable`"
        )
        report.check((ALLOW_UNREADABLE,))

    def test_more_files_than_a_task_takes_keep_their_order(self, photos: Path) -> None:
        source = photos / "train" / "n01_red" / "0.jpg"
        for index in range(150):
            shutil.copy(source, source.with_name(f"copy{index:03d}.jpg"))
        cut_off(source.with_name("copy140.jpg"))
        report = inspected(photos)
        assert report.readable.tolist().index(False) == 6 + 140
        assert report.readable.sum() == 24 + 149

    @pytest.mark.parametrize(
        ("first", "copy", "kind", "consequence", "allow"),
        [
            (
                "train/n02_green/3.jpg", "val/n02_green/other name.jpg", "training image in the validation split",
                "validation would measure memory: remove one of the two", ALLOW_LEAK,
            ),
            (
                "train/n01_red/3.jpg", "train/n03_blue/x.jpg", "image under two classes",
                "one of the two classes is wrong: remove it there", ALLOW_TWO_CLASSES,
            ),
            ("train/n01_red/1.jpg", "train/n01_red/x.jpg", "image twice in a class", None, None),
            ("val/n01_red/1.jpg", "val/n01_red/x.jpg", "image twice in a class", None, None),
        ],
    )  # fmt: skip
    def test_a_copy_is_refused_where_it_would_mislead(
        self, photos: Path, first: str, copy: str, kind: str, consequence: str | None, allow: str | None
    ) -> None:
        shutil.copy(photos / first, photos / copy)
        report = inspected(photos)
        case = f"{photos / copy}: has the same bytes as {photos / first}"
        assert {finding.kind: finding.cases for finding in report.findings} == {kind: (case,)}
        report.check(tuple(EVERYTHING))
        others = [setting for setting in EVERYTHING if setting != allow]
        if consequence is None:
            report.check(())
        else:
            with pytest.raises(InputError) as caught:
                report.check(others)
            assert str(caught.value) == f"{case}; {consequence}, or pass `{allow}`"

    def test_a_leak_under_another_class_is_both(self, photos: Path) -> None:
        shutil.copy(photos / "train" / "n01_red" / "3.jpg", photos / "val" / "n03_blue" / "x.jpg")
        assert list(findings(photos)) == ["training image in the validation split", "image under two classes"]

    def test_files_of_one_size_and_other_bytes_are_no_copies(self, photos: Path) -> None:
        one, other = (photos / "train" / "n01_red" / f"{k}.ppm" for k in "ab")
        one.write_bytes(b"P6 1 1 255\n\1\2\3")
        other.write_bytes(b"P6 1 1 255\n\1\2\4")
        assert findings(photos) == {}

    def test_classes_of_one_image_or_without_validation_are_told(self, photos: Path) -> None:
        for index in range(1, 6):
            (photos / "train" / "n01_red" / f"{index}.jpg").unlink()
        shutil.rmtree(photos / "val" / "n02_green")
        assert findings(photos) == {
            "class with one training image": ("class 'n01_red'",),
            "class without a validation image": ("class 'n02_green'",),
        }
        inspected(photos).check(())

    @pytest.mark.parametrize(
        ("pattern", "message"),
        [
            ("train/n02_green/*", r"^class 'n02_green'; no image of it can be read for training"),
            ("val/*/*", "^the validation split; none of its images can be read"),
        ],
    )
    def test_nothing_readable_is_refused_whatever_is_allowed(self, photos: Path, pattern: str, message: str) -> None:
        for file in photos.glob(pattern):
            file.write_bytes(b"")
        with pytest.raises(InputError, match=message):
            inspected(photos).check(EVERYTHING)

    def test_a_name_that_is_no_text_is_told_as_escapes(self, photos: Path) -> None:
        first = photos / "train" / "n01_red" / "1.jpg"
        shutil.copy(first, first.with_name("\udcff\x1b[31m.jpg"))
        (case,) = findings(photos)["image twice in a class"]
        assert r"\udcff\x1b[31m.jpg: has the same bytes" in case


def shown(photos: Path, allowed: tuple[str, ...], width: int) -> list[str]:
    console = Console(width=width, markup=False)  # as the command has it
    with console.capture() as capture:
        console.print(preflight_table(inspected(photos), allowed, lambda parameter: f"<{parameter}>"))
    return capture.get().splitlines()


def test_the_table_has_one_row_per_finding_with_its_consequence(photos: Path) -> None:
    cut_off(photos / "train" / "n01_red" / "2.jpg").rename(photos / "train" / "n01_red" / "[red].jpg")
    shutil.copy(photos / "train" / "n02_green" / "3.jpg", photos / "val" / "n02_green" / "x.jpg")
    shutil.rmtree(photos / "val" / "n03_blue")
    _, *rows = (re.split(r" {2,}", line.strip()) for line in shown(photos, (ALLOW_UNREADABLE,), 400))
    assert [(row[0], row[1], row[3]) for row in rows] == [
        ("unreadable file", "1", "<allow_unreadable>"),
        ("class without a validation image", "1", "as it is"),
        ("training image in the validation split", "1", "refused"),
    ]
    assert "[red].jpg: cannot be decoded" in rows[0][2]


def test_a_narrow_terminal_cuts_nothing(photos: Path) -> None:
    bad = cut_off(photos / "train" / "n01_red" / "2.jpg").rename(photos / "train" / "n01_red" / f"{'x' * 200}.jpg")
    lines = shown(photos, (), 60)
    assert not any("…" in line for line in lines)
    assert "".join(lines).count("x") >= bad.name.count("x")


class TestCommand:
    """``python -m training train``: the preflight comes before the first step."""

    @pytest.fixture
    def train(self, photos: Path, cli: Command) -> Command:
        return lambda *flags: cli("train", photos, "--output", photos.parent / "run", *flags)

    def test_a_sound_data_set_is_trained_without_a_word(self, photos: Path, train: Command, planned: list[Run]) -> None:
        assert train() == (0, "", f"wrote {photos.parent / 'run'}\n")
        assert (len(planned[0].train.files), len(planned[0].val.files)) == (18, 6)

    def test_every_case_is_shown_written_and_refused_until_it_is_mended_or_allowed(
        self, photos: Path, train: Command, planned: list[Run]
    ) -> None:
        trained, folder = photos / "train" / "n02_green" / "3.jpg", photos / "val" / "n02_green"
        leaks = [folder / f"{'x' * 200}{index}.jpg" for index in range(3)]
        for leak in leaks:
            shutil.copy(trained, leak)
        code, _, err = train()
        assert (code, planned) == (1, [])
        written = photos.parent / "run" / "preflight.txt"
        title, _, row, pointer, error = err.splitlines()
        assert title == "Data preflight"
        assert f"  {leaks[0]}: has the same bytes as {trained}  " in row  # not cut off in a pipe
        assert pointer == f"every case: {written}"
        assert error.startswith(f"error: {leaks[0]}: has the same bytes")
        assert error.endswith(", or pass --allow-leak")
        assert written.read_text().splitlines() == [
            f"training image in the validation split\t{leak}: has the same bytes as {trained}" for leak in leaks
        ]
        assert train("--allow-leak").code == 0
        assert len(planned[0].val.files) == 9
        for leak in leaks:
            leak.unlink()
        assert train().code == 0
        assert not written.exists()

    def test_unreadable_files_are_left_out_of_both_splits(
        self, photos: Path, train: Command, planned: list[Run]
    ) -> None:
        bad = {cut_off(photos / "train" / "n01_red" / "2.jpg"), cut_off(photos / "val" / "n03_blue" / "1.jpg")}
        assert train().code == 1
        assert train("--allow-unreadable").code == 0
        (run,) = planned
        assert (len(run.train.files), len(run.val.files)) == (17, 5)
        assert not bad & {*run.train.files, *run.val.files}
        assert run.train.targets == 5 * (0,) + 6 * (1,) + 6 * (2,)
        assert run.train.class_ids == tuple(CLASSES)

    def test_a_split_by_seed_is_searched_for_leaks(self, photos: Path, cli: Command, planned: list[Run]) -> None:
        shutil.rmtree(photos / "train" / "n01_red")
        save_photo(photos / "train" / "n01_red" / "0.jpg", (0, 0, 0), 0)
        shutil.copy(photos / "train" / "n01_red" / "0.jpg", photos / "train" / "n01_red" / "1.jpg")
        assert cli("train", photos / "train", "--output", photos.parent / "run").code == 1
        assert planned == []

    def test_it_can_be_skipped_but_not_half(self, photos: Path, train: Command, planned: list[Run]) -> None:
        cut_off(photos / "train" / "n01_red" / "2.jpg")
        assert train("--skip-preflight", "--allow-leak") == (
            2, "", "error: --allow-leak: has no effect with --skip-preflight; leave one of the two out\n",
        )  # fmt: skip
        assert train("--skip-preflight").code == 0
        assert len(planned[0].train.files) == 18
