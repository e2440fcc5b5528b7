"""Every TensorRT name that this package uses exists in TensorRT 10.16, in 11.4 and in TensorRT-RTX 1.7.

The code is read, not run: an attribute of anything that OBJECTS names must be a member of its class in all three
lists (golden/tensorrt_api_names.json), or stand in GUARDED with the reason why it may be missing. A variable that
takes what TensorRT returns must stand in OBJECTS or VALUES, so none escapes.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

import alexnet_deploy
from alexnet_deploy.runtime.tensorrt.library import kernel_profiler
from alexnet_deploy.runtime.tensorrt.support import RTX_TARGETS
from tests.helpers.repository import ROOT

PACKAGE = Path(alexnet_deploy.__file__).parent
SOURCES = (
    "runtime/tensorrt/library.py",
    "runtime/tensorrt/runner.py",
    "runtime/tensorrt/plans.py",
    "runtime/tensorrt/rtx_kernels.py",
    "build/plan_builder.py",
    "build/plan_config.py",
    "build/callbacks.py",
)
GOLDEN: dict[str, dict[str, list[str]]] = json.loads((ROOT / "tests/golden/tensorrt_api_names.json").read_text())
RTX = next(library for library in GOLDEN if library.startswith("tensorrt_rtx"))

MODULE = ""
OBJECTS = {
    "api": MODULE,
    "builder": "Builder",
    "cache": "ITimingCache",
    "config": "IBuilderConfig",
    "context": "IExecutionContext",
    "engine": "ICudaEngine",
    "error": "ParserError",
    "inspector": "EngineInspector",
    "layer": "IIdentityLayer",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
    "profile": "IOptimizationProfile",
    "runtime": "Runtime",
    "runtime_cache": "IRuntimeCache",
    "runtime_config": "IRuntimeConfig",
    "strategies": "DynamicShapesKernelSpecializationStrategy",
    "tensor": "ITensor",
}
"""Class of each variable or attribute (without leading underscore) that holds something of TensorRT's."""

VALUES = {"built", "kept", "kernels", "kinds", "parsed", "report"}
"""Variables that take a plain value (a bool, names) from TensorRT."""

ONLY_RTX = "only where the library is TensorRT-RTX (build) or hasattr says so (runner)"
GUARDED = {
    (MODULE, "ComputeCapability"): ONLY_RTX,
    ("IBuilderConfig", "num_compute_capabilities"): ONLY_RTX,
    ("IBuilderConfig", "set_compute_capability"): ONLY_RTX,
    (MODULE, "CudaGraphStrategy"): ONLY_RTX,
    ("CudaGraphStrategy", "WHOLE_GRAPH_CAPTURE"): ONLY_RTX,
    ("IRuntimeConfig", "cuda_graph_strategy"): ONLY_RTX,
    ("IRuntimeConfig", "create_runtime_cache"): ONLY_RTX,
    ("IRuntimeConfig", "dynamic_shapes_kernel_specialization_strategy"): ONLY_RTX,
    ("IRuntimeConfig", "set_runtime_cache"): ONLY_RTX,
    ("IRuntimeCache", "deserialize"): ONLY_RTX,
    ("IRuntimeCache", "serialize"): ONLY_RTX,
    (MODULE, "DynamicShapesKernelSpecializationStrategy"): ONLY_RTX,
    ("DynamicShapesKernelSpecializationStrategy", "EAGER"): ONLY_RTX,
    ("DynamicShapesKernelSpecializationStrategy", "LAZY"): ONLY_RTX,
    ("Runtime", "engine_header_size"): ONLY_RTX,
    ("Runtime", "get_engine_validity"): ONLY_RTX,
    (MODULE, "EngineValidity"): ONLY_RTX,
    ("EngineValidity", "INVALID"): ONLY_RTX,
    (MODULE, "EngineInvalidityDiagnostics"): ONLY_RTX,
}

UNLISTED = {(MODULE, "IProfiler"), ("IProfiler", "report_layer_time")}
"""Names that the lists leave out; ``test_a_profiler_of_the_real_library`` asks the library itself."""

Use = tuple[str, str]
"""A class of TensorRT (or MODULE) and a name in it."""


