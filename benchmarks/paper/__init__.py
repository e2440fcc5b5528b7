"""The pictures and numbers of the guide to the paper."""
