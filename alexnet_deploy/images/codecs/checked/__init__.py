"""Formats whose headers are checked before Pillow, or another package, opens the file."""
