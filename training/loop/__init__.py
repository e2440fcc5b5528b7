"""The training loop, from a described run to its checkpoint, the same for one process and for many.

The other modules use ``Run`` and ``EpochMetrics`` (run) and ``fit`` (fit).
"""
