"""The float32 model that an int8 or fp8 bundle was quantised from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from alexnet_deploy.bundle.listing import list_bundles
from alexnet_deploy.bundle.manifest import CALIBRATION, MANIFEST, MODEL, Engine, Manifest
from alexnet_deploy.bundle.verified import open_bundle
from alexnet_deploy.errors import InputError
from alexnet_deploy.precision.types import HALF, is_weights_only, quantized_type

if TYPE_CHECKING:
    import numpy as np
    import onnx
    from numpy.typing import NDArray

_MOST_CHANNELS = 4
"""Models with the same preprocessing share its mean and scale, per channel."""


def find_float_source(engine: Engine, store: Path) -> str | None:
    """Name of the float32 bundle in ``store`` that the quantised ``engine`` was made from; None if it is missing.

    An engine without a calibration record is recognised by the numbers that stayed float16 in it.
    """
    if engine.onnx_path.name != MODEL or quantized_type(engine.precision) is None:
        return None
    from alexnet_deploy.onnx_graph.onnx_file import load_onnx, weights_sha256
    from alexnet_deploy.precision.calibration.record import read_record

    record = engine.onnx_path.parent / CALIBRATION
    recorded = read_record(record).weights_sha256 if record.is_file() else None
    if recorded is None and not is_weights_only(engine.precision):
        return None
    halves = {} if recorded is not None else _halves(load_onnx(engine.onnx_path))
    for directory, manifest in list_bundles(store):
        if not isinstance(manifest, Manifest) or manifest.precision != "fp32":
            continue
        model = load_onnx(directory / MODEL)
        same = _holds(model, halves) if recorded is None else weights_sha256(model) == recorded
        if same:
            return directory.name
    return None


def _halves(model: onnx.ModelProto) -> dict[str, NDArray[np.float16]]:
    """The constants of a float16 engine by their names in the float32 model, without scales of quantised weights."""
    from onnx import TensorProto, numpy_helper

    scales = {node.input[1] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    return {
        tensor.name.removesuffix(HALF): numpy_helper.to_array(tensor)
        for tensor in model.graph.initializer
        if tensor.data_type == TensorProto.FLOAT16 and tensor.name.endswith(HALF) and tensor.name not in scales
    }


def _holds(model: onnx.ModelProto, halves: Mapping[str, NDArray[np.float16]]) -> bool:
    """Whether a float32 model has all these constants, and one of them is longer than a list of channels."""
    import numpy as np
    from onnx import numpy_helper

    constants = {tensor.name: tensor for tensor in model.graph.initializer if tensor.name in halves}
    return any(half.size > _MOST_CHANNELS for half in halves.values()) and all(
        name in constants and np.array_equal(numpy_helper.to_array(constants[name]).astype(np.float16), half)
        for name, half in halves.items()
    )


def refuse_bundle(onnx: Path, store: Path) -> None:
    """InputError if ``onnx`` is a bundle instead of a float ONNX file; it names the file that was probably meant."""
    directory = next((folder for folder in (onnx, store / onnx) if (folder / MANIFEST).is_file()), None)
    if directory is None:
        return
    engine = open_bundle(directory)
    source = directory.name if engine.precision == "fp32" else find_float_source(engine, directory.parent)
    instead = "the one that it was built from" if source is None else directory.parent / source / MODEL
    raise InputError(f"{onnx}: is an engine bundle ({engine.precision}), but a float32 ONNX is needed: give {instead}")
