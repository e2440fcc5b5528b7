"""Thresholds against hand computations, brute force, a literal Migacz, and onnxruntime's calibrator."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, create_calibrator

from alexnet_deploy.errors import InputError
from alexnet_deploy.precision.ranges import observe, thresholds_of
from alexnet_deploy.precision.thresholds import BINS, LEVELS, METHODS, Method, Values, threshold

Batches = Callable[[], Iterator[NDArray[np.uint8]]]


def pixel_model(*nodes: onnx.NodeProto, **weights: Any) -> onnx.ModelProto:
    """``nodes`` turn the pixels' values ``x`` [N, 2, 2, 3], 0..255, into ``y`` of the same shape."""
    shape: list[int | str] = ["N", 2, 2, 3]
    graph = helper.make_graph(
        [helper.make_node("Cast", ["pixels"], ["x"], to=TensorProto.FLOAT), *nodes],
        "g",
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(np.asarray(values, np.float32), name) for name, values in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def images(*values: int) -> NDArray[np.uint8]:
    """One image [2, 2, 3] for each value, all of it; its first number is 0."""
    pixels_NHWC = np.repeat(np.array(values, np.uint8), 12).reshape(-1, 2, 2, 3)
    pixels_NHWC[:, 0, 0, 0] = 0
    return pixels_NHWC


def in_batches(pixels_NHWC: NDArray[np.uint8], batch: int) -> Batches:
    return lambda: (pixels_NHWC[i : i + batch] for i in range(0, len(pixels_NHWC), batch))


def tensor_thresholds(
    model: onnx.ModelProto, tensors: tuple[str, ...], batches: Batches, method: Method
) -> dict[str, float]:
    return thresholds_of(model, observe(model, tensors, batches, histograms=method != "max"), tensors, method)


MINUS_150 = pixel_model(helper.make_node("Sub", ["x", "c"], ["y"]), c=150)


class TestPasses:
    def test_max_is_the_largest_magnitude_of_either_sign(self) -> None:
        pixels_NHWC = images(100, 200, 170)  # with the zeros -150, -50, 50, 20
        found = tensor_thresholds(MINUS_150, ("x", "y"), in_batches(pixels_NHWC, 1), "max")
        assert found == {"x": 200, "y": 150}
        pixels_NHWC[:, 0, 0, 0] = 100
        assert tensor_thresholds(MINUS_150, ("y",), in_batches(pixels_NHWC, 3), "max") == {"y": 50}

    @pytest.mark.parametrize("method", METHODS)
    def test_the_batch_size_does_not_matter(self, method: Method) -> None:
        pixels_NHWC = np.random.default_rng(0).integers(0, 256, (60, 2, 2, 3), dtype=np.uint8)
        square = pixel_model(
            helper.make_node("Sub", ["x", "c"], ["d"]), helper.make_node("Mul", ["d", "d"], ["y"]), c=77.5
        )
        found = [tensor_thresholds(square, ("d", "y"), in_batches(pixels_NHWC, batch), method) for batch in (1, 7, 60)]
        assert found[0] == found[1] == found[2]

    @pytest.mark.parametrize(("method", "passes"), [("max", 1), ("percentile", 2), ("entropy", 2), ("mse", 2)])
    def test_one_batch_is_held_at_a_time(self, method: Method, passes: int) -> None:
        alive: list[weakref.ref[NDArray[np.uint8]]] = []
        started = 0

        def batches() -> Iterator[NDArray[np.uint8]]:
            nonlocal started
            started += 1
            for i in range(5):
                batch = images(10 * i + 1)
                alive.append(weakref.ref(batch))
                yield batch
                del batch
                assert sum(reference() is not None for reference in alive) <= 1

        tensor_thresholds(MINUS_150, ("y",), batches, method)
        assert (started, len(alive)) == (passes, 5 * passes)

    def test_the_model_is_left_alone(self) -> None:
        before = MINUS_150.SerializeToString()
        tensor_thresholds(MINUS_150, ("x",), in_batches(images(9), 1), "entropy")
        assert MINUS_150.SerializeToString() == before


class TestValues:
    def test_both_ends_and_every_number(self) -> None:
        pixels_NHWC = images(100, 200, 170)  # y: 8 x -50, 8 x 50 and so on, and -150 in the corners
        (found,) = observe(MINUS_150, ("y",), in_batches(pixels_NHWC, 2), histograms=True).values()
        assert (found.lowest, found.highest, found.largest) == (-150, 50, 150)
        assert found.histogram is not None
        bins = {i: int(n) for i, n in enumerate(found.histogram) if n}
        assert bins == {20 * BINS // 150: 11, 50 * BINS // 150: 22, BINS - 1: 3}

    @pytest.mark.parametrize("method", METHODS)
    def test_what_fills_a_fixed_batch_does_not_count(self, method: Method) -> None:
        """33 images through a model frozen to 32 count the last one once, not 32 times."""
        rows = helper.make_node("Reshape", ["y", "shape"], ["rows"])  # four rows an image, as before a MatMul
        free, fixed = (pixel_model(helper.make_node("Sub", ["x", "c"], ["y"]), rows, c=150) for _ in range(2))
        for model in (free, fixed):
            model.graph.initializer.append(numpy_helper.from_array(np.array([-1, 3]), "shape"))
        fixed.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 32
        pixels_NHWC = images(*range(100, 132), 255)
        found, expected = (
            tensor_thresholds(model, ("x", "y", "rows"), in_batches(pixels_NHWC, 32), method) for model in (fixed, free)
        )
        assert found == expected
        values = observe(fixed, ("rows",), in_batches(pixels_NHWC, 32), histograms=True)["rows"]
        assert values.histogram is not None
        assert values.histogram.sum() == pixels_NHWC.size

    def test_a_method_that_weighs_needs_a_histogram(self) -> None:
        assert threshold(Values(-1, 2, None).histogram, 2, "max") == 2
        with pytest.raises(ValueError, match="method mse needs a histogram"):
            threshold(None, 2, "mse")


class TestBroken:
    @pytest.mark.parametrize("method", METHODS)
    @pytest.mark.parametrize(
        ("node", "values"),
        [
            (helper.make_node("Sqrt", ["d"], ["y"]), (200, 100)),  # NaN in the second batch only
            (helper.make_node("Sqrt", ["d"], ["y"]), (100, 200)),
            (helper.make_node("Reciprocal", ["d"], ["y"]), (200, 150)),  # infinity
        ],
        ids=["NaN last", "NaN first", "infinity"],
    )
    def test_a_tensor_that_is_not_finite(self, node: onnx.NodeProto, values: tuple[int, ...], method: Method) -> None:
        model = pixel_model(helper.make_node("Sub", ["x", "c"], ["d"]), node, c=150)
        pixels_NHWC = images(*values)
        pixels_NHWC[:, 0, 0, 0] = 255
        with pytest.raises(InputError, match=r"calibration: tensor y is not finite"):
            tensor_thresholds(model, ("d", "y"), in_batches(pixels_NHWC, 1), method)

    @pytest.mark.parametrize("method", METHODS)
    @pytest.mark.parametrize("constant", [0, -0.25])
    def test_a_tensor_that_is_always_the_same(self, constant: float, method: Method) -> None:
        model = pixel_model(
            helper.make_node("Mul", ["x", "zero"], ["zeros"]),
            helper.make_node("Add", ["zeros", "c"], ["flat"]),
            helper.make_node("Relu", ["flat"], ["y"], "features.1"),
            zero=0,
            c=constant,
        )
        with pytest.raises(
            InputError,
            match=rf"tensor flat \(input of layer features.1\) is {constant} everywhere on every image; .* --exclude",
        ):
            tensor_thresholds(model, ("x", "flat"), in_batches(images(1, 2), 1), method)
        found = observe(model, ("x", "flat"), in_batches(images(1, 2), 1), histograms=True)
        assert thresholds_of(model, found, ("x",), method)["x"] > 0  # who does not need the tensor is not stopped

    def test_a_tensor_that_varies_from_image_to_image_alone(self) -> None:
        pixels_NHWC = np.repeat(np.array([10, 20], np.uint8), 12).reshape(-1, 2, 2, 3)
        assert tensor_thresholds(MINUS_150, ("x",), in_batches(pixels_NHWC, 1), "max") == {"x": 20}

    def test_a_model_that_onnxruntime_refuses(self) -> None:
        model = pixel_model(helper.make_node("Sharpen", ["x"], ["y"], domain="acme"))
        model.opset_import.append(helper.make_opsetid("acme", 1))
        with pytest.raises(InputError, match=r"calibration: ONNX Runtime refuses the model \(.*Sharpen"):
            tensor_thresholds(model, ("y",), in_batches(images(1), 1), "max")


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
    helper.make_node("Mul", ["x", "digits"], ["parts"]),
    helper.make_node("ReduceSum", ["parts", "last"], ["sum"], keepdims=1),
    helper.make_node("Add", ["sum", "half"], ["uniform"]),
    helper.make_node("Log", ["uniform"], ["log"]),
    helper.make_node("Neg", ["log"], ["all"]),
    helper.make_node("Expand", ["all", "shape"], ["y"]),
    digits=[2.0**-8, 2.0**-16, 2.0**-24],
    half=2.0**-25,
)
EXPONENTIAL.graph.initializer.extend(
    [numpy_helper.from_array(np.array([3]), "last"), numpy_helper.from_array(np.array([1, 1, 1, 3]), "shape")]
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
