"""Files of weights are read by their content, no code of them runs, and each refusal names its own cause."""

from __future__ import annotations

import argparse
import gzip
import io
import os
import pathlib
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn

from alexnet_deploy.errors import DeployError, InputError
from alexnet_deploy.model.checkpoint import Checkpoint, load_foreign, load_weights
from alexnet_deploy.model.weights.weights_file import read_weights_file
from tests.model.test_state_dict import SMALL, WEIGHTS, below, same


def zipped(compression: int = zipfile.ZIP_STORED, **files: bytes) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", compression) as archive:
        for name, data in files.items():
            archive.writestr(name.replace("__", "/").replace("_", "."), data)
    return content.getvalue()


def tarred(*names: str) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for name in names:
            archive.addfile(tarfile.TarInfo(name), io.BytesIO())
    return content.getvalue()


def saved(content: object, **options: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream, **options)
    return stream.getvalue()


def deflated() -> bytes:
    with zipfile.ZipFile(io.BytesIO(saved(WEIGHTS))) as archive:
        return zipped(zipfile.ZIP_DEFLATED, **{n.replace("/", "__"): archive.read(n) for n in archive.namelist()})


def listed_often(content: bytes) -> bytes:
    """A checkpoint whose directory names each tensor fifty times more: unpacked, its few bytes would be many."""
    stream = io.BytesIO(content)
    with zipfile.ZipFile(stream, "a") as archive:
        archive.filelist += 50 * [entry for entry in archive.filelist if "/data/" in entry.filename]
        archive.comment = b"x"  # else it is not written again
    return stream.getvalue()


