"""Inputs of any layout, type, size and number of channels get what their own tool would have given them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper
from PIL import Image

from alexnet_deploy.adoption.adopt import adopt
from alexnet_deploy.adoption.import_options import ImportOptions
from alexnet_deploy.bundle.manifest import Engine
from alexnet_deploy.contract import ModelContract
from alexnet_deploy.errors import InputError, UsageError
from alexnet_deploy.onnx_graph.onnx_file import load_onnx
from alexnet_deploy.precision.convert import to_fp16
from alexnet_deploy.runtime.select import Runtime, open_runner
from tests.helpers.models.foreign_models import random_pixels
from tests.helpers.models.graphs import graph_model

SIDE = 6
KEEP = ImportOptions((0.0,), (1 / 255,))
"""The values 0..255 as they are."""
RUNTIMES = ("onnxruntime", "openvino")


def picking(path: Path, kind: str, shape: str, *, opset: int = 21, body: str = "f = Cast <to = 1> (x)") -> Path:
    """A model whose scores are its input values, each times 1 or 2, so that the input can be read off them."""
    sizes = [int(size) for size in shape.split(",")[-3:] if size.isdecimal()]
    count = int(np.prod(sizes)) if len(sizes) == 3 else 3 * SIDE * SIDE
    first = "" if len(shape.split(",")) == 4 else "1, "
    nodes = f"{body}; flat = Reshape (f, rows); y = Mul (flat, w)"
    model = graph_model(
        f"({kind}[{shape}] x) => (float[N,{count}] y)",
        nodes,
        opset=opset,
        rows=np.array([1 if first else -1, count]),
        w=1 + np.arange(count, dtype=np.float32) % 2,
    )
    onnx.save(model, path)
    return path


def logits(
    path: Path, contract: ModelContract, pixels_NHWC: NDArray[np.uint8], runtime: Runtime = "onnxruntime"
) -> NDArray[np.float32]:
    return open_runner(Engine("x", path, contract, "fp32", None), runtime, threads=1).runner(pixels_NHWC)


def values_of(logits_NK: NDArray[np.float32]) -> NDArray[Any]:
    """The input values of a ``picking`` model."""
    return logits_NK / (1 + np.arange(logits_NK.shape[1]) % 2)


class TestLayouts:
    @pytest.mark.parametrize(
        ("shape", "channels_last", "crop"),
        [
            ("N,3,6,6", False, None),
            ("N,6,6,3", True, None),
            ("1,3,6,6", False, None),
            ("2,6,6,3", True, None),
            ("3,6,6", False, None),
            ("6,6,3", True, None),
            ("N,3,H,W", False, (6, 6)),
            ("N,H,W,3", True, (6, 6)),
            ("N,3,6,W", False, (6, 6)),
            ("batch_size,3,height,width", False, (6, 6)),
        ],
    )
    def test_layouts_and_sizes(
        self, shape: str, channels_last: bool, crop: tuple[int, int] | None, tmp_path: Path
    ) -> None:
        out = tmp_path / "out.onnx"
        contract = adopt(
            picking(tmp_path / "net.onnx", "float", shape), out, ImportOptions((0.0,), (1 / 255,), crop=crop)
        )
        assert (contract.preprocessing.height, contract.preprocessing.width) == (6, 6)
        pixels = random_pixels(2, SIDE)
        expected = pixels if channels_last else pixels.transpose(0, 3, 1, 2)
        # 1 / (255 / 255) in float32: exact but for the last place
        np.testing.assert_allclose(values_of(logits(out, contract, pixels)), expected.reshape(2, -1), rtol=1e-6)

    def test_a_size_of_height_by_width(self, tmp_path: Path) -> None:
        options = ImportOptions((0.0,), (1.0,), crop=(5, 7))
        model = graph_model(
            "(float[N,3,H,W] x) => (float[N,3] y)", "p = GlobalAveragePool (x); y = Flatten (p)", opset=17
        )
        onnx.save(model, tmp_path / "net.onnx")
        contract = adopt(tmp_path / "net.onnx", tmp_path / "out.onnx", options)
        assert (contract.preprocessing.height, contract.preprocessing.width) == (5, 7)
        shape = load_onnx(tmp_path / "out.onnx").graph.input[0].type.tensor_type.shape.dim
        assert [dim.dim_value for dim in shape[1:]] == [5, 7, 3]

    @pytest.mark.parametrize(("perm", "channels_last"), [(None, False), ([0, 3, 1, 2], True)])
    def test_channels_that_only_the_first_convolution_shows(
        self, perm: list[int] | None, channels_last: bool, tmp_path: Path
    ) -> None:
        move = "t = Transpose <perm = [0, 3, 1, 2]> (x); " if perm else ""
        weights = np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype(np.float32)
        body = f"{move}c = Conv ({'t' if perm else 'x'}, w); p = GlobalAveragePool (c); y = Flatten (p)"
        onnx.save(graph_model("(float[N,A,B,C] x) => (float[N,4] y)", body, w=weights), tmp_path / "net.onnx")
        contract = adopt(tmp_path / "net.onnx", tmp_path / "out.onnx", ImportOptions((0.0,), (1.0,), crop=(6, 8)))
        assert contract.preprocessing.channels == "rgb"

    @pytest.mark.parametrize("crop", [(8, 6), (6, 8)])
    def test_a_crop_that_does_not_fit(self, crop: tuple[int, int], tmp_path: Path) -> None:
        source = picking(tmp_path / "net.onnx", "float", "N,3,6,6")
        with pytest.raises(UsageError, match=r"`crop` .* does not fit the input of 6 x 6"):
            adopt(source, tmp_path / "out.onnx", ImportOptions((0.0,), (1.0,), crop=crop))


class TestTypes:
    @pytest.mark.parametrize(
        ("kind", "body"),
        [
            ("float", "f = Identity (x)"),
            ("float16", "f = Cast <to = 1> (x)"),
            ("double", "f = Cast <to = 1> (x)"),
            ("uint8", "f = Cast <to = 1> (x)"),
            ("uint8", "t = Transpose <perm = [0, 1, 2, 3]> (x); f = Cast <to = 1> (t)"),
            ("uint8", "m = Max (x, x); f = Cast <to = 1> (m)"),  # arithmetic on integers
        ],
    )
    @pytest.mark.parametrize("runtime", RUNTIMES)
    def test_each_type_gets_the_same_values(self, runtime: Runtime, kind: str, body: str, tmp_path: Path) -> None:
        source = picking(tmp_path / "net.onnx", kind, "N,6,6,3", body=body)
        out = tmp_path / "out.onnx"
        # A uint8 input needs neither mean nor std.
        contract = adopt(source, out, ImportOptions() if kind == "uint8" else KEEP)
        assert contract.preprocessing.std == pytest.approx((1 / 255,) * 3)
        pixels = random_pixels(2, SIDE)
        found = values_of(logits(out, contract, pixels, runtime))
        # float16 has 11 bits: whole numbers up to 255 are exact
        np.testing.assert_allclose(found, pixels.reshape(2, -1), rtol=1e-6)

    def test_no_integer_arithmetic_is_left_where_the_model_only_casts(self, tmp_path: Path) -> None:
        """TensorRT takes uint8 at the network's input alone."""
        out = tmp_path / "out.onnx"
        adopt(picking(tmp_path / "net.onnx", "uint8", "N,6,6,3"), out)
        inferred = onnx.shape_inference.infer_shapes(load_onnx(out))
        kinds = {value.type.tensor_type.elem_type for value in inferred.graph.value_info}
        assert TensorProto.UINT8 not in kinds

    @pytest.mark.parametrize("options", [ImportOptions((0.5,), (0.5,)), ImportOptions((0.0,), (1.0,))])
    def test_a_uint8_input_is_not_normalised_twice(self, options: ImportOptions, tmp_path: Path) -> None:
        source = picking(tmp_path / "net.onnx", "uint8", "N,6,6,3")
        with pytest.raises(UsageError, match=r"takes the pixel values 0..255 as they are; leave out `mean` and `std`"):
            adopt(source, tmp_path / "out.onnx", options)
        assert adopt(source, tmp_path / "out.onnx", KEEP).preprocessing.mean == (0.0, 0.0, 0.0)
        named = adopt(source, tmp_path / "out.onnx", ImportOptions(preprocessing="timm"))
        assert (named.preprocessing.mean, named.preprocessing.interpolation) == ((0.0, 0.0, 0.0), "bicubic")

    @pytest.mark.parametrize("kind", ["int8", "int32", "int64", "bool"])
    def test_types_whose_numbers_nothing_records(self, kind: str, tmp_path: Path) -> None:
        source = picking(tmp_path / "net.onnx", kind, "N,6,6,3")
        with pytest.raises(InputError, match=rf"input x is {kind}, and nothing records"):
            adopt(source, tmp_path / "out.onnx", KEEP)


