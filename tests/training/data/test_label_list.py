"""Lists of labels: whose class a line gives, and whether it is a class id or a number."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from alexnet_deploy.errors import InputError
from tests.helpers.photos import CLASSES, save_photo
from training.data.lists.label_list import class_numbers
from training.data.lists.listing import list_flat_folder

IDS = tuple(CLASSES)


class TestNames:
    """Whose class a line of a list gives, where images of several folders or formats have one name."""

    @pytest.fixture
    def classes(self, tmp_path: Path) -> Callable[[str, str], list[str]]:
        """The classes of the images of these names, in order, by a list of this text."""

        def read(names: str, text: str) -> list[str]:
            for number, name in enumerate(names.split()):
                save_photo(tmp_path / "val" / name, (9, 9, 9), number)
            (tmp_path / "labels.txt").write_text(text)
            images = list_flat_folder(tmp_path / "val", IDS, tmp_path / "labels.txt")
            assert [file.relative_to(tmp_path / "val") for file in images.files] == [*map(Path, names.split())]
            return [images.class_ids[target] for target in images.targets]

        return read

    @pytest.mark.parametrize(
        "text",
        [
            "n01_red\nn01_red\nn02_green\nn03_blue\n",
            "y/1.png 2\ny/1.jpg 1\nx/2.jpg 0\nx/1.jpg 0\n",
            "val/x/1.jpg 0\n./x/2.jpg 0\nval/y/1.jpg 1\nval/y/1.png 2\n",
            "x/1.jpg 0\n2 0\ny/1.jpg 1\n1.png 2\n",
            "/set/x/1.jpg 0\n/set/x/2.jpg 0\n/set/y/1.jpg 1\n/set/y/1.png 2\n",
            "x/1.jpg 0\n2.JPEG 0\ny/1.jpg 1\ny/1.png 2\ny/2.jpg 2\n",
        ],
    )
    def test_each_image_has_the_class_of_its_line(self, classes: Callable[[str, str], list[str]], text: str) -> None:
        expected = ["n01_red", "n01_red", "n02_green", "n03_blue"]
        assert classes("x/1.jpg x/2.jpg y/1.jpg y/1.png", text) == expected

    @pytest.mark.parametrize(
        ("names", "text", "classes_of_them"),
        [
            # Another image's line, since its folder is another, and repeated lines that agree.
            ("1.jpg", "1.jpg 0\nother/1.jpg 1\n", "0"),
            ("1.jpg", "val/1.jpg 0\n1.jpg 0\n1 0\nother/1.jpg 1\n", "0"),
            ("1.jpg", "other/1.jpg 1\n", "1"),
            ("x/1.jpg y/1.jpg", "x/1.jpg 0\ny/1.jpg 1\n1.jpg 1\n", "0 1"),
            # A folder in one of its own name, by both readings of the list.
            ("1.jpg val/1.jpg", "val/val/1.jpg 0\nval/1.jpg 1\n", "1 0"),
            ("1.jpg val/1.jpg", "val/1.jpg 0\n1.jpg 1\n", "1 0"),
            ("1.jpg val/1.jpg val/val/1.jpg", "val/val/1.jpg 2\nval/1.jpg 1\n1.jpg 0\n", "0 1 2"),
            ("1.jpg val/1.jpg val/val/1.jpg", "val/1.jpg 0\nval/val/1.jpg 1\nval/val/val/1.jpg 2\n", "0 1 2"),
            # From the root on: the longest ending counts.
            ("1.jpg s/1.jpg", "/q/val/1.jpg 0\n/q/val/s/1.jpg 1\n", "0 1"),
            ("1.jpg s/1.jpg", "/q/s/1.jpg 1\n/q/1.jpg 0\n", "0 1"),
            ("1.jpg s/1.jpg", "/1.jpg 0\n/s/1 1\n", "0 1"),
            # Names with dots.
            ("1.jpg 1.v1.jpg", "1.v1 1\n1 0\n", "0 1"),
            ("s/1.jpg s/1.jpg.png", "1.jpg 0\n1.jpg.png 1\n", "0 1"),
        ],
    )
    def test_the_nearest_line_counts(
        self, classes: Callable[[str, str], list[str]], names: str, text: str, classes_of_them: str
    ) -> None:
        assert classes(names, text) == [IDS[int(number)] for number in classes_of_them.split()]

    @pytest.mark.parametrize(
        ("names", "text", "message"),
        [
            ("x/1.jpg y/1.jpg", "1.jpg 0\n", "1.jpg may be x/1.jpg or y/1.jpg; write the paths of images relative to"),
            ("1.jpg 1.png", "1 0\n", "1 may be 1.jpg or 1.png; write the paths of images relative to"),
            ("x/1.jpg y/1.jpg", "x/1.jpg 0\n", "has no line for y/1.jpg; give the list of these images"),
            ("x/1.jpg", "y/1.jpg 0\n", "has no line for x/1.jpg; give the list of these images"),
            (
                "1.jpg",
                "x/1.jpg 0\ny/1.jpg 1\n",
                "gives 1.jpg the classes 0 and 1, as x/1.jpg and as y/1.jpg; remove one line",
            ),
            ("1.jpg", "x/1.jpg 0\nx/1.JPEG 1\n", "gives 1.jpg the classes 0 and 1, as x/1.jpg and as x/1.JPEG; "),
            ("1.jpg", "1.jpg 0\n./1.jpg 1\n", "gives 1.jpg the classes 0 and 1; remove one line"),
            ("1.jpg", "1.jpg 0\nval/1.jpg 1\n", "gives 1.jpg the classes 0 and 1, as 1.jpg and as val/1.jpg; "),
            ("1.jpg", "/q/val/1.jpg 1\n1.jpg 0\n", "gives 1.jpg the classes 0 and 1, as 1.jpg and as q/val/1.jpg; "),
            ("1.jpg", "1.jpg 0\n1 1\n", "gives 1.jpg the classes 0 and 1, as 1.jpg and as 1; remove one line"),
            ("1.jpg", "1.jpg 0\n1.JPEG 1\n", "gives 1.jpg the classes 0 and 1, as 1.jpg and as 1.JPEG; "),
            ("1.jpg 1.png", "1.jpg 0\n1.png 1\n1 2\n", "gives 1.jpg the classes 0 and 2, as 1.jpg and as 1; "),
            ("x/1.jpg y/1.jpg", "x/1.jpg 0\n1.jpg 1\n", "1.jpg may be x/1.jpg or y/1.jpg; "),
            ("1.jpg val/1.jpg", "val/1.jpg 0\n", "has no line for 1.jpg; give the list of these images"),
            ("1.jpg val/1.jpg", "val/val/1.jpg 0\nval/1.jpg 1\n1.jpg 2\n", "gives val/1.jpg the classes 1 and 0, as"),
        ],
    )
    def test_a_line_that_may_be_for_another_is_refused(
        self, classes: Callable[[str, str], list[str]], names: str, text: str, message: str
    ) -> None:
        with pytest.raises(InputError) as caught:
            classes(names, text)
        assert message in str(caught.value)


@pytest.mark.parametrize(
    ("class_ids", "classes", "numbers", "noted"),
    [
        (("1", "2", "3"), ("0", "1", "2"), (0, 1, 2), False),
        (("1", "2", "3"), ("1", "2", "2"), (0, 1, 1), True),
        (("0", "1", "2"), ("0", "1", "2"), (0, 1, 2), False),
        (("1", "10", "2"), ("1", "10", "2"), (0, 1, 2), False),
    ],
)
def test_all_lines_have_class_ids_or_all_have_numbers(
    class_ids: tuple[str, ...], classes: tuple[str, ...], numbers: tuple[int, ...], noted: bool
) -> None:
    files = [Path(f"{i}.jpg") for i in range(3)]
    note = "labels.txt: its classes fit as names of class folders and as numbers from 0 among them; taken as names"
    assert class_numbers(classes, class_ids, files, Path("labels.txt")) == (numbers, (note,) if noted else ())


@pytest.mark.parametrize(("name", "number"), [("0" * 5000 + "2", 2), ("9" * 5000, None), ("3", None), ("x", None)])
def test_a_number_may_be_longer_than_python_reads(name: str, number: int | None) -> None:
    if number is not None:
        assert class_numbers([name], ("a", "b", "c"), [Path("1.jpg")], Path("labels.txt")) == ((number,), ())
        return
    with pytest.raises(InputError) as caught:
        class_numbers([name], ("a", "b", "c"), [Path("1.jpg")], Path("labels.txt"))
    assert str(caught.value) == f"labels.txt: 1.jpg has class {name[:80]!r}, which is not in the training data"
