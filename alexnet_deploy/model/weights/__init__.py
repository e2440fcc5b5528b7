"""Files of weights, published or of other tools: fetched, and read without running what is in them."""