class TestModelsThatScaleThemselves:
    @pytest.mark.parametrize(
        "body",
        [
            "f = Mul (x, by)",
            "f = Div (x, n)",
            "f = Mul (by, x)",
            "t = Transpose <perm = [0, 3, 1, 2]> (x); f = Sub (t, mean)",
            "c = Constant <value_float = 127.5> (); f = Div (x, c)",
        ],
    )
    def test_they_get_values_up_to_255(self, body: str, tmp_path: Path) -> None:
        tail = "; p = ReduceMean (f, axes); y = Flatten (p)"
        constants = {
            "by": np.float32(1 / 255),
            "n": np.array([58.4, 57.1, 57.4], np.float32),
            "mean": np.array([123.7, 116.3, 103.5], np.float32).reshape(1, 3, 1, 1),
            "axes": np.array([2, 3] if "Transpose" in body else [1, 2]),
        }
        onnx.save(graph_model("(float[N,6,6,3] x) => (float[N,3] y)", body + tail, **constants), tmp_path / "net.onnx")
        contract = adopt(tmp_path / "net.onnx", tmp_path / "out.onnx")
        assert contract.preprocessing.std == pytest.approx((1 / 255,) * 3)
        with pytest.raises(UsageError, match=r"scales the pixel values 0..255 itself .* would scale them twice"):
            adopt(tmp_path / "net.onnx", tmp_path / "out.onnx", ImportOptions((0.0,), (1.0,)))


