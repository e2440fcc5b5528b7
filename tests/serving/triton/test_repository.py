"""What ``package`` writes: the layout, the configuration against the model, the record."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from alexnet_deploy.bundle.manifest import MODEL
from alexnet_deploy.bundle.verified import open_bundle
from alexnet_deploy.contract import BatchProfile
from alexnet_deploy.images.decode import load_pixels
from alexnet_deploy.onnx_graph.onnx_file import fixed_batch, graph_inputs, load_onnx
from alexnet_deploy.serving.triton.repository import RECORD
from tests.helpers.command import Command
from tests.helpers.exchange import Exchange, negated
from tests.helpers.models.bundles import build_bundle
from tests.helpers.models.onnx_models import CLASSES, SIDE, tiny_model, weights_beside
from tests.serving.triton.reading import config_of, models_in, sizes

TYPES = {"TYPE_UINT8": TensorProto.UINT8, "TYPE_FP32": TensorProto.FLOAT}


def test_config_is_what_the_model_has(command: Command, here: Path) -> None:
    assert command("package", "exact", "ruined", "--triton", "repo").code == 0
    assert models_in(Path("repo")) == {"exact", "ruined"}
    for name in ("exact", "ruined"):
        folder = Path("repo", name)
        config = config_of(folder)
        model = load_onnx(folder / "1" / "model.onnx")
        for tensor, value in zip(
            (*config["input"], *config["output"]), (*graph_inputs(model), *model.graph.output), strict=True
        ):
            found = value.type.tensor_type
            assert (tensor["name"], TYPES[tensor["data_type"]]) == (value.name, found.elem_type)
            assert sizes(tensor) == [dim.dim_value for dim in found.shape.dim[1:]]
        engine = open_bundle(Path("engines", name))
        assert engine.batch is not None
        assert config["name"] == name
        assert config["backend"] == "onnxruntime"
        assert config["max_batch_size"] == engine.batch.max
        assert config["dynamic_batching"]["preferred_batch_size"] == [engine.batch.opt, engine.batch.max]
        assert [warm["batch_size"] for warm in config["model_warmup"]] == [1, engine.batch.opt, engine.batch.max]
        assert (folder / "labels.txt").read_text().splitlines() == list(engine.contract.labels)
        assert (folder / "1/model.onnx").read_bytes() == engine.onnx_path.read_bytes()


def test_an_engine_that_is_replaced_meanwhile_is_not_packaged_under_the_name_of_another(
    command: Command, here: Path
) -> None:
    bundles = here / "engines" / "exact", negated(here / "engines" / "exact", here / "other", relabelled=False)
    models = {open_bundle(bundle).content_sha256(): (bundle / MODEL).read_bytes() for bundle in bundles}
    exchange, moments, packaged = Exchange(), 0, 0
    while exchange.opened >= moments:
        exchange.start(bundles, moments)
        code = command("package", bundles[0], "--triton", "repo").code
        exchange.stop()
        if code == 0:
            (record,) = json.loads(Path("repo", RECORD).read_text())["models"]
            assert Path("repo/exact/1/model.onnx").read_bytes() == models[record["engine_sha256"]], moments
            packaged += 1
        moments += 1
    assert 1 < packaged < moments


def test_weights_beside_an_onnx_come_along(command: Command, here: Path) -> None:
    model = weights_beside(here / "net.onnx")
    assert command("package", "net.onnx", "--triton", "repo").code == 0
    assert load_onnx(Path("repo/net/1/model.onnx")) == load_onnx(model)


def test_weights_that_are_replaced_after_the_graph_was_copied_are_refused(
    command: Command, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, copies, copyfile = weights_beside(here / "net.onnx"), [], shutil.copyfile

    def copy(source: Path, to: Path) -> None:
        copyfile(source, to)
        copies.append(source)
        if len(copies) == 1:
            weights_beside(model, 2)

    monkeypatch.setattr("shutil.copyfile", copy)
    result = command("package", "net.onnx", "--triton", "repo")
    assert len(copies) == 2
    assert "net.onnx: was replaced while it was read" in result.err
    assert not Path("repo").exists()


def test_preprocess_adds_an_ensemble(command: Command, here: Path) -> None:
    result = command("package", "exact", "--triton", "repo", "--preprocess", "--json")
    assert json.loads(result.out)["models"] == ["exact-photos", "exact"]
    assert models_in(Path("repo")) == {"exact", "exact-decode", "exact-probabilities", "exact-photos"}
    ensemble = config_of(Path("repo/exact-photos"))
    by_model = {step["model_name"]: step for step in ensemble["ensemble_scheduling"]["step"]}
    tensors = {"image": ensemble["input"][0]}
    for name, step in by_model.items():  # every tensor that a step takes has the type and the sizes of the one given
        config = config_of(Path("repo", name))
        assert config["max_batch_size"] == ensemble["max_batch_size"]
        for tensor in config["input"]:
            given = tensors[step["input_map"][tensor["name"]]]
            assert (given["data_type"], sizes(given)) == (tensor["data_type"], sizes(tensor))
        tensors |= {step["output_map"][tensor["name"]]: tensor for tensor in config["output"]}
    assert tensors["probabilities"] == ensemble["output"][0]
    assert any(Path("repo/exact-photos/1").iterdir())  # object stores keep no empty folder


def test_a_feature_engine_returns_its_features(command: Command, here: Path) -> None:
    """To pixels and to files; it has no classes, so no labels and no probabilities."""
    built = command("build-engine", "colours.onnx", "--until", "features.1", "-o", "engines/inside")
    assert built.code == 0, built.err
    contract = open_bundle(Path("engines/inside")).contract
    result = command("package", "inside", "exact", "--triton", "repo", "--preprocess", "--kserve", "--json")
    assert json.loads(result.out)["models"] == ["inside-photos", "inside", "exact-photos", "exact"]
    assert models_in(Path("repo")) == {"inside", "inside-decode", "inside-photos"} | {
        f"exact{end}" for end in ("", "-decode", "-probabilities", "-photos")
    }
    engine, ensemble = config_of(Path("repo/inside")), config_of(Path("repo/inside-photos"))
    assert [(output["name"], sizes(output)) for output in engine["output"]] == [
        (contract.output_name, [contract.outputs])
    ]
    assert [(output["name"], sizes(output)) for output in ensemble["output"]] == [("features", [contract.outputs])]
    assert "label_filename" not in str((engine, ensemble))
    assert not list(Path("repo").glob("inside*/labels.txt"))
    first, second = ensemble["ensemble_scheduling"]["step"]
    assert first["output_map"]["pixels"] == second["input_map"]["pixels"]
    assert second["output_map"] == {contract.output_name: "features"}


@pytest.mark.parametrize("role", ["decode", "probabilities"])
def test_python_models_need_nothing_of_the_installation(
    role: str, command: Command, here: Path, photos: list[Path]
) -> None:
    """Their sources run alone, on Pillow, NumPy and msgspec, and decode to the same pixels."""
    command("package", "exact", "--triton", "repo", "--preprocess")
    version = Path("repo", f"exact-{role}", "1").resolve()
    (version / "triton_python_backend_utils.py").write_text("")
    script = """
