"""What a runtime tells of the time of each layer."""
