"""ONNX graphs: read and write them with every check, edit them, cut them at a layer, read any tensor inside.

Other rooms use ``load_onnx``, ``save_onnx`` and ``contract_in`` (onnx_file), ``layers_in`` and ``cut_after`` (cut), the
helpers of ``edits``, ``element_types`` and ``layers``, and ``TensorSession`` (taps).
"""
