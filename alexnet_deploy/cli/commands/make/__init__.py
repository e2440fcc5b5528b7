"""Commands that make ONNX files and engines."""
