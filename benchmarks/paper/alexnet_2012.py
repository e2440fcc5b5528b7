"""``alexnet-2012`` beside ``alexnet``: the numbers and pictures of docs/paper.md for a checkpoint that is not shipped.

    python -m training train imagenette --arch alexnet-2012 --recipe paper --lr 0.0003 --output runs/2012
    python -m benchmarks.paper.alexnet_2012 runs/2012/checkpoint.safetensors

It compares with the shipped weights: the first filters of both, of random ones and of each half of the paper's 96, and
where both look on the sample photos of classes that they know. It writes docs/pictures/*-2012.png.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from alexnet_deploy.explanation.agreement import agreement
from alexnet_deploy.explanation.filters import draw_filters
from alexnet_deploy.explanation.grid import save_png
from alexnet_deploy.explanation.occlusion import occlude
from alexnet_deploy.explanation.overlay import largest_of, overlay
from alexnet_deploy.explanation.settings import occlusion_settings
from alexnet_deploy.images.decode import load_pixels
from alexnet_deploy.images.samples import sample_photos
from alexnet_deploy.model.architecture import AlexNet, initialise
from alexnet_deploy.model.checkpoint import load_checkpoint, shipped_checkpoint
from alexnet_deploy.model.inside import feature_maps, first_convolution
from alexnet_deploy.model.torch_runner import TorchRunner
from benchmarks.paper.figures import EXPLAINED, FOLDER, MOST_BYTES, photo

# Legend: F filter, C channel, H height, W width

LOW = 0.25
"""Cycles per pixel below which a filter's pattern is called smooth: one period takes more than four pixels."""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("checkpoint", type=Path, help="of alexnet-2012, trained on the classes of the shipped weights")
    path = parser.parse_args().checkpoint
    theirs, ours = load_checkpoint(path), load_checkpoint(shipped_checkpoint())
    network = AlexNet(theirs.arch)
    torch.manual_seed(0)
    initialise(network, "paper")
    random_FCHW = network.features[0].weight.detach().numpy()
    filters_FCHW = first_convolution(theirs)[1]
    half = len(filters_FCHW) // 2
    for name, weight_FCHW in (
        ("alexnet-2012", filters_FCHW),
        ("  its first 48", filters_FCHW[:half]),
        ("  its other 48", filters_FCHW[half:]),
        ("  before training", random_FCHW),
        ("alexnet, shipped", first_convolution(ours)[1]),
    ):
        print(f"{name:18s} colour {spread(colour(weight_FCHW))}  smooth {spread(smooth(weight_FCHW))}")
    save(draw_filters(filters_FCHW, "rgb", "alexnet-2012"), "filters-2012")
    save(look(path), "explain-2012")
    for name, found in (("alexnet-2012", theirs), ("alexnet", ours)):
        pixels_HWC = load_pixels(photo(), found.contract.preprocessing)
        for layer, kind, maps_CHW in feature_maps(found, pixels_HWC):
            silent = int((maps_CHW == 0).all(axis=(1, 2)).sum())
            print(f"{name} {layer} {kind} {maps_CHW.shape}: {100 * (maps_CHW == 0).mean():.0f} % 0, {silent} silent")


def colour(weight_FCHW: NDArray[np.float32]) -> NDArray[np.float64]:
    """Share of each filter's energy that is not grey, 0..1; of independent channels two thirds."""
    grey_FHW = weight_FCHW.mean(axis=1, dtype=np.float64)
    energy_F = np.square(weight_FCHW, dtype=np.float64).sum(axis=(1, 2, 3))
    shares_F: NDArray[np.float64] = 1 - weight_FCHW.shape[1] * np.square(grey_FHW).sum(axis=(1, 2)) / energy_F
    return shares_F


def smooth(weight_FCHW: NDArray[np.float32]) -> NDArray[np.float64]:
    """Share of each filter's energy at frequencies below ``LOW``, 0..1; of independent weights about a fifth."""
    power_FCHW = np.square(np.abs(np.fft.fft2(weight_FCHW)))
    down_H, across_W = (np.fft.fftfreq(side) for side in weight_FCHW.shape[2:])
    low_HW = np.hypot(down_H[:, np.newaxis], across_W) < LOW
    shares_F: NDArray[np.float64] = power_FCHW[:, :, low_HW].sum(axis=(1, 2)) / power_FCHW.sum(axis=(1, 2, 3))
    return shares_F


def spread(shares_F: NDArray[np.float64]) -> str:
    """The median and the quartiles, in percent."""
    low, middle, high = np.percentile(100 * shares_F, (25, 50, 75))
    return f"{middle:.0f} % ({low:.0f}..{high:.0f})"


def look(path: Path) -> Image.Image:
    """Columns: the photos of docs/explain.md. Rows: what the networks see, and the occlusion of each."""
    runners = [TorchRunner(shipped_checkpoint()), TorchRunner(path)]
    side, paper = 124, Image.new("RGB", (len(EXPLAINED) * 128, 3 * 128), "white")
    known = runners[0].contract
    labels = dict(zip(known.class_ids, known.labels, strict=True))
    correlations = []
    for file in sample_photos():
        maps, answers = [], []
        # Both see the same pixels, as `explain` wants it.
        seen = load_pixels(file, runners[1].contract.preprocessing)
        for runner in runners:
            target = int(runner(seen[None]).argmax())
            found = occlude(runner, seen, target, occlusion_settings(runners[1].contract.preprocessing), batch=32)
            maps.append(found)
            answers.append(f"{labels[runner.contract.class_ids[target]]} {100 * found.probability:.0f} %")
        alike = agreement(maps[0].drop_YX, maps[1].drop_YX)
        print(f"{file.name}: alexnet {answers[0]}, alexnet-2012 {answers[1]}; {alike.verdict}")
        if alike.rank_correlation is not None:
            correlations.append(alike.rank_correlation)
        if file.name in EXPLAINED:
            left = EXPLAINED.index(file.name) * 128
            pictures = [Image.fromarray(seen)]
            for found in maps:
                map_HW = found.pixels(*seen.shape[:2])
                pictures.append(overlay(seen, map_HW, largest_of(map_HW)))
            for row, each in enumerate(pictures):
                paper.paste(each.resize((side, side), Image.Resampling.BOX), (left, row * 128))
    print(f"rank correlation of {len(correlations)} photos: median {statistics.median(correlations):.2f}")
    return paper.quantize(256)


def save(picture: Image.Image, name: str) -> None:
    """Into docs/pictures, below the size of its other pictures."""
    path = FOLDER / f"{name}.png"
    save_png(picture, path)
    assert path.stat().st_size < MOST_BYTES, f"{path}: {path.stat().st_size} bytes"


if __name__ == "__main__":
    main()
