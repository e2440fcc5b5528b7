"""ONNX graphs: read and write them with every check, convert any classifier to our form, read any tensor inside.

Other rooms use ``load_onnx``, ``save_onnx`` and ``contract_in`` (onnx_file), ``adopt`` (adopt), ``ImportOptions``
(import_options), and ``TensorSession`` (taps).
"""
