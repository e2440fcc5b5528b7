"""Tests of `alexnet_deploy/features/`."""
