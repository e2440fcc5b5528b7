"""Which images there are, and of which class and split."""
