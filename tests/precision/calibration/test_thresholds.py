"""Thresholds against hand computations, brute force, a literal Migacz, and onnxruntime's calibrator."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationMethod, create_calibrator

from alexnet_deploy.precision.calibration.thresholds import BINS, LEVELS, threshold
from alexnet_deploy.precision.types import Method
from tests.helpers.models.graphs import graph_model


def test_a_method_that_weighs_needs_a_histogram() -> None:
    assert threshold(None, 2, "max") == 2
    with pytest.raises(ValueError, match="method mse needs a histogram"):
        threshold(None, 2, "mse")


def histogram(**counts: int) -> NDArray[np.int64]:
    """2048 bins, ``b10=3`` puts 3 into bin 10."""
    bins = np.zeros(BINS, np.int64)
    for name, count in counts.items():
        bins[int(name[1:])] = count
    return bins


class TestPercentile:
    @pytest.mark.parametrize(
        ("counts", "bins"),
        [
            ({"b10": 99_990, "b2047": 10}, 11),  # 99.99 % lie below the upper edge of bin 10
            ({"b10": 99_989, "b2047": 11}, 2048),
            ({"b10": 90_000, "b500": 9_995, "b2047": 5}, 501),
            ({"b0": 1}, 1),
        ],
    )
    def test_by_hand(self, counts: dict[str, int], bins: int) -> None:
        assert threshold(histogram(**counts), 4.0, "percentile") == pytest.approx(4.0 * bins / 2048)


def quantised_literally(bins: list[float], levels: int) -> list[float]:
    """Migacz's slide: merge ``bins`` into ``levels``, spread each level over those of its bins that hold anything."""
    result = [0.0] * len(bins)
    for level in range(levels):
        mine = [j for j in range(len(bins)) if j * levels // len(bins) == level]
        held = [j for j in mine if bins[j] > 0]
        for j in held:
            result[j] = sum(bins[i] for i in mine) / len(held)
    return result


def divergence_literally(p: list[float], q: list[float]) -> float:
    p_sum, q_sum = sum(p), sum(q)
    if p_sum == 0 or q_sum == 0:
        return np.inf
    return float(
        sum(a / p_sum * np.log((a / p_sum) / (b / q_sum or 1e-12)) for a, b in zip(p, q, strict=True) if a > 0)
    )


def error_literally(bins: list[float], stop: int) -> float:
    step = stop / (LEVELS - 1)
    rounded = [min(round((index + 0.5) / step), LEVELS - 1) * step for index in range(len(bins))]
    return sum(count * (index + 0.5 - rounded[index]) ** 2 for index, count in enumerate(bins) if index > 0)


def entropy_literally(bins: list[float]) -> tuple[int, list[float]]:
    """The number of bins to keep, and the divergence for each number from 128: the pseudocode of Migacz's slide.

    The first bin is taken for zeros, which are exact at any scale, and left out. Infinite where the squared error is
    more than ten times the least one.
    """
    costs = []
    stops = range(LEVELS, len(bins) + 1)
    errors = [error_literally(bins, stop) for stop in stops]
    for stop, error in zip(stops, errors, strict=True):
        reference = bins[1:stop]
        reference[-1] += sum(bins[stop:])
        cost = divergence_literally(reference, quantised_literally(bins[1:stop], LEVELS))
        costs.append(cost if error <= 10 * min(errors) else np.inf)
    return LEVELS + int(np.argmin(costs)), costs


def elu(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(x > 0, x, np.expm1(np.minimum(x, 0)))


class TestEntropy:
    def test_the_slides_example(self) -> None:
        assert quantised_literally([1, 0, 2, 3, 5, 3, 1, 7], 2) == [2, 0, 2, 2, 4, 4, 4, 4]

    @given(
        seed=st.integers(0, 2**32 - 1),
        shape=st.floats(0.3, 3),
        bins=st.integers(LEVELS, 300),
        samples=st.sampled_from([3, 200, 5_000]),
    )
    @settings(max_examples=20, deadline=None)
    def test_it_is_the_published_algorithm(self, seed: int, shape: float, bins: int, samples: int) -> None:
        values = np.random.default_rng(seed).gamma(shape, 1, samples)
        counts = np.histogram(values, bins, (0, values.max()))[0]
        stop, costs = entropy_literally([float(count) for count in counts])
        found = threshold(counts, 1.0, "entropy") * bins
        # Two numbers of bins can cost the same but for the rounding of the sums.
        assert costs[round(found) - LEVELS] == pytest.approx(costs[stop - LEVELS], rel=1e-9, abs=1e-12)

    def test_zeros_do_not_count(self) -> None:
        counts = np.histogram(np.random.default_rng(0).exponential(1, 50_000), BINS)[0]
        many = counts.copy()
        many[0] += 10**9
        assert threshold(many, 1.0, "entropy") == threshold(counts, 1.0, "entropy")

    @pytest.mark.parametrize(
        "values",
        [
            pytest.param(lambda rng: rng.uniform(30, 255, 50_000), id="bright pixels"),
            pytest.param(lambda rng: rng.exponential(1, (512, 64, 64)).max(axis=2), id="a maximum over each map"),
            pytest.param(
                lambda rng: np.where(rng.random(50_000) < 0.8, -0.42, rng.uniform(-0.42, 2.8, 50_000)), id="digits"
            ),
            pytest.param(lambda rng: np.clip(rng.normal(0, 3, 50_000), -1, 6), id="clipped"),
            pytest.param(lambda rng: rng.choice([0.25, 1.0], 50_000, p=[0.99, 0.01]), id="two values"),
            pytest.param(lambda rng: elu(rng.normal(-5, 5, 50_000)), id="ELU"),
            pytest.param(lambda rng: np.where(rng.random(50_000) < 0.999, 0, rng.uniform(1, 2, 50_000)), id="rare"),
        ],
    )
    def test_no_tensor_is_clipped_to_a_constant(
        self, values: Callable[[np.random.Generator], NDArray[np.float64]]
    ) -> None:
        """The error is a twentieth of the signal at most; the divergence alone cuts these down to about one value."""
        x = values(np.random.default_rng(0)).ravel()
        largest = float(np.abs(x).max())
        step = threshold(np.histogram(np.abs(x), BINS, (0, largest))[0], largest, "entropy") / 127
        error = np.clip(np.rint(x / step), -127, 127) * step - x
        assert np.linalg.norm(error) < np.linalg.norm(x) / 20

    def test_a_histogram_with_nothing_but_its_ends(self) -> None:
        assert 0 < threshold(histogram(b0=10, b2047=1), 1.0, "entropy") <= 1
        assert 0 < threshold(histogram(b2047=1), 1.0, "entropy") <= 1


def entropy_of_onnxruntime(values_N: NDArray[np.float32], folder: Path, **options: int) -> dict[str, float]:
    """The thresholds that its calibrator chooses for ``values_N`` (``x``) and their negatives (``y``)."""
    path = folder / "model.onnx"
    onnx.save(graph_model("(float[N] x) => (float[N] y)", "y = Neg (x)"), path)
    with contextlib.redirect_stdout(None):
        calibrator = create_calibrator(
            path, ["Neg"], str(folder / "augmented.onnx"), CalibrationMethod.Entropy, extra_options=options
        )
        calibrator.collect_data(SimpleNamespace(get_next=partial(next, iter([{"x": values_N}]), None)))
        found = calibrator.compute_data().data
    return {name: max(abs(float(bound)) for bound in data.range_value) for name, data in found.items()}


LONG_TAIL = np.random.default_rng(0).exponential(size=108_000).astype(np.float32)
LONGEST = float(LONG_TAIL.max())


def of_long_tail(method: Method) -> float:
    return threshold(np.histogram(LONG_TAIL, BINS, (0, LONGEST))[0], LONGEST, method)


@pytest.mark.parametrize("method", ["entropy", "mse"])
def test_a_long_tail_is_clipped(method: Method) -> None:
    assert 0.5 * LONGEST < of_long_tail(method) < 0.95 * LONGEST


class TestAgainstOnnxruntime:
    def test_its_default_entropy_is_max(self, tmp_path: Path) -> None:
        """128 bins for 128 levels leave it nothing to choose: the reason for our 2048."""
        assert entropy_of_onnxruntime(LONG_TAIL, tmp_path)["x"] == pytest.approx(LONGEST, rel=1e-6)

    def test_with_2048_bins_it_agrees(self, tmp_path: Path) -> None:
        found = entropy_of_onnxruntime(LONG_TAIL, tmp_path, num_bins=2048, num_quantized_bins=128)
        # Its divergence has steps, since it merges a whole number of bins into a level and the rest into the last
        # one. So it differs by 20 % between a tensor and its negative, whose magnitudes are the same; we lie between.
        low, high = sorted(found.values())
        assert 0.9 * low < of_long_tail("entropy") < 1.1 * high
        assert high < 1.5 * low


class TestMse:
    @pytest.mark.parametrize("distribution", ["normal", "exponential", "uniform"])
    def test_no_threshold_has_a_smaller_error(self, distribution: str) -> None:
        """Brute force on the numbers themselves, not on their histogram."""
        random = np.random.default_rng(0)
        values = np.abs(getattr(random, distribution)(size=20_000))
        largest = float(values.max())

        def error(clip: float) -> float:
            scale = clip / 127
            return float(np.mean((np.clip(np.rint(values / scale), -127, 127) * scale - values) ** 2))

        found = threshold(np.histogram(values, BINS, (0, largest))[0], largest, "mse")
        best = min(error(largest * stop / BINS) for stop in range(LEVELS, BINS + 1, 4))
        # The histogram knows each number to half of a 2048th, the error of int8 is some half of a 127th.
        assert error(found) <= 1.02 * best

    def test_by_hand(self) -> None:
        """Each of 300 bins as a number in its middle, rounded to 127 steps; with Python's own round, half to even."""
        counts: list[int] = np.histogram(np.random.default_rng(1).gamma(0.5, 1, 3000), 300)[0].tolist()

        def error(stop: int) -> float:
            step = stop / 127
            return sum(n * (i + 0.5 - min(round((i + 0.5) / step), 127) * step) ** 2 for i, n in enumerate(counts))

        assert threshold(np.array(counts), 300.0, "mse") == min(range(LEVELS, 301), key=error)

    def test_a_box_is_not_clipped(self) -> None:
        box = np.histogram(np.random.default_rng(0).uniform(0, 1, 100_000), BINS, (0, 1))[0]
        assert threshold(box, 1.0, "mse") > 0.99
