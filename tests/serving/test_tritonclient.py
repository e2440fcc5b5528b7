"""NVIDIA's own clients, unchanged: they get what ``open_engine`` computes.

tritonclient pins versions that conflict with ours, so it lives in an environment of its own, whose Python
ALEXNET_DEPLOY_TRITON_PYTHON names.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from alexnet_deploy import open_engine
from alexnet_deploy.images.decode import load_pixels
from tests.serving import running

PYTHON = os.environ.get("ALEXNET_DEPLOY_TRITON_PYTHON")


@pytest.mark.skipif(PYTHON is None, reason="needs ALEXNET_DEPLOY_TRITON_PYTHON, a Python with tritonclient[http,grpc]")
@pytest.mark.parametrize("model", ["exact", "exact@onnxruntime"])
def test_tritonclient_is_answered_as_open_engine_answers(
    server: running.Server, workplace: Path, photos: list[Path], model: str
) -> None:
    script = Path(__file__).with_name("triton_client.py")
    command = [str(PYTHON), str(script), str(server.port), str(server.grpc_port), model, *map(str, photos)]
    ran = subprocess.run(command, cwd=workplace, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    runtime = "onnxruntime" if "@" in model else "openvino"
    with open_engine(workplace / "engines/exact", runtime=runtime) as engine:
        pre = engine.contract.preprocessing
        wanted = engine(np.stack([load_pixels(workplace / photo, pre) for photo in photos]))
        black = engine(np.zeros((2, pre.height, pre.width, 3), np.uint8))
        labels = engine.contract.labels
    over_http, over_grpc, stream = map(json.loads, ran.stdout.splitlines())
    for got in (over_http, over_grpc):
        assert got["alive"]
        assert got["server"] == "alexnet-deploy"
        assert got["inputs"] == ["pixels", "image"]
        # One batch of the same size in the same runtime: the same bits.
        np.testing.assert_array_equal(np.array(got["logits"], np.float32), wanted)
        np.testing.assert_array_equal(np.array(got["pixels"], np.float32), black)
        assert [text.split(":")[2] for text in got["best"]] == [labels[row.argmax()] for row in wanted]
        assert "none: no such model" in got["refused"]
        np.testing.assert_array_equal(np.array(got["packed"], np.float32), wanted)
        assert got["index"] == {"exact": "READY", "exact@onnxruntime": "READY", "ruined": "READY"}
        assert "models are not loaded or unloaded by request" in got["load"]
    # Another infer of 6 photos, one of their classes, two black images, and the compressed one, per protocol.
    assert over_grpc["answered"] - over_http["answered"] == 4
    assert over_grpc["computed"] - over_http["computed"] == 20
    assert [row[0] for row in stream] == ["0", "1", "", "2", "3", "4", "5"]
    assert "none: no such model" in stream.pop(2)[2]
    # Batches of another size round the last bits in another way.
    np.testing.assert_allclose([row[1] for row in stream], wanted, rtol=1e-5, atol=1e-5)