class Calls:
    """Pickled as a call."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.function, self.arguments


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy, as torchvision's files"])
@pytest.mark.parametrize("name", ["x.pth", "x.pt", "x.pth.tar", "pytorch_model.bin", "x.ckpt", "x.safetensors"])
def test_the_content_decides_not_the_name(tmp_path: Path, legacy: bool, name: str) -> None:
    (tmp_path / name).write_bytes(saved(WEIGHTS, _use_new_zipfile_serialization=not legacy))
    assert same(load_weights(tmp_path / name).weights, WEIGHTS)


def test_safetensors_of_another_tool_under_any_name(usual_widths: Checkpoint, tmp_path: Path) -> None:
    for name in ("model.safetensors", "pytorch_model.bin"):
        save_file(below("module.", usual_widths.weights), tmp_path / name, {"format": "pt"})
        loaded = load_weights(tmp_path / name)
        assert all(torch.equal(loaded.weights[key], value) for key, value in usual_widths.weights.items())


@pytest.mark.parametrize("legacy", [False, True])
def test_values_beside_the_weights_need_no_code(tmp_path: Path, legacy: bool) -> None:
    beside = {
        "args": argparse.Namespace(lr=0.1, data=pathlib.Path("photos")),
        "best": np.float64(56.5), "count": np.int64(3), "flag": np.bool_(True), "random": np.random.get_state(),
    }  # fmt: skip
    content = saved({**beside, "state_dict": below("module.")}, _use_new_zipfile_serialization=not legacy)
    (tmp_path / "x.pth").write_bytes(content)
    assert same(load_weights(tmp_path / "x.pth").weights, WEIGHTS)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_float_types_keep_their_values(usual_widths: Checkpoint, tmp_path: Path, dtype: torch.dtype) -> None:
    weights = {key: value.to(dtype) for key, value in usual_widths.weights.items()}
    torch.save(weights, tmp_path / "x.pth")
    loaded = load_foreign(tmp_path / "x.pth")
    assert all(torch.equal(loaded.weights[key], value) for key, value in weights.items())
    assert str(dtype).removeprefix("torch.") in loaded.notes[0]
    model = loaded.build()
    assert torch.equal(model.get_parameter("classifier.6.bias"), weights["classifier.6.bias"].float())


def test_what_was_found_and_assumed_is_said(tmp_path: Path) -> None:
    torch.save({"model": WEIGHTS, "ema": below("module.")}, tmp_path / "x.pth")
    (tmp_path / "labels.txt").write_text("ant\nbee\ncat\n")
    loaded = load_weights(tmp_path / "x.pth")
    assert loaded.arch == SMALL
    assert loaded.contract.labels == ("0", "1", "2")
    assert loaded.notes == (
        "weights: ema, prefix module., averaged weights, float32, 3 classes; their shapes are alexnet's",
        "labels: the numbers 0 to 2, as the file names none; give `labels`",
        "preprocessing: torchvision's (shorter side to 256, crop of 224), as the file states none",
    )
    named = load_weights(tmp_path / "x.pth", labels=tmp_path / "labels.txt", ema=False)
    assert named.contract.labels == ("ant", "bee", "cat")
    assert named.notes[0].startswith("weights: model, no prefix, float32")
    assert not any(note.startswith("labels") for note in named.notes)
    with pytest.raises(InputError, match=r"imagenet1k: holds 1000 labels, the model has 3 classes"):
        load_weights(tmp_path / "x.pth", labels="imagenet1k")


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_that_runs_code_is_refused_unrun(tmp_path: Path, legacy: bool) -> None:
    path, marker = tmp_path / "x.pth", tmp_path / "it ran"
    content = {"state_dict": WEIGHTS, "bomb": Calls(os.mkdir, str(marker))}
    path.write_bytes(saved(content, _use_new_zipfile_serialization=not legacy))
    torch.load(path, weights_only=False)
    assert marker.exists(), "the bomb works"
    marker.rmdir()
    with pytest.raises(InputError) as caught:
        read_weights_file(path)
    assert not marker.exists()
    assert "is not a plain checkpoint of tensors (" in str(caught.value)
    assert "Where you trust it, save the weights alone: checkpoint = torch.load('x.pth', weights_only=False); " in str(
        caught.value
    )


NOT_TORCH = "is neither a PyTorch file nor safetensors"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty; download"),
        (b"<html>404</html>", "is a web page or XML text"),
        (b"\xef\xbb\xbf\n <!DOCTYPE html>", "is a web page or XML text"),
        (b'{"message": "Not Found"}', "is JSON text"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "is a Git LFS pointer"),
        (gzip.compress(b"x"), "is compressed with gzip"),
        (b"\x89HDF\r\n\x1a\n", "is an HDF5 file"),
        (b"garbage", NOT_TORCH),
        (b"\x00" * 600, NOT_TORCH),
        (b"PK\x03\x04garbage", "is a zip file cut short or damaged"),
        (b"\x80\x02.", "is cut short or damaged"),
        (saved(WEIGHTS)[:-100], "is a zip file cut short or damaged"),
        (saved(WEIGHTS, _use_new_zipfile_serialization=False)[:-3], "is cut short or damaged"),
        (zipped(alexnet_pth=b"x"), "is a zip archive of other files (alexnet.pth); unpack it"),
        (zipped(a_npy=b"x"), "is an archive of NumPy arrays"),
        (zipped(x__data_pkl=b"x", x__code__m_py=b"x"), "is a TorchScript archive"),
        (zipped(x__data_pkl=b"x", x__constants_pkl=b"x"), "is a TorchScript archive"),
        (deflated(), "is a compressed zip, which torch does not write"),
        (tarred("sys_info", "pickle", "storages", "tensors"), "has the tar format of PyTorch 0.1"),
        (tarred("alexnet.pth"), "is a tar archive (alexnet.pth); unpack it"),
        (saved(nn.Linear(2, 2)), "is a whole pickled module (torch.nn.modules.linear.Linear)"),
        (saved(nn.Linear(2, 2), _use_new_zipfile_serialization=False), "is a whole pickled module (torch.nn.mod"),
        (
            saved({"model": nn.Sequential(nn.ReLU())}),
            "is a whole pickled module (torch.nn.modules.container.Sequential)",
        ),
        (saved({"a": Calls(bytearray, 10**12)}), "holds a bytearray"),  # it would be allocated and filled
        (saved({"a": Calls(bytearray, 10**12)}, pickle_protocol=3), "holds a bytearray"),  # by its name of today
        (listed_often(saved({"a": torch.zeros(10_000)})), "declares more data than it holds"),
        (saved(WEIGHTS, pickle_protocol=4), "has a pickle protocol above 3"),
        (pickle.dumps({"a": np.zeros(3)}), "has a pickle protocol above 3"),
    ],
    ids=lambda value: value if isinstance(value, str) else "content",
)
def test_each_refusal_names_its_own_cause(tmp_path: Path, content: bytes, says: str) -> None:
    for name in ("x.pth", "x.safetensors"):
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(InputError) as caught:
            load_weights(path)
        assert str(caught.value).startswith(f"{path}: {says}"), str(caught.value)
        assert "; " in str(caught.value).removeprefix(f"{path}: ")


def test_one_changed_bit_of_the_weights_is_noticed(tmp_path: Path) -> None:
    """torch.load takes them for right ones."""
    values = torch.arange(1.0, 3.0)
    content = saved(WEIGHTS | {"classifier.6.bias": torch.cat([values, values[:1]])})
    at = content.index(values.numpy().tobytes())
    (tmp_path / "x.pth").write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    assert not same(torch.load(tmp_path / "x.pth", weights_only=True), torch.load(io.BytesIO(content)))
    with pytest.raises(
        InputError, match=r"x.pth: is damaged \(the checksum of .*/data/\d+ is wrong\); download or copy"
    ):
        load_weights(tmp_path / "x.pth")


def test_what_is_no_plain_file_is_never_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.pth")
    (tmp_path / "folder.pth").mkdir()
    (tmp_path / "x.onnx").write_bytes(b"\x08\x0a")
    for path, says in (
        (tmp_path / "x.pth", r"cannot be read \(it is a FIFO, not a plain file\)"),
        (tmp_path / "folder.pth", r"cannot be read \(Is a directory\)"),
        (tmp_path / "none.pth", "no such file; check `weights`, or leave it out"),
        (Path("/dev/zero"), r"cannot be read \(it is a device"),
        (tmp_path / "x.onnx", "is an ONNX file and needs no export; pass it to build-engine"),
    ):
        with pytest.raises(InputError, match=says):
            load_weights(path)


@pytest.mark.parametrize("odd", [torch.zeros(3).to_sparse(), torch.zeros(3, device="meta"), torch.zeros(3).bool(),
                                 torch.zeros(3, dtype=torch.complex64), torch.full((3,), 1e300, dtype=torch.float64),
                                 torch.full((3,), float("nan"))])  # fmt: skip
def test_tensors_without_finite_dense_floats_are_refused(tmp_path: Path, odd: Tensor) -> None:
    torch.save(WEIGHTS | {"classifier.6.bias": odd}, tmp_path / "x.pth")
    with pytest.raises(InputError, match=r"x.pth: .*classifier.6.bias .*; [^\n]+$"):
        load_weights(tmp_path / "x.pth")


def test_a_pickle_without_an_end_is_left(tmp_path: Path) -> None:
    """What comes after a million steps nobody would have looked at."""
    (tmp_path / "x.pth").write_bytes(b"\x80\x02" + b"N0" * 500_000 + b"N.")
    with pytest.raises(InputError, match=r"x.pth: its pickle is longer than that of any checkpoint; "):
        load_weights(tmp_path / "x.pth")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(data=st.data(), legacy=st.booleans())
def test_any_damage_is_one_line_or_leaves_whole_weights(tmp_path: Path, data: st.DataObject, legacy: bool) -> None:
    content = bytearray(saved({"epoch": 3, "state_dict": below("module.")}, _use_new_zipfile_serialization=not legacy))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1))
        match data.draw(st.sampled_from(["set", "cut", "drop"])):
            case "set":
                content[at] = data.draw(st.integers(0, 255))
            case "cut":
                del content[max(at, 1) :]
            case "drop":
                del content[at : at + 3]
        if not content:
            break
    (tmp_path / "x.pth").write_bytes(content)
    try:
        loaded = load_weights(tmp_path / "x.pth")
    except DeployError as exc:
        assert str(exc).isprintable()
        assert len(str(exc)) < 700
    else:
        assert loaded.weights.keys() == WEIGHTS.keys()
        assert all(value.isfinite().all() for value in loaded.weights.values())
