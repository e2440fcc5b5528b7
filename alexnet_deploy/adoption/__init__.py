"""A classifier's ONNX of another tool becomes ours: uint8 pixels in, logits out, its contract in the metadata.

Other rooms use ``adopt_with_notes`` (adopt) through ``verification``, ``ImportOptions`` (import_options) and
``read_labels`` (labels). ``outputs/`` finds the class scores, ``operators/`` brings the graph to our opset.
"""
