"""Training that begins with trained weights: where they come from, and what of them a new network keeps.

The other modules use ``read_source`` (sources), ``begin_with`` (begin) and the checks in ``network``.
"""
