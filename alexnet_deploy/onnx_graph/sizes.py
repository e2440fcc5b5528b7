"""Bounds on the size of the tensors and on the arithmetic of a foreign ONNX graph, from its static shapes."""

from __future__ import annotations

import math
from collections.abc import Iterator

import onnx
from onnx import TensorProto, helper, inliner

from alexnet_deploy.errors import InputError, one_line
from alexnet_deploy.onnx_graph.limits import subgraphs

MAX_TENSOR_BYTES = 2**31
"""Of one tensor inside the graph for one image. A 4096 x 4096 image with 64 channels in float16 has as many."""
MAX_OPERATIONS = 10**13
"""Multiply-adds of one node for one image: a minute or more on a CPU. ViT-22B needs 10^13 in all its nodes."""
MAX_FIXED_BATCH = 4096
"""A runner fills up a fixed batch, so one image costs as much as all of them."""
MAX_SHAPE_VALUES = 100_000
"""Elements of a joined vector of integers that shape inference follows; a shape has as many as a tensor has axes."""
MAX_RANK = 64
"""As many axes as NumPy allows. Shape inference writes them out for every node."""
SMALL_BYTES = 1024
"""Weights up to this size may be shapes; of larger ones inference needs only dimensions and types."""

_FOLLOWED = frozenset(
    ("Add", "Cast", "Concat", "Div", "Gather", "Identity", "Mul", "Slice", "Squeeze", "Sub", "Unsqueeze")
)
"""Operators through which shape inference computes the values of shapes (onnx's data propagation)."""


def refuse_unbounded_sizes(model: onnx.ModelProto, source: str) -> None:
    """InputError for a tensor or a node too large for any machine, and for shapes that contradict each other.

    ``model`` has passed the checker and ``refuse_unbounded_structure``; only static shapes can be bounded. A free
    batch counts as one image.
    """
    skeleton = without_weights(model)
    weights = {tensor.name for tensor in skeleton.graph.initializer}
    for value in skeleton.graph.input:
        shape = value.type.tensor_type.shape
        if value.name in weights or not shape.dim:
            continue
        if shape.dim[0].dim_value > MAX_FIXED_BATCH:
            raise InputError(f"{source}: accepts only batches of {shape.dim[0].dim_value}; export it with a free batch")
        if not shape.dim[0].dim_value:
            shape.dim[0].dim_value = 1
    for value in skeleton.graph.output:
        value.type.tensor_type.ClearField("shape")  # it may name the free batch
    try:
        if skeleton.functions:
            skeleton = inliner.inline_local_functions(skeleton)
        _ShapeValues(source).follow(skeleton.graph)
        graph = onnx.shape_inference.infer_shapes(skeleton, data_prop=True).graph
    except InputError:
        raise
    except Exception as exc:  # besides InferenceError they raise whatever their C++ does
        raise InputError(f"{source}: its shapes cannot be inferred ({one_line(exc, 160)}); export it again") from exc
    dims: dict[str, tuple[int, ...]] = {}
    for part in _graphs(graph):
        dims |= {tensor.name: tuple(tensor.dims) for tensor in part.initializer}
        for value in (*part.input, *part.value_info, *part.output):
            _refuse_large(value, dims, source)
    for part in _graphs(graph):
        for node in part.node:
            if (operations := _operations(node, dims)) > MAX_OPERATIONS:
                raise InputError(
                    f"{source}: node {node.name or node.op_type} ({node.op_type}) takes {operations:.3g} multiply-adds "
                    "for one batch; export a model for images of an ordinary size"
                )


