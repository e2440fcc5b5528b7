"""TensorRT: which version supports what, plans, and the runner of a plan."""
