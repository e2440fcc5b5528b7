"""A classifier answers the same in whatever form its graph returns the probabilities."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import parser

from alexnet_deploy.adoption.adopt import adopt_with_notes
from alexnet_deploy.onnx_graph.onnx_file import load_onnx
from tests.helpers.models.foreign_models import FOREIGN
from tests.helpers.models.graphs import run_graph
from tests.helpers.models.score_endings import EXACT, F32, HALF, MAPS, SIGMOID, SOFTMAX, answers, save


@pytest.fixture(scope="module", params=["onnxruntime", "openvino"])
def runtime(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def expected(runtime: str, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], NDArray[np.float64]]:
    """What the plain model answers that ends in the operator of this text."""
    folder, found = tmp_path_factory.mktemp("plain"), dict[str, NDArray[np.float64]]()

    def answer(ending: str) -> NDArray[np.float64]:
        if ending not in found:
            found[ending], _ = answers(save(folder, ending), runtime=runtime)
        return found[ending]

    return answer


STEP = 0.02
"""Logits on steps of 0.1 are right to 0.05, and p changes at most a quarter as much; p itself has steps of 1/255."""

ENDINGS: dict[str, tuple[str, float]] = {
    "log-softmax": ("y = LogSoftmax <axis = 1> (z)", EXACT),
    "log of softmax": ("p = Softmax <axis = 1> (z); y = Log (p)", EXACT),
    "exp of log-softmax": ("p = LogSoftmax <axis = 1> (z); y = Exp (p)", EXACT),
    "clip": ("p = Softmax <axis = 1> (z); y = Clip (p, tiny, almost_one)", EXACT),
    "clip to 0..1": ("p = Softmax <axis = 1> (z); y = Clip (p, zero, one)", EXACT),
    "percent": ("p = Softmax <axis = 1> (z); y = Mul (hundred, p)", EXACT),
    "percent by division": ("p = Softmax <axis = 1> (z); y = Div (p, hundredth)", EXACT),
    "percent of a softmax spelt out": (
        "e = Exp (z); s = ReduceSum (e, axis1); p = Div (e, s); y = Mul (p, hundred)", EXACT),
    "dropout": ("p = Softmax <axis = 1> (z); y = Dropout (p, ratio)", EXACT),
    "identity": ("p = Softmax <axis = 1> (z); y = Identity (p)", EXACT),
    "reshape": ("p = Softmax <axis = 1> (z); y = Reshape (p, row)", EXACT),
    "unsqueeze, squeeze": ("p = Softmax <axis = 1> (z); u = Unsqueeze (p, axis0); y = Squeeze (u, axis0)", EXACT),
    "softmax over [N,1,K]": ("u = Unsqueeze (z, axis1); p = Softmax <axis = 2> (u); y = Squeeze (p, axis1)", EXACT),
    "softmax of [K,N]": (
        "t = Transpose <perm = [1, 0]> (z); p = Softmax <axis = 0> (t); y = Transpose <perm = [1, 0]> (p)", EXACT),
    "concat of one": ("p = Softmax <axis = 1> (z); y = Concat <axis = 1> (p)", EXACT),
    "split and concat": (
        "p = Softmax <axis = 1> (z); a, b = Split <axis = 1> (p, parts); y = Concat <axis = 1> (a, b)", EXACT),
    "slice of all": ("p = Softmax <axis = 1> (z); y = Slice (p, axis0, k, axis1)", EXACT),
    "gather of all": ("p = Softmax <axis = 1> (z); y = Gather <axis = 1> (p, all)", EXACT),
    "matrix of ones": ("p = Softmax <axis = 1> (z); y = MatMul (p, identity)", EXACT),
    "maximum with 0": ("p = Softmax <axis = 1> (z); y = Max (p, zero)", EXACT),
    "mean of two": ("p = Softmax <axis = 1> (z); q = Softmax <axis = 1> (z); y = Mean (p, q)", EXACT),
    "spelt out": ("e = Exp (z); s = ReduceSum (e, axis1); y = Div (e, s)", EXACT),
    "spelt out, stable": (
        "m = ReduceMax (z, axis1); d = Sub (z, m); e = Exp (d); s = ReduceSum (e, axis1); y = Div (e, s)", EXACT),
    "spelt out, reciprocal": ("e = Exp (z); s = ReduceSum (e, axis1); r = Reciprocal (s); y = Mul (e, r)", EXACT),
    "logsumexp": ("l = ReduceLogSumExp (z, axis1); d = Sub (z, l); y = Exp (d)", EXACT),
    "temperature": ("h = Mul (z, half); t = Div (h, half); y = Softmax <axis = 1> (t)", EXACT),
    "softmax beside its argmax": (
        "y = Softmax <axis = 1> (z); label = ArgMax <axis = 1, keepdims = 0> (y)", EXACT),
    "float16 around": ("h = Cast <to = 10> (z); p = Softmax <axis = 1> (h); y = Cast <to = 1> (p)", HALF),
    "float16 behind": ("p = Softmax <axis = 1> (z); h = Cast <to = 10> (p); y = Cast <to = 1> (h)", HALF),
    "float16 behind a softmax spelt out": (
        "e = Exp (z); s = ReduceSum (e, axis1); p = Div (e, s); h = Cast <to = 10> (p); y = Cast <to = 1> (h)", HALF),
    "double": ("d = Cast <to = 11> (z); p = Softmax <axis = 1> (d); y = Cast <to = 1> (p)", EXACT),
    "int8 behind": (
        "p = Softmax <axis = 1> (z); q = QuantizeLinear (p, q_scale, q_zero); "
        "y = DequantizeLinear (q, q_scale, q_zero)", STEP),
    "int8 around": (
        "a = QuantizeLinear (z, z_scale, z_zero); b = DequantizeLinear (a, z_scale, z_zero); "
        "p = Softmax <axis = 1> (b); q = QuantizeLinear (p, q_scale, q_zero); "
        "y = DequantizeLinear (q, q_scale, q_zero)", STEP),
}  # fmt: skip


@pytest.mark.parametrize("name", ENDINGS)
def test_a_softmax_in_any_form(
    name: str, runtime: str, expected: Callable[[str], NDArray[np.float64]], tmp_path: Path
) -> None:
    ending, tolerance = ENDINGS[name]
    output = "float[N,5] y, int64[N] label" if "label" in ending else "float[N,5] y"
    found_NK, activation = answers(save(tmp_path, ending, output), runtime=runtime)
    assert activation == "softmax"
    np.testing.assert_allclose(found_NK, expected(SOFTMAX), rtol=0, atol=tolerance)
    assert np.ptp(found_NK) > 0.5, "flat probabilities would prove nothing"


def test_a_network_of_float16_loses_its_softmax_as_well(
    expected: Callable[[str], NDArray[np.float64]], tmp_path: Path
) -> None:
    """With ``keep_io_types`` of onnxconverter_common: no Cast behind the softmax says that it is rounded."""
    body = "h = Cast <to = 10> (x); wh = Cast <to = 10> (w); f = Flatten (h); z = Gemm <transB = 1> (f, wh)"
    source = save(tmp_path, "p = Softmax <axis = 1> (z); y = Cast <to = 1> (p)", body=body)
    found_NK, _ = answers(source)
    # Besides the rounding of the logits, 48 products of rounded pixels and weights.
    np.testing.assert_allclose(found_NK, expected(SOFTMAX), rtol=0, atol=2 * HALF)
    operators = [node.op_type for node in load_onnx(source.with_suffix(".adopted.onnx")).graph.node]
    assert operators[-3:] == ["Gemm", "Flatten", "Cast"]


@pytest.mark.parametrize(
    ("ending", "output"),
    [
        ("y = Softmax <axis = 1> (m)", "float[N,5,1,1] y"),
        ("p = Softmax <axis = 1> (m); y = Transpose <perm = [0, 2, 3, 1]> (p)", "float[N,1,1,5] y"),
        ("t = Transpose <perm = [0, 2, 3, 1]> (m); y = Softmax <axis = 3> (t)", "float[N,1,1,5] y"),
        ("r = Reshape (m, row3); y = Softmax <axis = 2> (r)", "float[N,1,5] y"),
        ("p = Softmax <axis = 1> (m); y = Squeeze (p)", "float[K] y"),
        ("f = Flatten (m); p = Softmax <axis = 1> (f); h = Cast <to = 10> (p); y = Identity (h)", "float16[N,5] y"),
        ("f = Flatten (m); d = Cast <to = 11> (f); y = Softmax <axis = 1> (d)", "double[N,5] y"),
        (
            "f = Flatten (m); p = Softmax <axis = 1> (f); y = QuantizeLinear (p, q_scale, q_zero)",
            "uint8[N,5] y",
        ),
    ],
    ids=["N,K,1,1", "N,1,1,K", "channels last", "N,1,K", "K", "float16", "double", "quantised"],
)
@pytest.mark.parametrize("batch", ["N", "1"])
def test_shapes_and_types(
    ending: str, output: str, batch: str, expected: Callable[[str], NDArray[np.float64]], runtime: str, tmp_path: Path
) -> None:
    source = save(tmp_path, ending, output.replace("N", batch), body=MAPS, batch=batch)
    found_NK, activation = answers(source, runtime=runtime)
    assert activation == "softmax"
    tolerance = HALF if "float16" in output else EXACT
    np.testing.assert_allclose(found_NK, expected(SOFTMAX), rtol=0, atol=tolerance)


def test_a_softmax_within_a_function(expected: Callable[[str], NDArray[np.float64]], tmp_path: Path) -> None:
    function = parser.parse_function(
        '<domain: "my", opset_import: ["" : 21]> Scores (a) => (c) { b = Softmax <axis = 1> (a) c = Identity (b) }'
    )
    found_NK, _ = answers(save(tmp_path, "y = my.Scores (z)", functions=[function]))
    np.testing.assert_allclose(found_NK, expected(SOFTMAX), rtol=0, atol=EXACT)


def test_what_is_no_softmax_of_the_scores_stays_as_the_model_says(tmp_path: Path) -> None:
    """A softmax twice, as a training framework adds to a model that has one, gives flat probabilities."""
    twice_NK, _ = answers(save(tmp_path, "p = Softmax <axis = 1> (z); y = Softmax <axis = 1> (p)"))
    by_hand_NK = np.exp(answers(save(tmp_path, SOFTMAX))[0])
    np.testing.assert_allclose(twice_NK, by_hand_NK / by_hand_NK.sum(axis=1, keepdims=True), rtol=0, atol=EXACT)
    mixed_NK, _ = answers(save(tmp_path, "p = Softmax <axis = 1> (z); s = Mul (p, mix); y = Add (s, rest)"))
    np.testing.assert_allclose(mixed_NK, 0.9 * answers(save(tmp_path, SOFTMAX))[0] + 0.02, rtol=0, atol=EXACT)


@pytest.mark.parametrize("ending", ["y = Neg (z)", "y = Relu (z)", "y = Mul (z, half)", "y = Identity (z)"])
def test_logits_stay_logits(ending: str, tmp_path: Path) -> None:
    source = save(tmp_path, ending)
    assert answers(source)[1] == "softmax"
    assert {node.op_type for node in load_onnx(source.with_suffix(".adopted.onnx")).graph.node}.isdisjoint({"Log"})


def test_a_graph_that_ends_in_a_softmax_loses_it_and_keeps_its_precision(tmp_path: Path) -> None:
    source = save(tmp_path, "p = Softmax <axis = 1> (z); h = Cast <to = 10> (p); y = Cast <to = 1> (h)")
    answers(source)
    operators = [node.op_type for node in load_onnx(source.with_suffix(".adopted.onnx")).graph.node]
    assert operators[-2:] == ["Gemm", "Flatten"]


STEPS = {
    "shape": st.sampled_from([
        "{y} = Identity ({x})", "{y} = Reshape ({x}, row)", "{y} = Flatten ({x})", "{y} = Dropout ({x}, ratio)",
        "{y}u = Unsqueeze ({x}, axis1); {y} = Squeeze ({y}u, axis1)",
        "{y}t = Transpose <perm = [1, 0]> ({x}); {y} = Transpose <perm = [1, 0]> ({y}t)",
        "{y}d = Cast <to = 11> ({x}); {y} = Cast <to = 1> ({y}d)",
        "{y} = Concat <axis = 1> ({x})", "{y} = Gather <axis = 1> ({x}, all)", "{y} = Max ({x}, zero)",
    ]),
    "scale": st.sampled_from([
        "{y}a = Mul ({x}, hundred); {y} = Div ({y}a, hundred)", "{y}a = Mul (half, {x}); {y} = Mul ({y}a, two)",
    ]),
}  # fmt: skip


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    steps=st.lists(st.one_of(*STEPS.values()), max_size=5),
    percent=st.booleans(),
    plain=st.sampled_from([SOFTMAX, SIGMOID]),
)
def test_any_steps_behind_a_softmax_or_a_sigmoid(
    steps: list[str], percent: bool, plain: str, plain_answers: dict[str, NDArray[np.float64]], tmp_path: Path
) -> None:
    """Shape, type and scale in any order; a constant factor that is not undone is percent."""
    text = plain.replace("y =", "p0 =")
    for i, step in enumerate(steps):
        text += "; " + step.format(x=f"p{i}", y=f"p{i + 1}")
    # Percent of sigmoids cannot be told from other scores where Gather or Max hide the sigmoid.
    percent = percent and (plain == SOFTMAX or not any("Gather" in s or "Max" in s or "Concat" in s for s in steps))
    text += f"; y = {f'Mul (p{len(steps)}, hundred)' if percent else f'Identity (p{len(steps)})'}"
    found_NK, activation = answers(save(tmp_path, text))
    assert activation == ("softmax" if plain == SOFTMAX else "sigmoid")
    np.testing.assert_allclose(found_NK, plain_answers[plain], rtol=0, atol=EXACT)


@pytest.fixture(scope="module")
def plain_answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, NDArray[np.float64]]:
    folder = tmp_path_factory.mktemp("plain")
    return {plain: answers(save(folder, plain))[0] for plain in (SOFTMAX, SIGMOID)}


@pytest.mark.parametrize(
    ("ending", "activation"),
    [
        (SOFTMAX, "softmax"),
        ("p = Softmax <axis = 1> (z); h = Cast <to = 10> (p); c = Cast <to = 1> (h); y = Mul (c, hundred)", "softmax"),
        (SIGMOID, "sigmoid"),
        ("y = Identity (z)", "softmax"),
    ],
)
def test_without_onnx_runtime_the_operators_decide(
    ending: str, activation: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "alexnet_deploy.onnx_graph.taps", None)
    contract, notes = adopt_with_notes(save(tmp_path, ending), tmp_path / "out", FOREIGN)
    assert contract.activation == activation
    operators = [node.op_type for node in load_onnx(tmp_path / "out").graph.node]
    assert operators[-2:] == ["Gemm", "Flatten"] if "Identity" not in ending else operators[-1] == "Flatten"
    (note,) = [note for note in notes if "not measured" in note]
    assert "ONNX Runtime is not installed" in note


def test_images_that_overflow_hide_nothing(tmp_path: Path) -> None:
    """Some logits exceed 88, the largest whose power fits into float32; the other images show a softmax."""
    source = save(tmp_path, "m = Mul (z, ten); e = Exp (m); s = ReduceSum (e, axis1); y = Div (e, s)")
    assert np.isnan(run_graph(onnx.load(source), x=np.full((1, 3, 4, 4), 40, F32))[0]).any()
    _, notes = adopt_with_notes(source, tmp_path / "out", FOREIGN)
    assert "output y holds probabilities: the graph now ends in their log" in notes


def test_a_note_says_what_was_appended(tmp_path: Path) -> None:
    _, notes = adopt_with_notes(save(tmp_path, ENDINGS["spelt out"][0]), tmp_path / "out", FOREIGN)
    assert "output y holds probabilities: the graph now ends in their log" in notes
