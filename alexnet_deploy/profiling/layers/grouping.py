"""Assign each kernel of a runtime to the layer of the ONNX graph that it computes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from alexnet_deploy.onnx_graph.element_types import COMPUTE_OPS
from alexnet_deploy.profiling.costs import CONVERSIONS, Costs, multiplies
from alexnet_deploy.profiling.layers.counters.kernel_times import Kernel, KernelTimes

_CONVERTING = ("Reorder", "Convert", "Quantize", "Dequantize", "FakeQuantize", "Reformat")
"""Prefixes of the runtimes' own operators that only change types or the order of numbers in memory."""

_VIEWS = frozenset({"Dropout", "Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"})
"""ONNX operators that need not move data; some runtimes copy, others reuse the same memory."""


@dataclass(slots=True)
class LayerKernels:
    """The kernels of one layer, or one conversion (``overhead``)."""

    layer: str
    overhead: bool
    kernels: list[tuple[Kernel, list[str]]]
    """The kernels, each with its nodes, in graph order."""
    costs: Costs = field(repr=False)
    next_layer: str | None = None

    @property
    def us(self) -> list[float]:
        """Time of each call, summed over the kernels."""
        return [sum(times) for times in zip(*(kernel.us for kernel, _ in self.kernels), strict=True)]

    @property
    def flops(self) -> int:
        """2 x multiply-accumulates of one call."""
        return sum(self.costs.flops(nodes) for _, nodes in self.kernels)

    @property
    def main(self) -> Kernel:
        """The kernel that multiplies, or else the slowest one."""
        return max(self.kernels, key=lambda pair: (self.costs.flops(pair[1]), sum(pair[0].us)))[0]

    @property
    def op(self) -> str:
        """The layer's ONNX operators; for overhead the operators of the runtime."""
        if self.overhead:
            return self.main.op
        own = (name for _, nodes in self.kernels for name in nodes if self.costs.layer(name) == self.layer)
        return "+".join(dict.fromkeys(self.costs.nodes[name].op_type for name in own)) or self.main.op

    @property
    def fused(self) -> tuple[str, ...]:
        """Other layers in the same kernel, without conversions of types."""
        inside = (name for _, nodes in self.kernels for name in nodes if not self.costs.converts(name))
        layers = dict.fromkeys(map(self.costs.layer, inside))
        return tuple(layer for layer in layers if layer != self.layer)

    def moved_bytes(self, element_bytes: Mapping[str, float]) -> int | None:
        """Read and written in one call; None if the nodes or types of a kernel are unknown, or no data need move."""
        total = 0.0
        for kernel, nodes in self.kernels:
            sizes = [element_bytes.get(kind) for kind in (kernel.input_type, kernel.weight_type, kernel.output_type)]
            if None in sizes or {self.costs.nodes[name].op_type for name in nodes} <= _VIEWS:
                return None
            counts = self.costs.elements(nodes)
            read, constant, written = (size or 0 for size in sizes)
            total += counts.inputs * read + counts.weights * constant + counts.outputs * written
        return int(total)


def group_kernels(times: KernelTimes, costs: Costs) -> list[LayerKernels]:
    """The kernels of ``times`` by layer, in the order in which they run; every kernel is in exactly one group."""
    groups: dict[str, LayerKernels] = {}
    for kernel, nodes in zip(times.kernels, _nodes_of(times.kernels, costs), strict=True):
        owner = _owner(kernel, nodes, costs)
        # A conversion may have the name of a layer: their groups must stay apart.
        key = f"kernel {kernel.name}" if owner is None else costs.layer(owner)
        group = groups.setdefault(key, LayerKernels(kernel.name if owner is None else key, owner is None, [], costs))
        group.kernels.append((kernel, nodes))
    ordered = list(groups.values())
    following: str | None = None
    for group in reversed(ordered):
        if group.overhead:
            group.next_layer = _fed(group.main, costs) or following
        else:
            following = group.layer
    return ordered


def _fed(kernel: Kernel, costs: Costs) -> str | None:
    """The layer that a conversion feeds, by its name; None if it is named after its input."""
    for source in kernel.sources:
        name = costs.find(source)
        while name is not None and costs.converts(name):
            name = next(iter(costs.readers(name)), None)
            if name is not None and not costs.converts(name):
                return costs.layer(name)
        if name is not None and costs.nodes[name].op_type in COMPUTE_OPS:  # its bias, say
            return costs.layer(name)
    return None


def _owner(kernel: Kernel, nodes: Sequence[str], costs: Costs) -> str | None:
    """The node whose layer takes the kernel's time; None for overhead."""
    for name in nodes:
        if costs.nodes[name].op_type in COMPUTE_OPS:
            return name
    if kernel.op.startswith(_CONVERTING):
        return None
    return next((name for name in nodes if not costs.converts(name)), None)


def _nodes_of(kernels: Sequence[Kernel], costs: Costs) -> Iterator[list[str]]:
    """The nodes that each kernel computes, in graph order; a node belongs to one kernel at most."""
    kernel_of: dict[str, int] = {}
    arithmetic = [index for index, kernel in enumerate(kernels) if multiplies(kernel.op)]
    for index in arithmetic:  # first, because a runtime also names the preparation of a bias or a scale after its node
        named = [name for name in map(costs.find, kernels[index].sources) if name is not None]
        # ONNX Runtime names a fused convolution after the output of the activation that follows it.
        walk = None if any(map(costs.multiplies, named)) else next(iter(named), None)
        while walk is not None and not costs.multiplies(walk):
            walk = costs.before(walk)
        for name in (*named, *filter(None, [walk])):
            kernel_of.setdefault(name, index)
    known = {kernel_of[name] for name in kernel_of if costs.multiplies(name)}
    nameless = [index for index in arithmetic if index not in known]
    unclaimed = [name for name in costs.nodes if costs.multiplies(name) and name not in kernel_of]
    if len(nameless) == len(unclaimed):  # OpenVINO names a product whose operands were float8 after its scales
        kernel_of.update(zip(unclaimed, nameless, strict=True))
    for index, kernel in enumerate(kernels):
        for source in kernel.sources:
            found = costs.find(source)
            if found is None or (costs.multiplies(found) and found != source):
                continue
            # A conversion is named after the tensor that it converts, not after the node that computed it.
            if costs.nodes[found].op_type in CONVERSIONS or not kernel.op.startswith((*_CONVERTING, "Cast")):
                kernel_of.setdefault(found, index)
    for name in costs.nodes:
        before = costs.before(name)
        if name not in kernel_of and before in kernel_of:
            kernel_of[name] = kernel_of[before]
    for name in reversed(costs.nodes):  # nodes before the first kernel belong to it
        readers = [kernel_of[reader] for reader in costs.readers(name) if reader in kernel_of]
        if name not in kernel_of and readers:
            kernel_of[name] = min(readers)
    for index in range(len(kernels)):
        yield [name for name in costs.nodes if kernel_of.get(name) == index]
