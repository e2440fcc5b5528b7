"""No option that writes a file or a folder replaces an input, a photo, or anything else that is not its own."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer
from PIL import Image

from alexnet_deploy.cli import app
from alexnet_deploy.report.file import write_report
from tests.helpers.command import Command
from tests.helpers.report_sample import sample_report

PHOTO = "photos/val/n01_red/0.jpg"
VAL = ("--data", "photos/val")
FILES: dict[tuple[str, str], tuple[tuple[str, ...], str]] = {
    ("export", "--output"): (("--weights", "tiny.safetensors"), ".onnx"),
    ("infer", "--output"): ((PHOTO,), ".csv"),
    ("features", "--output"): ((PHOTO,), ".npz"),
    ("neighbours", "--html"): ((PHOTO, "--index", "v.npz"), ".html"),
    ("duplicates", "--html"): (("photos",), ".html"),
    ("evaluate", "--gallery"): (("photos/val", "--no-latency"), ".html"),
    ("diagnose", "--plot"): (VAL, ".png"),
    ("calibrate-confidence", "--plot"): (("alexnet-int8", *VAL), ".png"),
    ("profile", "--export-times"): (("alexnet-fp16",), ".json"),
    ("report", "--output"): (VAL, ".html"),
    ("summary", "--filters"): (("tiny.safetensors",), ".png"),
}
"""The other arguments of the command, and a suffix that the file may have."""
FOLDERS: dict[tuple[str, str], tuple[tuple[str, ...], tuple[str, ...], str]] = {
    ("build-engine", "--output"): ((), ("bundle.json",), "a.plan"),
    ("explain", "--output"): ((PHOTO,), ("explain.json",), "001-a-beside.png"),
    ("summary", "--output"): (("tiny.safetensors", "--activations", PHOTO), (), "a"),
    ("package", "--triton"): (("alexnet-fp16",), (), "a"),
    ("mlperf", "--output"): (("alexnet-fp16", "--scenario", "SingleStream"), (), "SingleStream/mlperf_log_summary.txt"),
}
"""The other arguments, files that the folder needs to look like the command's, and a name that looks so as well."""


def test_these_are_all_options_that_write() -> None:
    found = set()
    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        for parameter in command.params:
            text = getattr(parameter, "help", None) or ""
            if "to write" in text or "write the" in text or "for LoadGen's logs" in text:
                found.add((name, max(parameter.opts, key=len)))
    assert found == FILES.keys() | FOLDERS.keys()


@pytest.mark.parametrize("option", FILES)
def test_a_photo_and_a_file_of_a_bundle_are_never_replaced(
    option: tuple[str, str], command: Command, here: Path
) -> None:
    name, flag = option
    given, suffix = FILES[option]
    photo, part = Path(f"mine{suffix}"), Path(f"engines/alexnet-int8/part{suffix}")
    Image.open(PHOTO).save(photo, "PNG")
    part.write_text("{}")
    link = Path(f"link{suffix}")
    link.symlink_to("photos/train/n01_red/0.jpg")
    for output, words in ((photo, "is an image"), (part, "is a file of the engine bundle"), (link, "image")):
        before = output.read_bytes()
        ran = command(name, *given, flag, output)
        assert (ran.code, words in ran.error) == (2, True), ran.err
        assert ran.error.startswith(f"error: {flag} {output}: ")
        assert output.read_bytes() == before
    if suffix != ".csv":  # rows may have any name
        ran = command(name, *given, flag, PHOTO)
        assert (ran.code, "does not end in one of" in ran.error) == (2, True), ran.err


@pytest.mark.parametrize("option", FOLDERS)
def test_a_folder_inside_is_the_users_whatever_its_name(option: tuple[str, str], command: Command, here: Path) -> None:
    name, flag = option
    given, files, inside = FOLDERS[option]
    precious = Path("mine", inside, "precious")
    precious.parent.mkdir(parents=True)
    precious.write_text("keep")
    for file in files:
        Path("mine", file).write_text("{}")
    ran = command(name, *given, flag, "mine")
    assert ran.code in (1, 2), ran.err
    assert "mine" in ran.error
    assert precious.read_text() == "keep"


def test_the_input_may_not_lie_in_the_folder(command: Command, here: Path) -> None:
    photo = Path("maps/001-a-occlusion.png")
    photo.parent.mkdir()
    Image.open(PHOTO).save(photo)
    (photo.parent / "explain.json").write_text("{}")
    onnx = "engines/alexnet-fp16/model.onnx"
    for arguments, words in (
        (("explain", photo, "--engine", "alexnet-fp16", "-o", "maps"), "--output maps: holds the input maps/001"),
        (("build-engine", onnx, "-o", "engines/alexnet-fp16"), "--output engines/alexnet-fp16: holds the input"),
        (("package", onnx, "--triton", "engines/alexnet-fp16"), "--triton engines/alexnet-fp16: holds the input"),
    ):
        ran = command(*arguments)
        assert (ran.code, words in ran.error) == (2, True), ran.err
    assert photo.is_file()
    assert Path(onnx).is_file()


def test_a_report_is_no_file_of_times(command: Command, here: Path) -> None:
    write_report(sample_report(), Path("report.json"))
    before = Path("report.json").read_bytes()
    ran = command("profile", "alexnet-fp16", "--export-times", "report.json")
    assert (ran.code, "report.json: exists and is not a file of times" in ran.error) == (2, True), ran.err
    assert Path("report.json").read_bytes() == before


@pytest.mark.parametrize("text", ["{}", '{"mine": 1}', "[1]", "no JSON", ""])
def test_json_that_is_not_ours_is_not_replaced(text: str, command: Command, here: Path) -> None:
    Path("labels.json").write_text(text)
    for arguments in (
        ("report", *VAL, "-o", "labels.html"),
        ("profile", "alexnet-fp16", "--export-times", "labels.json"),
    ):
        ran = command(*arguments)
        assert (ran.code, "labels.json: exists and is not a" in ran.error) == (2, True), ran.err
    assert Path("labels.json").read_text() == text


def test_what_a_run_drew_the_next_one_replaces(command: Command, here: Path) -> None:
    for _ in range(2):
        assert command("summary", "tiny.safetensors", "--filters", "f.png").code == 0
    again = command("summary", "tiny.safetensors", "--filters", "f.png", "--activations", "f.png", "-o", "sheets")
    assert (again.code, "--filters f.png: is the same file as the input f.png" in again.error) == (2, True)
