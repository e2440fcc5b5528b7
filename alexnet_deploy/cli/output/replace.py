"""What a file that a command writes may replace: an earlier one of its kind, and nothing that the user would miss."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from alexnet_deploy.bundle.manifest import MANIFEST
from alexnet_deploy.errors import UsageError
from alexnet_deploy.files import check_file, open_regular


def check_output(
    output: Path, parameter: str, inputs: Iterable[str | Path | None] = (), *, formats: Sequence[str] = ()
) -> None:
    """UsageError or UnavailableError, before any work, if ``output`` cannot be written or would replace a wrong file.

    That is one of ``inputs`` (None: not given), an image, or a file of an engine bundle. ``formats`` are the suffixes
    that its name may have (empty: any). Where one of them is ``.png``, a picture that this package drew is replaced.
    """
    from alexnet_deploy.images.identity.overwrite import refuse_to_replace

    check_file(output, parameter, formats=formats)
    refuse_to_replace(
        output, [each for each in inputs if each is not None], parameter=parameter, is_picture=".png" in formats
    )
    folder = Path(os.path.realpath(output)).parent
    if output.exists() and (folder / MANIFEST).exists():
        raise UsageError(f"`{parameter}` {output}: is a file of the engine bundle {folder.name}; choose another name")


def refuse_other_json(
    output: Path, parameter: str, what: str, fields: Collection[str], *, without: Collection[str] = ()
) -> None:
    """UsageError if ``output`` is a file, but not JSON with all of these ``fields``, as ``what`` has them.

    JSON with one of the fields ``without`` is another kind of file.
    """
    if not output.exists():
        return
    try:
        with open_regular(output) as stream:
            found = json.load(stream)
    except (OSError, ValueError, RecursionError):
        found = None
    if not (isinstance(found, dict) and found.keys() >= set(fields) and found.keys().isdisjoint(without)):
        raise UsageError(f"`{parameter}` {output}: exists and is not {what}; choose another name")
