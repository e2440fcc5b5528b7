"""Our ONNX files: read with every check, the contract in the metadata, written atomically, every node named."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from alexnet_deploy.contract import METADATA_KEY, ModelContract, Precision
from alexnet_deploy.errors import ArtifactError, InputError, one_line, printable
from alexnet_deploy.files import atomic_file, open_regular
from alexnet_deploy.onnx_graph.element_types import QUANTISED, computed_types, weights_alone
from alexnet_deploy.onnx_graph.float32 import widen_to_float32
from alexnet_deploy.onnx_graph.limits import MAX_MODEL_BYTES, STANDARD_DOMAINS, refuse_unbounded_structure
from alexnet_deploy.onnx_graph.sizes import refuse_unbounded_sizes, without_weights
from alexnet_deploy.onnx_graph.weights_data import check_tensors, read_external_data, tensors_of

OPSET = 21
"""The first opset whose Q/DQ allow float16 scales for int8 and float8, which int8+fp16 needs."""
IR_VERSION = 10
"""The IR that goes with opset 21; newer ones are refused by runtimes a year old."""
_OF_A_GEMM = (("Gemm", "MatMul"), ("Gemm/Add", "Add"))
"""Ends of the names of the nodes that int4 makes of a Gemm, and their operators."""
_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)


def load_onnx(path: Path) -> onnx.ModelProto:
    """Read and check an ONNX file with its external data; InputError where it is not a usable model.

    Also refused is what has no bound: loops, functions that expand without end, tensors that no memory holds
    (``limits``). What a runtime does not read is dropped: training, quantisation notes, and in a model of another tool
    the shapes noted between the nodes of standard operators, which may be wrong and are inferred. Such a model's
    bfloat16 and float64 become float32.
    """
    try:
        model = _parse(path)
        if not model.graph.node or not model.graph.output:
            raise InputError(f"{path}: is not an ONNX model, or has no nodes or outputs; export it again")
        refuse_unbounded_structure(model, str(path))
        model.ClearField("training_info")
        model.graph.ClearField("quantization_annotation")
        read_external_data(model, path)
        check_tensors(model)
        onnx.checker.check_model(model)
        if not any(entry.key == METADATA_KEY for entry in model.metadata_props):
            _simplify_foreign(model, str(path))
        else:  # adopted as it is, so what ``save_onnx`` checks must hold already
            onnx.shape_inference.infer_shapes(without_weights(model), check_type=True, strict_mode=True)
        refuse_unbounded_sizes(model, str(path))
    except InputError:
        raise
    except FileNotFoundError as exc:
        raise InputError(f"{path}: no such ONNX file; make it: alexnet-deploy export") from exc
    except IsADirectoryError as exc:
        raise InputError(f"{path}: is a folder, expected an ONNX file; name the .onnx inside") from exc
    except OSError as exc:
        raise InputError(f"{path}: cannot be read ({exc.strerror}); name an .onnx file") from exc
    except Exception as exc:  # besides its ValidationError the checker raises whatever its C++ does
        raise InputError(f"{path}: is not a valid ONNX model ({one_line(exc, 160)}); export it again") from exc
    return model


def _parse(path: Path) -> onnx.ModelProto:
    with open_regular(path) as stream:
        data = stream.read(MAX_MODEL_BYTES + 1)
    if len(data) > MAX_MODEL_BYTES:
        raise ValueError(f"it has more than {MAX_MODEL_BYTES >> 20} MiB")
    model: onnx.ModelProto = onnx.ModelProto.FromString(data)  # onnx.load would choose a format by the file's name
    return model


def _simplify_foreign(model: onnx.ModelProto, source: str) -> None:
    """Not for ours: their noted shapes were inferred, and belong to what ``weights_sha256`` covers."""
    foreign = {name for node in model.graph.node if node.domain not in STANDARD_DOMAINS for name in node.output}
    kept = [onnx.ValueInfoProto.FromString(v.SerializeToString()) for v in model.graph.value_info if v.name in foreign]
    del model.graph.value_info[:]
    model.graph.value_info.extend(kept)
    # No runtime here computes a convolution in these.
    widen_to_float32(model, (TensorProto.BFLOAT16, TensorProto.DOUBLE), source)


def save_onnx(model: onnx.ModelProto, path: Path) -> Path:
    """Check the model and write it as one file, atomically."""
    onnx.checker.check_model(model, full_check=True)
    with atomic_file(path) as temporary:
        onnx.save(model, temporary, format="protobuf")
    return path


def contract_in(model: onnx.ModelProto, *, source: str) -> ModelContract | None:
    """The contract in a model's metadata, or None for a model of another tool.

    Raises ArtifactError if the graph does not have the input and output that the contract promises.
    """
    text = next((entry.value for entry in model.metadata_props if entry.key == METADATA_KEY), None)
    if text is None:
        return None
    contract = ModelContract.from_json(text, source=source)
    pre = contract.preprocessing
    promised = [
        (contract.input_name, TensorProto.UINT8, [pre.height, pre.width, 3]),
        (contract.output_name, TensorProto.FLOAT, [contract.outputs]),
    ]
    if [_interface(value) for value in (*graph_inputs(model), *model.graph.output)] != promised:
        raise ArtifactError(f"{source}: its graph does not match its contract: it was edited; export it again")
    return contract


def _interface(value: onnx.ValueInfoProto) -> tuple[str, int, list[int]]:
    """Name, element type and the sizes after the batch."""
    tensor = value.type.tensor_type
    return value.name, tensor.elem_type, [dim.dim_value for dim in tensor.shape.dim[1:]]


def set_contract(model: onnx.ModelProto, contract: ModelContract) -> None:
    """Put ``contract`` into the model's metadata, in place of an earlier one."""
    kept = {entry.key: entry.value for entry in model.metadata_props}
    onnx.helper.set_model_props(model, kept | {METADATA_KEY: contract.to_json()})


