"""Training from a checkout: ``python -m training train DATA``, or with several processes ``torchrun -m training``.

``train`` (train) goes from a folder of photos to a run directory; the recipes are in ``recipes/``.
"""

import os

# OpenMP reads this when torch is imported, so it is set before anything else. Threads that wait for one
# another in a step should sleep: spinning, they take the cores from the processes that decode and augment beside them
# (docs/training.md has what that costs).
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
