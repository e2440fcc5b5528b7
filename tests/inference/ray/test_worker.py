"""What runs on the other machines, without Ray: engines that travel as bytes, parts, and rows as those of ``infer``."""

from __future__ import annotations

import os
import pickle
import shutil
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import onnx
import pyarrow.parquet as pq
import pytest

from alexnet_deploy import __version__
from alexnet_deploy.bundle.store import resolve_engine
from alexnet_deploy.errors import UnavailableError
from alexnet_deploy.images.sources import Source, find_sources
from alexnet_deploy.inference.ray.engine_files import EngineFiles, pack_engine, unpack_engine
from alexnet_deploy.inference.ray.parts import Part, cut_into_parts
from alexnet_deploy.inference.ray.run import _refuse_unusable
from alexnet_deploy.inference.ray.worker import PartAnswer, PartWorker, WorkerSettings
from alexnet_deploy.inference.run_settings import settings_of
from tests.helpers.command import Command
from tests.helpers.models.bundles import build_bundle


def packed(name: str) -> tuple[EngineFiles, WorkerSettings]:
    with resolve_engine(name, Path("engines")) as engine:
        settings = WorkerSettings(
            __version__, settings_of(engine.model_sha256(), engine.contract), "openvino", 1, 1, 5, None, 32, False
        )
        return pack_engine(engine), settings


def parts_of(size: int = 3) -> list[Part]:
    return cut_into_parts(find_sources(["photos"]), size)[0]