def holder(node: ast.expr) -> str | None:
    """The class of what an expression holds, as far as OBJECTS tells."""
    if isinstance(node, ast.Name):
        return OBJECTS.get(node.id)
    if isinstance(node, ast.Attribute):
        if holder(node.value) == MODULE:
            return node.attr  # api.ILogger
        return OBJECTS.get(node.attr.lstrip("_"))  # self._engine, library.api
    return None


def uses(tree: ast.Module) -> Iterator[Use]:
    """Every name of TensorRT's in a source file; a subclass's methods are names of its base."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and not node.attr.startswith("__"):
            owner = holder(node.value)
            if owner is not None:
                yield owner, node.attr
        elif isinstance(node, ast.ClassDef):
            for base in filter(None, map(holder, node.bases)):
                for member in node.body:
                    if isinstance(member, ast.FunctionDef) and not member.name.startswith("__"):
                        yield base, member.name


def unlisted_variables(tree: ast.Module) -> Iterator[str]:
    """Variables that take the result of a call into TensorRT and that neither OBJECTS nor VALUES lists."""
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Assign)
            and isinstance(node.value, ast.Call)
            and isinstance(node.value.func, ast.Attribute)
            and holder(node.value.func.value) is not None
        ):
            for target in node.targets:
                name = ast.unparse(target).removeprefix("self.").lstrip("_")
                if name not in OBJECTS and name not in VALUES and "," not in name:
                    yield name


def parse(source: str) -> ast.Module:
    return ast.parse((PACKAGE / source).read_text())


@pytest.fixture(params=SOURCES)
def tree(request: pytest.FixtureRequest) -> ast.Module:
    return parse(request.param)


def missing(library: str, used: set[Use]) -> set[Use]:
    known = GOLDEN[library]
    return {(owner, name) for owner, name in used - UNLISTED if name not in known.get(owner, ())}


@pytest.mark.parametrize("library", GOLDEN)
def test_every_name_exists(library: str, tree: ast.Module) -> None:
    used = set(uses(tree))
    assert used, "the walk found nothing: OBJECTS no longer fits the code"
    assert missing(library, used) <= GUARDED.keys()


def test_rtx_has_every_name_guarded_or_not(tree: ast.Module) -> None:
    assert missing(RTX, set(uses(tree))) == set()


def test_no_variable_escapes(tree: ast.Module) -> None:
    assert list(unlisted_variables(tree)) == []


def test_nothing_is_guarded_in_vain() -> None:
    used = {use for source in SOURCES for use in uses(parse(source))}
    assert GUARDED.keys() <= used
    for use in GUARDED:
        assert any(missing(library, {use}) for library in GOLDEN), f"{use} exists everywhere by now"


def test_the_targets_are_those_of_rtx() -> None:
    capabilities = set(GOLDEN[RTX]["ComputeCapability"]) - {"CURRENT", "NONE", "name", "value"}
    assert {target.upper() for target in RTX_TARGETS} == capabilities


def test_the_list_is_that_of_the_installed_library() -> None:
    api = pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed")
    if not api.__version__.startswith(RTX.split()[1]):
        pytest.skip(f"tensorrt_rtx {api.__version__} is not the {RTX} of the list")
    for name, members in GOLDEN[RTX].items():
        owner = getattr(api, name) if name else api
        assert set(members) <= set(dir(owner)), name


def test_a_profiler_of_the_real_library() -> None:
    api = pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed")
    assert {use for source in SOURCES for use in uses(parse(source))} >= UNLISTED
    assert callable(kernel_profiler(api, lambda name, ms: None).report_layer_time)
    assert isinstance(api.IExecutionContext.profiler, property)


def test_the_walk_sees_a_wrong_name() -> None:
    tree = ast.parse("network = builder.create_network(0)\nnetwork.num_outputz\nself._context.execute_async_v9(0)")
    assert missing(RTX, set(uses(tree))) == {
        ("INetworkDefinition", "num_outputz"),
        ("IExecutionContext", "execute_async_v9"),
    }
    assert list(unlisted_variables(ast.parse("mystery = builder.create_network(0)"))) == ["mystery"]
