"""How other programs classify a folder of photos, each written as its makers write it, with its best settings.

They are peers, never dependencies: ``requirements-peers.txt`` installs them into an environment of their own.
"""
