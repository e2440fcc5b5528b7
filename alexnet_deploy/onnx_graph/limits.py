"""Bounds on the work that a foreign ONNX file can cause: checked before any library follows its structure.

A small file can describe an endless loop, functions that expand to gigabytes, or a tensor that no memory holds. The
parsers and runtimes below us do what it says, so what has no bound is refused here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import onnx
from onnx import AttributeProto

from alexnet_deploy.errors import InputError

MAX_MODEL_BYTES = 2**31 - 1
"""Protobuf cannot write more, so no bundle could hold it."""
MAX_NODES = 100_000
"""With the nodes of subgraphs and of expanded functions. The largest classifiers have some ten thousand."""
MAX_DEPTH = 32
"""Of subgraphs in subgraphs, and of functions that call functions. onnx and the runtimes recurse into both."""
STANDARD_DOMAINS = ("", "ai.onnx")
_ENDLESS = frozenset({"Loop", "Scan", "SequenceMap"})


def refuse_unbounded_structure(model: onnx.ModelProto, source: str) -> None:
    """InputError for a model of too many nodes, too deep nesting, recursive functions, or loops."""
    _Structure(model, source).check()


@dataclass(frozen=True, slots=True)
class _Expanded:
    """What a graph or a function becomes when all functions are inlined."""

    nodes: int = 0
    size: int = 0


@dataclass(slots=True)
class _Structure:
    model: onnx.ModelProto
    source: str
    functions: dict[tuple[str, str, str], onnx.FunctionProto] = field(default_factory=dict)
    expanded: dict[tuple[str, str, str], _Expanded] = field(default_factory=dict)

    def check(self) -> None:
        for function in self.model.functions:
            key = (_domain(function.domain), function.name, function.overload)
            if key in self.functions:
                raise self._refusal(f"function {function.name} is defined twice")
            self.functions[key] = function
        whole = self._expand(self.model.graph.node, 0, ())
        for key, function in self.functions.items():  # also those that nothing calls: the checker follows them
            self._function(key, function, 0, ())
        self._require_small(whole)

    def _expand(
        self, nodes: Iterable[onnx.NodeProto], depth: int, callers: tuple[tuple[str, str, str], ...]
    ) -> _Expanded:
        if depth > MAX_DEPTH:
            raise self._refusal(f"its subgraphs and functions are nested more than {MAX_DEPTH} deep")
        count = size = 0
        for node in nodes:
            domain = _domain(node.domain)
            key = (domain, node.op_type, node.overload)
            function = self.functions.get(key)
            if function is None and not domain and node.op_type in _ENDLESS:
                raise InputError(
                    f"{self.source}: node {node.name or node.op_type}: the work of a {node.op_type} has no bound; "
                    "export the model without it (unrolled)"
                )
            own = node.ByteSize()
            count, size = count + 1, size + own
            if function is not None:
                inner = self._function(key, function, depth, callers)
                # An attribute of the call may stand in every node of the body.
                count, size = count + inner.nodes, size + inner.size + own * inner.nodes
            for graph in subgraphs(node):
                inner = self._expand(graph.node, depth + 1, callers)
                count, size = count + inner.nodes, size + inner.size
            self._require_small(_Expanded(count, size))
        return _Expanded(count, size)

    def _function(
        self,
        key: tuple[str, str, str],
        function: onnx.FunctionProto,
        depth: int,
        callers: tuple[tuple[str, str, str], ...],
    ) -> _Expanded:
        if key in callers:
            raise self._refusal(f"function {function.name} calls itself")
        if key not in self.expanded:
            self.expanded[key] = self._expand(function.node, depth + 1, (*callers, key))
        return self.expanded[key]

    def _require_small(self, found: _Expanded) -> None:
        if found.nodes > MAX_NODES or found.size > MAX_MODEL_BYTES:
            raise self._refusal(f"with its functions it has more than {MAX_NODES} nodes or {MAX_MODEL_BYTES >> 20} MiB")

    def _refusal(self, cause: str) -> InputError:
        return InputError(f"{self.source}: {cause}; export it again")


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The branches or the body of a node with control flow."""
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            yield attribute.g
        yield from attribute.graphs


def _domain(domain: str) -> str:
    return "" if domain in STANDARD_DOMAINS else domain
