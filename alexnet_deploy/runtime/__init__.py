"""Running an engine on whatever this machine has: TensorRT, ONNX Runtime (CPU or CUDA) or OpenVINO.

Others use ``select.open_runner``, which returns a ``runner.Runner``; the modules of the runtimes load their library.
"""
