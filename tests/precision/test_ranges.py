"""Measured ranges against hand computations, and what is refused."""

from __future__ import annotations

import weakref
from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import helper

from alexnet_deploy.errors import InputError
from alexnet_deploy.precision.ranges import choose_thresholds, observe
from alexnet_deploy.precision.thresholds import BINS
from alexnet_deploy.precision.types import METHODS, Method
from tests.helpers.pixel_models import MINUS_150, in_batches, pixel_model, tensor_thresholds


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
        body = "y = Sub (x, c); rows = Reshape (y, shape)"  # four rows per image, as before a MatMul
        free, fixed = (pixel_model(body, c=150, integers={"shape": [-1, 3]}) for _ in range(2))
        fixed.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 32
        pixels_NHWC = images(*range(100, 132), 255)
        found, expected = (
            tensor_thresholds(model, ("x", "y", "rows"), in_batches(pixels_NHWC, 32), method) for model in (fixed, free)
        )
        assert found == expected
        values = observe(fixed, ("rows",), in_batches(pixels_NHWC, 32), histograms=True)["rows"]
        assert values.histogram is not None
        assert values.histogram.sum() == pixels_NHWC.size


class TestBroken:
    @pytest.mark.parametrize("method", METHODS)
    @pytest.mark.parametrize(
        ("node", "values"),
        [
            ("Sqrt (d)", (200, 100)),  # NaN in the second batch only
            ("Sqrt (d)", (100, 200)),
            ("Reciprocal (d)", (200, 150)),  # infinity
        ],
        ids=["NaN last", "NaN first", "infinity"],
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
        with pytest.raises(
            InputError,
            match=rf"tensor flat \(input of layer features.1\) is {constant} everywhere on every image; .* `exclude`",
        ):
            tensor_thresholds(model, ("x", "flat"), in_batches(images(1, 2), 1), method)
        found = observe(model, ("x", "flat"), in_batches(images(1, 2), 1), histograms=True)
        assert choose_thresholds(model, found, ("x",), method)["x"] > 0  # who does not need the tensor is not stopped

    def test_a_tensor_that_varies_from_image_to_image_alone(self) -> None:
        pixels_NHWC = np.repeat(np.array([10, 20], np.uint8), 12).reshape(-1, 2, 2, 3)
        assert tensor_thresholds(MINUS_150, ("x",), in_batches(pixels_NHWC, 1), "max") == {"x": 20}

    def test_a_model_that_onnxruntime_refuses(self) -> None:
        model = pixel_model("y = acme.Sharpen (x)")
        model.opset_import.append(helper.make_opsetid("acme", 1))
        with pytest.raises(InputError, match=r"calibration: ONNX Runtime refuses the model \(.*Sharpen"):
            tensor_thresholds(model, ("y",), in_batches(images(1), 1), "max")
