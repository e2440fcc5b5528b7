"""An engine whose classes do not exclude each other answers with its own activation, in all protocols."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest

from alexnet_deploy.onnx_graph.onnx_file import contract_in, load_onnx, set_contract
from alexnet_deploy.probabilities import sigmoid
from tests.helpers.command import Command
from tests.helpers.models.bundles import build_bundle
from tests.serving.http.test_rest import tensor, values
from tests.serving.running import serving, start
from tests.serving.test_classify import infer_rows


def test_a_multi_label_engine_answers_with_its_activation(
    workplace: Path, tmp_path: Path, photos: list[Path], command: Command
) -> None:
    bundle, onnx_path = tmp_path / "engines/multi", tmp_path / "multi.onnx"
    model = load_onnx(workplace / "colours.onnx")
    contract = contract_in(model, source="colours.onnx")
    assert contract is not None
    set_contract(model, dataclasses.replace(contract, activation="sigmoid"))
    onnx.save(model, onnx_path)
    build_bundle(onnx_path, bundle)
    photo = (workplace / photos[0]).read_bytes()
    with serving(tmp_path, "multi") as server:
        given = tensor("image", "BYTES", [1], [base64.b64encode(photo).decode()])
        response = server.infer("multi", {"inputs": [given]})
        logits_NK = values(response, "logits").astype(np.float32)
        # Rounded to float32 at the end.
        np.testing.assert_allclose(values(response, "probabilities"), sigmoid(logits_NK), rtol=1e-6)
        (row,) = server.ask("POST", f"/classify/{photos[0].name}?top_k=3", photo).json()
        assert server.ask("GET", "/engines").json()[0]["activation"] == "sigmoid"
    with contextlib.chdir((workplace / photos[0]).parent):
        assert [row] == infer_rows(command, photos[0].name, "--engine", bundle, "--runtime", "openvino")
    assert sum(answer["probability"] for answer in row["top"]) != pytest.approx(1)


def test_an_engine_that_cannot_be_loaded_ends_the_start_with_its_reason(workplace: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "engines/edited"
    shutil.copytree(workplace / "engines/exact", bundle)
    with (bundle / "model.onnx").open("r+b") as stream:
        stream.seek(500)
        stream.write(b"edited")
    with start(tmp_path, "edited") as server:
        assert server.wait() == 1
        (error,) = [line for line in server.log.splitlines() if line.startswith("error: ")]
    assert "model.onnx: was edited" in error
