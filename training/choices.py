"""What options of the command line take, in a module without torch: ``--help`` does not need it."""

from typing import Literal

Activation = Literal["relu", "tanh"]
Lrn = Literal["none", "before-pool", "after-pool"]
Pool = Literal["overlapping", "plain"]
Resize = Literal["shorter-side", "stretch"]
Freeze = Literal["none", "features", "all-but-head"]

TeacherView = Literal["same", "single", "ten-crop"]
TEMPERATURE, WEIGHT = 2.0, 0.9
"""Defaults of distillation. Hinton et al. (arXiv:1503.02531) give the labels "a considerably lower weight"."""
