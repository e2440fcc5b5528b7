"""Formats that Pillow alone reads wrongly or not at all. ``images.decode`` calls them; nothing else does.

``formats`` knows every suffix, and which package reads what Pillow does not.
"""
