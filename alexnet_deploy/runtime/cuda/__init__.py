"""The few CUDA calls that running an engine takes, and what an error of the GPU means."""
