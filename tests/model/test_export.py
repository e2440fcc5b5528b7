"""The ONNX file answers as torch does, says so truthfully, and does not appear when it does not."""

from __future__ import annotations

import dataclasses
import os
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray

from alexnet_deploy.contract import ModelContract, Preprocessing
from alexnet_deploy.errors import ProofError, UsageError
from alexnet_deploy.model import export
from alexnet_deploy.model.architecture import FAMILY, AlexNet, PixelClassifier, get_architecture, initialise
from alexnet_deploy.model.checkpoint import Checkpoint, save_checkpoint
from alexnet_deploy.model.export import RELATIVE_TOLERANCE, Parity, export_onnx
from alexnet_deploy.model.torch_runner import TorchRunner
from alexnet_deploy.onnx_graph import onnx_file

LABELS = tuple(f"class {k}" for k in range(7))
MEMBERS = [*FAMILY, "low-rank"]


def checkpoint_of(member: str) -> Checkpoint:
    """Random weights, biases and a preprocessing of its own, so that nothing wrong can hide behind a zero or a one."""
    rank = 8 if member == "low-rank" else None
    usual = FAMILY["alexnet" if rank else member]
    narrow = tuple(width // 8 for width in usual.widths)
    arch = get_architecture(usual.name, widths=narrow, num_classes=len(LABELS), hidden=48, dense_rank=rank)
    torch.manual_seed(1)
    model = AlexNet(arch)
    initialise(model, "kaiming")
    for key, value in model.state_dict().items():
        if key.endswith("bias"):
            torch.nn.init.normal_(value)
    pre = Preprocessing(mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))
    return Checkpoint(arch, ModelContract(arch.name, LABELS, LABELS, pre), model.state_dict())


@pytest.fixture(scope="module")
def pixels_NHWC() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (3, 224, 224, 3), np.uint8)


@dataclasses.dataclass(frozen=True)
class Exported:
    checkpoint: Checkpoint
    path: Path
    model: onnx.ModelProto
    parity: Parity


@pytest.fixture(scope="module", params=MEMBERS)
def exported(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, pixels_NHWC: NDArray[np.uint8]
) -> Exported:
    checkpoint = checkpoint_of(request.param)
    path = tmp_path_factory.mktemp("exported") / "alexnet.onnx"
    parity = export_onnx(checkpoint, path, pixels_NHWC=pixels_NHWC)
    return Exported(checkpoint, path, onnx_file.load_onnx(path), parity)


