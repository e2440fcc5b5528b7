"""A manifest for KServe: one InferenceService that serves a model repository with KServe's Triton runtime."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence

from alexnet_deploy.errors import printable
from alexnet_deploy.serving.triton.choose import TritonModel

MANIFEST = "inferenceservice.yaml"
_GIB = 1 << 30


def inference_service(folder: str, models: Sequence[TritonModel], model_bytes: int) -> str:
    """The manifest for the repository in ``folder``, whose files have ``model_bytes``.

    Memory is a starting point: 1 GiB for the server, and twice the files for what a runtime holds beside them.
    """
    memory = f"{math.ceil(1 + 2 * model_bytes / _GIB)}Gi"
    gpu = '\n          nvidia.com/gpu: "1"' if any(model.plans for model in models) else ""
    return f"""\
# Written by alexnet-deploy. Copy the repository to your storage and put its address at storageUri; adjust resources.
# Models that end in -decode and -probabilities need Python packages in Triton's image: requirements.txt.
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata:
  name: {_text(kubernetes_name(folder))}
  annotations:
    alexnet-deploy/engines: {_text(", ".join(model.engine.name for model in models))}
spec:
  predictor:
    model:
      modelFormat:
        name: triton
      protocolVersion: v2
      storageUri: "s3://BUCKET/FOLDER"
      resources:
        requests:
          cpu: "1"
          memory: {memory}{gpu}
        limits:
          cpu: "2"
          memory: {memory}{gpu}
"""


def kubernetes_name(text: str) -> str:
    """A name that Kubernetes takes for a service: lower case letters, digits and dashes, at most 50 characters."""
    name = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:50].strip("-")
    return name if re.match(r"[a-z]", name) else f"alexnet-{name}".rstrip("-")


def _text(value: str) -> str:
    """``value`` in double quotes: JSON's strings are YAML's, once what is not printable is escaped."""
    return json.dumps(printable(value), ensure_ascii=False)
