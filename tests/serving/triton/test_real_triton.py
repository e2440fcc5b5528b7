"""Repositories in the real tritonserver, called with tritonclient: its answers are those of ``infer``.

The server of nvidia-pytriton has the Python backend alone; ``backend/model.py`` stands in for the one of ONNX Runtime.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from alexnet_deploy.bundle.verified import open_bundle
from alexnet_deploy.contract import ModelContract
from alexnet_deploy.images.decode import load_pixels
from alexnet_deploy.images.samples import sample_photos
from alexnet_deploy.onnx_graph.onnx_file import load_onnx, set_contract
from alexnet_deploy.serving.triton.repository import package_triton
from tests.helpers.command import Command
from tests.helpers.models.bundles import build_bundle
from tests.helpers.models.onnx_models import TINY_CONTRACT, tiny_model
from tests.serving.triton.reading import config_of, models_in, sizes
from tests.serving.triton.real_triton import Triton, running_triton, triton_python

pytestmark = pytest.mark.triton

CLOSE = 1e-5
"""Of a probability. The runtime is the same, but it may add in another order in batches of another size, and Triton
returns float32."""
LABELS = ('with "quotes"', "two\nlines", "a:b", *TINY_CONTRACT.labels[3:])
ENGINES = ("exact", "ruined", "tiny", "several", "four", "one")
"""Right, int8, of the size of AlexNet, multi-label with a temperature, fixed to four images, fixed to one."""
INSIDE = "inside"
"""A feature engine beside them."""


@pytest.fixture(autouse=True)
def as_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton runs the graph of the file, which ours rewrites for INT8; what is compared here is all else."""
    monkeypatch.setattr("alexnet_deploy.runtime.onnxruntime.runner.model_for_cpu", lambda path, precision: path)


@pytest.fixture(scope="session", autouse=True)
def real_server() -> None:
    """Skips before anything is made: fixtures of the session come before those of the module."""
    triton_python()


