"""Measured ranges against hand computations, and what is refused."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from alexnet_deploy.errors import InputError
from alexnet_deploy.precision.calibration.ranges import choose_thresholds, observe
from alexnet_deploy.precision.calibration.thresholds import BINS
from alexnet_deploy.precision.types import METHODS, Method
from tests.helpers.models.graphs import graph_model

Batches = Callable[[], Iterator[NDArray[np.uint8]]]


def pixel_model(body: str, **weights: float) -> onnx.ModelProto:
    """``body`` turns the pixels' values ``x`` [N, 2, 2, 3], 0..255, into ``y`` of the same shape."""
    floats = {name: np.float32(value) for name, value in weights.items()}
    signature = "(uint8[N,2,2,3] pixels) => (float[N,2,2,3] y)"
    return graph_model(signature, f"x = Cast <to = 1> (pixels); {body}", **floats)


MINUS_150 = pixel_model("y = Sub (x, c)", c=150)


def in_batches(pixels_NHWC: NDArray[np.uint8], batch: int) -> Batches:
    return lambda: (pixels_NHWC[i : i + batch] for i in range(0, len(pixels_NHWC), batch))


def tensor_thresholds(
    model: onnx.ModelProto, tensors: tuple[str, ...], batches: Batches, method: Method
) -> dict[str, float]:
    return choose_thresholds(model, observe(model, tensors, batches, histograms=method != "max"), tensors, method)


def images(*values: int) -> NDArray[np.uint8]:
    """One image [2, 2, 3] for each value, all of it; its first number is 0."""
    pixels_NHWC = np.repeat(np.array(values, np.uint8), 12).reshape(-1, 2, 2, 3)
    pixels_NHWC[:, 0, 0, 0] = 0
    return pixels_NHWC


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
        square = pixel_model("d = Sub (x, c); y = Mul (d, d)", c=77.5)
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


class TestValues:
    def test_both_ends_and_every_number(self) -> None:
        pixels_NHWC = images(100, 200, 170)  # y: 8 x -50, 8 x 50 and so on, and -150 in the corners
        (found,) = observe(MINUS_150, ("y",), in_batches(pixels_NHWC, 2), histograms=True).values()
        assert (found.lowest, found.highest, found.largest) == (-150, 50, 150)
        assert found.histogram is not None
        bins = {i: int(n) for i, n in enumerate(found.histogram) if n}
        assert bins == {20 * BINS // 150: 11, 50 * BINS // 150: 22, BINS - 1: 3}


class TestBroken:
    @pytest.mark.parametrize("method", METHODS)
    @pytest.mark.parametrize(
        ("node", "values"),
        [("Sqrt (d)", (200, 100)), ("Sqrt (d)", (100, 200)), ("Reciprocal (d)", (200, 150)), ("Log (d)", (200, 150))],
        ids=["NaN in the second batch", "NaN in the first", "infinity", "minus infinity"],
    )
    def test_a_tensor_that_is_not_finite(self, node: str, values: tuple[int, ...], method: Method) -> None:
        model = pixel_model(f"d = Sub (x, c); y = {node}", c=150)
        pixels_NHWC = images(*values)
        pixels_NHWC[:, 0, 0, 0] = 255
        with pytest.raises(InputError, match=r"calibration: tensor y is not finite"):
            tensor_thresholds(model, ("d", "y"), in_batches(pixels_NHWC, 1), method)

    @pytest.mark.parametrize("method", METHODS)
    @pytest.mark.parametrize("constant", [0, -0.25])
    def test_a_tensor_that_is_always_the_same(self, constant: float, method: Method) -> None:
        model = pixel_model("zeros = Mul (x, zero); flat = Add (zeros, c); y = Relu (flat)", zero=0, c=constant)
        model.graph.node[-1].name = "features.1"
        batches = in_batches(images(1, 2), 1)
        message = rf"tensor flat \(input of layer features.1\) is {constant} everywhere on every image; .* `exclude`"
        with pytest.raises(InputError, match=message):
            tensor_thresholds(model, ("x", "flat"), batches, method)
        found = observe(model, ("x", "flat"), batches, histograms=True)
        assert choose_thresholds(model, found, ("x",), method)["x"] > 0  # who does not need the tensor is not stopped

    def test_a_tensor_that_varies_from_image_to_image_alone(self) -> None:
        pixels_NHWC = np.repeat(np.array([10, 20], np.uint8), 12).reshape(-1, 2, 2, 3)
        assert tensor_thresholds(MINUS_150, ("x",), in_batches(pixels_NHWC, 1), "max") == {"x": 20}
