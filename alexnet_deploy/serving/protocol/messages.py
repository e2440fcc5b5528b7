"""The protocol's messages, made from the compiled ``open_inference.proto``.

In a pool of their own: a program that also loads another copy of the protocol, such as tritonclient, keeps both. And
the code that protoc generates for Python works with some versions of protobuf only; its descriptors work with all.
"""

from __future__ import annotations

from importlib import resources
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

SERVICE = "GRPCInferenceService"


def _load() -> Any:
    content = (resources.files("alexnet_deploy") / "serving" / "protocol" / "open_inference.binpb").read_bytes()
    pool = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(content).file:
        pool.AddSerializedFile(file.SerializeToString())
    return pool


_POOL = _load()
_DESCRIBED = _POOL.FindServiceByName(f"inference.{SERVICE}")

METHODS: dict[str, tuple[Any, Any]] = {
    method.name: (
        message_factory.GetMessageClass(method.input_type),
        message_factory.GetMessageClass(method.output_type),
    )
    for method in _DESCRIBED.methods
}
"""Request and response class by the method's name."""
