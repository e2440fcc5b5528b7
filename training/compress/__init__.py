"""Low-rank compression: a trained checkpoint with its two hidden dense layers as products of thin ones.

The other modules use ``compress`` and ``measure_ranks`` (compress); the mathematics is in ``low_rank``.
"""
