"""Image files in, predictions out: streaming, on an engine that is open.

Other rooms use ``open_engine`` (the Python API), ``predict`` and ``read_batches``, and
``open_writer``.
"""
