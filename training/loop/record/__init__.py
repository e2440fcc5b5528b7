"""What a run writes after each epoch: checkpoint, metrics, curves, TensorBoard events (``writer``)."""
