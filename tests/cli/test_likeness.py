"""The words of ``duplicates``."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.helpers.command import Command


@pytest.mark.parametrize(
    ("copies", "words"),
    [
        (0, "1 image: 0 exact copies in 0 groups, 0 near pairs"),
        (1, "2 images: 1 exact copy in 1 group, 0 near pairs"),
        (2, "3 images: 2 exact copies in 1 group, 0 near pairs"),
    ],
)
def test_one_is_one_and_two_are_several(copies: int, words: str, command: Command, here: Path) -> None:
    Path("some").mkdir()
    for number in range(copies + 1):
        shutil.copy("photos/val/n01_red/0.jpg", f"some/{number}.jpg")
    assert command("duplicates", "some", "--engine", "alexnet-fp16").out.splitlines()[0] == words
