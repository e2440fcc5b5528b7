"""Text of others in Markdown: a class or a folder may be called anything."""

from __future__ import annotations

import re

from alexnet_deploy.errors import printable

_LINK = re.compile(r":(?=//)|(?<=www)\.", re.IGNORECASE)
"""Where a plain address would become a link."""


def escaped(text: str) -> str:
    """``text`` as Markdown that shows it: no markup, no link, no line break."""
    plain = re.sub(r"([\\`*_{}\[\]<>#|~&!@])", r"\\\1", printable(text))
    return _LINK.sub(r"\\\g<0>", plain)
