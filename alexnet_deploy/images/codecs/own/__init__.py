"""Formats of which our own code reads a part, because Pillow alone reads it wrongly or slowly."""
