"""Which files are one and the same: copies, images in two sets, an output that would replace an input."""
