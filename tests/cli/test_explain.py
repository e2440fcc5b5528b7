"""``explain``: where engines look, as a table, JSON, pictures and a page; what it says where something is wrong."""

from __future__ import annotations

import base64
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.helpers.command import Command
from tests.helpers.html_page import Page
from tests.helpers.models.region_model import LEFT, SIDE, STRENGTH, TOP, region_model

FEW = ("--patch", 112, "--stride", 112)
"""Four places of a picture of 224 x 224."""


@pytest.fixture
def region(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: ``region.onnx``, its multi-label twin with a fixed batch, and a white photo."""
    region_model(tmp_path / "region.onnx")
    region_model(tmp_path / "labels.onnx", activation="sigmoid", batch=3)
    Image.new("RGB", (SIDE, SIDE), "white").save(tmp_path / "white.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_two_engines_that_look_at_the_same_place(command: Command, region: Path) -> None:
    engines = ("--engine", "region.onnx", "--beside", "labels.onnx@openvino", "--runtime", "onnxruntime")
    ran = command(
        "explain", "white.png", *engines, "-o", "maps", "--patch", 8, "--stride", 4, "--fill", "black", "--json"
    )
    assert ran.code == 0, ran.err
    found = json.loads(ran.out)
    assert found == json.loads((region / "maps/explain.json").read_text())
    assert [each["engine"] for each in found["engines"]] == ["region", "labels"]
    assert [each["runtime"].partition(" ")[0] for each in found["engines"]] == ["ONNX", "OpenVINO"]
    assert (found["patch"], found["stride"], found["fill"]) == (8, 4, [0, 0, 0])
    (photo,) = found["photos"]
    assert (photo["label"], photo["error"], photo["grad_cam"]) == ("yes", None, None)
    assert photo["rank_correlation"] == pytest.approx(1, abs=1e-3)  # runtimes differ in the last bits of float32
    assert photo["shared_top_percent"] == 100
    for view in photo["engines"]:
        logistic = 1 / (1 + np.exp(-STRENGTH))
        assert view["strongest"] == {"left": LEFT, "top": TOP, "drop": pytest.approx(logistic - 0.5, abs=2e-6)}
        assert np.array(view["drops"]).shape == (len(view["tops"]), len(view["lefts"])) == (7, 7)
    assert "no Grad-CAM: the engine was not made from the shipped checkpoint (it has other classes" in ran.err
    assert sorted(photo["files"]) == ["beside", "occlusion"]


def test_one_engine_on_two_runtimes_has_two_names(command: Command, region: Path) -> None:
    engines = ("--engine", "region.onnx", "--runtime", "onnxruntime", "--beside", "region.onnx@openvino")
    ran = command("explain", "white.png", *engines, "-o", "maps", "--json")
    names = [each["engine"].partition(" 1")[0].partition(" 2")[0] for each in json.loads(ran.out)["engines"]]
    assert names == ["region in ONNX Runtime", "region in OpenVINO"]


def test_the_pictures_lie_on_what_the_network_saw(command: Command, region: Path) -> None:
    assert command("explain", "white.png", "--engine", "region.onnx", "-o", "maps", "--patch", 8).code == 0
    with Image.open(region / "maps/001-white-occlusion.png") as picture:
        pixels = np.asarray(picture)
    assert pixels.shape == (SIDE, SIDE, 3)
    assert pixels[0, 0].tolist() == [255, 255, 255]  # no effect: the pale grey of a white photo
    red, green, blue = pixels[TOP + 4, LEFT + 4].tolist()
    assert red > green + 50
    assert red > blue + 50


def test_a_photo_that_cannot_be_read_does_not_stop_the_others(command: Command, region: Path) -> None:
    (region / "broken.jpg").write_bytes(b"no image")
    (region / "a&b<i>.png").write_bytes((region / "white.png").read_bytes())
    ran = command("explain", "broken.jpg", "white.png", "a&b<i>.png", "--engine", "region.onnx", "-o", "maps")
    assert ran.code == 3
    assert "1 of 3 photos failed" in ran.err
    assert "broken.jpg: is not an image" in ran.out
    assert "yes 95.3 %" in ran.out
    page = Page((region / "maps/index.html").read_text(encoding="utf-8"))
    page.assert_runs_nothing()
    assert "a&b<i>.png: yes" in page.text
    assert "broken.jpg: is not an image" in page.text
    assert "No Grad-CAM: the engine was not made from the shipped checkpoint" in page.text
    pictures = page.all("img")
    assert len(pictures) == 4  # seen and occlusion, twice
    for attributes in pictures:
        data = (attributes["src"] or "").partition("base64,")[2]
        with Image.open(io.BytesIO(base64.b64decode(data))) as image:
            assert image.size == (SIDE, SIDE)
    names = {each.name for each in (region / "maps").iterdir()}
    assert names == {"index.html", "explain.json", "002-white-occlusion.png", "003-a-b-i-occlusion.png"}


def test_the_class_can_be_named_and_is_then_the_one_of_both(command: Command, region: Path) -> None:
    for name in ("no", "NO", "n2"):
        ran = command("explain", "white.png", "--engine", "region.onnx", "-o", "maps", "--class", name, "--json")
        (photo,) = json.loads(ran.out)["photos"]
        (view,) = photo["engines"]
        assert (photo["label"], view["answer_label"]) == ("no", "yes")
        assert view["strongest"]["drop"] <= 0


def test_grad_cam_of_the_checkpoint_stands_beside_every_precision(command: Command, here: Path) -> None:
    engines = ("--engine", "alexnet-int8", "--beside", "alexnet-fp16", *FEW)
    photo = "photos/val/n01_red/0.jpg"
    ran = command("explain", photo, *engines, "-o", "maps", "--checkpoint", "tiny.safetensors", "--json")
    assert ran.code == 0, ran.err
    found = json.loads(ran.out)
    assert found["grad_cam"] == {"layer": "features.10"}
    assert np.array(found["photos"][0]["grad_cam"]).shape == (13, 13)
    assert {each.name for each in (here / "maps").glob("*.png")} == {
        f"001-0-{what}.png" for what in ("occlusion", "beside", "grad-cam")
    }
    assert "Grad-CAM: where features.10" in Page((here / "maps/index.html").read_text(encoding="utf-8")).text
    # An earlier explanation is replaced as a whole.
    assert command("explain", photo, *engines[:2], *FEW, "-o", "maps", "--no-grad-cam").code == 0
    assert {each.name for each in (here / "maps").glob("*.png")} == {"001-0-occlusion.png"}


def test_grad_cam_of_another_checkpoint_is_refused(command: Command, here: Path) -> None:
    shipped = Path(__file__).parents[2] / "alexnet_deploy/data/alexnet.safetensors"
    ran = command("explain", "photos/val", "--engine", "alexnet-fp16", *FEW, "-o", "maps", "--checkpoint", shipped)
    assert ran.code == 1
    assert "alexnet-fp16 was not made from it: it has other classes" in ran.error
    assert not (here / "maps").exists()


def test_a_folder_with_other_files_is_not_replaced(command: Command, region: Path) -> None:
    (region / "mine").mkdir()
    (region / "mine/notes.txt").write_text("keep")
    ran = command("explain", "white.png", "--engine", "region.onnx", "-o", "mine")
    assert ran.code == 1
    assert "mine: holds notes.txt, so it is no earlier explanation" in ran.error
    assert (region / "mine/notes.txt").read_text() == "keep"
    shutil.copy(region / "white.png", region / "mine/001-x-occlusion.png")
    (region / "mine/notes.txt").unlink()
    assert (
        "mine: holds no explain.json" in command("explain", "white.png", "--engine", "region.onnx", "-o", "mine").error
    )


@pytest.mark.parametrize(
    ("typed", "code", "words"),
    [
        (
            "white.png --engine region.onnx -o m --class maybe",
            2,
            "--class maybe: the engine has no such class; choose one",
        ),
        ("white.png --engine region.onnx -o m --patch 33", 2, "--patch 33: the picture has 32 x 32 pixels"),
        ("white.png --engine region.onnx -o m --stride 0", 2, "--stride 0: must be 1 or more"),
        ("white.png --engine region.onnx -o m --fill pink", 2, "--fill pink: is no colour"),
        ("white.png --engine region.onnx -o m --beside nope", 1, "nope: no such engine"),
        ("white.png --engine region.onnx -o m --beside region.onnx@abacus", 2, "'abacus' is not a runtime"),
        ("white.png --engine region.onnx -o m --checkpoint c --no-grad-cam", 2, "--checkpoint is for Grad-CAM"),
        ("nothing.jpg --engine region.onnx -o m", 1, "nothing.jpg: no such file or folder"),
        ("white.png --engine region.onnx", 2, "Missing option '--output'"),
        ("white.png --engine region.onnx -o white.png", 1, "white.png: a file of this name is in the way"),
    ],
)
def test_what_is_typed_wrong_is_one_line(command: Command, region: Path, typed: str, code: int, words: str) -> None:
    ran = command("explain", *typed.split())
    assert ran.code == code
    assert words in ran.error
    assert not (region / "m").exists()


def test_engines_of_other_classes_or_other_pixels_cannot_stand_beside(
    command: Command, here: Path, region: Path
) -> None:
    ran = command("explain", "photos", "--engine", "alexnet-fp16", "--beside", "region.onnx", "-o", "m")
    assert ran.code == 2
    assert "--beside region: answers with other classes than alexnet-fp16" in ran.error


def test_a_label_of_two_classes_needs_the_class_id(command: Command, region: Path) -> None:
    from dataclasses import replace

    import onnx

    from alexnet_deploy.onnx_graph.onnx_file import contract_in, load_onnx, set_contract

    model = load_onnx(region / "region.onnx")
    contract = contract_in(model, source="region.onnx")
    assert contract is not None
    set_contract(model, replace(contract, labels=("crane", "crane")))
    onnx.save(model, "cranes.onnx")
    ran = command("explain", "white.png", "--engine", "cranes.onnx", "-o", "m", "--class", "crane")
    assert "--class crane: is the label of n1 and n2; name one of them" in ran.error


def test_it_needs_no_torch(region: Path) -> None:
    blocked = (
        "import sys\n"
        "class Blocked:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] == 'torch':\n"
        "            raise ModuleNotFoundError('no torch', name='torch')\n"
        "sys.meta_path.insert(0, Blocked())\n"
        "sys.argv = ['alexnet-deploy', 'explain', 'white.png', '--engine', 'region.onnx', '-o', 'maps']\n"
        "from alexnet_deploy.cli import main\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", blocked], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "no Grad-CAM: it needs torch; pip install 'alexnet-deploy[export]'" in done.stderr
