"""Ask a Triton with tritonclient, in an environment of its own: tritonclient takes no protobuf of version 7.

    python client.py PORT GRPC_PORT JOB.json OUT.json

JOB.json is a list of calls: ``{"protocol": "http" or "grpc", "model": ..., "input": ..., "output": ..., "classes": N,
"images": [files]}``, or with ``"pixels": file.npy`` in place of images, or with ``"at_once": N`` for N requests per
image; ``{"config": model}`` for the configuration that the server has, ``{"parse": file}`` for tritonclient's own
reading of it, ``{"yaml": file}`` for a manifest. OUT.json has a list of answers: ``{"values": ...}`` or
``{"error": ...}``.
"""

import json
import queue
import sys
from pathlib import Path

import numpy as np
import tritonclient.grpc
import tritonclient.http
import yaml
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2
from tritonclient.utils import InferenceServerException


def ask(clients, job):
    if "parse" in job:
        text_format.Parse(Path(job["parse"]).read_text(encoding="utf-8"), model_config_pb2.ModelConfig())
        return "valid"
    if "yaml" in job:
        return yaml.safe_load(Path(job["yaml"]).read_text(encoding="utf-8"))
    if "config" in job:
        return clients["http"].get_model_config(job["config"])
    if "at_once" in job:
        return ask_at_once(clients["grpc"], job)
    client, library = clients[job["protocol"]], getattr(tritonclient, job["protocol"])
    if "images" in job:
        files = [Path(file).read_bytes() for file in job["images"]]
        given = np.array(files, dtype=object).reshape(job.get("shape", [-1, 1]))
        tensor = library.InferInput(job["input"], given.shape, "BYTES")
    else:
        given = np.load(job["pixels"])
        tensor = library.InferInput(job["input"], given.shape, "UINT8")
    tensor.set_data_from_numpy(given)
    output = library.InferRequestedOutput(job["output"], class_count=job.get("classes", 0))
    values = client.infer(job["model"], [tensor], outputs=[output]).as_numpy(job["output"])
    return np.vectorize(bytes.decode, otypes=[object])(values).tolist() if values.dtype == object else values.tolist()


def ask_at_once(client, job):
    """Every image in a request of its own, all in flight together."""
    waiting = []
    for file in job["images"] * job["at_once"]:
        given = np.array([[Path(file).read_bytes()]], dtype=object)
        tensor = tritonclient.grpc.InferInput(job["input"], given.shape, "BYTES")
        tensor.set_data_from_numpy(given)
        answer = queue.SimpleQueue()
        client.async_infer(
            job["model"], [tensor], callback=lambda result, error, answer=answer: answer.put(error or result)
        )
        waiting.append(answer)
    found = [answer.get(timeout=60) for answer in waiting]
    return [
        [answer.message()]
        if isinstance(answer, InferenceServerException)
        else answer.as_numpy(job["output"])[0].tolist()
        for answer in found
    ]


def main(port, grpc_port, jobs, out):
    clients = {
        "http": tritonclient.http.InferenceServerClient(f"127.0.0.1:{port}", network_timeout=60.0),
        "grpc": tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{grpc_port}"),
    }
    answers = []
    for job in json.loads(Path(jobs).read_text()):
        try:
            answers.append({"values": ask(clients, job)})
        except InferenceServerException as exc:
            answers.append({"error": exc.message()})
    Path(out).write_text(json.dumps(answers))


if __name__ == "__main__":
    main(*sys.argv[1:])
