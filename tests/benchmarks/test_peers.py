"""Every peer of the end-to-end benchmark answers the same photos as we do, and other work ends the benchmark."""

from __future__ import annotations

import json
import multiprocessing
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from PIL import Image

from alexnet_deploy.bundle.manifest import MODEL, Manifest, save_manifest, write_bundle
from alexnet_deploy.bundle.verified import open_bundle
from alexnet_deploy.contract import BatchProfile, Preprocessing
from alexnet_deploy.images.decode import load_pixels
from alexnet_deploy.images.samples import parity_pixels
from alexnet_deploy.machine.cpu import cores
from alexnet_deploy.model.checkpoint import Checkpoint, save_checkpoint
from benchmarks import end_to_end
from benchmarks.peers import mlperf_peer, torch_peers
from benchmarks.peers.chosen import COMPARED, PEERS, QUANTISED
from benchmarks.peers.float_input import with_float_input
from benchmarks.peers.onnxruntime_peer import pillow_loop, pillow_pixels, quantised_bundle
from benchmarks.peers.task import Task
from benchmarks.rounds import CACHE, ROOT

HERE = ("Pillow + ONNX Runtime loop",)
"""Peers that need nothing beside our own packages."""
ELSEWHERE = [name for name in PEERS if name not in (*HERE, QUANTISED)]
PYTHON = CACHE / "venv" / "bin" / "python"
ALL_PEERS = """
import json, sys, tempfile
from pathlib import Path
from benchmarks.end_to_end import one_pass
bundle, weights, photos, *ways = sys.argv[1:]
files = sorted(Path(photos).rglob("*.jpg"))
print(json.dumps({way: one_pass(way, Path(bundle), files, Path(weights)).top1 for way in ways}))
"""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, tiny_onnx: Path, tiny_checkpoint: Checkpoint) -> Path:
    with write_bundle(folder := tmp_path_factory.mktemp("engines") / "alexnet-fp32") as made:
        shutil.copy(tiny_onnx, made / MODEL)
        save_manifest(Manifest("fp32", tiny_checkpoint.contract, BatchProfile(), {}), made)
    return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Checkpoint) -> Path:
    save_checkpoint(tiny_checkpoint, path := tmp_path_factory.mktemp("weights") / "tiny.safetensors")
    return path


@pytest.fixture(scope="module")
def files(photo_folder: Path) -> list[Path]:
    return sorted((photo_folder / "val").rglob("*.jpg"))


@pytest.fixture(scope="module")
def ours(bundle: Path, files: list[Path]) -> list[int]:
    return end_to_end.one_pass("ours", bundle, files).top1


@pytest.fixture(scope="module")
def elsewhere(bundle: Path, weights: Path, photo_folder: Path) -> dict[str, list[int]]:
    """The answers of the peers that need packages of their own, all in one process of their environment."""
    if not PYTHON.exists() or not (mlperf_peer.SOURCE / mlperf_peer.PYTHON).exists():
        pytest.skip("the peers are not installed; make bench installs them")
    command = [PYTHON, "-c", ALL_PEERS, bundle, weights, photo_folder / "val", *ELSEWHERE]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    answers: dict[str, list[int]] = json.loads(done.stdout.splitlines()[-1])
    return answers


@pytest.mark.slow
@pytest.mark.parametrize("peer", ELSEWHERE)
def test_a_peer_with_packages_of_its_own_answers_as_we_do(
    elsewhere: dict[str, list[int]], ours: list[int], peer: str
) -> None:
    assert elsewhere[peer] == ours


