"""Engine bundles on disk: written whole, verified when opened, found by name in a store.

Other rooms use ``write_bundle``, ``Engine`` and ``Manifest`` (manifest), ``open_bundle`` and ``held`` (verified), and
``resolve_engine`` (store).
"""