def test_the_rows_of_all_parts_are_those_of_infer(
    command: Command, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("--engine", "tiny.onnx", "--runtime", "openvino", "--format", "parquet", "-o", "rows", "--batch", 3)
    assert command("infer", "photos", *options).code == 3
    expected = pq.read_table("rows").to_pylist()
    files, settings = packed("tiny.onnx")
    parts = parts_of()
    monkeypatch.chdir("/")  # a worker has a folder of its own
    worker = PartWorker(replace(settings, batch=3), files)
    answers = [worker(pickle.loads(pickle.dumps(part))) for part in parts]
    rows = [row for answer in answers for row in pq.read_table(BytesIO(answer.parquet)).to_pylist()]
    assert rows == expected
    assert [answer.failed for answer in answers] == [0, 1, 0]
    assert {answer.problem or answer.unlike for answer in answers} == {""}
    assert answers[0].runs.startswith("OpenVINO")


@pytest.mark.parametrize("kind", ["bundle", "onnx", "onnx with weights beside it"])
def test_an_engine_arrives_as_it_was(place: Path, kind: str) -> None:
    name = "tiny.onnx"
    if kind == "bundle":
        build_bundle(place / "tiny.onnx", place / "engines/mine")
        name = "mine"
    elif kind != "onnx":
        onnx.save(
            onnx.load("tiny.onnx"), "apart.onnx", save_as_external_data=True, location="apart.bin", size_threshold=0
        )
        name = "apart.onnx"
    files, settings = packed(name)
    for path in ("tiny.onnx", "apart.onnx", "apart.bin"):
        Path(path).unlink(missing_ok=True)
    shutil.rmtree("engines", ignore_errors=True)
    answer = PartWorker(settings, files)(parts_of(100)[0])
    assert (answer.problem, answer.failed) == ("", 1)


def test_a_worker_leaves_nothing_in_its_temporary_folder(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(place / "temporary"))
    worker = PartWorker(*reversed(packed("tiny.onnx")))
    assert os.listdir("temporary")
    del worker
    assert os.listdir("temporary") == []


def test_what_makes_a_worker_unfit_is_the_answer_to_every_part(place: Path) -> None:
    files, settings = packed("tiny.onnx")
    part = parts_of()[0]
    older = PartWorker(replace(settings, version="0.0.1"), files)
    assert "and this machine 0.0.1; install one version everywhere" in older(part).problem
    other = PartWorker(replace(settings, engine=settings.engine | {"engine": "another"}), files)
    assert "tiny: arrived changed" in other(part).problem
    unknown = PartWorker(replace(settings, runtime="tensorrt"), files)
    assert unknown(part).problem
    assert unknown(part).parquet == b""
    broken = PartWorker(settings, replace(files, contents={"tiny.onnx": b"no model"}))
    assert broken(part).problem
    for problem in (older(part), unknown(part)):
        with pytest.raises(UnavailableError, match=r"^10\.0\.0\.5: "):
            _refuse_unusable("10.0.0.5", problem)


def test_local_images_that_a_worker_lacks_end_the_run(place: Path) -> None:
    """As rows they would look like a million damaged files."""
    files, settings = packed("tiny.onnx")
    parts = parts_of(100)
    Path("photos").rename("elsewhere")
    answer = PartWorker(settings, files)(parts[0])
    assert (answer.failed, answer.unlike_bytes) == (7, -1)
    Path("elsewhere").rename("photos")  # the machine that named them has them
    with pytest.raises(
        UnavailableError, match=r"photos/0\.jpg: is not on 10\.0\.0\.5; put the images where all machines"
    ):
        _refuse_unusable("10.0.0.5", answer)
    Path("photos/0.jpg").unlink()
    _refuse_unusable("10.0.0.5", answer)  # gone here as well: that is a row with an error, not a fault of the machine


def test_other_images_under_the_same_names_end_the_run(place: Path) -> None:
    files, settings = packed("tiny.onnx")
    parts = parts_of(100)
    original = Path("photos/0.jpg").read_bytes()
    shutil.copyfile("photos/1.jpg", "photos/0.jpg")
    answer = PartWorker(settings, files)(parts[0])
    Path("photos/0.jpg").write_bytes(original)
    with pytest.raises(UnavailableError, match=r"photos/0\.jpg: is another file on 10\.0\.0\.5"):
        _refuse_unusable("10.0.0.5", answer)
    _refuse_unusable("10.0.0.5", replace(answer, unlike_bytes=len(original)))


def test_a_list_with_missing_files_and_addresses_travels(place: Path) -> None:
    Path("list").write_text("photos/0.jpg\ngone.jpg\nnowhere://x/y.jpg\n")
    files, settings = packed("tiny.onnx")
    parts, _ = cut_into_parts(find_sources([], from_file=Path("list")), 10)
    answer = PartWorker(settings, files)(pickle.loads(pickle.dumps(parts[0])))
    rows = pq.read_table(BytesIO(answer.parquet)).to_pylist()
    assert [row["file"] for row in rows] == ["photos/0.jpg", "gone.jpg", "nowhere://x/y.jpg"]
    assert [bool(row["error"]) for row in rows] == [False, True, True]
    assert rows[1]["error"] == "gone.jpg: no such file; check the path"
    _refuse_unusable("10.0.0.5", answer)


def test_an_image_of_the_standard_input_travels() -> None:
    data = b"not read here"
    from functools import partial

    (part,) = cut_into_parts([Source("-", partial(bytes, data))], 10)[0]
    (image,) = pickle.loads(part.images)
    assert callable(image.read)
    assert image.read() == data


def test_the_names_of_all_images_make_the_hash(place: Path) -> None:
    def names(*images: str) -> str:
        return cut_into_parts((Source(name, Path(name)) for name in images), 2)[1]

    assert names("a", "b", "c") == names("a", "b", "c")
    assert len({names("a", "b"), names("b", "a"), names("ab"), names("a", "b", "c"), names("a\udce9")}) == 5


def test_nothing_is_unpacked_beside_its_folder(tmp_path: Path) -> None:
    files = EngineFiles("../../evil", {"model.onnx": b"x"}, None)
    assert unpack_engine(files, tmp_path / "in") == tmp_path / "in/evil"
    assert PartAnswer(0).problem == ""
