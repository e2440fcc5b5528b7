"""An engine whose photos are to be decoded in full, although its contract says otherwise."""

from __future__ import annotations

import functools
import logging
from dataclasses import replace

from alexnet_deploy.bundle.manifest import CALIBRATION, MODEL, Engine

_log = logging.getLogger(__name__)


def decode_in_full(engine: Engine) -> Engine:
    """``engine`` with a contract of full decoding; a warning if it was calibrated with another rule."""
    rule = engine.contract.preprocessing.decoding
    if rule == "full":
        return engine
    if engine.onnx_path.name == MODEL and (engine.onnx_path.parent / CALIBRATION).is_file():
        _note_other_pixels(engine.name, rule)
    return replace(engine, contract=engine.contract.decoded("full"))


@functools.cache
def _note_other_pixels(name: str, rule: str) -> None:
    """Log once per engine and process: a server opens an engine several times."""
    _log.warning(
        "%s: was calibrated on photos decoded as %s, and gets them decoded in full; the pixels differ a little, so "
        "build it again for full decoding if this is to stay",
        name,
        rule,
    )
