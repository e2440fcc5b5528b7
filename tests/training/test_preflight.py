"""What is wrong with a data set is told, and refused where training would lie, before the first step."""

from __future__ import annotations

import shutil
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from rich.console import Console

from alexnet_deploy.errors import InputError
from tests.helpers.photos import CLASSES, save_photo
from training.__main__ import main
from training.data.listing import list_class_folders
from training.data.preflight import (
    ALLOW_LEAK,
    ALLOW_TWO_CLASSES,
    ALLOW_UNREADABLE,
    Report,
    inspect_data,
)
from training.loop.fit import Run

EVERYTHING = (ALLOW_LEAK, ALLOW_TWO_CLASSES, ALLOW_UNREADABLE)


@pytest.fixture
def photos(photo_folder: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(photo_folder, tmp_path / "photos"))


def cut_off(file: Path) -> Path:
    """The header and a little more: the size and mode still read well."""
    file.write_bytes(file.read_bytes()[:-200])
    return file


def inspected(photos: Path) -> Report:
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
            " (and 1 more); training would stop there: mend or remove it, or pass --allow-unreadable"
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

    def test_a_training_image_in_the_validation_split_is_a_leak(self, photos: Path) -> None:
        trained, held = photos / "train" / "n02_green" / "3.jpg", photos / "val" / "n02_green" / "other name.jpg"
        shutil.copy(trained, held)
        assert findings(photos) == {
            "training image in the validation split": (f"{held}: has the same bytes as {trained}",)
        }
        with pytest.raises(InputError, match=r"validation would measure memory: .*, or pass --allow-leak$"):
            inspected(photos).check((ALLOW_TWO_CLASSES, ALLOW_UNREADABLE))
        inspected(photos).check((ALLOW_LEAK,))

    def test_an_image_under_two_classes_is_wrong_in_one(self, photos: Path) -> None:
        red, blue = photos / "train" / "n01_red" / "3.jpg", photos / "train" / "n03_blue" / "x.jpg"
        shutil.copy(red, blue)
        assert findings(photos) == {"image under two classes": (f"{blue}: has the same bytes as {red}",)}
        with pytest.raises(InputError, match=r"one of the two classes is wrong: .*, or pass --allow-two-classes$"):
            inspected(photos).check((ALLOW_LEAK, ALLOW_UNREADABLE))
        inspected(photos).check((ALLOW_TWO_CLASSES,))

    def test_a_leak_under_another_class_is_both(self, photos: Path) -> None:
        shutil.copy(photos / "train" / "n01_red" / "3.jpg", photos / "val" / "n03_blue" / "x.jpg")
        assert list(findings(photos)) == ["training image in the validation split", "image under two classes"]

    @pytest.mark.parametrize("split", ["train", "val"])
    def test_an_image_twice_in_one_class_is_told_and_no_more(self, photos: Path, split: str) -> None:
        first = photos / split / "n01_red" / "1.jpg"
        shutil.copy(first, first.with_name("x.jpg"))
        assert findings(photos) == {
            "image twice in a class": (f"{first.with_name('x.jpg')}: has the same bytes as {first}",)
        }
        inspected(photos).check(())

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
        ("pattern", "says"),
        [
            ("train/n02_green/*", r"^class 'n02_green'; no image of it can be read for training"),
            ("val/*/*", "^the validation split; none of its images can be read"),
        ],
    )
    def test_nothing_readable_is_refused_whatever_is_allowed(self, photos: Path, pattern: str, says: str) -> None:
        for file in photos.glob(pattern):
            file.write_bytes(b"")
        with pytest.raises(InputError, match=says):
            inspected(photos).check(EVERYTHING)

    def test_a_name_that_is_no_text_is_told_as_escapes(self, photos: Path) -> None:
        first = photos / "train" / "n01_red" / "1.jpg"
        shutil.copy(first, first.with_name("\udcff\x1b[31m.jpg"))
        (case,) = findings(photos)["image twice in a class"]
        assert r"\udcff\x1b[31m.jpg: has the same bytes" in case


def test_the_table_has_a_row_a_finding_and_says_what_follows(photos: Path) -> None:
    cut_off(photos / "train" / "n01_red" / "2.jpg").rename(photos / "train" / "n01_red" / "[red].jpg")
    shutil.copy(photos / "train" / "n02_green" / "3.jpg", photos / "val" / "n02_green" / "x.jpg")
    shutil.rmtree(photos / "val" / "n03_blue")
    console = Console(width=400)
    with console.capture() as capture:
        console.print(inspected(photos).table((ALLOW_UNREADABLE,)))
    lines = capture.get().splitlines()
    told = [[cell.strip() for cell in line.strip("│").split("│")] for line in lines if line.startswith("│")]
    assert [(row[0], row[1], row[3]) for row in told] == [
        ("unreadable file", "1", "--allow-unreadable"),
        ("class without a validation image", "1", "as it is"),
        ("training image in the validation split", "1", "refused"),
    ]
    assert "[red].jpg: cannot be decoded" in told[0][2]


def test_a_narrow_terminal_cuts_nothing(photos: Path) -> None:
    bad = cut_off(photos / "train" / "n01_red" / "2.jpg").rename(photos / "train" / "n01_red" / f"{'x' * 200}.jpg")
    console = Console(width=60)
    with console.capture() as capture:
        console.print(inspected(photos).table(()))
    shown = capture.get()
    assert "…" not in shown
    cells = [line.split("│")[3].strip() for line in shown.splitlines() if line.startswith("│")]
    assert bad.name in "".join(cells)


