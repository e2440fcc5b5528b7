"""Image files in, predictions out: streaming, on an engine that is open.

Others use ``open_engine`` (the Python API), ``predict`` and ``read_batches``, ``softmax`` and its kin of
``probabilities``, and ``open_writer``.
"""
