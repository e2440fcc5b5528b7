"""Models whose classes do not exclude each other, and binary classifiers with one output."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from alexnet_deploy.adoption.adopt import adopt
from alexnet_deploy.adoption.import_options import ImportOptions
from alexnet_deploy.errors import InputError, UsageError
from alexnet_deploy.onnx_graph.onnx_file import load_onnx
from tests.helpers.models.foreign_models import FOREIGN, MEAN, STD, scores_by_hand
from tests.helpers.models.score_endings import EXACT, HALF, MAPS, PIXELS, SIGMOID, answers, save

ONE = "flat = Flatten (x); z5 = Gemm <transB = 1> (flat, w); z = Slice (z5, axis0, axis1, axis1)"
"""One number per image."""


def sigmoid(z: NDArray[np.floating]) -> NDArray[np.float64]:
    return 1 / (1 + np.exp(-z.astype(np.float64)))


@pytest.fixture
def expected_NK(tmp_path: Path) -> NDArray[np.float64]:
    """The sigmoids of the model's logits, by hand."""
    folder = tmp_path / "plain"
    folder.mkdir()
    return sigmoid(scores_by_hand(save(folder, "y = Identity (z)"), PIXELS))


@pytest.mark.parametrize(
    ("ending", "tolerance"),
    [
        (SIGMOID, 0.0),
        ("p = Sigmoid (z); y = Clip (p, tiny, almost_one)", 0.0),
        ("p = Sigmoid (z); y = Mul (p, hundred)", 0.0),
        ("p = Sigmoid (z); y = Log (p)", 0.0),
        ("n = Neg (z); e = Exp (n); s = Add (e, one); y = Reciprocal (s)", 0.0),
        ("h = Mul (z, half); t = Tanh (h); s = Add (t, one); y = Mul (s, half)", 0.0),
        ("p = Sigmoid (z); y = Max (p, zero)", 0.0),
        ("a = Sigmoid (z); b = Sigmoid (z); y = Mean (a, b)", 0.0),
        ("h = Cast <to = 10> (z); p = Sigmoid (h); y = Cast <to = 1> (p)", HALF),
    ],
    ids=["plain", "clip", "percent", "logarithm", "spelt out", "tanh", "maximum", "mean of two", "float16"],
)
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_a_sigmoid_in_any_form(
    ending: str, tolerance: float, runtime: str, expected_NK: NDArray[np.float64], tmp_path: Path
) -> None:
    found_NK, activation = answers(save(tmp_path, ending), runtime=runtime)
    assert activation == "sigmoid"
    # Beside EXACT: the normalised pixels differ in the last float32 digits, and 48 products of them are summed.
    np.testing.assert_allclose(found_NK, expected_NK, rtol=0, atol=tolerance or 5 * EXACT)
    assert np.abs(found_NK.sum(axis=1) - 1).max() > 0.1, "these would be a softmax's"


def test_scores_of_an_operator_that_is_no_sigmoid_are_exact(tmp_path: Path) -> None:
    source = save(tmp_path, "y = HardSigmoid <alpha = 0.05> (z)")
    found_NK, activation = answers(source)
    assert activation == "sigmoid"
    np.testing.assert_allclose(found_NK, scores_by_hand(source, PIXELS), rtol=0, atol=5 * EXACT)


def test_probabilities_of_which_the_output_leaves_some_out(tmp_path: Path) -> None:
    """Without the background class they do not sum to 1: each stays what the model says."""
    source = save(tmp_path, "p = Softmax <axis = 1> (z); y = Slice (p, axis1, k, axis1)", "float[N,4] y")
    found_NK, activation = answers(source)
    assert activation == "sigmoid"
    np.testing.assert_allclose(found_NK, scores_by_hand(source, PIXELS), rtol=0, atol=5 * EXACT)