def refuse_nan(model: onnx.ModelProto, source: str) -> None:
    """InputError for a weight that holds NaN. Infinity is allowed: it may be the bound of a Clip."""
    for tensor in tensors_of(model):
        if tensor.data_type in _FLOATS and np.isnan(numpy_helper.to_array(tensor)).any():
            raise InputError(f"{source}: weight {tensor.name} holds NaN; export the model from a sound checkpoint")


def fixed_batch(model: onnx.ModelProto) -> int | None:
    """The only batch size that the model accepts; None: any."""
    dims = graph_inputs(model)[0].type.tensor_type.shape.dim
    return int(dims[0].dim_value) or None


def graph_inputs(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """Inputs that a caller feeds. Old files also list their weights as inputs."""
    weights = {tensor.name for tensor in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in weights]


def name_nodes(model: onnx.ModelProto) -> None:
    """Give every node a unique name in printable characters.

    Some converters skip nameless nodes silently, and a builder's report of its layers breaks at control characters.
    """
    taken: set[str] = set()
    for index, node in enumerate(model.graph.node):
        name = printable(node.name) or f"{node.op_type}_{index}"
        while name in taken:
            name = f"{name}_{index}"
        taken.add(name)
        node.name = name


def initializers(model: onnx.ModelProto) -> dict[str, TensorProto]:
    """The graph's weights by name."""
    return {tensor.name: tensor for tensor in model.graph.initializer}


def weights_sha256(model: onnx.ModelProto) -> str:
    """SHA-256 of what the model computes: graph with weights, opsets and functions, without the file's metadata."""
    parts = (*sorted(model.opset_import, key=lambda opset: opset.domain), *model.functions, model.graph)
    digest = hashlib.sha256()
    for part in parts:
        raw = part.SerializeToString(deterministic=True)
        digest.update(len(raw).to_bytes(8))
        digest.update(raw)
    return digest.hexdigest()


def precision_in(model: onnx.ModelProto) -> Precision:
    """The precision of a typed graph: the types in which its convolutions and matrix products compute.

    int8 or fp8 where both operands of any of them are quantised; +fp16, or fp16, where any computes in float16. int4 or
    int8-weights where any of the latter has a quantised weight.
    """
    computed = frozenset().union(*computed_types(model))
    half = TensorProto.FLOAT16 in computed
    if TensorProto.FLOAT8E4M3FN in computed:
        return "fp8+fp16" if half else "fp8"
    if computed & QUANTISED:
        return "int8+fp16" if half else "int8"
    if half and (stored := weights_alone(model)):
        return "int4" if "int4" in stored else "int8-weights"
    return "fp16" if half else "fp32"


def layer_of(node: onnx.NodeProto) -> str:
    """The PyTorch module of a node of our export (``features.0`` for ``features.0/Conv``), else the node's name."""
    module, _, op = node.name.partition("/")
    ours = op == node.op_type or (op, node.op_type) in _OF_A_GEMM
    return module if module and ours else node.name or node.output[0]