import sys
class Blocked:
    def find_spec(self, name, *rest):
        if name.partition(".")[0] in ("onnx", "onnxruntime", "openvino", "torch", "google", "ml_dtypes", "typer"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Blocked())
import model
model.TritonPythonModel().initialize({})
import alexnet_deploy, pathlib
assert pathlib.Path(alexnet_deploy.__file__).parent.parent == pathlib.Path.cwd(), alexnet_deploy.__file__
if len(sys.argv) > 1:
    served = model.TritonPythonModel()
    served.initialize({})
    import numpy
    content = pathlib.Path(sys.argv[1]).read_bytes()
    numpy.save("pixels.npy", served._decode(0, content))
"""
    photo = [str(photos[0].resolve())] if role == "decode" else []
    subprocess.run([sys.executable, "-c", script, *photo], cwd=version, check=True, env={}, timeout=60)
    if photo:
        expected = load_pixels(photos[0], open_bundle(Path("engines/exact")).contract.preprocessing)
        np.testing.assert_array_equal(np.load(version / "pixels.npy"), expected)


def test_a_fixed_batch_is_not_batched(command: Command, tmp_path: Path) -> None:
    path = tiny_model(tmp_path / "four.onnx", batch=4)
    assert fixed_batch(load_onnx(path)) == 4
    result = command("package", path, "--triton", tmp_path / "repo", "--preprocess")
    assert result.code == 0
    assert "takes 4 images per request" in result.err
    config = config_of(tmp_path / "repo/four")
    assert config.get("max_batch_size", 0) == 0
    assert "dynamic_batching" not in config
    assert sizes(config["input"][0]) == [4, SIDE, SIDE, 3]
    assert sizes(config["output"][0]) == [4, CLASSES]
    # Triton would count the classes of the second image on from those of the first.
    assert "label_filename" not in config["output"][0]
    assert sizes(config_of(tmp_path / "repo/four-photos")["input"][0]) == [4]


def test_a_repository_of_ours_is_replaced_whole(command: Command, here: Path) -> None:
    command("package", "exact", "--triton", "repo", "--preprocess", "--kserve")
    assert {path.name for path in Path("repo").glob("*.*")} == {RECORD, "requirements.txt", "inferenceservice.yaml"}
    compiled = Path("repo/exact-decode/1/__pycache__/model.cpython-312.pyc")  # by a server that runs from it
    compiled.parent.mkdir()
    compiled.touch()
    assert command("package", "ruined", "--triton", "repo").code == 0
    assert models_in(Path("repo")) == {"ruined"}
    assert [path.name for path in Path("repo").glob("*.*")] == [RECORD]
    assert json.loads(Path("repo", RECORD).read_text())["files"] == [
        "ruined/1/model.onnx",
        "ruined/config.pbtxt",
        "ruined/labels.txt",
    ]


def test_nothing_in_it_names_this_machine(command: Command, here: Path) -> None:
    command("package", here / "engines/exact", "--triton", here / "repo", "--preprocess", "--kserve")
    files = [path for path in Path("repo").rglob("*") if path.is_file()]
    assert {"model.onnx", "config.pbtxt", "model.py"} <= {file.name for file in files}
    for file in files:
        assert str(here).encode() not in file.read_bytes(), file


def test_settings_reach_the_configuration(command: Command, here: Path) -> None:
    command("package", "exact", "--triton", "repo", "--instances", 3, "--max-delay", "500us", "--max-queue", 7)
    config = config_of(Path("repo/exact"))
    assert config["instance_group"] == [{"count": 3}]
    assert config["dynamic_batching"]["max_queue_delay_microseconds"] == "500"
    assert config["dynamic_batching"]["default_queue_policy"]["max_queue_size"] == 7


def test_without_a_limit_triton_is_given_no_policy(command: Command, here: Path) -> None:
    """With one, Triton answers some requests half a second late (docs/triton.md)."""
    command("package", "exact", "--triton", "repo", "--preprocess")
    configs = [config_of(file.parent) for file in Path("repo").glob("*/config.pbtxt")]
    assert any("dynamic_batching" in config for config in configs)
    assert all("default_queue_policy" not in config.get("dynamic_batching", {}) for config in configs)


def test_an_onnx_of_ours(command: Command, here: Path) -> None:
    assert command("package", "colours.onnx", "--triton", "repo").code == 0
    assert config_of(Path("repo/colours"))["max_batch_size"] == 32
    onnx.checker.check_model(load_onnx(Path("repo/colours/1/model.onnx")))


def test_profile_of_the_bundle(command: Command, here: Path) -> None:
    build_bundle(Path("colours.onnx"), Path("engines/small"), batch=BatchProfile(1, 1, 4))
    command("package", "small", "--triton", "repo")
    config = config_of(Path("repo/small"))
    assert config["max_batch_size"] == 4
    assert config["dynamic_batching"]["preferred_batch_size"] == [1, 4]
