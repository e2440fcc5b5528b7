"""Run an engine on a runtime that this machine has: TensorRT, ONNX Runtime (CPU or CUDA) or OpenVINO.

Other rooms use ``select.open_runner``, which returns a ``runner.Runner``; each runtime's module loads its library.
"""
