"""What is no classifier of photos, or does not say how they are normalised, is refused with its cause."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from alexnet_deploy.adoption.adopt import adopt
from alexnet_deploy.adoption.import_options import ImportOptions
from alexnet_deploy.errors import DeployError, UsageError
from tests.helpers.models.foreign_models import AFFINE, FOREIGN, MEAN, STD, W, after, foreign_classifier, graph_of

PHOTO, SCORES = "float[N,3,4,4] x", "float[N,5] y"


class TestRefused:
    @pytest.mark.parametrize(
        ("mean", "std", "message"),
        [
            (None, None, "net.onnx: does not record how .* give `mean` and `std` .* 0.485,0.456,0.406 and 0.229"),
            (MEAN, None, "net.onnx: does not record how .*`std` is missing"),
            (None, STD, "net.onnx: does not record how .*`mean` is missing"),
        ],
    )
    def test_mean_and_std_that_are_missing(
        self, mean: tuple[float, ...] | None, std: tuple[float, ...] | None, message: str, tmp_path: Path, out: Path
    ) -> None:
        with pytest.raises(UsageError, match=message):
            adopt(foreign_classifier(tmp_path / "net.onnx"), out, ImportOptions(mean, std))

    @pytest.mark.parametrize(
        ("inputs", "outputs", "body", "weights", "cause"),
        [
            ("float[N,2,4,6] x", SCORES, AFFINE, W["w"], r"input x \[N, 2, 4, 6\] has 2 channels"),
            ("float[N,C,H,W] x", SCORES, AFFINE, W["w"], "does not say where its channels are"),
            ("float[N,3,H,W] x", SCORES, AFFINE, W["w"], "takes images of any size; give the one .* as `crop`"),
            ("int8[N,3,4,4] x", SCORES, after("f = Cast <to = 1> (x)"), W["w"], "input x is int8, and nothing records"),
            ("float[N,3,2,4,2] x", SCORES, AFFINE, W["w"], "is no image"),
            ("float[N,48] x", SCORES, AFFINE, W["w"], r"\[N, 48\] is no image"),
            ("float[N,3,100000,100000] x", SCORES, after("p = GlobalAveragePool (x)"), W["w"][:, :3], "100000"),
            (f"{PHOTO}, float[N,3,4,4] z", SCORES, after("s = Add (x, z)"), W["w"], r"has 2 inputs \(x, z\), an image"),
            (PHOTO, f"{SCORES}, float[N,5] z", f"{AFFINE}; z = Neg (y)", W["w"], "has 2 outputs that may hold"),
            (PHOTO, "float[N,1] y", AFFINE, W["w"][:1], "is one number per image without a sigmoid"),
            (PHOTO, "float[N,K] y", "n = NonZero (x); y = Cast <to = 1> (n)", W["w"], "first axis is not the batch"),
            (PHOTO, SCORES, after("x2 = acme.Sharpen (x)"), W["w"], r"acme.Sharpen \(node 'x2'\) is not a stand"),
            (PHOTO, SCORES, AFFINE, W["w"][:, :7], ""),  # weights that do not fit together
        ],
    )
    def test_graphs_that_are_no_classifier_of_photos(
        self, inputs: str, outputs: str, body: str, weights: NDArray[np.float32], cause: str, tmp_path: Path, out: Path
    ) -> None:
        out.write_text("old")
        signature = f"({inputs}) => ({outputs})"
        source = graph_of(tmp_path / "net.onnx", body, {"w": weights}, signature=signature, domain="acme")
        with pytest.raises(DeployError, match=f"net.onnx: .*{cause}"):
            adopt(source, out, FOREIGN)
        assert out.read_text() == "old"
        assert sorted(path.name for path in tmp_path.iterdir()) == ["adopted.onnx", "net.onnx"]
