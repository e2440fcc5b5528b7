"""The formats of image files. ``images.decode`` calls them; nothing else does.

``others`` tells a format by its first bytes. ``formats`` knows every suffix, and which package reads what Pillow does
not, ``parts`` how many parts a file may have. ``own`` has the formats that Pillow alone reads wrongly, ``checked``
those whose headers are checked before it opens them.
"""
