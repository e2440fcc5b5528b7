"""What to look at after a run: ``report.html`` and ``card.md`` in the run directory.

``measure`` looks at every image with the trained network, ``page`` and ``card`` write.
"""