def logits(path: Path, pixels_NHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (logits_NK,) = session.run(["logits"], {"pixels": pixels_NHWC})
    return np.asarray(logits_NK)


def test_parity_is_told_as_it_is(exported: Exported, pixels_NHWC: NDArray[np.uint8]) -> None:
    parity = exported.parity
    assert parity.holds
    assert (parity.images, parity.top1_agreement_percent) == (3, 100.0)
    assert parity.runtime.startswith("ONNX Runtime")
    pre = exported.checkpoint.contract.preprocessing
    with torch.inference_mode():
        classifier = PixelClassifier(exported.checkpoint.build(), pre.mean, pre.std)
        torch_NK = classifier(torch.from_numpy(pixels_NHWC)).numpy()
    assert parity.max_abs_difference == pytest.approx(np.abs(logits(exported.path, pixels_NHWC) - torch_NK).max())
    assert parity.largest_logit == pytest.approx(np.abs(torch_NK).max())


@pytest.mark.parametrize("count", [1, 2, 5])
def test_any_number_of_images_runs_and_each_answer_is_its_own(
    exported: Exported, pixels_NHWC: NDArray[np.uint8], count: int
) -> None:
    batch_NHWC = pixels_NHWC[np.arange(count) % 3]
    together_NK = logits(exported.path, batch_NHWC)
    assert together_NK.shape == (count, len(LABELS))
    assert together_NK.dtype == np.float32
    one_by_one_NK = np.concatenate([logits(exported.path, image[None]) for image in batch_NHWC])
    # Other batch sizes take other kernels, so float32 sums in another order, as between PyTorch and ONNX Runtime.
    np.testing.assert_allclose(
        together_NK, one_by_one_NK, rtol=0, atol=RELATIVE_TOLERANCE * np.abs(one_by_one_NK).max()
    )


def test_input_output_and_contract_are_as_promised(exported: Exported) -> None:
    model = exported.model
    (pixels,), (logits,) = onnx_file.graph_inputs(model), model.graph.output
    shape = [dim.dim_value or dim.dim_param for dim in pixels.type.tensor_type.shape.dim]
    assert (pixels.name, pixels.type.tensor_type.elem_type) == ("pixels", onnx.TensorProto.UINT8)
    assert shape == ["N", 224, 224, 3]
    assert (logits.name, logits.type.tensor_type.elem_type) == ("logits", onnx.TensorProto.FLOAT)
    assert onnx_file.fixed_batch(model) is None
    assert onnx_file.contract_in(model, source="x") == exported.checkpoint.contract
    assert model.ir_version == onnx_file.IR_VERSION
    assert [opset.version for opset in model.opset_import] == [onnx_file.OPSET]


def test_nodes_are_named_after_modules_and_unique(exported: Exported) -> None:
    nodes = exported.model.graph.node
    names = [node.name for node in nodes]
    assert len(set(names)) == len(names)
    assert names[0].startswith("pixels/")
    modules = {name for name, _ in AlexNet(exported.checkpoint.arch).named_modules()} | {"pixels", "flatten"}
    for node in nodes:
        module, _, operation = node.name.partition("/")
        assert module in modules
        assert operation.partition("_")[0] == node.op_type
    weights = {node.name.partition("/")[0] for node in nodes if node.op_type in ("Conv", "Gemm", "MatMul")}
    layers = {
        name
        for name, layer in AlexNet(exported.checkpoint.arch).named_modules()
        if isinstance(layer, torch.nn.Conv2d | torch.nn.Linear)
    }
    assert weights == layers


def test_lrn_stays_one_node_with_the_papers_numbers(exported: Exported) -> None:
    nodes = [node for node in exported.model.graph.node if node.op_type == "LRN"]
    assert len(nodes) == (0 if exported.checkpoint.arch.lrn == "none" else 2)
    for node in nodes:
        attributes = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
        assert attributes == pytest.approx({"alpha": 5e-4, "beta": 0.75, "bias": 2.0, "size": 5})


def test_nothing_in_it_is_left_to_do_at_run_time(exported: Exported) -> None:
    """No dropout, no shape arithmetic: what a runtime sees is the network."""
    operations = {node.op_type for node in exported.model.graph.node}
    assert operations <= {
        "Transpose", "Cast", "Sub", "Mul",  # pixels to floats
        "Conv", "Relu", "LRN", "MaxPool", "Reshape", "Flatten", "Gemm", "MatMul", "Add",
    }  # fmt: skip


def test_it_holds_no_path_of_this_machine(exported: Exported) -> None:
    model = onnx_file.load_onnx(exported.path)
    for tensor in model.graph.initializer:
        tensor.ClearField("raw_data")  # ten million random bytes hold any short word
    content = model.SerializeToString()
    for path in (os.getcwd(), sys.prefix, os.path.dirname(torch.__file__), str(Path.home()), str(exported.path.parent)):
        assert path.encode() not in content
    assert b".py" not in content
    assert b"features.0/Conv" in content or b"feature_extraction.0/Conv" in content


@pytest.fixture
def faulty_exporter(monkeypatch: pytest.MonkeyPatch) -> None:
    """An exporter that gets one weight wrong."""

    def save_damaged(model: onnx.ModelProto, path: Path) -> Path:
        bias = next(tensor for tensor in model.graph.initializer if tensor.name == "model.classifier.6.bias")
        values = onnx.numpy_helper.to_array(bias).copy()
        values[3] += 0.05
        bias.CopyFrom(onnx.numpy_helper.from_array(values, bias.name))
        return onnx_file.save_onnx(model, path)

    monkeypatch.setattr(export, "save_onnx", save_damaged)


@pytest.mark.usefixtures("faulty_exporter")
def test_without_parity_there_is_no_file_and_the_old_one_stays(tmp_path: Path, pixels_NHWC: NDArray[np.uint8]) -> None:
    out = tmp_path / "alexnet.onnx"
    out.write_text("old")
    with pytest.raises(ProofError, match=r"alexnet.onnx: not written: ONNX Runtime .* differs from torch by 0.05"):
        export_onnx(checkpoint_of("low-rank"), out, pixels_NHWC=pixels_NHWC)
    assert out.read_text() == "old"
    assert os.listdir(tmp_path) == ["alexnet.onnx"]


@pytest.mark.parametrize(
    ("difference", "largest", "agreement", "holds"),
    [
        (1e-5, 20.0, 100.0, True),
        (1.9e-3, 20.0, 100.0, True),
        (2.1e-3, 20.0, 100.0, False),
        (9e-5, 1e-3, 100.0, True),  # logits near zero: the sums behind them are of the order of one
        (1e-5, 20.0, 99.9, False),
        (float("nan"), 20.0, 100.0, False),
    ],
)
def test_parity_holds_within_the_tolerance(difference: float, largest: float, agreement: float, holds: bool) -> None:
    assert Parity(1000, difference, largest, agreement, "x").holds is holds


def test_export_from_file_to_file(tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    weights = save_checkpoint(tiny_checkpoint, tmp_path / "tiny.safetensors")
    stages: list[tuple[str, int, int]] = []
    path = export.export(str(weights), str(tmp_path / "out/tiny.onnx"), on_progress=lambda *at: stages.append(at))
    assert path == tmp_path / "out/tiny.onnx"
    # The checkpoint is of a version without rules of decoding; what is made now has the rule of now.
    assert tiny_checkpoint.contract.preprocessing.decoding == "full"
    contract = onnx_file.contract_in(onnx_file.load_onnx(path), source="x")
    assert contract == tiny_checkpoint.contract.decoded("reduced-2x")
    assert TorchRunner(weights).contract == contract
    assert stages == [("export", 0, 1), ("export", 1, 1)]


def test_an_export_can_be_made_for_full_decoding(tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    weights = save_checkpoint(tiny_checkpoint, tmp_path / "tiny.safetensors")
    path = export.export(weights, tmp_path / "tiny.onnx", full_decode=True)
    assert onnx_file.contract_in(onnx_file.load_onnx(path), source="x") == tiny_checkpoint.contract


def test_weights_of_another_tool_are_exported_with_their_labels(usual_widths: Checkpoint, tmp_path: Path) -> None:
    weights = {f"module.{key}": value for key, value in usual_widths.weights.items()}
    torch.save({"epoch": 3, "state_dict": weights}, tmp_path / "x.pth.tar")
    (tmp_path / "labels.txt").write_text("ant\nbee\ncat\n")
    exported = export.export_with_parity(tmp_path / "x.pth.tar", tmp_path / "x.onnx", labels=tmp_path / "labels.txt")
    contract = onnx_file.contract_in(onnx_file.load_onnx(tmp_path / "x.onnx"), source="x")
    assert contract == exported.contract
    assert contract.labels == ("ant", "bee", "cat")
    assert exported.parity.holds
    assert exported.notes[0].startswith("weights: state_dict, prefix module., float32, 3 classes")


def test_an_input_is_never_the_output(tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    weights = save_checkpoint(tiny_checkpoint, tmp_path / "tiny.safetensors")
    (tmp_path / "link.onnx").symlink_to(weights)
    before = weights.read_bytes()
    for output in (weights, tmp_path / "link.onnx", tmp_path / "." / "tiny.safetensors"):
        with pytest.raises(UsageError, match=r"`output` .*: is the file of `weights`, which it would replace"):
            export.export(weights, output)
    with pytest.raises(UsageError, match="is the file of `labels`"):
        export.export(tmp_path / "none.pth", weights, labels=weights)
    assert weights.read_bytes() == before


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_a_folder_whose_name_is_not_utf8(tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    folder.mkdir()
    weights = save_checkpoint(tiny_checkpoint, folder / "tiny.safetensors")
    assert export.export(weights, folder / "tiny.onnx").is_file()
