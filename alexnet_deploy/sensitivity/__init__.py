"""Measure what int8 and fp8 cost a model: layer by layer, within a bound on accuracy, and over calibration images.

Other rooms use ``diagnose`` (layers), ``build_within_drop`` (search) and ``measure_stability`` (stability).
"""