class TestCommand:
    """``python -m training``: the preflight comes before the first step."""

    @pytest.fixture
    def runs(self, monkeypatch: pytest.MonkeyPatch) -> list[Run]:
        """The runs that would have been trained."""
        runs: list[Run] = []

        def record(run: Run, **_: object) -> Path:
            runs.append(run)
            return run.output

        monkeypatch.setattr("training.train_command.train", record)
        return runs

    def command(self, photos: Path, *flags: str) -> int:
        try:
            return main([str(photos), "--output", str(photos.parent / "run"), *flags])
        except SystemExit as exc:  # typer's way to end well
            assert isinstance(exc.code, int)
            return exc.code

    def test_a_sound_data_set_is_trained_without_a_word(
        self, photo_folder: Path, tmp_path: Path, runs: list[Run], capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert self.command(Path(shutil.copytree(photo_folder, tmp_path / "photos"))) == 0
        assert capsys.readouterr().err == f"wrote {tmp_path / 'run'}\n"
        assert (len(runs[0].train.files), len(runs[0].val.files)) == (18, 6)

    def test_what_would_lie_is_refused_with_a_table_and_one_line(
        self, photos: Path, runs: list[Run], capsys: pytest.CaptureFixture[str]
    ) -> None:
        shutil.copy(photos / "train" / "n02_green" / "3.jpg", photos / "val" / "n02_green" / "x.jpg")
        assert self.command(photos) == 1
        assert runs == []
        told = capsys.readouterr().err
        assert "Data preflight" in told
        assert told.splitlines()[-1].startswith(f"error: {photos / 'val' / 'n02_green' / 'x.jpg'}: has the same bytes")
        assert self.command(photos, "--allow-leak") == 0
        assert len(runs[0].val.files) == 7

    def test_every_case_is_written_and_none_is_cut_in_a_pipe(
        self, photos: Path, runs: list[Run], capsys: pytest.CaptureFixture[str]
    ) -> None:
        trained, folder = photos / "train" / "n02_green" / "3.jpg", photos / "val" / "n02_green"
        leaks = [folder / f"{'x' * 200}{index}.jpg" for index in range(3)]
        for leak in leaks:
            shutil.copy(trained, leak)
        assert self.command(photos) == 1
        told, written = capsys.readouterr().err.splitlines(), photos.parent / "run" / "preflight.txt"
        assert any(f" {leaks[0]}: has the same bytes as {trained} " in line for line in told)
        assert told[-2] == f"every case: {written}"
        assert written.read_text().splitlines() == [
            f"training image in the validation split\t{leak}: has the same bytes as {trained}" for leak in leaks
        ]
        for leak in leaks:
            leak.unlink()
        assert self.command(photos) == 0
        assert not written.exists()

    def test_the_others_wait_while_the_first_reads_for_hours(
        self, photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name, value in {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}.items():
            monkeypatch.setenv(name, value)
        patience: list[timedelta] = []

        def look(run: Run, **_: object) -> Path:
            group = dist.group.WORLD
            assert group is not None
            patience.append(group._get_backend(torch.device("cpu")).options._timeout)
            raise InputError("seen")

        monkeypatch.setattr("training.train_command.train", look)
        try:
            assert main([str(photo_folder), "--output", str(tmp_path / "run")]) == 1
        finally:
            dist.destroy_process_group()
        assert patience[0] > timedelta(hours=12)

    def test_unreadable_files_are_left_out_of_both_splits(self, photos: Path, runs: list[Run]) -> None:
        bad = {cut_off(photos / "train" / "n01_red" / "2.jpg"), cut_off(photos / "val" / "n03_blue" / "1.jpg")}
        assert self.command(photos) == 1
        assert self.command(photos, "--allow-unreadable") == 0
        (run,) = runs
        assert (len(run.train.files), len(run.val.files)) == (17, 5)
        assert not bad & {*run.train.files, *run.val.files}
        assert run.train.targets == 5 * (0,) + 6 * (1,) + 6 * (2,)
        assert run.train.class_ids == tuple(CLASSES)

    def test_a_split_by_seed_is_searched_for_leaks(self, photos: Path, runs: list[Run]) -> None:
        shutil.rmtree(photos / "train" / "n01_red")
        save_photo(photos / "train" / "n01_red" / "0.jpg", (0, 0, 0), 0)
        shutil.copy(photos / "train" / "n01_red" / "0.jpg", photos / "train" / "n01_red" / "1.jpg")
        assert self.command(photos / "train") == 1
        assert runs == []

    def test_it_can_be_skipped_but_not_half(
        self, photos: Path, runs: list[Run], capsys: pytest.CaptureFixture[str]
    ) -> None:
        cut_off(photos / "train" / "n01_red" / "2.jpg")
        assert self.command(photos, "--skip-preflight", "--allow-leak") == 2
        assert capsys.readouterr().err == (
            "error: --allow-leak: has no meaning with --skip-preflight; leave one of the two out\n"
        )
        assert self.command(photos, "--skip-preflight") == 0
        assert len(runs[0].train.files) == 18
