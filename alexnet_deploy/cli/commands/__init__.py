"""One file per command or family of commands: parse, call the stage, print its result.

Heavy libraries load inside the command that needs them.
"""
