"""``config.pbtxt``, checked against Triton's own schema and written by protobuf, which escapes what it quotes."""

from __future__ import annotations

import functools
from importlib import resources
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory, text_format


@functools.cache
def model_config() -> Any:
    """The message class ``ModelConfig``, in a pool of its own, which leaves tritonclient's alone."""
    content = (resources.files("alexnet_deploy") / "serving" / "triton" / "model_config.binpb").read_bytes()
    pool = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(content).file:
        pool.AddSerializedFile(file.SerializeToString())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("inference.ModelConfig"))


def to_pbtxt(config: dict[str, Any]) -> str:
    """The text of a ModelConfig with these fields; ValueError for a field or an enum value that Triton lacks."""
    try:
        message = json_format.ParseDict(config, model_config()())
    except json_format.ParseError as exc:
        raise ValueError(f"not a ModelConfig: {exc}") from exc
    text: str = text_format.MessageToString(message)
    return text
