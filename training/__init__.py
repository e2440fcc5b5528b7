"""Training from a checkout: ``python -m training DATA`` or ``torchrun --nproc-per-node N -m training DATA``."""

import os

# OpenMP reads this when torch is imported, so it stands where nothing can come before it. Threads that wait for one
# another in a step shall sleep: spinning, they take the cores from the processes that decode and augment beside them
# (docs/training.md has what that costs).
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
