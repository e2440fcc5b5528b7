"""A graph of any opset, with operators of ONNX Runtime's own, at the opset that all transforms work on (opset)."""
