"""What the calls of the gRPC protocol answer, one method per call with one message and one answer."""

from __future__ import annotations

from typing import Any

from google.protobuf import json_format

from alexnet_deploy import __version__
from alexnet_deploy.serving.engines.models import Models
from alexnet_deploy.serving.protocol.describe import EXTENSIONS, describe_model, model_config, statistics
from alexnet_deploy.serving.protocol.infer import infer
from alexnet_deploy.serving.protocol.messages import answer
from alexnet_deploy.serving.refusals import refuse_model_control


class Methods:
    """One method per call, by its name: request, facts for the access log, context -> response."""

    def __init__(self, models: Models) -> None:
        self._models = models

    async def ServerLive(self, request: Any, facts: dict[str, Any], context: Any) -> Any:
        return answer("ServerLive", live=True)

    async def ServerReady(self, request: Any, facts: dict[str, Any], context: Any) -> Any:
        return answer("ServerReady", ready=self._models.ready)

    async def ModelReady(self, request: Any, facts: dict[str, Any], context: Any) -> Any:
        return answer("ModelReady", ready=self._models.is_ready(request.name, request.version))

    async def ServerMetadata(self, request: Any, facts: dict[str, Any], context: Any) -> Any:
        return answer("ServerMetadata", name="alexnet-deploy", version=__version__, extensions=EXTENSIONS)

    async def ModelMetadata(self, request: Any, facts: dict[str, Any], context: Any) -> Any:
        engine = self._models.get(request.name, request.version)
        facts |= {"model": engine.name, "version": engine.version}
        return answer("ModelMetadata", **describe_model(engine))

    async def ModelConfig(self, request: Any, facts: dict[str, Any], context: Any) -> Any:
        engine = self._models.get(request.name, request.version)
        facts |= {"model": engine.name, "version": engine.version}
        return json_format.ParseDict({"config": model_config(engine)}, answer("ModelConfig"))

    async def ModelInfer(self, request: Any, facts: dict[str, Any], context: Any) -> Any:
        return await infer(self._models, request, facts, context.time_remaining())

    async def ModelStatistics(self, request: Any, facts: dict[str, Any], context: Any) -> Any:
        found = statistics(self._models, request.name or None, request.version)
        return json_format.ParseDict(found, answer("ModelStatistics"))

    async def RepositoryIndex(self, request: Any, facts: dict[str, Any], context: Any) -> Any:
        return answer("RepositoryIndex", models=self._models.index(ready_only=request.ready))

    async def RepositoryModelLoad(self, request: Any, facts: dict[str, Any], context: Any) -> Any:
        refuse_model_control()

    async def RepositoryModelUnload(self, request: Any, facts: dict[str, Any], context: Any) -> Any:
        refuse_model_control()
