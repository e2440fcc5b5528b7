"""Engine bundles on disk: written whole, verified when opened, found by name in a store.

Other rooms use ``open_bundle``, ``write_bundle``, ``Engine`` and ``Manifest`` (manifest), and ``resolve_engine``
(store).
"""
