"""Triton's statistics and repository index, read-only, over both protocols; and the calls that are refused."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest
from google.protobuf import json_format

from tests.serving.running import Server, serving


def test_statistics_count_requests_images_and_batches(workplace: Path, photos: list[Path]) -> None:
    photo = (workplace / photos[0]).read_bytes()
    image = {"name": "image", "datatype": "BYTES", "shape": [3], "contents": {"bytes_contents": [photo] * 3}}
    with serving(workplace, "exact", "ruined", "--instances", 1) as server:
        server.call("ModelInfer", model_name="exact", inputs=[image])
        server.ask("POST", "/classify", photo)
        assert server.ask("POST", "/v2/models/exact/infer", b"{}").status == 400
        with pytest.raises(grpc.RpcError):
            server.call("ModelInfer", model_name="exact")
        version = server.ask("GET", "/v2/models/exact").json()["versions"][0]
        (found,) = server.ask("GET", "/v2/models/exact/stats").json()["model_stats"]
        assert (found["name"], found["version"]) == ("exact", version)
        assert (found["inference_count"], found["execution_count"]) == (4, 2)
        assert found["last_inference"] > 1_700_000_000_000
        counts = {name: value["count"] for name, value in found["inference_stats"].items()}
        steps = dict.fromkeys(("queue", "compute_input", "compute_infer"), 2)
        assert counts == {"success": 2, "fail": 2, "compute_output": 0, **steps}
        times = {name: value["ns"] for name, value in found["inference_stats"].items()}
        assert times["success"] > times["compute_infer"] + times["compute_input"] + times["queue"] > 0
        assert [batch["batch_size"] for batch in found["batch_stats"]] == [1, 3]
        for one in (
            server.ask("GET", f"/v2/models/exact/versions/{version}/stats").json(),
            json_format.MessageToDict(server.call("ModelStatistics", name="exact"), preserving_proto_field_name=True),
        ):
            assert int(one["model_stats"][0]["inference_stats"]["success"]["ns"]) == times["success"]
        everything = server.ask("GET", "/v2/models/stats").json()["model_stats"]
        assert [model["name"] for model in everything] == ["exact", "ruined"]
        assert everything[1]["inference_stats"]["success"] == {"count": 0, "ns": 0}
        assert [model.name for model in server.call("ModelStatistics").model_stats] == ["exact", "ruined"]
        assert server.ask("GET", "/v2/models/none/stats").status == 404
        assert server.ask("GET", "/v2/models/exact/versions/1/stats").status == 404


@pytest.mark.parametrize("body", [b"", b"{}", b'{"ready": true}'])
def test_the_repository_index_has_every_model(server: Server, body: bytes) -> None:
    rows = server.ask("POST", "/v2/repository/index", body).json()
    assert [(row["name"], row["state"]) for row in rows] == [
        ("exact", "READY"),
        ("exact@onnxruntime", "READY"),
        ("ruined", "READY"),
    ]
    assert rows[0]["version"] == server.ask("GET", "/v2/models/exact").json()["versions"][0]
    index = server.call("RepositoryIndex", ready=True)
    assert [json_format.MessageToDict(model) for model in index.models] == [
        {name: value for name, value in row.items() if value} for row in rows
    ]


@pytest.mark.parametrize("body", [b"[", b"[]", b'{"ready": 1}'])
def test_a_repository_index_that_makes_no_sense_is_one_line(server: Server, body: bytes) -> None:
    answer = server.ask("POST", "/v2/repository/index", body)
    assert answer.status == 400
    assert answer.error.startswith("the request is not valid: ")


@pytest.mark.parametrize("what", ["load", "unload"])
def test_models_are_not_loaded_or_unloaded_by_request(server: Server, what: str) -> None:
    answer = server.ask("POST", f"/v2/repository/models/exact/{what}", b"{}")
    assert answer.status == 501
    assert answer.error.startswith("models are not loaded or unloaded by request")
    with pytest.raises(grpc.RpcError) as refused:
        server.call(f"RepositoryModel{what.title()}", model_name="exact")
    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert refused.value.details() == answer.error
    assert server.ask("GET", "/v2/models/exact/ready").status == 200
