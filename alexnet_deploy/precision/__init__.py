"""Turn a float32 ONNX into a typed one: float16 casts, Q/DQ nodes with measured scales, or weights alone quantised.

Other rooms use ``to_fp16`` and ``to_quantized`` (convert), ``import_float_model`` (float_model), ``read_record``
(calibration.record), and the names in ``types``.
"""
