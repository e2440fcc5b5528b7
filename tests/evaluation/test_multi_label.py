"""Models whose classes do not exclude each other: numbers by hand, and what the commands do with them."""

from __future__ import annotations

import math
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from alexnet_deploy.adoption.adopt import adopt
from alexnet_deploy.build.engine import build_engine
from alexnet_deploy.bundle.store import open_bundle
from alexnet_deploy.contract import ModelContract
from alexnet_deploy.errors import InputError, UsageError
from alexnet_deploy.evaluation.accuracy import accuracy, reliability
from alexnet_deploy.evaluation.comparison.compare import compare, logit_difference
from alexnet_deploy.evaluation.confidence.calibrate import calibrate
from alexnet_deploy.evaluation.evaluate import evaluate
from alexnet_deploy.probabilities import kl_nats, loss_nats, probabilities
from alexnet_deploy.runtime.select import open_runner
from tests.helpers.answers import given_answers
from tests.helpers.command import Command
from tests.helpers.models.foreign_models import FOREIGN, random_pixels
from tests.helpers.models.score_endings import SIGMOID, SOFTMAX, save

NAMES = ("a", "b", "c")
CONTRACT = ModelContract("any", NAMES, NAMES, activation="sigmoid")


def multi_label(classes: int, temperature: float = 1.0) -> ModelContract:
    names = tuple(map(str, range(classes)))
    return ModelContract("any", names, names, temperature=temperature, activation="sigmoid")


ODDS_3 = math.log(3)
"""The logit of a probability of 3/4."""


def test_accuracy_by_hand() -> None:
    """Chances 3/4, 1/2 and 1/4 for each class alone; the first class is the answer, right in one image of two."""
    found = accuracy(given_answers([0, 1], [[ODDS_3, 0, -ODDS_3]] * 2), 0, CONTRACT)
    assert found.top1_percent == 50
    assert found.confidence is not None
    assert found.confidence.ece_percent == pytest.approx(25)
    # As torch.nn.functional.binary_cross_entropy: the mean over the classes, with the others absent.
    first = -(math.log(3 / 4) + math.log(1 / 2) + math.log(3 / 4)) / 3
    second = -(math.log(1 / 4) + math.log(1 / 2) + math.log(3 / 4)) / 3
    assert found.confidence.nll_nats == pytest.approx((first + second) / 2)
    bins = reliability(np.array([[ODDS_3, 0, -ODDS_3]], np.float32), np.array([0]), multi_label(3))
    assert [(b.images, b.confidence_percent) for b in bins if b.images] == [(1, pytest.approx(75))]


def test_divergence_by_hand() -> None:
    """KL of a coin of 3/4 from one of 1/2, in one class of three; the softmax of both differs more."""
    a, b = [[ODDS_3, 0, 0]], [[0, 0, 0]]
    coin = 3 / 4 * math.log(3 / 2) + 1 / 4 * math.log(1 / 2)
    assert logit_difference(given_answers([0], a, b), CONTRACT).kl_nats == pytest.approx(coin / 3)


LOGITS = hnp.arrays(np.float32, (2, 5), elements=st.floats(-30, 30, width=32))


@given(LOGITS, LOGITS, st.floats(0.1, 10))
def test_kl_and_loss_are_those_of_the_textbook(p: np.ndarray, q: np.ndarray, temperature: float) -> None:
    def sigmoid(x: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-x.astype(np.float64)))

    coins = sigmoid(p) * np.log(sigmoid(p) / sigmoid(q)) + sigmoid(-p) * np.log(sigmoid(-p) / sigmoid(-q))
    assert kl_nats(p, q, "sigmoid") == pytest.approx(coins.mean(axis=1), abs=1e-9)
    assert (kl_nats(p, q, "sigmoid") >= 0).all()
    scaled, target = p / np.float64(temperature), np.array([4, 0])
    present = np.arange(5) == target[:, None]
    expected = -np.log(np.where(present, sigmoid(scaled), sigmoid(-scaled))).mean(axis=1)
    assert loss_nats(p, target, multi_label(5, temperature)) == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert probabilities(p, multi_label(5, temperature)) == pytest.approx(sigmoid(scaled), rel=1e-12)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``sigmoid.onnx``, ``softmax.onnx`` of one network, and ``data`` with two images of each class."""
    root = tmp_path_factory.mktemp("multi-label")
    (root / "foreign").mkdir()
    for name, ending in (("sigmoid", SIGMOID), ("softmax", SOFTMAX)):
        adopt(save(root / "foreign", ending), root / f"{name}.onnx", FOREIGN)
    for i, pixels in enumerate(random_pixels(10, 4)):
        folder = root / "data" / str(i % 5)
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    return root


def test_engines_of_different_kinds_are_not_compared(workplace: Path) -> None:
    both = [workplace / "sigmoid.onnx", workplace / "softmax.onnx"]
    with pytest.raises(UsageError, match=r"softmax.onnx mean different things .* sigmoid and softmax\); measure"):
        evaluate(both, workplace / "data", runtimes="onnxruntime", latency_s=None)
    with pytest.raises(UsageError, match="mean different things by their scores"):
        compare(*both, workplace / "data", runtime="onnxruntime")


def test_evaluate_says_what_its_numbers_are(here: Path, command: Command) -> None:
    done = command("evaluate", "data", "--engine", "sigmoid.onnx", "--runtime", "onnxruntime", "--no-latency")
    assert "multi-label: the answer is the class with the highest score" in " ".join(done.out.split())


def test_no_temperature_is_fitted(workplace: Path) -> None:
    bundle = build_engine(workplace / "sigmoid.onnx", workplace / "bundle", precision="fp32")
    with (
        closing(open_runner(open_bundle(bundle), "onnxruntime").runner) as runner,
        pytest.raises(InputError, match="bundle: is multi-label"),
    ):
        calibrate(bundle, runner, workplace / "data")
