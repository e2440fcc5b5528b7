"""Training from a checkout: ``python -m training DATA`` or ``torchrun --nproc-per-node N -m training DATA``."""
