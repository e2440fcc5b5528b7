"""How good engines are on labelled images, and how two of them differ.

``evaluate.evaluate`` and ``comparison.compare.compare`` are the API. Other rooms use ``answers.collect_answers``, the
logits of several engines for the same pixels. ``confidence`` fits what a probability means, and when an answer is
unknown.
"""
