"""The servers that ``serve`` is compared with, each with our decoder and runner."""
