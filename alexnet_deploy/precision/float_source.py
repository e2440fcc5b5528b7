"""The float32 model that an int8 or fp8 bundle was quantised from."""

from __future__ import annotations

from pathlib import Path

from alexnet_deploy.bundle.listing import list_bundles
from alexnet_deploy.bundle.manifest import CALIBRATION, MANIFEST, MODEL, Engine, Manifest, open_bundle
from alexnet_deploy.errors import InputError


def find_float_source(engine: Engine, store: Path) -> str | None:
    """Name of the float32 bundle in ``store`` that the quantised ``engine`` was made from; None if it is missing."""
    record = engine.onnx_path.parent / CALIBRATION
    if engine.onnx_path.name != MODEL or not record.is_file():
        return None
    from alexnet_deploy.onnx_graph.onnx_file import load_onnx, weights_sha256
    from alexnet_deploy.precision.calibration.record import read_record

    recorded = read_record(record).weights_sha256
    for directory, manifest in list_bundles(store):
        if (
            isinstance(manifest, Manifest)
            and manifest.precision == "fp32"
            and weights_sha256(load_onnx(directory / MODEL)) == recorded
        ):
            return directory.name
    return None


def refuse_bundle(onnx: Path, store: Path) -> None:
    """InputError if ``onnx`` is a bundle instead of a float ONNX file; it names the file that was probably meant."""
    directory = next((folder for folder in (onnx, store / onnx) if (folder / MANIFEST).is_file()), None)
    if directory is None:
        return
    engine = open_bundle(directory)
    source = directory.name if engine.precision == "fp32" else find_float_source(engine, directory.parent)
    instead = "the one that it was built from" if source is None else directory.parent / source / MODEL
    raise InputError(f"{onnx}: is an engine bundle ({engine.precision}), but a float32 ONNX is needed: give {instead}")
