"""The tensor with the class scores, what its end means, and logits in its place: ``end_in_logits`` (class_output)."""
