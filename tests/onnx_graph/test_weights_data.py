"""Values outside the file: read where they lie beside the model, refused elsewhere, checked for their size."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from alexnet_deploy.errors import InputError
from alexnet_deploy.files import sha256_of
from alexnet_deploy.onnx_graph.onnx_file import load_onnx
from alexnet_deploy.onnx_graph.weights_data import onnx_sha256
from tests.helpers.models.onnx_models import tiny_classifier, weights_beside


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A classifier with its weights in ``data/weights.bin``."""
    (tmp_path / "data").mkdir()
    path = tmp_path / "data" / "net.onnx"
    return tiny_classifier(path, save_as_external_data=True, location="weights.bin", size_threshold=0)


def weights(path: Path) -> dict[str, list[float]]:
    return {t.name: numpy_helper.to_array(t).ravel().tolist() for t in load_onnx(path).graph.initializer}


def edit(path: Path, change: Callable[[TensorProto], object]) -> Path:
    found = onnx.load(path, load_external_data=False)
    change(found.graph.initializer[1])
    path.write_bytes(found.SerializeToString())
    return path


def set_entry(key: str, value: str) -> Callable[[TensorProto], None]:
    def change(tensor: TensorProto) -> None:
        entries = {entry.key: entry.value for entry in tensor.external_data} | {key: value}
        del tensor.external_data[:]
        for name, text in entries.items():
            tensor.external_data.add(key=name, value=text)

    return change


class TestLinks:
    def test_the_cache_of_hugging_face(self, model: Path, tmp_path: Path) -> None:
        """Names in one folder are links to files in another, where model and weights lie side by side."""
        expected = weights(model)
        snapshot = tmp_path / "snapshots" / "abc"
        snapshot.mkdir(parents=True)
        for name, blob in (("net.onnx", "111"), ("weights.bin", "222")):
            (model.parent / name).rename(model.parent / blob)
            (snapshot / name).symlink_to(Path("../../data") / blob)
        assert weights(snapshot / "net.onnx") == expected

    def test_hard_links(self, model: Path, tmp_path: Path) -> None:
        expected = weights(model)
        os.link(model.parent / "weights.bin", tmp_path / "another name")
        assert weights(model) == expected

    def test_a_link_out_of_the_folder(self, model: Path, tmp_path: Path) -> None:
        (model.parent / "weights.bin").rename(tmp_path / "weights.bin")
        (model.parent / "weights.bin").symlink_to("../weights.bin")
        with pytest.raises(InputError, match=r"net.onnx: .*'weights.bin' leads out of the model's folder"):
            load_onnx(model)


class TestRefused:
    @pytest.mark.parametrize(
        "location",
        ["/etc/passwd", "../secret.bin", "a/../../secret.bin", "..\\secret.bin", "C:\\secret.bin", "", "a\0b"],
    )
    def test_a_location_elsewhere(self, location: str, model: Path) -> None:
        (model.parent.parent / "secret.bin").write_bytes(bytes(10**6))
        with pytest.raises(InputError, match=r"net.onnx: is not a valid ONNX model \(tensor w1: its file .*folder"):
            load_onnx(edit(model, set_entry("location", location)))

    def test_a_fifo(self, model: Path) -> None:
        (model.parent / "weights.bin").unlink()
        os.mkfifo(model.parent / "weights.bin")
        with pytest.raises(InputError, match=r"tensor w0: its data in weights.bin: it is a FIFO"):
            load_onnx(model)

    @pytest.mark.parametrize(
        ("key", "value", "cause"),
        [
            ("offset", "-1", "offset '-1' is not a number of bytes"),
            ("offset", "9" * 30, "is not a number of bytes"),
            ("offset", "10000000000", "it ends at byte 10000001728, the file has"),
            ("length", "12", "has 12 bytes of data, its shape needs 1728"),
        ],
    )
    def test_numbers_that_do_not_fit(self, key: str, value: str, cause: str, model: Path) -> None:
        with pytest.raises(InputError, match=rf"tensor w1: .*{cause}"):
            load_onnx(edit(model, set_entry(key, value)))

    def test_one_file_read_a_thousand_times(self, model: Path) -> None:
        """A small file whose tensors all name the same data, together more than any memory."""
        (model.parent / "weights.bin").touch()
        os.truncate(model.parent / "weights.bin", 2**30)  # sparse
        found = onnx.load(model, load_external_data=False)
        for tensor in found.graph.initializer[1:5]:
            tensor.dims[:] = [2**28]
            set_entry("offset", "0")(tensor)
            set_entry("length", str(2**30))(tensor)
        # Before any is read the sum is refused: the first alone would take a gigabyte.
        found.graph.initializer[0].dims[:] = [2**29]
        set_entry("length", str(2**31))(found.graph.initializer[0])
        model.write_bytes(found.SerializeToString())
        with pytest.raises(InputError, match=r"its tensors have more than 2047 MiB"):
            load_onnx(model)


