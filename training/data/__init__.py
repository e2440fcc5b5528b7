"""Labelled photos on their way into a batch: listing, preflight, augmentation, loading.

The other modules use ``ImageList`` and ``list_class_folders`` (listing), ``inspect_data`` (preflight),
``training_batches`` and ``eval_batches`` (loader).
"""