def test_the_workers_of_a_peer_run_before_it_is_timed(
    bundle: Path, weights: Path, files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With stand-ins for torchvision's transforms, which have an environment of their own."""
    steps = {name: lambda *_: None for name in ("Resize", "CenterCrop", "ToTensor", "Normalize")}
    pixels = torch.zeros(3, 224, 224)
    torchvision, transforms = ModuleType("torchvision"), SimpleNamespace(Compose=lambda _: lambda _: pixels, **steps)
    torchvision.transforms = transforms  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torchvision", torchvision)
    classify = torch_peers.dataloader(Task(bundle, files, tmp_path, weights))
    workers = {process.pid for process in multiprocessing.active_children()}
    assert len(workers) >= cores()
    assert len(classify()) == len(files)
    assert {process.pid for process in multiprocessing.active_children()} == workers


@pytest.mark.parametrize("peer", HERE)
def test_a_loop_over_pillow_answers_as_we_do(
    bundle: Path, files: list[Path], ours: list[int], peer: str, tmp_path: Path
) -> None:
    assert PEERS[peer].prepare(Task(bundle, files, tmp_path))() == ours


def test_onnxruntimes_own_quantiser_makes_an_engine_that_answers(
    bundle: Path, photo_folder: Path, files: list[Path], tmp_path: Path
) -> None:
    made = quantised_bundle(bundle, photo_folder / "train", tmp_path / "quantised")
    quantised_bundle(bundle, photo_folder / "train", made)  # replaces that of an earlier run
    kinds = {node.op_type for node in onnx.load(made / MODEL).graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= kinds
    assert open_bundle(made).contract == open_bundle(bundle).contract
    assert len(pillow_loop(Task(made, files, tmp_path))()) == len(files)


def test_every_peer_says_how_it_is_run_and_is_compared() -> None:
    assert {name for name, _ in COMPARED} == set(PEERS)
    assert [precision for _, precision in COMPARED] == sorted(precision for _, precision in COMPARED)
    assert all(len(peer.how) > 40 and "|" not in peer.how for peer in PEERS.values())


@pytest.mark.parametrize(
    "pre",
    [
        Preprocessing(),
        Preprocessing(resize_to=272),
        Preprocessing(resize="stretch", resize_to=None),
        Preprocessing(resize="stretch", resize_to=240),
        Preprocessing(height=161, width=161, resize_to=200),
    ],
    ids=str,
)
@pytest.mark.parametrize("size", [(500, 375), (375, 500), (224, 224), (301, 611)])
def test_pillows_pixels_are_those_of_our_reader(tmp_path: Path, pre: Preprocessing, size: tuple[int, int]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(noise).save(path := tmp_path / "noise.png")
    differences = np.abs(pillow_pixels([path], pre)[0].astype(int) - load_pixels(path, pre))
    # Our reader resizes only the part that the crop keeps, whose edges Pillow rounds to float32: a few pixels differ by
    # a step of each of the two passes of a resize. Noise moved by one pixel differs by 40 on average.
    assert differences.max() <= 2
    assert differences.mean() < 0.2


def test_a_network_with_float_input_is_the_same_network(
    bundle: Path, tmp_path: Path, tiny_checkpoint: Checkpoint
) -> None:
    with_float_input(bundle / MODEL, converted := tmp_path / "converted.onnx")
    pixels_NHWC = parity_pixels(None, tiny_checkpoint.contract.preprocessing)[:3]
    providers = ["CPUExecutionProvider"]
    (logits_NK,) = ort.InferenceSession(bundle / MODEL, providers=providers).run(None, {"pixels": pixels_NHWC})
    images_NCHW = pixels_NHWC.transpose(0, 3, 1, 2).astype(np.float32) / 255
    session = ort.InferenceSession(converted, providers=providers)
    (probabilities_NK,) = session.run(None, {"images": images_NCHW})
    powers_NK = np.exp(logits_NK - logits_NK.max(axis=1, keepdims=True))
    # The rounding of pixels / 255 in float32 goes through the whole network.
    np.testing.assert_allclose(probabilities_NK, powers_NK / powers_NK.sum(axis=1, keepdims=True), atol=1e-5)
    assert session.get_modelmeta().custom_metadata_map["task"] == "classify"


def test_a_peer_that_reads_a_folder_gets_each_file_in_order(files: list[Path], bundle: Path, tmp_path: Path) -> None:
    again = [*reversed(files), *files]  # other names in another order, and every file twice
    linked = sorted((Task(bundle, again, tmp_path).folder("photos") / "photos").iterdir())
    assert [link.resolve() for link in linked] == [file.resolve() for file in again]


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ({"channels": "bgr"}, "bgr, bilinear, square"),
        ({"channels": "grey"}, "grey, bilinear, square"),
        ({"interpolation": "bicubic"}, "rgb, bicubic, square"),
        ({"width": 200}, "rgb, bilinear, not square"),
    ],
)
def test_a_contract_that_the_peers_cannot_follow_ends_the_benchmark(
    tmp_path: Path, tiny_onnx: Path, tiny_checkpoint: Checkpoint, other: dict[str, Any], named: str
) -> None:
    pre = replace(tiny_checkpoint.contract.preprocessing, **other)
    with write_bundle(folder := tmp_path / "other") as made:
        shutil.copy(tiny_onnx, made / MODEL)
        save_manifest(Manifest("fp32", replace(tiny_checkpoint.contract, preprocessing=pre), BatchProfile(), {}), made)
    with pytest.raises(SystemExit, match=f"computes on {named};"):
        Task(folder, [], tmp_path).preprocessing()


@pytest.mark.parametrize(
    ("precision", "photos", "other", "same_work"),
    [
        ("fp32", 300, 1, True),
        ("fp32", 300, 29, False),  # pixels moved by one column
        ("fp32", 60, 8, False),  # a resize to 256 instead of 272
        ("fp32", 60, 2, True),
        ("int8", 300, 10, True),
        ("int8", 300, 29, False),
        ("int8", 60, 5, True),
        ("int8", 60, 24, False),  # a stretch
        ("fp32", 1, 0, True),
    ],
)
def test_no_peer_is_timed_on_other_work(precision: str, photos: int, other: int, same_work: bool) -> None:
    reference = [0] * photos
    top1 = [1] * other + [0] * (photos - other)
    if same_work:
        assert end_to_end.agreement("peer", precision, top1, reference) == pytest.approx(1 - other / photos)
        return
    with pytest.raises(SystemExit, match=rf"peer, {precision}: {other} of {photos} photos have another answer"):
        end_to_end.agreement("peer", precision, top1, reference)


def test_the_check_compares_real_passes_and_reads_their_memory(
    bundle: Path, tmp_path: Path, photo_folder: Path, tiny_checkpoint: Checkpoint
) -> None:
    """An engine with other answers, here the least likely class, ends it before anything is timed."""
    shutil.copytree(bundle, tmp_path / "alexnet-fp32")
    shutil.copytree(bundle, tmp_path / "alexnet-int8")
    command = [sys.executable, "-m", "benchmarks.end_to_end", photo_folder / "val", "--store", tmp_path, "--times", "1"]
    found = end_to_end.check(command, [(HERE[0], "fp32")])
    assert list(found) == ["ours, fp32", "ours, int8", f"{HERE[0]}, fp32"]
    for checked in found.values():
        assert checked.agreement == 1
        assert checked.peak_MiB > 20, "a Python with NumPy and a runtime takes more than 20 MiB"

    model = onnx.load(bundle / MODEL)
    last = model.graph.node[-1]
    answer, last.output[0] = last.output[0], "opposite"
    model.graph.node.append(onnx.helper.make_node("Neg", ["opposite"], [answer]))
    onnx.save(model, tmp_path / "other.onnx")
    with write_bundle(tmp_path / "alexnet-int8") as made:
        shutil.copy(tmp_path / "other.onnx", made / MODEL)
        save_manifest(Manifest("fp32", tiny_checkpoint.contract, BatchProfile(), {}), made)
    with pytest.raises(SystemExit, match=r"ours, int8: 6 of 6 photos have another answer"):
        end_to_end.check(command, [])


def test_mlperfs_reference_is_fetched_at_its_commit_and_only_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def git(*arguments: str) -> str:
        who = ("-c", "user.name=a", "-c", "user.email=a@example.com")
        return subprocess.check_output(["git", "-C", str(origin), *who, *arguments], text=True).strip()

    main = (origin := tmp_path / "origin") / mlperf_peer.PYTHON / "main.py"
    main.parent.mkdir(parents=True)
    git("init", "--quiet")
    for key in ("uploadpack.allowFilter", "uploadpack.allowAnySHA1InWant"):  # as GitHub has it
        git("config", key, "true")
    (origin / "large.bin").touch()
    for text in ("pinned", "later"):
        main.write_text(text)
        git("add", ".")
        git("commit", "--quiet", "--message", text)
    monkeypatch.setattr(mlperf_peer, "SOURCE", source := tmp_path / "mlperf")
    with pytest.raises(SystemExit, match=r"git .* exit 128"):
        mlperf_peer.fetch((tmp_path / "nowhere").as_uri())
    for _ in range(2):  # the second finds it there
        mlperf_peer.fetch(origin.as_uri(), git("rev-parse", "HEAD~1"))
        assert (source / mlperf_peer.PYTHON / "main.py").read_text() == "pinned"
    assert [path.name for path in source.iterdir() if path.name != ".git"] == ["vision"]
