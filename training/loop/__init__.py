"""The training loop, from a described run to its checkpoint, the same for one process and for many.

Others use ``Run`` and ``EpochMetrics`` (run) and ``fit`` (fit).
"""