class TestHash:
    def test_other_weights_are_another_model(self, tmp_path: Path) -> None:
        model = weights_beside(tmp_path / "net.onnx")
        own, whole = sha256_of(model), onnx_sha256(model)
        assert onnx_sha256(weights_beside(tmp_path / "net.onnx", 2)) != whole
        assert sha256_of(model) == own, "as the graph is the same"
        weights_beside(tmp_path / "net.onnx")
        assert onnx_sha256(model) == whole

    def test_the_folder_does_not_matter(self, model: Path, tmp_path: Path) -> None:
        found = onnx_sha256(model)
        assert onnx_sha256(model.parent.rename(tmp_path / "moved") / model.name) == found

    def test_weights_in_the_file_are_part_of_its_bytes(self, tmp_path: Path) -> None:
        model = tiny_classifier(tmp_path / "net.onnx")
        assert onnx_sha256(model) == sha256_of(model)

    def test_what_is_no_onnx_is_its_bytes(self, tmp_path: Path) -> None:
        (tmp_path / "net.onnx").write_bytes(b"half of a mod")
        assert onnx_sha256(tmp_path / "net.onnx") == sha256_of(tmp_path / "net.onnx")

    def test_exchanged_files_are_another_model(self, tmp_path: Path) -> None:
        found = onnx.load(tiny_classifier(tmp_path / "net.onnx"))
        onnx.save(
            found, tmp_path / "net.onnx", save_as_external_data=True, all_tensors_to_one_file=False, size_threshold=0
        )
        before = onnx_sha256(tmp_path / "net.onnx")
        one, other = (tmp_path / name for name in ("w2", "w4"))  # the second and the third layer's biases
        assert one.read_bytes() != other.read_bytes()
        one.rename(tmp_path / "x")
        other.rename(one)
        (tmp_path / "x").rename(other)
        assert onnx_sha256(tmp_path / "net.onnx") != before

    def test_another_graph_with_the_same_weights_is_another_model(self, tmp_path: Path) -> None:
        model = weights_beside(tmp_path / "net.onnx")
        found = onnx_sha256(model)
        graph = onnx.load(model, load_external_data=False)
        graph.graph.name = "another"
        model.write_bytes(graph.SerializeToString())
        assert onnx_sha256(model) != found

    @pytest.mark.parametrize("location", ["../secret.bin", "/etc/hostname", ""])
    def test_no_file_outside_the_folder_is_read(self, model: Path, location: str) -> None:
        with pytest.raises(ValueError, match="is not named relative to the model's folder"):
            onnx_sha256(edit(model, set_entry("location", location)))


def inline(change: Callable[[onnx.GraphProto], object], folder: Path) -> Path:
    path = tiny_classifier(folder / "net.onnx")
    found = onnx.load(path)
    change(found.graph)
    path.write_bytes(found.SerializeToString())
    return path


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (lambda g: setattr(g.initializer[1].segment, "end", 5), "tensor w1: is split into segments"),
        (lambda g: g.initializer[1].dims.insert(0, -2), "tensor w1: has the negative dimensions"),
        (lambda g: g.initializer[1].dims.append(7), "tensor w1: has 1728 bytes of data, its shape needs 12096"),
        (lambda g: setattr(g.initializer[1], "data_type", 99), "tensor w1: has the unknown element type 99"),
        (lambda g: setattr(g.initializer[1], "data_type", TensorProto.STRING), "tensor w1: its text must lie in"),
        (
            lambda g: g.sparse_initializer.add(dims=[9]).values.CopyFrom(
                numpy_helper.from_array(np.zeros(1, np.float32), "s")
            ),
            "its weights are sparse",
        ),
    ],
    ids=["segment", "negative", "size", "type", "string", "sparse"],
)
def test_tensors_that_hold_something_else_than_they_declare(
    change: Callable[[onnx.GraphProto], object], cause: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=rf"net.onnx: is not a valid ONNX model \({cause}"):
        load_onnx(inline(change, tmp_path))


def test_notes_of_other_tools_are_dropped(tmp_path: Path) -> None:
    """Shapes noted between nodes may be wrong, and training or quantisation notes are for other programs."""

    def change(graph: onnx.GraphProto) -> None:
        graph.value_info.append(onnx.helper.make_tensor_value_info("relu_4_out", TensorProto.INT64, [1]))
        graph.quantization_annotation.add(tensor_name="nowhere")

    found = load_onnx(inline(change, tmp_path))
    assert not found.graph.value_info
    assert not found.graph.quantization_annotation
