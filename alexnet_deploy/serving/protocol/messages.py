"""The messages of both gRPC services, made from ``protocol.binpb``, which protoc compiled.

In a pool of their own: a program that also loads another copy of the protocol, such as tritonclient, keeps both. And
the code that protoc generates for Python works with some versions of protobuf only; its descriptors work with all.
"""

from __future__ import annotations

from importlib import resources
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

SERVICE = "GRPCInferenceService"
HEALTH = "grpc.health.v1.Health"


def _load() -> Any:
    content = (resources.files("alexnet_deploy") / "serving" / "protocol" / "protocol.binpb").read_bytes()
    pool = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(content).file:
        pool.AddSerializedFile(file.SerializeToString())
    return pool


def _methods(service: str) -> dict[str, tuple[Any, Any]]:
    return {
        method.name: (
            message_factory.GetMessageClass(method.input_type),
            message_factory.GetMessageClass(method.output_type),
        )
        for method in _POOL.FindServiceByName(service).methods
    }


_POOL = _load()

METHODS = _methods(f"inference.{SERVICE}")
"""Request and response class of the inference service by the method's name."""
HEALTH_METHODS = _methods(HEALTH)
"""Those of gRPC's health service."""


def answer(method: str, **fields: Any) -> Any:
    """The response message of a method of the inference service."""
    return METHODS[method][1](**fields)
