"""A model repository for NVIDIA Triton, and a manifest for KServe, from engines.

Other rooms use ``package_triton`` (repository). ``models/`` has the Python that Triton runs; nothing here imports it.
"""
