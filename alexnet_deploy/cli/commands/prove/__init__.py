"""Commands that prove: accuracy, differences, what quantising costs, probabilities."""
