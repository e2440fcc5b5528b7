"""The time of each layer, from the counters of a runtime, and the roofline of the machine that limits it.

Other rooms use ``profile.profile_layers`` and ``verdicts.verdicts``.
"""
