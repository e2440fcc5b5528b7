"""What a user of tritonclient writes, for both protocols: python triton_client.py HTTP_PORT GRPC_PORT MODEL PHOTO...

Runs in an environment of its own; prints one line of JSON per protocol, and one for a stream.
"""

from __future__ import annotations

import json
import queue
import sys
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc
import tritonclient.http

COMPRESSION = {
    tritonclient.http: {"request_compression_algorithm": "gzip", "response_compression_algorithm": "deflate"},
    tritonclient.grpc: {"compression_algorithm": "gzip"},
}


def ask(library: Any, url: str, model: str, contents: list[bytes]) -> dict[str, Any]:
    client = library.InferenceServerClient(url)
    alive = client.is_server_live() and client.is_server_ready() and client.is_model_ready(model)
    images = library.InferInput("image", [len(contents)], "BYTES")
    images.set_data_from_numpy(np.array(contents, object))
    answer = client.infer(model, [images])
    logits = answer.as_numpy("logits")
    best = client.infer(model, [images], outputs=[library.InferRequestedOutput("probabilities", class_count=1)])
    options = {"as_json": True} if library is tritonclient.grpc else {}
    config = client.get_model_config(model, **options)
    config = config.get("config", config)
    height, width, _ = (int(size) for size in config["input"][0]["dims"])
    black = library.InferInput("pixels", [2, height, width, 3], "UINT8")
    black.set_data_from_numpy(np.zeros((2, height, width, 3), np.uint8))
    pixels = client.infer(model, [black], outputs=[library.InferRequestedOutput("logits")]).as_numpy("logits")
    packed = client.infer(model, [images], **COMPRESSION[library])
    statistics = client.get_inference_statistics(model, **options)["model_stats"][0]
    index = client.get_model_repository_index(**options)
    index = index["models"] if isinstance(index, dict) else index
    try:
        client.load_model(model)
        load = ""
    except Exception as exc:
        load = str(exc)
    try:
        client.infer("none", [black])
        refused = ""
    except Exception as exc:
        refused = str(exc)
    return {
        "alive": alive,
        "server": client.get_server_metadata(**options)["name"],
        "inputs": [given["name"] for given in client.get_model_metadata(model, **options)["inputs"]],
        "logits": logits.tolist(),
        "probabilities": answer.as_numpy("probabilities").tolist(),
        "best": [text.decode() for text in best.as_numpy("probabilities").ravel()],
        "pixels": pixels.tolist(),
        "refused": refused,
        "packed": packed.as_numpy("logits").tolist(),
        "answered": int(statistics["inference_stats"]["success"]["count"]),
        "computed": int(statistics["inference_count"]),
        "index": {row["name"]: row["state"] for row in index},
        "load": load,
    }


def ask_stream(url: str, model: str, contents: list[bytes]) -> list[list[Any]]:
    """Each photo as a request of its own on one stream, and one for no model: id, logits, error."""
    client = tritonclient.grpc.InferenceServerClient(url)
    got: queue.Queue[Any] = queue.Queue()
    client.start_stream(callback=lambda result, error: got.put((result, error)))
    for number, content in enumerate(contents):
        image = tritonclient.grpc.InferInput("image", [1], "BYTES")
        image.set_data_from_numpy(np.array([content], object))
        client.async_stream_infer(model, [image], request_id=str(number), enable_empty_final_response=True)
        if number == 1:
            client.async_stream_infer("none", [image], request_id="none")
    rows: list[list[Any]] = []
    for _ in range(len(contents) + 1):
        result, error = got.get(timeout=60)
        if error is None:
            rows.append([result.get_response().id, result.as_numpy("logits")[0].tolist(), None])
        else:
            rows.append(["", None, str(error)])
    client.stop_stream()
    return rows


def main() -> None:
    http_port, grpc_port, model, *photos = sys.argv[1:]
    contents = [Path(photo).read_bytes() for photo in photos]
    for library, port in ((tritonclient.http, http_port), (tritonclient.grpc, grpc_port)):
        print(json.dumps(ask(library, f"127.0.0.1:{port}", model, contents)))
    print(json.dumps(ask_stream(f"127.0.0.1:{grpc_port}", model, contents)))


if __name__ == "__main__":
    main()
