"""What is taken for granted about a foreign model or a runtime, tried on photos; the outcome is remembered.

Other rooms use ``adopt_verified`` (imported: the original and what ``adopt`` made of it), and for comparisons of their
own ``photo_pixels`` (photos), ``difference`` (difference) and ``remembered`` (verdicts).
"""
