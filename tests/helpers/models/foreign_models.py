"""Classifiers as other tools write them, small enough to run in a moment: float images in, class scores out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from alexnet_deploy.adoption.import_options import ImportOptions
from tests.helpers.models.graphs import graph_model, run_graph
from tests.helpers.models.onnx_models import Graph

SIDE, CLASSES = 12, 5
MEAN, STD = (0.48, 0.45, 0.40), (0.23, 0.22, 0.25)
FOREIGN = ImportOptions(MEAN, STD)
W = {"w": np.random.default_rng(0).normal(size=(CLASSES, 48)).astype(np.float32)}
"""The weights of ``AFFINE``."""
AFFINE = "flat = Flatten (x); y = Gemm <transB = 1> (flat, w)"
"""The smallest classifier of [N, 3, 4, 4]."""
LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
"""The networks of onnx's own test data, whose nodes fill each weight with a single number."""

Head = Literal["gemm", "matmul", "convolution"]


def foreign_classifier(
    path: Path,
    *,
    opset: int = 21,
    batch: int | str = "N",
    head: Head = "gemm",
    softmax: bool = False,
    channels_last: bool = False,
    constants: bool = False,
    names: tuple[str, str] = ("data", "scores"),
) -> Path:
    """A nameless graph of every structure that AlexNet's heirs have, in the dialect of ``opset``.

    Convolutions (grouped, side by side, with a residual), batch norm, LRN, ReLU6, padding and pooling; its scores are
    ``[batch, CLASSES]``, or ``[batch, CLASSES, 1, 1]`` with head ``"convolution"``. With ``constants`` every weight
    is a Constant node. Opsets up to 9 come as IR 3, which lists other weights among the inputs.
    """
    g = Graph()
    random = np.random.default_rng(3)

    def weight(*shape: int) -> str:
        return g.constant(random.normal(0, np.prod(shape[1:]) ** -0.5, shape).astype(np.float32))

    def conv(x: str, channels_in: int, channels: int, kernel: int, group: int = 1) -> str:
        w = weight(channels, channels_in // group, kernel, kernel)
        return g.node("Conv", x, w, weight(channels), pads=[kernel // 2] * 4, group=group)

    # What was an attribute became an input in a later opset.
    def clip(x: str) -> str:
        if opset < 11:
            return g.node("Clip", x, min=0.0, max=6.0)
        return g.node("Clip", x, g.constant(np.array(0, np.float32)), g.constant(np.array(6, np.float32)))

    def pad(x: str) -> str:
        pads = [0, 0, 0, 0, 0, 0, 1, 1]
        return g.node("Pad", x, pads=pads) if opset < 11 else g.node("Pad", x, g.constant(np.array(pads)))

    def spatial_mean(x: str) -> str:
        if opset < 18:
            return g.node("ReduceMean", x, axes=[2, 3], keepdims=0)
        return g.node("ReduceMean", x, g.constant(np.array([2, 3])), keepdims=0)

    old = {"broadcast": 1} if opset < 7 else {}
    x = g.node("Transpose", names[0], perm=[0, 3, 1, 2]) if channels_last else names[0]
    x = conv(x, 3, 8, 3)
    statistics = (random.uniform(0.5, 2, 8), random.normal(0, 1, 8), random.normal(0, 1, 8), random.uniform(0.5, 2, 8))
    x = g.node("BatchNormalization", x, *(g.constant(values.astype(np.float32)) for values in statistics))
    x = g.node("LRN", clip(x), size=3, alpha=0.1)
    x = g.node("Relu", g.node("Add", conv(x, 8, 8, 3, group=2), x))
    x = g.node("Concat", conv(x, 8, 4, 1), conv(x, 8, 4, 3), axis=1)
    x = g.node("MaxPool", pad(x), kernel_shape=[3, 3], strides=[2, 2])
    if head == "convolution":
        x = g.node("GlobalAveragePool", conv(g.node("Dropout", x), 8, CLASSES, 1))
    elif head == "gemm":
        x = g.node("Gemm", spatial_mean(x), weight(CLASSES, 8), weight(CLASSES), transB=1, **old)
    else:
        flat = g.node("Reshape", spatial_mean(x), g.constant(np.array([-1, 8])))
        x = g.node("Add", g.node("MatMul", flat, weight(8, CLASSES)), weight(CLASSES))
    if softmax:
        x = g.node("Softmax", x, axis=1)
    g.nodes[-1].output[0] = names[1]

    image: list[int | str] = [batch, SIDE, SIDE, 3] if channels_last else [batch, 3, SIDE, SIDE]
    scores: list[int | str] = [batch, CLASSES, *([1, 1] if head == "convolution" else [])]
    nodes, inputs = g.nodes, [helper.make_tensor_value_info(names[0], TensorProto.FLOAT, image)]
    for node in nodes:
        node.name = ""
    if opset <= 9 and not constants:
        inputs += [helper.make_tensor_value_info(w.name, w.data_type, w.dims) for w in g.weights]
    if constants:
        nodes = [helper.make_node("Constant", [], [w.name], value=w) for w in g.weights] + nodes
    outputs = [helper.make_tensor_value_info(names[1], TensorProto.FLOAT, scores)]
    graph = helper.make_graph(nodes, "foreign", inputs, outputs, [] if constants else g.weights)
    opsets = [helper.make_opsetid("", opset)]
    ir_version = 3 if opset <= 9 else helper.find_min_ir_version_for(opsets)
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=ir_version), path)
    return path


def random_pixels(count: int, side: int = SIDE, seed: int = 0) -> NDArray[np.uint8]:
    """Pixels ``[count, side, side, 3]``."""
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def scores_by_hand(path: Path, pixels_NHWC: NDArray[np.uint8], *, channels_last: bool = False) -> NDArray[np.float32]:
    """What the file answers to pixels normalised outside of it, one image at a time where its batch is fixed."""
    model = onnx.load(path)
    images = ((pixels_NHWC / 255.0 - MEAN) / STD).astype(np.float32)
    if not channels_last:
        images = images.transpose(0, 3, 1, 2)
    weights = {weight.name for weight in model.graph.initializer}
    (feed,) = (value.name for value in model.graph.input if value.name not in weights)
    (scores,) = run_graph(model, **{feed: images})
    return scores.reshape(len(pixels_NHWC), -1)


def graph_of(
    path: Path,
    body: str,
    weights: dict[str, NDArray[Any]] = W,
    *,
    signature: str = "(float[N,3,4,4] x) => (float[N,5] y)",
    opset: int = 21,
    domain: str = "",
    functions: Sequence[onnx.FunctionProto] = (),
) -> Path:
    """Write any graph in ONNX's text form; ``domain`` is one more than ONNX's own."""
    model = graph_model(signature, body, opset=opset, **weights)
    if domain:
        model.opset_import.append(helper.make_opsetid(domain, 1))
    model.functions.extend(functions)
    onnx.save(model, path)
    return path


def with_random_weights(source: Path, path: Path) -> Path:
    """A network of ``LIGHT`` with random weights, so that activations are like those of a real network."""
    model = onnx.load(source)
    random = np.random.default_rng(0)
    shapes = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    fillers = [node for node in model.graph.node if node.op_type == "ConstantOfShape"]
    for node in fillers:
        shape = shapes[node.input[0]]
        # A vector may be a variance.
        values = random.uniform(0.5, 1.5, shape) if len(shape) == 1 else random.normal(size=shape)
        values *= (2 / np.prod(shape[1:])) ** 0.5 if len(shape) > 1 else 1
        model.graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), node.output[0]))
        model.graph.node.remove(node)
    model.ir_version = 4  # the first that does not want weights among the inputs
    onnx.save(model, path)
    return path


def after(node: str) -> str:
    """``node``, then ``AFFINE`` on its output."""
    return f"{node}; {AFFINE.replace('(x)', '(' + node.partition(' ')[0] + ')')}"
