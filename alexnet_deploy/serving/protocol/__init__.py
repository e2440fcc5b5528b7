"""The Open Inference Protocol: tensors and descriptions for both transports, and its gRPC server (``grpc_server``)."""
