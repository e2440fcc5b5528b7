"""Faults of a data set are reported before the first step; those that would falsify the training stop it."""

from __future__ import annotations

import re
import shutil
from collections import Counter
from pathlib import Path

import pytest
from rich.console import Console

from alexnet_deploy.errors import InputError
from tests.helpers.command import Command
from tests.helpers.photos import CLASSES, save_photo
from training.cli.show import preflight_table
from training.data.lists.listing import list_class_folders
from training.data.preflight import ALLOW_LEAK, ALLOW_TWO_CLASSES, ALLOW_UNREADABLE, PreflightReport, inspect_data
from training.loop.run import Run

EVERYTHING = (ALLOW_LEAK, ALLOW_TWO_CLASSES, ALLOW_UNREADABLE)
LEAK, MEMORY = (
    "training image in the validation split",
    "validation would include training images: remove one of the two",
)
TWO_CLASSES, WRONG = "image under two classes", "one of the two classes is wrong: remove it there"


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


def cases_of(report: PreflightReport) -> dict[str, tuple[str, ...]]:
    return {finding.kind: finding.cases for finding in report.findings}


class TestFindings:
    def test_more_files_than_a_task_takes_keep_their_order(self, photos: Path) -> None:
        source = photos / "train" / "n01_red" / "0.jpg"
        for index in range(150):
            shutil.copy(source, source.with_name(f"copy{index:03d}.jpg"))
        cut_off(source.with_name("copy140.jpg"))
        report = inspected(photos)
        assert report.readable.tolist().index(False) == 6 + 140
        assert report.readable.sum() == 24 + 149

    @pytest.mark.parametrize(
        ("first", "copy", "kinds", "consequence", "allow"),
        [
            ("train/n02_green/3.jpg", "val/n02_green/other name.jpg", [LEAK], MEMORY, ALLOW_LEAK),
            ("train/n01_red/3.jpg", "train/n03_blue/x.jpg", [TWO_CLASSES], WRONG, ALLOW_TWO_CLASSES),
            ("train/n01_red/3.jpg", "val/n03_blue/x.jpg", [LEAK, TWO_CLASSES], MEMORY, ALLOW_LEAK),
            ("train/n01_red/1.jpg", "train/n01_red/x.jpg", ["image twice in a class"], None, None),
            ("val/n01_red/1.jpg", "val/n01_red/x.jpg", ["image twice in a class"], None, None),
        ],
    )
    def test_a_copy_is_refused_where_it_would_mislead(
        self, photos: Path, first: str, copy: str, kinds: list[str], consequence: str | None, allow: str | None
    ) -> None:
        shutil.copy(photos / first, photos / copy)
        report = inspected(photos)
        case = f"{photos / copy}: has the same bytes as {photos / first}"
        assert cases_of(report) == dict.fromkeys(kinds, (case,))
        report.check(EVERYTHING)
        if consequence is None:
            report.check(())
        else:
            with pytest.raises(InputError) as caught:
                report.check([setting for setting in EVERYTHING if setting != allow])
            assert str(caught.value) == f"{case}; {consequence}, or set `{allow}`"

    def test_what_is_only_reported(self, photos: Path) -> None:
        """Also a name that is no text; files of one size and other bytes are no copies and not reported."""
        for index in range(1, 6):
            (photos / "train" / "n01_red" / f"{index}.jpg").unlink()
        shutil.rmtree(photos / "val" / "n02_green")
        for name, last in (("a", b"\3"), ("b", b"\4"), ("\udcff\x1b[31m", b"\4")):
            (photos / "train" / "n02_green" / f"{name}.ppm").write_bytes(b"P6 1 1 255\n\1\2" + last)
        report = inspected(photos)
        b = photos / "train" / "n02_green" / "b.ppm"
        assert cases_of(report) == {
            "class with one training image": ("class 'n01_red'",),
            "class without a validation image": ("class 'n02_green'",),
            "image twice in a class": (rf"{b.parent}/\udcff\x1b[31m.ppm: has the same bytes as {b}",),
        }
        report.check(())

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