class TestChannels:
    @pytest.mark.parametrize("shape", ["N,1,6,6", "N,6,6,1"])
    @pytest.mark.parametrize("runtime", RUNTIMES)
    def test_grey_is_that_of_pillow_for_every_colour(self, runtime: Runtime, shape: str, tmp_path: Path) -> None:
        """Colours where the sum lies close to a half, and random ones."""
        side = 96
        model = graph_model(
            f"(float[{shape.replace('6', str(side))}] x) => (float[N,{side * side}] y)", "y = Flatten (x)"
        )
        onnx.save(model, tmp_path / "net.onnx")
        contract = adopt(tmp_path / "net.onnx", tmp_path / "out.onnx", KEEP)
        assert contract.preprocessing.channels == "grey"
        pixels = random_pixels(3, side)
        levels = np.arange(256, dtype=np.uint8)
        pixels[0].reshape(-1, 3)[:256] = levels[:, None]  # grey stays grey
        pixels[0].reshape(-1, 3)[256:512, 0] = levels
        pixels[1].reshape(-1, 3)[:] = [255, 255, 254]
        expected = np.stack([np.asarray(Image.fromarray(image).convert("L")) for image in pixels])
        for path in (tmp_path / "out.onnx", to_fp16(tmp_path / "out.onnx", tmp_path / "half.onnx")):
            found = logits(path, contract, pixels, runtime)
            # whole numbers up to 255: exact in float16 as well
            np.testing.assert_allclose(found, expected.reshape(3, -1), rtol=1e-6, atol=0)

    @pytest.mark.parametrize("shape", ["N,3,6,6", "N,6,6,3"])
    @pytest.mark.parametrize("runtime", RUNTIMES)
    def test_bgr_takes_mean_and_std_in_the_order_red_green_blue(
        self, runtime: Runtime, shape: str, tmp_path: Path
    ) -> None:
        mean, std = np.array([0.4, 0.5, 0.6]), np.array([0.1, 0.2, 0.3])
        source, out = picking(tmp_path / "net.onnx", "float", shape), tmp_path / "out.onnx"
        contract = adopt(source, out, ImportOptions(tuple(mean), tuple(std), channels="bgr"))
        pixels = random_pixels(2, SIDE)
        expected = ((pixels / 255 - mean) / std)[..., ::-1]
        if shape.startswith("N,3"):
            expected = expected.transpose(0, 3, 1, 2)
        # (x - 255 mean) / (255 std) in float32: some units in the last place of 255 / (255 * 0.1)
        np.testing.assert_allclose(
            values_of(logits(out, contract, pixels, runtime)), expected.reshape(2, -1), rtol=0, atol=1e-5
        )

    @pytest.mark.parametrize("shape", ["N,4,6,6", "N,6,6,4"])
    @pytest.mark.parametrize("runtime", RUNTIMES)
    def test_rgba_gets_an_opaque_alpha(self, runtime: Runtime, shape: str, tmp_path: Path) -> None:
        source, out = picking(tmp_path / "net.onnx", "float", shape), tmp_path / "out.onnx"
        contract = adopt(source, out, ImportOptions((0.5,), (0.5,)))
        assert contract.preprocessing.channels == "rgba"
        pixels = random_pixels(2, SIDE)
        rgba = np.concatenate([pixels, np.full((2, SIDE, SIDE, 1), 255, np.uint8)], axis=-1)
        expected = rgba / 127.5 - 1
        if shape.startswith("N,4"):
            expected = expected.transpose(0, 3, 1, 2)
        found = values_of(logits(out, contract, pixels, runtime))
        np.testing.assert_allclose(found, expected.reshape(2, -1), rtol=0, atol=1e-6)  # float32 of values up to 1

    @pytest.mark.parametrize(
        ("shape", "options", "cause"),
        [
            ("N,1,6,6", ImportOptions((0.5,), (0.5,), channels="rgb"), "`channels` rgb does not fit an input of 1"),
            ("N,3,6,6", ImportOptions((0.5,), (0.5,), channels="grey"), "use rgb or bgr"),
            ("N,4,6,6", ImportOptions((0.5,), (0.5,), channels="bgr"), "use rgba"),
            ("N,1,6,6", ImportOptions((0.1, 0.2, 0.3), (0.5,)), "grey is one channel; give one number"),
            ("N,4,6,6", ImportOptions((0.5,), (0.1, 0.2, 0.3)), "alpha channel would have none of them"),
        ],
    )
    def test_channels_that_do_not_fit(self, shape: str, options: ImportOptions, cause: str, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match=cause):
            adopt(picking(tmp_path / "net.onnx", "float", shape), tmp_path / "out.onnx", options)


def test_tensors_may_be_called_as_the_nodes_that_are_added(tmp_path: Path) -> None:
    body = "a = Abs (x); b = Identity (a); c = Identity (b); f = Identity (c)"
    source = picking(tmp_path / "net.onnx", "float", "N,6,6,3", body=body)
    model = onnx.load(source)
    names = {"a": "pixels/mean", "b": "pixels/Cast_output", "c": "pixels"}
    for node in model.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
        node.name = "pixels/Cast" if node.name == "a" else node.name
    onnx.save(model, source)
    contract = adopt(source, tmp_path / "out.onnx", KEEP)
    pixels = random_pixels(2, SIDE)
    found = values_of(logits(tmp_path / "out.onnx", contract, pixels))
    np.testing.assert_allclose(found, pixels.reshape(2, -1), rtol=1e-6)  # one rounding of float32


def test_an_input_with_an_initializer_is_a_weight(tmp_path: Path) -> None:
    source = picking(tmp_path / "net.onnx", "float", "N,6,6,3")
    model = onnx.load(source)
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [108]))
    onnx.save(model, source)
    adopt(source, tmp_path / "out.onnx", KEEP)
    assert [value.name for value in load_onnx(tmp_path / "out.onnx").graph.input] == ["pixels"]
