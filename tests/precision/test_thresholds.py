"""Thresholds against hand computations, brute force, a literal Migacz, and onnxruntime's calibrator."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, create_calibrator

from alexnet_deploy.precision.thresholds import BINS, LEVELS, threshold
from alexnet_deploy.precision.types import Method
from tests.helpers.pixel_models import MINUS_150, in_batches, pixel_model, tensor_thresholds


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

    def test_through_a_model(self) -> None:
        """Of 120 000 numbers 119 990 are 100 or less: the bin of 100 is 803, its upper edge 804 * 255 / 2048."""
        pixels_NHWC = np.full((10_000, 2, 2, 3), 100, np.uint8)
        pixels_NHWC[:10, 0, 0, 0] = 255
        (found,) = tensor_thresholds(MINUS_150, ("x",), in_batches(pixels_NHWC, 5000), "percentile").values()
        assert found == pytest.approx(804 * 255 / 2048)


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


def entropy_literally(bins: list[float]) -> tuple[int, list[float]]:
    """The number of bins to keep, and the divergence for each number from 128: the pseudocode of Migacz's slide.

    The first bin is taken for zeros, which are exact at any scale, and left out.
    """
    costs = []
    for stop in range(LEVELS, len(bins) + 1):
        reference = bins[1:stop]
        reference[-1] += sum(bins[stop:])
        costs.append(divergence_literally(reference, quantised_literally(bins[1:stop], LEVELS)))
    return LEVELS + int(np.argmin(costs)), costs


class TestEntropy:
    def test_the_slides_example(self) -> None:
        assert quantised_literally([1, 0, 2, 3, 5, 3, 1, 7], 2) == [2, 0, 2, 2, 4, 4, 4, 4]

    @given(
        seed=st.integers(0, 2**32 - 1),
        shape=st.floats(0.3, 3),
        bins=st.integers(LEVELS, 300),
        samples=st.sampled_from([200, 5_000]),
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

    def test_a_histogram_with_nothing_but_its_ends(self) -> None:
        assert 0 < threshold(histogram(b0=10, b2047=1), 1.0, "entropy") <= 1
        assert 0 < threshold(histogram(b2047=1), 1.0, "entropy") <= 1


EXPONENTIAL = pixel_model(
    "parts = Mul (x, digits); sum = ReduceSum <keepdims = 1> (parts, last); uniform = Add (sum, half);"
    "log = Log (uniform); all = Neg (log); y = Expand (all, shape)",
    digits=[2.0**-8, 2.0**-16, 2.0**-24],
    half=2.0**-25,
    integers={"last": [3], "shape": [1, 1, 1, 3]},
)
"""``all`` is exponentially distributed, for three random bytes a pixel: minus the logarithm of a number in 0..1."""


class Reader(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
    def __init__(self, pixels_NHWC: NDArray[np.uint8]) -> None:
        self._feeds = iter([{"pixels": pixels_NHWC}])

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        return next(self._feeds, None)


def entropy_of_onnxruntime(pixels_NHWC: NDArray[np.uint8], folder: Path, **options: int) -> dict[str, float]:
    path = folder / "model.onnx"
    onnx.save(EXPONENTIAL, path)
    with contextlib.redirect_stdout(None):
        calibrator = create_calibrator(
            path, ["Neg"], str(folder / "augmented.onnx"), CalibrationMethod.Entropy, extra_options=options
        )
        calibrator.collect_data(Reader(pixels_NHWC))
        found = calibrator.compute_data().data
    return {name: max(abs(float(bound)) for bound in data.range_value) for name, data in found.items()}


LONG_TAIL = np.random.default_rng(0).integers(0, 256, (9000, 2, 2, 3), dtype=np.uint8)


def of_long_tail(method: Method) -> float:
    return tensor_thresholds(EXPONENTIAL, ("all",), in_batches(LONG_TAIL, 1000), method)["all"]


class TestAgainstOnnxruntime:
    def test_its_default_entropy_is_max(self, tmp_path: Path) -> None:
        """128 bins for 128 levels leave it nothing to choose: the reason for our 2048."""
        found = entropy_of_onnxruntime(LONG_TAIL, tmp_path)
        assert found["all"] == pytest.approx(of_long_tail("max"), rel=1e-6)

    def test_ours_clips_a_long_tail(self) -> None:
        assert 0.5 * of_long_tail("max") < of_long_tail("entropy") < 0.95 * of_long_tail("max")

    def test_with_2048_bins_it_agrees(self, tmp_path: Path) -> None:
        found = entropy_of_onnxruntime(LONG_TAIL, tmp_path, num_bins=2048, num_quantized_bins=128)
        # Its divergence has steps, since it merges a whole number of bins into a level and the rest into the last
        # one. So it differs by 20 % between a tensor and its negative, whose magnitudes are the same; we lie between.
        low, high = sorted((found["all"], found["log"]))
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

    def test_it_clips_a_tail_but_not_a_box(self) -> None:
        random = np.random.default_rng(0)
        tail = np.histogram(random.exponential(1, 100_000), BINS)[0]
        box = np.histogram(random.uniform(0, 1, 100_000), BINS, (0, 1))[0]
        assert threshold(tail, 1.0, "mse") < 0.95
        assert threshold(box, 1.0, "mse") > 0.99
