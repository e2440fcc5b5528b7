"""``features``, ``neighbours`` and ``duplicates``, as a user meets them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageEnhance

import alexnet_deploy as ad
from alexnet_deploy.errors import InputError, UsageError
from alexnet_deploy.features.index import open_index, open_writer
from alexnet_deploy.images.samples import sample_photos
from tests.helpers.command import Command
from tests.helpers.html_page import Page
from tests.helpers.models.foreign_models import foreign_classifier

PHOTOS = 24


@pytest.fixture
def indexed(command: Command, here: Path) -> Path:
    """``here`` with ``v.npz``: the features of all its photos by the INT8 engine."""
    assert command("features", "photos", "--engine", "alexnet-int8", "-o", "v.npz").code == 0
    return here


class TestFeatures:
    def test_a_row_per_photo_in_order(self, command: Command, here: Path) -> None:
        done = command("features", "photos/val", "--engine", "alexnet-fp16", "-o", "out/v.parquet", "--json")
        found = json.loads(done.out)
        assert (done.code, found["rows"], found["failed"], found["layer"], found["shape"]) == (
            0, 6, 0, "classifier.5", [32]
        )  # fmt: skip
        assert "up to layer classifier.5" in done.err
        table = pq.read_table("out/v.parquet")
        files = sorted(map(str, Path("photos/val").rglob("*.jpg")))
        assert table.column("file").to_pylist() == files
        with ad.open_engine("alexnet-fp16", features=True) as engine:
            expected = ad.features_of(engine, files)
        np.testing.assert_allclose(np.array(table.column("vector").to_pylist()), expected, rtol=1e-6)

    def test_a_photo_that_is_named_twice_has_one_row(self, command: Command, here: Path) -> None:
        photo = "photos/val/n01_red/0.jpg"
        assert command("features", photo, "photos/val", photo, "-o", "v.npz").code == 0
        with np.load("v.npz") as found:
            assert (found["files"][0], len(set(found["files"])), len(found["files"])) == (photo, 6, 6)

    def test_any_layer_and_an_unknown_one(self, command: Command, here: Path) -> None:
        assert command("features", "photos/val", "--layer", "features.5", "-o", "v.npz").code == 0
        with np.load("v.npz") as found:
            assert found["vectors"].shape == (6, 24 * 13 * 13)
        done = command("features", "photos/val", "--layer", "features.99", "-o", "w.npz")
        assert (done.code, Path("w.npz").exists()) == (2, False)
        assert "--layer features.99: alexnet-int8 has no such layer; its layers are " in done.error
        assert "classifier.5, classifier.6" in done.error

    def test_photos_that_cannot_be_read(self, command: Command, here: Path) -> None:
        Path("photos/val/bad.jpg").write_bytes(b"no image")
        done = command("features", "photos/val", "-o", "v.npz", "--json")
        found = json.loads(done.out)
        assert (done.code, found["rows"], found["failed"]) == (3, 6, 1)
        assert found["errors"][0].startswith("photos/val/bad.jpg: ")
        assert "photos/val/bad.jpg: " in done.err

    def test_no_photo_at_all(self, command: Command, here: Path) -> None:
        Path("v.npz").write_bytes(b"before")
        Path("bad.jpg").write_bytes(b"no image")
        done = command("features", "bad.jpg", "-o", "v.npz")
        assert (done.code, Path("v.npz").read_bytes()) == (1, b"before")
        assert "none of the 1 images has features" in done.error
        assert "holds no image" in command("features", "empty", "-o", "v.npz").error

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("photos",), "--output is missing"),
            (("photos", "-o", "v.csv"), "--output v.csv: does not end in one of .parquet, .npz"),
            (("photos", "-o", "v.npz", "--batch", "0"), "--batch 0"),
            (("-o", "v.npz"), "no image is named"),
            (("photos", "-o", "v.npz", "--engine", "none"), "none: no such engine"),
        ],
    )
    def test_usage(self, arguments: tuple[str, ...], message: str, command: Command, here: Path) -> None:
        done = command("features", *arguments)
        assert message in done.error
        assert not Path("v.npz").exists()

    def test_an_image_is_never_replaced(self, command: Command, here: Path) -> None:
        shutil.copy("photos/val/n01_red/0.jpg", "photo.npz")
        assert "would be lost" in command("features", "photos", "-o", "photo.npz").error


class TestNeighbours:
    def test_a_photo_of_the_index_is_its_own_nearest(self, command: Command, indexed: Path) -> None:
        query = "photos/val/n01_red/0.jpg"
        done = command("neighbours", query, "--index", "v.npz", "--json", "--html", "s.html", "--top", "3")
        found = json.loads(done.out)
        (answer,) = found["queries"]
        assert (done.code, found["rows"], found["metric"], answer["error"]) == (0, PHOTOS, "cosine", None)
        assert [len(answer["neighbours"]), answer["neighbours"][0]["file"]] == [3, query]
        assert answer["neighbours"][0]["cosine"] == pytest.approx(1, abs=1e-9)
        page = Page(Path("s.html").read_text(encoding="utf-8"))
        page.assert_runs_nothing()
        assert len(page.all("img")) == 4
        assert "layer classifier.5 of alexnet-int8" in page.text

    def test_the_distance_of_the_paper(self, command: Command, indexed: Path) -> None:
        done = command("neighbours", "photos/val", "--index", "v.npz", "--metric", "l2", "--top", "2")
        assert done.code == 0
        assert done.out.count("0.0000") == 6
        assert "distance" in done.out

    def test_a_query_that_cannot_be_read(self, command: Command, indexed: Path) -> None:
        Path("bad.jpg").write_bytes(b"no image")
        arguments = ("bad.jpg", "photos/val/n01_red/0.jpg", "--index", "v.npz", "--json", "--html", "s.html")
        done = command("neighbours", *arguments)
        bad, good = json.loads(done.out)["queries"]
        assert (done.code, bad["neighbours"], len(good["neighbours"])) == (3, [], 5)
        assert bad["error"].startswith("bad.jpg: ")
        assert "bad.jpg: is not an image" in Page(Path("s.html").read_text(encoding="utf-8")).text

    @pytest.mark.parametrize("top", [5, 100])
    def test_a_file_that_is_listed_twice_counts_once(self, top: int, command: Command, indexed: Path) -> None:
        """An index of another program, or of two that were put together."""
        photo = "photos/val/n01_red/0.jpg"
        with open_index(Path("v.npz")) as index:
            names, (vectors,) = index.names(range(index.rows)), index.blocks()
            own = names.index(photo)
            with open_writer(Path("w.npz"), index.space) as write:
                write([photo] * 300, np.repeat(vectors[own : own + 1], 300, axis=0))
                write(names, vectors)
        (once,) = json.loads(command("neighbours", photo, "--index", "v.npz", "--json", "--top", top).out)["queries"]
        (twice,) = json.loads(command("neighbours", photo, "--index", "w.npz", "--json", "--top", top).out)["queries"]
        assert twice == once
        assert len(once["neighbours"]) == min(top, PHOTOS)

    def test_a_model_of_another_tool(self, command: Command, here: Path) -> None:
        """The options that ``features`` has for it, ``neighbours`` and ``duplicates`` have as well."""
        foreign_classifier(here / "foreign.onnx")
        known = ("--engine", "foreign.onnx", "--mean", "0.485,0.456,0.406", "--std", "0.229,0.224,0.225")
        assert command("features", "photos/val", *known, "-o", "v.npz").code == 0
        done = command("neighbours", "photos/val/n01_red/0.jpg", "--index", "v.npz", *known)
        assert (done.code, "1.0000  photos/val/n01_red/0.jpg" in done.out) == (0, True)
        assert command("duplicates", "photos/val", *known).code == 0
        for wrong in (("neighbours", "photos/val", "--index", "v.npz"), ("duplicates", "photos/val")):
            done = command(*wrong, "--engine", "foreign.onnx")
            assert (done.code, "give --mean and --std" in done.error) == (2, True)

    def test_the_index_of_another_engine(self, command: Command, indexed: Path) -> None:
        done = command("neighbours", "photos/val", "--index", "v.npz", "--engine", "alexnet-fp16")
        assert done.code == 1
        assert "v.npz: its features were computed by another engine (alexnet-int8, int8," in done.error
        shutil.move("engines/alexnet-int8", "engines/renamed")
        done = command("neighbours", "photos/val", "--index", "v.npz")
        assert (done.code, "--engine is missing: v.npz was made with alexnet-int8" in done.error) == (2, True)
        assert command("neighbours", "photos/val", "--index", "v.npz", "--engine", "renamed").code == 0

    def test_photos_that_were_decoded_in_full_meet_their_like(self, command: Command, here: Path) -> None:
        assert command("features", "photos", "-o", "v.npz", "--full-decode").code == 0
        assert command("neighbours", "photos/val", "--index", "v.npz").code == 0

    @pytest.mark.parametrize("number", ["0", "-1"])
    def test_no_neighbour(self, number: str, command: Command, indexed: Path) -> None:
        assert f"--top {number}" in command("neighbours", "photos", "--index", "v.npz", "--top", number).error

    def test_a_name_in_the_page_is_text(self, command: Command, here: Path) -> None:
        shutil.copy("photos/val/n01_red/0.jpg", "<script>alert(1)</script>&.jpg".replace("/", "\u2215"))
        assert command("features", "*.jpg", "photos/val", "-o", "v.npz").code == 0
        assert command("neighbours", "*.jpg", "--index", "v.npz", "--html", "s.html").code == 0
        page = Page(Path("s.html").read_text(encoding="utf-8"))
        page.assert_runs_nothing()
        assert "<script>alert" in page.text


class TestDuplicates:
    def test_exact_and_near_copies(self, command: Command, here: Path) -> None:
        """Real photos and a real network: the shipped one, as the random one of the other tests tells little."""
        folder = here / "folder"
        folder.mkdir()
        photos = sample_photos()
        for photo in photos:
            shutil.copy(photo, folder)
        shutil.copy(photos[0], folder / "again.jpg")
        with Image.open(photos[1]) as picture:
            ImageEnhance.Brightness(picture.convert("RGB")).enhance(1.2).save(folder / "bright.jpg", quality=60)
        (folder / "bad.jpg").write_bytes(b"no image")
        assert command("export", "-o", "shipped.onnx").code == 0
        engine = ("--engine", "shipped.onnx")
        done = command("duplicates", folder, *engine, "--json", "--html", "s.html")
        found = json.loads(done.out)
        assert (done.code, found["images"], len(found["failed"])) == (3, len(photos) + 3, 1)
        ((first, second),) = found["exact"]
        assert {Path(first).name, Path(second).name} == {"again.jpg", photos[0].name}
        (pair,) = found["near"]
        assert {Path(pair["first"]).name, Path(pair["second"]).name} == {"bright.jpg", photos[1].name}
        page = Page(Path("s.html").read_text(encoding="utf-8"))
        page.assert_runs_nothing()
        assert len(page.all("img")) == 4
        assert "1 exact copy in 1 group, 1 near pair" in command("duplicates", folder, "--engine", "shipped.onnx").out

    def test_one_file_by_several_names_is_no_copy(self, command: Command, here: Path) -> None:
        photo = here / "photos/val/n01_red/0.jpg"
        folder = here / "links"
        folder.mkdir()
        (folder / "symbolic.jpg").symlink_to(photo)
        (folder / "hard.jpg").hardlink_to(photo)
        done = command("duplicates", "photos/val", here / "photos/val", folder, "--json")
        found = json.loads(done.out)
        assert (done.code, found["images"], found["exact"]) == (0, 6, [])
        assert not any(Path(pair["first"]).samefile(pair["second"]) for pair in found["near"])
        shutil.copy(photo, folder / "copy.jpg")
        (group,) = json.loads(command("duplicates", "photos/val", folder, "--json").out)["exact"]
        assert sorted(Path(file).name for file in group) == ["0.jpg", "copy.jpg"]

    @pytest.mark.parametrize("threshold", ["0", "1.1", "nan"])
    def test_a_threshold_that_is_no_likeness(self, threshold: str, command: Command, here: Path) -> None:
        assert f"--threshold {float(threshold)}" in command("duplicates", "photos", "--threshold", threshold).error

    def test_none_that_can_be_read(self, command: Command, here: Path) -> None:
        Path("bad.jpg").write_bytes(b"no image")
        assert "none of the 1 images can be read; first: bad.jpg" in command("duplicates", "bad.jpg").error


class TestPython:
    def test_an_engine_with_features_has_no_classes(self, here: Path) -> None:
        with ad.open_engine("alexnet-int8", features=True) as engine, pytest.raises(UsageError, match="names no class"):
            engine.predict("photos/val")
        with pytest.raises(UsageError, match="`layer`"):
            ad.open_engine("alexnet-int8", layer="classifier.5")
        with ad.open_engine("alexnet-int8") as engine, pytest.raises(UsageError, match="features=True"):
            ad.features_of(engine, "photos/val")

    def test_an_image_that_cannot_be_read(self, here: Path) -> None:
        Path("bad.jpg").write_bytes(b"no image")
        with ad.open_engine("alexnet-int8", features=True) as engine, pytest.raises(InputError, match=r"bad\.jpg"):
            ad.features_of(engine, ["photos/val/n01_red/0.jpg", "bad.jpg"])
