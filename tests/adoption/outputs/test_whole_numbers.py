"""Scores that went through an activation, and then through a scale or a rounding that hides it."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest

from alexnet_deploy.errors import InputError
from tests.helpers.models.foreign_models import FOREIGN, graph_of
from tests.helpers.models.score_endings import BODY, CONSTANTS, SIGMOID, SOFTMAX, answers, save

SOFTMAX_P = "p = Softmax <axis = 1> (z)"
ROUNDED = 0.0051
"""Percent without decimals: half a point, and what float32 adds."""
WHOLE_NUMBERS = {
    "rounded percent": (f"{SOFTMAX_P}; c = Mul (p, hundred); y = Round (c)", ROUNDED),
    "percent cut to a byte": (
        f"{SOFTMAX_P}; c = Mul (p, hundred); b = Cast <to = 2> (c); y = Cast <to = 1> (b)",
        0.0101,  # cut, not rounded
    ),
    "steps of a byte": (f"{SOFTMAX_P}; b = QuantizeLinear (p, q_scale, q_zero); y = Cast <to = 1> (b)", 0.0021),
}


@pytest.mark.parametrize("kind", WHOLE_NUMBERS)
def test_probabilities_in_whole_numbers(kind: str, tmp_path: Path) -> None:
    ending, tolerance = WHOLE_NUMBERS[kind]
    plain, _ = answers(save(tmp_path, SOFTMAX))
    found, activation = answers(save(tmp_path, ending))
    assert activation == "softmax"
    np.testing.assert_allclose(found, plain, rtol=0, atol=tolerance)


@pytest.mark.parametrize(
    "ending",
    [
        "n = Neg (z); e = Exp (n); s = Add (e, one); y = Div (hundred, s)",  # a sigmoid in percent, spelt out
        "p = Softmax <axis = 1> (z); c = Mul (p, CONSTANTS); y = Identity (c)",
    ],
)
def test_what_comes_from_an_activation_and_is_neither_is_refused(ending: str, tmp_path: Path) -> None:
    body = ending.replace("CONSTANTS", "odd")
    weights = CONSTANTS | {"odd": np.array([7.0, 3.0, 5.0, 2.0, 4.0], np.float32)}
    used = {name: value for name, value in weights.items() if re.search(rf"\b{name}\b", f"{BODY};{body}")}
    source = graph_of(tmp_path / "net.onnx", f"{BODY}; {body}", used)
    with pytest.raises(InputError, match=r"comes from node \w+ \((Exp|Softmax)\), but holds neither probabilities nor"):
        answers(source)
    logits = answers(source, dataclasses.replace(FOREIGN, activation="softmax"))
    assert logits[1] == "softmax", "as the user says"


def test_scores_of_a_sigmoid_in_whole_percent(tmp_path: Path) -> None:
    plain, _ = answers(save(tmp_path, SIGMOID))
    found, activation = answers(save(tmp_path, "p = Sigmoid (z); c = Mul (p, hundred); y = Round (c)"))
    assert activation == "sigmoid"
    np.testing.assert_allclose(found, plain, rtol=0, atol=ROUNDED)


def test_a_gate_behind_the_last_layer_is_no_activation_of_scores(tmp_path: Path) -> None:
    source = save(tmp_path, "g = Sigmoid (z); y = Mul (z, g)")  # SiLU
    assert answers(source)[1] == "softmax"


@pytest.mark.parametrize(
    "ending",
    [
        "v, i = TopK <axis = 1> (z, k); y = Softmax <axis = 1> (v)",
        "p = Softmax <axis = 1> (z); v, i = TopK (p, k); y = Mul (v, two)",
    ],
)
def test_sorted_scores_are_refused(ending: str, tmp_path: Path) -> None:
    """The comparison cannot find it: the original's scores are sorted as well."""
    with pytest.raises(InputError, match=r"\(TopK\), which sorts the scores"):
        answers(save(tmp_path, ending))


def test_two_activations_of_the_same_logits_are_a_choice(tmp_path: Path) -> None:
    source = save(tmp_path, "y = Sigmoid (z); p = Softmax <axis = 1> (z)", "float[N,5] y, float[N,5] p")
    with pytest.raises(InputError, match="choose one with `output_name`"):
        answers(source)
    assert answers(source, dataclasses.replace(FOREIGN, output_name="p"))[1] == "softmax"
    assert answers(source, dataclasses.replace(FOREIGN, output_name="y"))[1] == "sigmoid"
