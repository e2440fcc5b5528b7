"""The graph that ONNX Runtime opens on a CPU in place of a quantised engine's file: ``graph`` begins."""
