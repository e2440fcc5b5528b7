"""A page as GitHub shows it becomes a page of the site: its links, and the indentation of lists in lists."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import PurePosixPath

_FENCED = re.compile(r"^( *)(```+|~~~+).*?^\1\2[ \t]*$", re.S | re.M)
_LINK = re.compile(r"(!?)\[((?:[^\[\]]|`[^`]*`|\[[^\[\]]*\])*)\]\(([^()\s]+)\)")
_INNER_ITEM = re.compile(r"^((?:  )+)(?=[-*] )", re.M)
_ERROR = re.compile(r"^ *error: ", re.M)
"""A block with an error, which is one long line, gets the class ``wrap``, for the style."""
_OPENING = re.compile(r"^( *)```(console)?\n")
_CODE_OR_NUMBER = re.compile(r"(?:`+)[^`]+`+|(?<!\])\[(\d+)\](?![(:])")


def site_page(text: str, source: PurePosixPath, pages: Mapping[str, str]) -> str:
    """The Markdown ``text`` of ``source`` as Python-Markdown reads it, with its relative links as they are on the site.

    ``pages`` has the place on the site of each file of the repository that is there; both paths are relative to the
    repository and to the site. A link to any other file becomes its text and its path: a site has no such file.
    """
    here = PurePosixPath(pages[str(source)]).parent

    def changed(link: re.Match[str]) -> str:
        image, words, target = link.groups()
        path, _, anchor = target.partition("#")
        if not path or "://" in target or target.startswith("mailto:"):
            return link[0]
        inside = os.path.normpath(source.parent / path)
        if inside not in pages:
            return words if words.strip("`") == inside else f"{words} (`{inside}`)"
        place = os.path.relpath(pages[inside], here)
        return f"{image}[{words}]({place}{'#' + anchor if anchor else ''})"

    def adapted(part: str) -> str:
        # GitHub takes two spaces for a list in a list, Python-Markdown four.
        part = _INNER_ITEM.sub(r"\1\1", _LINK.sub(changed, part))
        # MkDocs takes the number of a source for the name of an object.
        return _CODE_OR_NUMBER.sub(lambda found: rf"\[{found[1]}\]" if found[1] else found[0], part)

    parts, end = [], 0
    for block in _FENCED.finditer(text):
        parts += [
            adapted(text[end : block.start()]),
            _OPENING.sub(_wrapped, block[0]) if _ERROR.search(block[0]) else block[0],
        ]
        end = block.end()
    return "".join([*parts, adapted(text[end:])])


def _wrapped(opening: re.Match[str]) -> str:
    return f"{opening[1]}``` {{ .{opening[2] or 'text'} .wrap }}\n"