def without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of ``model`` whose large weights have no values: shape inference needs only dimensions and types."""
    graph = model.graph
    bare = helper.make_graph(graph.node, graph.name, graph.input, graph.output, value_info=graph.value_info)
    for tensor in graph.initializer:
        small = tensor.ByteSize() <= SMALL_BYTES
        kept = tensor if small else TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
        bare.initializer.append(kept)
    found = onnx.ModelProto(ir_version=model.ir_version, graph=bare)
    found.opset_import.extend(model.opset_import)
    found.functions.extend(model.functions)
    return found


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for inner in subgraphs(node):
            yield from _graphs(inner)


def _refuse_large(value: onnx.ValueInfoProto, dims: dict[str, tuple[int, ...]], source: str) -> None:
    """Add the static shape of ``value`` to ``dims``."""
    tensor = value.type.tensor_type
    if not tensor.HasField("shape") or not all(dim.HasField("dim_value") for dim in tensor.shape.dim):
        return
    found = tuple(dim.dim_value for dim in tensor.shape.dim)
    if -1 in found:  # Paddle's way to say that a size is free
        return
    if min(found, default=0) < 0:
        raise InputError(f"{source}: tensor {value.name} has the negative dimensions {list(found)}; export it again")
    if (size := math.prod(found) * _bytes_per_element(tensor.elem_type)) > MAX_TENSOR_BYTES:
        raise InputError(
            f"{source}: tensor {value.name} {list(found)} takes {size / 2**30:.3g} GiB for one batch; "
            "export a model for images of an ordinary size"
        )
    dims[value.name] = found


class _ShapeValues:
    """Follows the lengths of integer vectors and the number of axes through a graph, as upper bounds.

    Shape inference writes both out at every node, so a few nodes that double them would fill any memory.
    """

    def __init__(self, source: str) -> None:
        self.source = source
        self.length: dict[str, int] = {}
        self.rank: dict[str, int] = {}

    def follow(self, graph: onnx.GraphProto) -> None:
        for tensor in graph.initializer:
            self.rank[tensor.name] = len(tensor.dims)
            self.length[tensor.name] = _vector_length(tensor)
        for value in graph.input:
            self.rank.setdefault(value.name, len(value.type.tensor_type.shape.dim))
        for node in graph.node:
            for inner in subgraphs(node):
                self.follow(inner)
            length, rank = self._length(node), self._rank(node)
            if length > MAX_SHAPE_VALUES or rank > MAX_RANK:
                what = f"{rank} axes" if rank > MAX_RANK else f"a shape of {length} values"
                raise InputError(f"{self.source}: node {node.name or node.op_type} makes {what}; export it again")
            for name in node.output:
                self.length[name], self.rank[name] = length, rank

    def _length(self, node: onnx.NodeProto) -> int:
        lengths = [self.length.get(name, 0) for name in node.input]
        if node.op_type == "Concat":
            return sum(lengths)
        if node.op_type == "Shape":
            return self.rank.get(node.input[0], MAX_RANK)
        if node.op_type == "Gather" and len(lengths) > 1:
            return max(lengths[1], 1)  # of a scalar index: one value
        if node.op_type == "Constant":
            return max((_vector_length(a.t) or len(a.ints) for a in node.attribute), default=0)
        # A long vector of indices is no shape, and only a Concat makes one longer.
        return min(max(lengths, default=0), MAX_SHAPE_VALUES) if node.op_type in _FOLLOWED else 0

    def _rank(self, node: onnx.NodeProto) -> int:
        ranks = [self.rank.get(name, 0) for name in node.input]
        second = self.length.get(node.input[1], 0) if len(node.input) > 1 else 0
        attributes = {attribute.name: attribute for attribute in node.attribute}
        if node.op_type == "Constant":
            return max((len(a.t.dims) for a in node.attribute), default=0)
        if node.op_type in ("Reshape", "Expand"):
            own = ranks[:1] if node.op_type == "Expand" else []
            return max([second, *own], default=0)
        if node.op_type == "ConstantOfShape":
            return self.length.get(node.input[0], 0) if node.input else 0
        if node.op_type == "Unsqueeze":
            axes = len(attributes["axes"].ints) if "axes" in attributes else second
            return max(ranks, default=0) + axes
        if node.op_type in ("Gather", "GatherND"):
            return sum(ranks)
        if node.op_type == "Einsum":
            return len(attributes["equation"].s) if "equation" in attributes else 0
        return max(ranks, default=0) + (node.op_type in ("OneHot", "ConcatFromSequence"))


def _vector_length(tensor: TensorProto) -> int:
    integer = tensor.data_type in (TensorProto.INT64, TensorProto.INT32)
    return math.prod(tensor.dims) if integer and len(tensor.dims) == 1 else 0


def _operations(node: onnx.NodeProto, dims: dict[str, tuple[int, ...]]) -> int:
    """Multiply-adds of a node, 0 where they are unknown or as few as its outputs have elements."""
    outputs = math.prod(dims.get(node.output[0], (0,))) if node.output else 0
    shapes = [dims.get(name, ()) for name in node.input[:2]]
    attributes = {attribute.name: attribute for attribute in node.attribute}
    if node.op_type in ("Conv", "ConvTranspose") and len(shapes) > 1 and shapes[1]:
        per_element = math.prod(shapes[1][1:])
        return (math.prod(shapes[0]) if node.op_type == "ConvTranspose" else outputs) * per_element
    if node.op_type in ("MatMul", "Gemm") and shapes[0]:
        columns = 0 if "transA" in attributes and attributes["transA"].i else -1
        return outputs * shapes[0][columns]
    if "kernel_shape" in attributes:
        return outputs * int(math.prod(attributes["kernel_shape"].ints))
    if node.op_type == "LRN" and "size" in attributes:
        return outputs * int(attributes["size"].i)
    return outputs


def _bytes_per_element(elem_type: int) -> int:
    try:
        return int(helper.tensor_dtype_to_np_dtype(elem_type).itemsize)
    except KeyError:
        return 1
