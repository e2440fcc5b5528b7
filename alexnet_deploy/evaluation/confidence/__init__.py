"""How far an answer can be trusted: calibrated probabilities, and the rule that calls an answer unknown.

``calibrate.calibrate`` is the stage: it fits both to the logits of one bundle and stores them in its contract, where
``probabilities.probabilities`` and ``probabilities.unknown`` find them.
"""
