"""The cause out of TensorRT's messages, for people."""

from __future__ import annotations

import pytest

from alexnet_deploy.runtime.tensorrt_library import cause_in


@pytest.mark.parametrize(
    ("messages", "line"),
    [
        ([], "no reason given"),
        (
            [
                "IBuilder::buildSerializedNetwork: Error Code 1: Myelin ([pass.cpp:337: check] Cannot compile "
                "operation 'fc' for Turing (SM75): FP32 GEMM is not supported. In compile at /_src/a.cpp:2012)"
            ],
            "Cannot compile operation 'fc' for Turing (SM75): FP32 GEMM is not supported",
        ),
        (
            [
                "Invalid Node - mul\nITensor::getDimensions: Error Code 4: API Usage Error (mul: ElementWiseOperation "
                "PROD must have same input types. In validateTypes at /_src/elementWiseNode.cpp:40)\n"
                "[checkMacros.cpp::catchCudaError::250] Error Code 1: Cuda Runtime (In catchCudaError at /_src/x.cpp:1)"
            ],
            "mul: ElementWiseOperation PROD must have same input types",
        ),
        (
            [
                "IRuntime::deserializeCudaEngine: Error Code 1: Cuda Runtime (In ScopedCudaStream at /_src/c.cpp:25 "
                "(cudaError 35: CUDA driver version is insufficient for CUDA runtime version))"
            ],
            "cudaError 35: CUDA driver version is insufficient for CUDA runtime version",
        ),
    ],
)
def test_tensorrts_messages_become_one_line(messages: list[str], line: str) -> None:
    assert cause_in(messages) == line
