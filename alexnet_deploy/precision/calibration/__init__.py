"""What calibration images say about the tensors of a model, kept in a cache and in a record beside the engine."""
