"""Write ``alexnet_deploy/serving/triton/model_config.binpb``: the schema of Triton's config.pbtxt.

    python tests/golden/make_triton_model_config.py

It is the descriptor in the wheel of NVIDIA's ``tritonclient`` 2.73.0 (BSD-3-Clause), which needs an environment of its
own with ``tritonclient[grpc]``, because it takes no protobuf of version 7.
"""

from __future__ import annotations

from pathlib import Path

from google.protobuf import descriptor_pb2
from tritonclient.grpc import model_config_pb2

_OUT = Path(__file__).parents[2] / "alexnet_deploy/serving/triton/model_config.binpb"


def main() -> None:
    """Write it as a set of files, as protoc does."""
    file = descriptor_pb2.FileDescriptorProto.FromString(model_config_pb2.DESCRIPTOR.serialized_pb)
    _OUT.write_bytes(descriptor_pb2.FileDescriptorSet(file=[file]).SerializeToString(deterministic=True))
    print(f"{_OUT.name}: {_OUT.stat().st_size} bytes")


if __name__ == "__main__":
    main()