class TestOneOutput:
    @pytest.mark.parametrize(
        ("ending", "output"),
        [
            ("y = Sigmoid (z)", "float[N,1] y"),
            ("p = Sigmoid (z); y = Squeeze (p, axis1)", "float[N] y"),
            ("n = Neg (z); e = Exp (n); s = Add (e, one); y = Div (one, s)", "float[N,1] y"),
            ("p = Sigmoid (z); q = Sub (one, p); y = Concat <axis = 1> (q, p)", "float[N,2] y"),
        ],
        ids=["N,1", "N", "spelt out", "both"],
    )
    @pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
    def test_a_binary_classifier_has_two_classes(self, ending: str, output: str, runtime: str, tmp_path: Path) -> None:
        found_NK, activation = answers(save(tmp_path, ending, output, body=ONE), runtime=runtime)
        (tmp_path / "z").mkdir()
        z_N1 = scores_by_hand(save(tmp_path / "z", "y = Identity (z)", "float[N,1] y", body=ONE), PIXELS)
        assert activation == "softmax"
        np.testing.assert_allclose(found_NK[:, 1:], sigmoid(z_N1), rtol=0, atol=5 * EXACT)
        np.testing.assert_allclose(found_NK.sum(axis=1), 1, rtol=0, atol=1e-12)  # float64

    def test_its_labels_are_two(self, tmp_path: Path) -> None:
        (tmp_path / "labels").write_text("cat\ndog\n")
        source = save(tmp_path, SIGMOID, "float[N,1] y", body=ONE)
        contract = adopt(source, tmp_path / "out", ImportOptions(MEAN, STD, tmp_path / "labels"))
        assert contract.labels == ("cat", "dog")

    def test_a_logit_needs_to_be_called_so(self, tmp_path: Path) -> None:
        source = save(tmp_path, "y = Identity (z)", "float[N,1] y", body=ONE)
        with pytest.raises(InputError, match=r"one number per image without a sigmoid.* give `activation` sigmoid"):
            adopt(source, tmp_path / "out", FOREIGN)
        found_NK, _ = answers(source, ImportOptions(MEAN, STD, activation="sigmoid"))
        np.testing.assert_allclose(found_NK[:, 1:], sigmoid(scores_by_hand(source, PIXELS)), rtol=0, atol=5 * EXACT)

    def test_a_softmax_over_one_class(self, tmp_path: Path) -> None:
        source = save(tmp_path, "y = Softmax <axis = 1> (z)", "float[N,1] y", body=ONE)
        with pytest.raises(InputError, match="over a single class, which always gives 1"):
            adopt(source, tmp_path / "out", FOREIGN)


class TestActivation:
    def test_of_a_model_that_ends_in_logits(self, expected_NK: NDArray[np.float64], tmp_path: Path) -> None:
        found_NK, activation = answers(
            save(tmp_path, "y = Identity (z)"), ImportOptions(MEAN, STD, activation="sigmoid")
        )
        assert activation == "sigmoid"
        np.testing.assert_allclose(found_NK, expected_NK, rtol=0, atol=5 * EXACT)

    @pytest.mark.parametrize(
        ("ending", "given", "cause"),
        [
            ("y = Softmax <axis = 1> (z)", "sigmoid", "holds probabilities that sum to 1"),
            ("e = Exp (z); s = ReduceSum (e, axis1); y = Div (e, s)", "sigmoid", "holds probabilities that sum to 1"),
            (SIGMOID, "softmax", r"holds scores within 0..1 that do not sum to 1"),
        ],
    )
    def test_that_contradicts_the_graph(self, ending: str, given: str, cause: str, tmp_path: Path) -> None:
        options = ImportOptions(MEAN, STD, activation=given)  # type: ignore[arg-type]
        with pytest.raises(UsageError, match=rf"`activation` {given}: .*{cause}"):
            adopt(save(tmp_path, ending), tmp_path / "out", options)

    def test_small_logits_are_no_probabilities(self, tmp_path: Path) -> None:
        """Of a hardly trained model, all within 0..1 by chance: nothing behind the last layer bounds them."""
        source = save(tmp_path, "s = Mul (z, hundredth); y = Add (s, half)")
        scores_NK = scores_by_hand(source, PIXELS)
        assert scores_NK.min() > 0
        assert scores_NK.max() < 1
        assert answers(source)[1] == "softmax"
        assert {node.op_type for node in load_onnx(source.with_suffix(".adopted.onnx")).graph.node}.isdisjoint({"Log"})

    def test_a_softmax_over_the_wrong_axis(self, tmp_path: Path) -> None:
        source = save(tmp_path, "y = Softmax <axis = 3> (m)", "float[N,5,1,1] y", body=MAPS)
        with pytest.raises(
            InputError, match="every class of every image the score 1, as a softmax over the wrong axis"
        ):
            adopt(source, tmp_path / "out", FOREIGN)
