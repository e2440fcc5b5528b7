"""What shapes the rows of a run. Only a run with the same settings goes on where an earlier one ended."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from alexnet_deploy.contract import ModelContract
from alexnet_deploy.errors import UsageError

_LONG = 60  # characters
ADDED_SETTINGS = {
    "preprocessing.decoding": "full",
    "outputs": "top",
    "ten_crop": "False",
    "calibration": "None",
    "rejection": "None",
    "features": "None",
}
"""Settings that runs begun by earlier versions lack, and what they meant."""


def settings_of(model_sha256: str, contract: ModelContract, **options: object) -> dict[str, str]:
    """What shapes the rows of an engine: its content, its contract and ``options``. The runtime may be another one.

    ``model_sha256`` is that of the files that were opened: those on disk may be others by now.
    """
    named = asdict(contract)
    named |= {f"preprocessing.{key}": value for key, value in named.pop("preprocessing").items()}
    named |= options
    return {"engine": model_sha256} | {key: _short(value) for key, value in named.items()}


def _short(value: object) -> str:
    """A value to record, or its hash if it is long, as a thousand labels are."""
    text = str(value)
    return text if len(text) <= _LONG else f"SHA-256 {hashlib.sha256(text.encode()).hexdigest()}"


def refuse_difference(path: Path, old: Mapping[str, object], new: Mapping[str, str]) -> None:
    """UsageError where a run whose rows are in ``path`` had other settings than the one that is to go on."""
    old = {**ADDED_SETTINGS, **old}
    for key, value in new.items():
        if old.get(key) != value:
            raise UsageError(
                f"`resume`: {path} was begun with {key} {_shown(old.get(key))}, this run has {_shown(value)}; use the "
                "same, or discard its rows with `overwrite`"
            )


def _shown(value: object) -> str:
    text = str(value)
    return text if len(text) <= _LONG else f"{text[: _LONG - 1]}…"