def test_the_table_has_one_row_per_finding_with_its_consequence_and_cuts_nothing(photos: Path) -> None:
    cut_off(photos / "train" / "n01_red" / "2.jpg").rename(photos / "train" / "n01_red" / "[red].jpg")
    shutil.copy(photos / "train" / "n02_green" / "3.jpg", photos / "val" / "n02_green" / "x.jpg")
    shutil.rmtree(photos / "val" / "n03_blue")
    grid = preflight_table(inspected(photos), (ALLOW_UNREADABLE,), lambda parameter: f"<{parameter}>")

    def shown(width: int) -> list[str]:
        console = Console(width=width, markup=False)  # as the command has it
        with console.capture() as capture:
            console.print(grid)
        return capture.get().splitlines()

    _, *rows = (re.split(r" {2,}", line.strip()) for line in shown(1000))
    assert [(row[0], row[1], row[3]) for row in rows] == [
        ("unreadable file", "1", "<allow_unreadable>"),
        ("class without a validation image", "1", "as it is"),
        ("training image in the validation split", "1", "refused"),
    ]
    assert "[red].jpg: cannot be decoded" in rows[0][2]
    narrow, wide = (Counter("".join("".join(shown(width)).split())) for width in (60, 1000))
    assert narrow == wide


class TestCommand:
    """``python -m training train``: the preflight comes before the first step."""

    @pytest.fixture
    def train(self, photos: Path, cli: Command) -> Command:
        return lambda *flags: cli("train", photos, "--output", photos.parent / "run", *flags)

    def test_a_sound_data_set_is_trained_without_a_table(
        self, photos: Path, train: Command, planned: list[Run]
    ) -> None:
        code, out, err = train()
        assert (code, out) == (0, "")
        assert "Data preflight" not in err
        assert err.endswith(f"\nwrote {photos.parent / 'run'}\n")
        assert (len(planned[0].train.files), len(planned[0].val.files)) == (18, 6)
        assert inspected(photos).readable.all()

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
        assert error.endswith(", or set --allow-leak")
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
        bad = [cut_off(photos / "train" / "n01_red" / "2.jpg"), cut_off(photos / "val" / "n03_blue" / "1.jpg")]
        refused = train("--allow-leak", "--allow-two-classes").error
        assert refused.startswith(f"error: {bad[0]}: cannot be decoded")
        assert refused.endswith(
            " (and 1 more); training would stop there: repair or remove it, or set --allow-unreadable"
        )
        assert train("--allow-unreadable").code == 0
        written = (photos.parent / "run" / "preflight.txt").read_text().splitlines()
        assert [line.partition(": ")[0] for line in written] == [f"unreadable file\t{file}" for file in bad]
        (run,) = planned
        assert (len(run.train.files), len(run.val.files)) == (17, 5)
        assert not {*bad} & {*run.train.files, *run.val.files}
        assert run.train.targets == 5 * (0,) + 6 * (1,) + 6 * (2,)
        assert run.train.class_ids == tuple(CLASSES)

    def test_a_split_by_seed_is_searched_for_leaks(self, photos: Path, cli: Command, planned: list[Run]) -> None:
        red = photos / "train" / "n01_red"
        shutil.rmtree(red)
        for index in range(2):
            save_photo(red / f"{index}.jpg", (0, 0, 0), 0)
        assert cli("train", photos / "train", "--output", photos.parent / "run").code == 1
        assert planned == []

    def test_it_can_be_skipped_but_not_half(self, photos: Path, train: Command, planned: list[Run]) -> None:
        cut_off(photos / "train" / "n01_red" / "2.jpg")
        assert train("--skip-preflight", "--allow-leak") == (
            2, "", "error: --allow-leak: has no effect with --skip-preflight; leave one of the two out\n",
        )  # fmt: skip
        assert train("--skip-preflight").code == 0
        assert len(planned[0].train.files) == 18
