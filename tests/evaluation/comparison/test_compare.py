"""Two engines on the same pixels: numbers by hand, and the command."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from alexnet_deploy.contract import ModelContract
from alexnet_deploy.errors import InputError, ProofError, UsageError
from alexnet_deploy.evaluation.comparison.compare import (
    ComparedEngine,
    Comparison,
    LogitDifference,
    check_bounds,
    compare,
    gate,
    logit_difference,
)
from alexnet_deploy.onnx_graph.onnx_file import contract_in, load_onnx, save_onnx, set_contract
from tests.helpers.answers import given_answers
from tests.helpers.command import Command
from tests.helpers.models.onnx_models import weights_beside

CONTRACT = ModelContract("any", ("a", "b", "c"), ("a", "b", "c"))
NAN = float("nan")


def difference(a: Any, b: Any) -> LogitDifference:
    return logit_difference(given_answers([-1] * len(a), a, b), CONTRACT)


def comparison(logits: LogitDifference, *, same_graph: bool = False) -> Comparison:
    side = ComparedEngine("any", "fp32", "fake on CPU")
    return Comparison(side, side, same_graph, logits, None)


def test_numbers_by_hand() -> None:
    found = difference([[3, 0, 0], [0, 4, 0]], [[3, 0, 0], [5, 4, 0]])
    assert (found.images, found.disagreements, found.agreement_percent) == (2, 1, 50)
    assert (found.max_abs, found.mean_abs, found.largest_logit) == (5, 5 / 6, 4)
    assert found.relative == 1.25
    assert found.cosine_min == pytest.approx(16 / (4 * 41**0.5))
    assert found.cosine_mean == pytest.approx((1 + 16 / (4 * 41**0.5)) / 2)
    p, q = (np.exp(x) / np.exp(x).sum() for x in (np.array([0.0, 4, 0]), np.array([5.0, 4, 0])))
    assert found.kl_nats == pytest.approx((p * np.log(p / q)).sum() / 2)
    ((worst,),) = (found.worst,)
    assert (worst.file, worst.max_abs, worst.answer_a, worst.answer_b) == (Path("1.jpg"), 5, "b", "a")


def test_equal_logits_leave_nothing_to_show() -> None:
    zeros = [[0, 0, 0], [1, 2, 3]]
    found = difference(zeros, zeros)
    assert (found.max_abs, found.relative, found.kl_nats, found.worst) == (0, 0, 0, ())
    assert found.cosine_min == pytest.approx(1)  # a sum of squares and its root
    gate(comparison(found), max_error=0, min_agreement=100)


def test_what_is_not_finite_is_no_agreement_and_breaks_every_bound() -> None:
    found = difference([[1, 2, 3], [NAN, 0, 0]], [[1, 2, 3], [NAN, 0, 0]])
    assert (found.not_finite_a, found.not_finite_b, found.agreement_percent, found.max_abs) == (1, 1, 50, 0)
    assert (found.worst[0].file, found.worst[0].answer_a) == (Path("1.jpg"), None)
    for bound in ({"max_error": 1e9}, {"min_agreement": 0.0}):
        with pytest.raises(ProofError, match="2 answers are not finite"):
            gate(comparison(found), **bound)
    gate(comparison(found))
    with pytest.raises(InputError, match="no image has finite logits in both"):
        difference([[NAN, 0, 0]], [[1, 2, 3]])


LOGITS = hnp.arrays(np.float32, (4, 3), elements=st.floats(-500, 500, width=32))


@given(a=LOGITS, b=LOGITS)
def test_ranges_of_the_measures(a: NDArray[np.float32], b: NDArray[np.float32]) -> None:
    found = difference(a, b)
    assert 0 <= found.mean_abs <= found.max_abs <= 1000
    assert -1 - 1e-9 <= found.cosine_min <= found.cosine_mean + 1e-9 <= 1 + 1e-8
    assert found.kl_nats >= 0
    assert found.disagreements == sum(int(x.argmax() != y.argmax()) for x, y in zip(a, b, strict=True))
    assert [row.max_abs for row in found.worst] == sorted((row.max_abs for row in found.worst), reverse=True)


def test_the_gate_holds_at_its_bound_and_breaks_beyond() -> None:
    found = difference([[3, 0, 0], [0, 4, 0]], [[3, 0, 0], [5, 4, 0]])
    gate(comparison(found), max_error=5, min_agreement=50)
    with pytest.raises(ProofError, match=r"`max_error` 4\.9: a logit differs by 5 \(1\.jpg\); .* with `layers`"):
        gate(comparison(found), max_error=4.9)
    with pytest.raises(ProofError, match=r"\(1\.jpg\); both run the same graph, so the runtimes disagree"):
        gate(comparison(found, same_graph=True), max_error=4.9)
    with pytest.raises(ProofError, match=r"`min_agreement` 50\.1: 50\.00 % of 2 answers agree"):
        gate(comparison(found), min_agreement=50.1)


@pytest.mark.parametrize(("error", "agreement"), [(-1.0, None), (NAN, None), (None, 101.0), (None, NAN)])
def test_bounds_that_are_none(error: float | None, agreement: float | None) -> None:
    with pytest.raises(UsageError, match="must be"):
        check_bounds(error, agreement)


@pytest.fixture
def run(command: Command) -> Command:
    return partial(command, "compare")


@pytest.fixture
def here(here: Path) -> Path:
    """As in every room, with ``bicubic.onnx`` (``colours.onnx`` but for its preprocessing) and a broken photo."""
    model = load_onnx(here / "colours.onnx")
    contract = contract_in(model, source="")
    assert contract is not None
    bicubic = replace(contract.preprocessing, interpolation="bicubic")
    set_contract(model, replace(contract, preprocessing=bicubic))
    save_onnx(model, here / "bicubic.onnx")
    (here / "photos/val/n01_red/broken.jpg").write_bytes(b"no photo")
    return here


DATA = ("--data", "photos/val")
RUNTIME = ("--runtime", "onnxruntime")
DIFFERENT = "colours.onnx and bicubic.onnx preprocess differently (interpolation: bilinear and bicubic); measure"


def test_layers_show_where_they_differ(here: Path, run: Command) -> None:
    ran = run("colours.onnx", "ruined", *DATA, "--layers", "--json", *RUNTIME)
    assert ran.code == 3, ran.err
    assert "1 of 7 images cannot be read" in ran.err
    found = json.loads(ran.out)
    assert (found["images"], len(found["unreadable"])) == (6, 1)
    assert found["a"]["engine"] == "colours.onnx"
    assert found["b"]["runner"].startswith("int8, ONNX Runtime")
    assert found["agreement_percent"] < 50
    layers = {row["layer"]: row for row in found["layers"]}
    # features.1 is the one whose input has a channel that leaves the others no int8 step.
    assert layers["pixels"]["sqnr_db"] is None  # equal: infinite
    assert layers["features.1"]["sqnr_db"] < 1
    assert found["worst"][0]["answer_a"] in ("red", "green", "blue")


def test_the_table_and_the_gates(here: Path, run: Command) -> None:
    ran = run("exact", "ruined", *DATA, "--min-agreement", 99, "--layers", *RUNTIME)
    assert ran.code == 1
    assert "--min-agreement 99:" in ran.err
    assert "first answers that agree, %" in ran.out
    assert "features.1" in ran.out
    assert "layers: both graphs in ONNX Runtime with its basic optimisations only" in ran.out
    assert "1 images left out: " in ran.out


def test_one_engine_on_two_runtimes(here: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    found = compare(
        "exact@onnxruntime", "exact@openvino", here / "photos", images=3, on_progress=lambda *each: seen.append(each)
    )
    assert (found.logits.images, found.logits.disagreements, found.layers) == (3, 0, None)
    assert found.logits.max_abs < 1e-3  # float32 sums of 16 products in another order
    assert [side.runner.split()[0] for side in (found.a, found.b)] == ["ONNX", "OpenVINO"]
    assert found.same_graph
    assert seen[-1] == ("images", 3, 3)


def test_a_graph_with_other_weights_beside_it_is_another(here: Path) -> None:
    for folder, scale in (("a", 1.0), ("b", 1.01)):
        (here / folder).mkdir()
        weights_beside(here / folder / "net.onnx", scale)
    assert (here / "a/net.onnx").read_bytes() == (here / "b/net.onnx").read_bytes()
    assert not compare("a/net.onnx", "b/net.onnx", here / "photos", images=3).same_graph


def test_one_graph_has_no_layers_to_compare(here: Path, run: Command) -> None:
    shutil.copy("colours.onnx", "copy.onnx")
    for a, b in (("colours.onnx", "copy.onnx"), ("ruined@onnxruntime", "ruined@openvino")):
        ran = run(a, b, "--layers", *DATA)
        assert (ran.code, ran.out) == (2, "")
        assert f"--layers runs both graphs in ONNX Runtime, and {a} and {b} have the same graph" in ran.err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("exact", "exact", *DATA), 2, "is compared with itself"),
        (("exact", "exact@onnxruntime", *DATA, *RUNTIME), 2, "are the same engine on ONNX Runtime"),
        (("exact", "exact@cuda", *DATA), 2, "exact@cuda: 'cuda' is not a runtime; write NAME@RUNTIME with one of auto"),
        (("exact@all", "ruined", *DATA), 2, "exact@all: 'all' is not a runtime; write NAME@RUNTIME with one of auto"),
        (("colours.onnx", "bicubic.onnx", *DATA, *RUNTIME), 2, DIFFERENT),
        (("exact", "nothing", *DATA, *RUNTIME), 1, "no such engine"),
        (("exact", "ruined", "--data", "engines", *RUNTIME), 1, "holds no image"),
        (("exact", "ruined", *DATA, "--images", "7", *RUNTIME), 1, "--images requires 7"),
        (("exact", "ruined", *DATA, "--max-error", "-1"), 2, "--max-error -1: must be"),
    ],
)
def test_one_line_for_what_cannot_be(
    here: Path, run: Command, arguments: tuple[str, ...], code: int, words: str
) -> None:
    ran = run(*arguments)
    assert (ran.code, ran.out) == (code, "")
    assert words in ran.err.splitlines()[-1]
