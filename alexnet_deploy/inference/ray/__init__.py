"""``infer`` on several machines: images are cut into parts, Ray's workers answer them, this process writes them."""
