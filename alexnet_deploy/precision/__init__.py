"""Turn a float32 ONNX into a typed one: float16 casts, or Q/DQ nodes with scales measured on calibration images.

Other rooms use ``to_fp16`` and ``to_quantized`` (convert), ``import_float_model`` (float_model), ``read_record``
(calibration_record), and the names in ``types``.
"""
