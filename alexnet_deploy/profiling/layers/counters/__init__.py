"""The time of each layer, as a runtime reports it."""
