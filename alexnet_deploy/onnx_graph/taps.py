"""Tensors inside a graph: ONNX Runtime returns the values of any of them, not only of the outputs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from alexnet_deploy.errors import InputError, one_line
from alexnet_deploy.machine.onnx_session import open_session
from alexnet_deploy.onnx_graph.onnx_file import fixed_batch, graph_inputs

# Legend: N batch, H height, W width, C channel (RGB)


class TensorSession:
    """A model in ONNX Runtime on the CPU that returns the values of any of its tensors."""

    def __init__(
        self, model: onnx.ModelProto, tensors: Sequence[str], *, source: str, all_optimisations: bool = False
    ) -> None:
        """Load ``model``, which has one input and stays unchanged; ``source`` names it in errors.

        Without ``all_optimisations`` only the basic ones run. These compute Q/DQ and float16 casts as the ONNX standard
        defines them, in float32: no fused kernel stands between a layer and its output. Raises InputError for a model
        that ONNX Runtime refuses.
        """
        self._tensors = list(dict.fromkeys(tensors))
        self._source = source
        self._fixed = fixed_batch(model)
        self._input = graph_inputs(model)[0].name
        options = ort.SessionOptions()
        options.log_severity_level = 4  # its errors are raised, and shown in one line
        if not all_optimisations:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
        with TemporaryDirectory() as folder:  # a file, because as bytes a large model would be in memory twice
            path = Path(folder) / "model.onnx"
            _save_with_outputs(model, self._tensors, path)
            try:
                self._session = open_session(path, options)
            except Exception as exc:  # its exceptions share no public base
                raise InputError(
                    f"{source}: ONNX Runtime refuses the model ({one_line(exc)}); export it without that"
                ) from exc

    def __call__(self, pixels_NHWC: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Each tensor's values for uint8 RGB pixels ``[N, H, W, 3]``, N any.

        A fixed batch is split and filled up; the filling is removed again. Raises InputError where the model fails.
        """
        size = self._fixed or len(pixels_NHWC)
        parts = [self._run(pixels_NHWC[i : i + size], size) for i in range(0, len(pixels_NHWC), size)]
        if len(parts) == 1:
            return parts[0]
        return {name: np.concatenate([np.atleast_1d(part[name]) for part in parts]) for name in self._tensors}

    def _run(self, pixels_NHWC: NDArray[Any], size: int) -> dict[str, NDArray[Any]]:
        count = len(pixels_NHWC)
        pixels_NHWC = np.concatenate([pixels_NHWC, np.repeat(pixels_NHWC[-1:], size - count, axis=0)])
        try:
            values = self._session.run(self._tensors, {self._input: pixels_NHWC})
        except Exception as exc:
            raise InputError(
                f"{self._source}: the model fails on pixels {pixels_NHWC.shape} ({one_line(exc)}); "
                "export it for that batch size"
            ) from exc
        return {name: _rows_of(count, size, value) for name, value in zip(self._tensors, values, strict=True)}


def _rows_of(count: int, size: int, value: NDArray[Any]) -> NDArray[Any]:
    """The part of a tensor that belongs to the first ``count`` of ``size`` images; all of it without a batch axis.

    The first axis may hold several rows per image, as before a MatMul.
    """
    if count == size or value.ndim == 0 or len(value) % size:
        return value
    return value[: len(value) // size * count]


def _save_with_outputs(model: onnx.ModelProto, tensors: Sequence[str], path: Path) -> None:
    outputs = [onnx.ValueInfoProto.FromString(value.SerializeToString()) for value in model.graph.output]
    try:
        del model.graph.output[:]
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in tensors)
        onnx.save(model, path)
    finally:
        del model.graph.output[:]
        model.graph.output.extend(outputs)
