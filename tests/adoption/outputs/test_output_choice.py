"""Which output holds the scores, and what each of the others is refused for."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from alexnet_deploy.adoption.adopt import adopt
from alexnet_deploy.adoption.import_options import ImportOptions
from alexnet_deploy.errors import DeployError, InputError, UsageError
from tests.helpers.models.foreign_models import FOREIGN, MEAN, STD
from tests.helpers.models.score_endings import EXACT, SOFTMAX, answers, save

SCORES = "float[N,5] y"


@pytest.mark.parametrize(
    ("ending", "outputs"),
    [
        (f"{SOFTMAX}; label = ArgMax <axis = 1, keepdims = 0> (y)", f"int64[N] label, {SCORES}"),
        ("y = Softmax <axis = 1> (z); raw = Identity (z)", f"float[N,5] raw, {SCORES}"),
        ("p = Softmax <axis = 1> (z); y = ArgMax <axis = 1, keepdims = 0> (p)", "int64[N] y"),
        ("p = Softmax <axis = 1> (z); l = ArgMax <axis = 1> (p); y = Cast <to = 6> (l)", "int32[N,1] y"),
        ("p = Softmax <axis = 1> (z); y, i = TopK <axis = 1> (p, axis2)", "float[N,2] y, int64[N,2] i"),
    ],
    ids=["beside a label", "beside its logits", "argmax", "argmax as int32", "top-k"],
)
def test_what_is_found_without_a_name(ending: str, outputs: str, tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    expected_NK, _ = answers(save(tmp_path / "plain", SOFTMAX))
    found_NK, _ = answers(save(tmp_path, ending, outputs))
    np.testing.assert_allclose(found_NK, expected_NK, rtol=0, atol=EXACT)


@pytest.mark.parametrize("name", ["main", "side"])
def test_one_of_several_heads(name: str, tmp_path: Path) -> None:
    """GoogLeNet's auxiliary heads, a second task: only the user knows which."""
    heads = "main = Softmax <axis = 1> (z); n = Mul (z, half); side = Softmax <axis = 1> (n)"
    source = save(tmp_path, heads, "float[N,5] main, float[N,5] side")
    message = (
        "has 2 outputs that may hold the class scores (main float [N, 5], side float [N, 5]); choose one with `outp"
    )
    with pytest.raises(InputError, match=re.escape(message)):
        adopt(source, tmp_path / "out", FOREIGN)
    found_NK, _ = answers(source, ImportOptions(MEAN, STD, output_name=name))
    (tmp_path / "plain").mkdir()
    plain = SOFTMAX if name == "main" else "n = Mul (z, half); y = Softmax <axis = 1> (n)"
    np.testing.assert_allclose(found_NK, answers(save(tmp_path / "plain", plain))[0], rtol=0, atol=EXACT)


def test_a_name_that_it_lacks(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"`output_name` scores: .* no such output; choose one of y float \[N, 5\]"):
        adopt(save(tmp_path, SOFTMAX), tmp_path / "out", ImportOptions(MEAN, STD, output_name="scores"))


def with_zip_map(source: Path, *, label: bool) -> Path:
    """``source`` as Core ML's and scikit-learn's converters leave it: a map from labels to scores, and the label."""
    model = onnx.load(source)
    graph = model.graph
    nodes = [helper.make_node("ZipMap", ["y"], ["map"], "zip", domain="ai.onnx.ml", classlabels_int64s=list(range(5)))]
    outputs = [
        onnx.ValueInfoProto(
            name="map",
            type=helper.make_sequence_type_proto(
                helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
            ),
        )
    ]
    if label:
        nodes.insert(0, helper.make_node("ArgMax", ["y"], ["label"], "label", axis=1, keepdims=0))
        outputs.insert(0, helper.make_tensor_value_info("label", TensorProto.INT64, ["N"]))
    graph.node.extend(nodes)
    del graph.output[:]
    graph.output.extend(outputs)
    model.opset_import.append(helper.make_opsetid("ai.onnx.ml", 3))
    onnx.save(model, source)
    return source


@pytest.mark.parametrize("label", [False, True])
@pytest.mark.parametrize("opset", [13, 21])
def test_a_zip_map(label: bool, opset: int, tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    expected_NK, _ = answers(save(tmp_path / "plain", SOFTMAX))
    found_NK, _ = answers(with_zip_map(save(tmp_path, SOFTMAX, opset=opset), label=label))
    np.testing.assert_allclose(found_NK, expected_NK, rtol=0, atol=EXACT)


@pytest.mark.parametrize(
    ("ending", "output", "cause"),
    [
        ("y = Cast <to = 7> (z)", "int64[N,5] y", "output y (int64 [N, 5]) holds whole numbers and no scores"),
        ("y = Cast <to = 8> (z)", "string[N,5] y", "output y (string [N, 5]) holds texts and no scores"),
        ("y = SequenceConstruct (z)", "seq(float[N,5]) y", "output y is a sequence, no tensor of scores"),
        ("y = Identity (x)", "float[N,3,4,4] y", "is [1, 3, 4, 4] for one image: scores per position, as of a segment"),
        ("l = ArgMax <axis = 1> (x); y = Identity (l)", "int64[N,1,4,4] y", "scores per position"),
        ("u = Unsqueeze (z, axis1); y = Concat <axis = 1> (u, u)", "float[N,2,5] y", "scores per box or part"),
        ("y = Concat <axis = 0> (z, z)", "float[M,5] y", "is [2, 5] for one image: its first axis is not the batch"),
        ("y = ReduceSum <keepdims = 0> (z)", "float y", "is a single number or of unknown shape"),
        ("r = Relu (x); n = NonZero (r); t = Transpose <perm = [1, 0]> (n); c = Cast <to = 1> (t); "
         "u = Unsqueeze (c, axis0); y = ReduceMax <keepdims = 0> (u, axis2)", "float[M,K] y",
         "has another shape for each image"),
    ],
)  # fmt: skip
def test_each_refusal_names_its_cause(ending: str, output: str, cause: str, tmp_path: Path) -> None:
    with pytest.raises(DeployError, match=re.escape(cause)):
        adopt(save(tmp_path, ending, output), tmp_path / "out", FOREIGN)
    assert not (tmp_path / "out").exists()
