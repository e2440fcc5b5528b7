"""Build an engine bundle from a float32 ONNX: the typed ONNX, TensorRT plans, and proof that each layer got its type.

Other rooms use ``build_engine`` (engine) with ``BuildSettings`` (settings); a search over precisions also uses
``new_bundle``, ``write_typed_onnx`` and ``finish_bundle``, the three steps of ``build_engine``.
"""