@pytest.fixture(scope="module")
def engines(workplace: Path, tiny_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("engines")
    build_bundle(tiny_onnx, folder / "tiny", "int8", workplace / "photos/train", calibration_images=6)
    build_bundle(tiny_onnx, folder / INSIDE, until="classifier.5")
    several = dataclasses.replace(TINY_CONTRACT, labels=LABELS, activation="sigmoid", temperature=2.5)
    return {
        "exact": workplace / "engines/exact",
        "ruined": workplace / "engines/ruined",
        "tiny": folder / "tiny",
        "several": _with_contract(tiny_model(folder / "several.onnx"), several),
        "four": tiny_model(folder / "four.onnx", batch=4),
        "one": tiny_model(folder / "one.onnx", batch=1),
        INSIDE: folder / INSIDE,
    }


def _with_contract(path: Path, contract: ModelContract) -> Path:
    model = load_onnx(path)
    set_contract(model, contract)
    onnx.save(model, path)
    return path


@pytest.fixture(scope="module")
def repository(engines: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("repository") / "models"
    package_triton(list(map(str, engines.values())), path, preprocess=True, kserve_manifest=True)
    return path


@pytest.fixture(scope="module")
def triton(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Triton]:
    with running_triton(repository, tmp_path_factory.mktemp("triton")) as running:
        yield running


@pytest.fixture(scope="module")
def samples() -> list[Path]:
    return [path.resolve() for path in sample_photos()]


def infer(command: Command, engine: Path, photos: list[Path]) -> list[list[dict[str, Any]]]:
    """The answers of ``infer`` by ONNX Runtime, all classes, best first."""
    ran = command("infer", *photos, "--engine", engine, "--runtime", "onnxruntime", "--top-k", 10, "--format", "jsonl")
    assert ran.code == 0, ran.err
    return [json.loads(line)["top"] for line in ran.out.splitlines()]


def in_order_of_classes(answers: list[list[dict[str, Any]]]) -> NDArray[np.float64]:
    return np.array([[a["probability"] for a in sorted(top, key=lambda a: int(a["index"]))] for top in answers])


def values(answer: dict[str, Any]) -> Any:
    assert "error" not in answer, answer
    return answer["values"]


@pytest.mark.parametrize("protocol", ["http", "grpc"])
@pytest.mark.parametrize("name", ENGINES)
def test_photos_get_the_answers_of_infer(
    name: str, protocol: str, triton: Triton, engines: dict[str, Path], samples: list[Path], command: Command
) -> None:
    photos = {"one": samples[:1], "four": samples[:4]}.get(name, samples)
    call = {"protocol": protocol, "model": f"{name}-photos", "input": "image", "output": "probabilities"}
    call |= {"images": photos, "shape": [len(photos)] if name in ("one", "four") else [-1, 1]}
    asked, classified = triton.ask(call, call | {"classes": 3})
    expected = infer(command, engines[name], photos)
    np.testing.assert_allclose(values(asked), in_order_of_classes(expected), rtol=0, atol=CLOSE)
    if name == "four":  # see choose.py: Triton cannot classify these, and none is promised
        return
    for texts, top in zip(np.reshape(values(classified), (len(photos), 3)), expected, strict=True):
        for text, answer in zip(texts, top, strict=False):
            probability, index, label = text.split(":", 2)
            assert int(index) == answer["index"]
            assert label == answer["label"].replace("\n", "\\n")
            assert float(probability) == pytest.approx(answer["probability"], abs=CLOSE)


@pytest.mark.parametrize("protocol", ["http", "grpc"])
@pytest.mark.parametrize("name", ENGINES)
def test_pixels_get_the_logits_of_the_engine(
    name: str, protocol: str, triton: Triton, engines: dict[str, Path], samples: list[Path], tmp_path: Path
) -> None:
    from alexnet_deploy.inference.engine import open_engine

    with open_engine(engines[name], runtime="onnxruntime") as engine:
        photos = samples[: {"one": 1, "four": 4}.get(name, 12)]
        pixels = np.stack([load_pixels(path, engine.contract.preprocessing) for path in photos])
        expected = engine(pixels)
    np.save(tmp_path / "pixels.npy", pixels)
    call = {
        "protocol": protocol,
        "model": name,
        "input": "pixels",
        "output": "logits",
        "pixels": tmp_path / "pixels.npy",
    }
    scale = np.abs(expected).max()  # float32 sums in another order differ by some 1e-7 of the largest value
    np.testing.assert_allclose(values(triton.ask(call)[0]), expected, rtol=0, atol=CLOSE * scale)


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_photos_get_their_features(
    protocol: str, triton: Triton, engines: dict[str, Path], samples: list[Path], tmp_path: Path, command: Command
) -> None:
    """Those that ``features`` writes."""
    arguments = ("--engine", engines[INSIDE], "--runtime", "onnxruntime", "-o", tmp_path / "index.npz")
    assert command("features", *samples, *arguments).code == 0
    call = {"protocol": protocol, "model": f"{INSIDE}-photos", "input": "image", "output": "features"}
    with np.load(tmp_path / "index.npz") as index:
        expected = index["vectors"]
    asked = np.array(values(triton.ask(call | {"images": samples})[0]))
    np.testing.assert_allclose(asked, expected, rtol=0, atol=CLOSE * np.abs(expected).max())


def test_an_image_that_is_none_is_refused_by_name(triton: Triton, samples: list[Path], tmp_path: Path) -> None:
    """Its request alone: the next one is answered."""
    bad, empty = tmp_path / "bad.jpg", tmp_path / "empty.jpg"
    bad.write_bytes(samples[0].read_bytes()[:2000])
    empty.touch()
    call = {"protocol": "grpc", "model": "tiny-photos", "input": "image", "output": "probabilities"}
    cut, nothing, good = triton.ask(
        call | {"images": [samples[0], bad]}, call | {"images": [empty]}, call | {"images": [samples[0]]}
    )
    assert "image 1: " in cut["error"]
    assert "image 0: is" in nothing["error"]  # empty, or of no known format
    assert np.shape(values(good)) == (1, 3)


def test_requests_at_the_same_time_get_their_own_answers(
    triton: Triton, engines: dict[str, Path], samples: list[Path], tmp_path: Path, command: Command
) -> None:
    """Triton joins them to batches; an image that is none costs only its own request.

    In float32: INT8 in ONNX Runtime computes one image alone otherwise than in a batch, by 0.02 of logits up to 5.
    """
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"not an image")
    call = {"model": "exact-photos", "input": "image", "output": "probabilities", "images": [bad, *samples]}
    rounds = np.array(values(triton.ask(call | {"at_once": 10})[0]), dtype=object).reshape(10, 1 + len(samples))
    expected = in_order_of_classes(infer(command, engines["exact"], samples))
    for row in rounds:
        assert "image 0: " in row[0][0]
        np.testing.assert_allclose(np.array(list(row[1:]), float), expected, rtol=0, atol=CLOSE)


def test_wrong_requests_are_refused(triton: Triton, samples: list[Path], tmp_path: Path) -> None:
    """By the configuration: too many images, other sizes, other types."""
    np.save(tmp_path / "small.npy", np.zeros((1, 31, 32, 3), np.uint8))
    np.save(tmp_path / "three.npy", np.zeros((3, 32, 32, 3), np.uint8))
    np.save(tmp_path / "many.npy", np.zeros((33, 32, 32, 3), np.uint8))
    call = {"protocol": "http", "input": "pixels", "output": "logits"}
    for answer in triton.ask(
        call | {"model": "several", "pixels": tmp_path / "small.npy"},
        call | {"model": "several", "pixels": tmp_path / "many.npy"},
        call | {"model": "four", "pixels": tmp_path / "three.npy"},
        call | {"model": "several", "images": samples[:1]},
    ):
        assert "error" in answer


def test_server_and_client_read_every_configuration(triton: Triton, repository: Path, engines: dict[str, Path]) -> None:
    """The server's own view has the fields that were written, and tritonclient's schema takes the text."""
    names = sorted(models_in(repository))
    assert len(names) == 4 * len(ENGINES) + 3
    answers = triton.ask(
        *({"config": name} for name in names), *({"parse": repository / name / "config.pbtxt"} for name in names)
    )
    for name, answer in zip(names, answers, strict=False):
        ours, theirs = config_of(repository / name), values(answer)
        for key in ("input", "output"):
            assert [(t["name"], t["data_type"], sizes(t)) for t in ours[key]] == [
                (t["name"], t["data_type"], sizes(t)) for t in theirs[key]
            ]
        assert ours.get("max_batch_size", 0) == theirs["max_batch_size"]
        assert len(ours.get("model_warmup", ())) == len(theirs["model_warmup"])
    assert [answer["values"] for answer in answers[len(names) :]] == ["valid"] * len(names)


def test_the_manifest_is_yaml(triton: Triton, repository: Path) -> None:
    service = values(triton.ask({"yaml": repository / "inferenceservice.yaml"})[0])
    assert (service["apiVersion"], service["kind"]) == ("serving.kserve.io/v1beta1", "InferenceService")
    assert service["metadata"]["name"] == "models"
    model = service["spec"]["predictor"]["model"]
    assert (model["modelFormat"]["name"], model["protocolVersion"]) == ("triton", "v2")
    assert service["metadata"]["annotations"]["alexnet-deploy/engines"].split(", ") == [*ENGINES, INSIDE]


def test_bundles_keep_their_profile(triton: Triton, engines: dict[str, Path]) -> None:
    profile = open_bundle(engines["tiny"]).batch
    assert profile is not None
    assert values(triton.ask({"config": "tiny"})[0])["max_batch_size"] == profile.max
