"""Engines in memory: loaded and replaced (``models``), their images decoded, batched and computed (``engine``)."""
