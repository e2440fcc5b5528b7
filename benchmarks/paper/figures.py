"""The pictures of docs/paper.md and docs/explain.md, from the shipped weights and the sample photos alone.

    python -m benchmarks.paper.figures

It writes docs/pictures/*.png, each below 100 kB, and prints the numbers that the pages quote.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from alexnet_deploy.explanation.activations import LayerMaps, draw_maps
from alexnet_deploy.explanation.filters import draw_filters
from alexnet_deploy.explanation.grid import save_png
from alexnet_deploy.explanation.occlusion import occlude
from alexnet_deploy.explanation.overlay import largest_of, overlay
from alexnet_deploy.explanation.settings import occlusion_settings
from alexnet_deploy.images.decode import load_pixels, open_rgb
from alexnet_deploy.images.samples import sample_photos
from alexnet_deploy.model.architecture import FAMILY, KERNELS, PixelClassifier
from alexnet_deploy.model.checkpoint import load_checkpoint, shipped_checkpoint
from alexnet_deploy.model.grad_cam import GradCam
from alexnet_deploy.model.inside import feature_maps, first_convolution
from alexnet_deploy.model.lrn import ALPHA, BETA, BIAS, PaperLRN
from alexnet_deploy.model.torch_runner import TorchRunner
from benchmarks.rounds import ROOT
from training.data.augment import add_colour_noise, measure_colours, random_crop
from training.recipes.named import get_recipe

# Legend: N batch, C channel, H height, W width

FOLDER = ROOT / "docs" / "pictures"
PHOTO = "church_reims.jpg"
EXPLAINED = ("church_berlin.jpg", "fish_salmon_wide.jpg", "rocket_launch.jpg", "baseball_alpha.png")
MOST_BYTES = 100_000
SEED = 4
"""Of crops, colours and dropout. Any will do."""
STRONG = 10.0
"""The colour noise of the last row is so many times the paper's, to make it visible."""


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    figures: dict[str, Callable[[], Image.Image | Figure]] = {
        "filters": filters, "relu": relu, "lrn": lrn, "pooling": pooling, "dropout": dropout,
        "augmentation": augmentation, "groups": groups, "rates": rates, "activations-first": lambda: activations(0),
        "activations-fourth": lambda: activations(5), "explain": explain,
    }  # fmt: skip
    for name, draw in figures.items():
        path, drawn = FOLDER / f"{name}.png", draw()
        if isinstance(drawn, Figure):
            drawn.savefig(path, dpi=90)
            save_png(Image.open(path).convert("RGB").quantize(128), path)
        else:
            save_png(drawn, path)
        size = path.stat().st_size
        assert size < MOST_BYTES, f"{path}: {size} bytes"
        print(f"{path.relative_to(ROOT)}: {size} bytes")


CHECKPOINT = load_checkpoint(shipped_checkpoint())


def photo(name: str = PHOTO) -> Path:
    return next(path for path in sample_photos() if path.name == name)


def pixels() -> NDArray[np.uint8]:
    return load_pixels(photo(), CHECKPOINT.contract.preprocessing)


def before_relu() -> NDArray[np.float32]:
    """The output of the first convolution, ``[C, H, W]``."""
    pre = CHECKPOINT.contract.preprocessing
    x = PixelClassifier(nn.Identity(), pre.mean, pre.std)(torch.from_numpy(pixels()[None]))
    with torch.inference_mode():
        return np.asarray(CHECKPOINT.build().get_submodule("features.0")(x)[0].numpy())


def filters() -> Image.Image:
    return draw_filters(first_convolution(CHECKPOINT)[1], "rgb", "shipped")


def activations(index: int) -> Image.Image:
    """The first two rows of one sheet."""
    name, kind, maps_CHW = feature_maps(CHECKPOINT, pixels())[index]
    return draw_maps(LayerMaps(name, kind, maps_CHW[:32]))


def explain() -> Image.Image:
    """Columns: four photos. Rows: what the network sees, occlusion (one scale per photo), Grad-CAM."""
    runner, cam, side = TorchRunner(shipped_checkpoint()), GradCam(CHECKPOINT), 124
    settings = occlusion_settings(runner.contract.preprocessing)
    paper = Image.new("RGB", (len(EXPLAINED) * (side + 4), 3 * (side + 4)), "white")
    for column, name in enumerate(EXPLAINED):
        seen = load_pixels(photo(name), runner.contract.preprocessing)
        target = int(runner(seen[None]).argmax())
        found = occlude(runner, seen, target, settings, batch=32)
        map_HW, cam_HW = found.pixels(*seen.shape[:2]), cam(seen, target)
        pictures = (
            Image.fromarray(seen),
            overlay(seen, map_HW, largest_of(map_HW)),
            overlay(seen, cam_HW, largest_of(cam_HW)),
        )
        for row, each in enumerate(pictures):
            paper.paste(each.resize((side, side), Image.Resampling.BOX), (column * (side + 4), row * (side + 4)))
        left, top, drop = found.strongest()
        label = runner.contract.labels[target]
        print(f"{name}: {label} {100 * found.probability:.1f} %, {100 * drop:+.1f} points at {left}, {top}")
    return paper.quantize(256)


def relu() -> Figure:
    values = before_relu()
    print(f"first convolution on {PHOTO}: {100 * (values <= 0).mean():.0f} % of the values become 0")
    figure = Figure(figsize=(8, 2.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    x = np.linspace(-4, 4, 200)
    left.plot(x, np.maximum(x, 0), label="ReLU")
    left.plot(x, np.tanh(x), label="tanh")
    left.set(title="activation function", xlabel="input", ylim=(-1.2, 3))
    left.legend()
    right.hist(values[values <= 0], bins=60, range=(-5, 0), label="become 0")
    right.hist(values[values > 0], bins=60, range=(0, 5), label="pass")
    right.set(title=f"outputs of features.0 for {PHOTO}", xlabel="value before the ReLU", yscale="log", ylabel="values")
    right.legend()
    return figure


def lrn() -> Figure:
    """What the paper's formula does to our own first maps, at the scale of our pixels and at the paper's."""
    maps_CHW = np.maximum(before_relu(), 0)
    figure = Figure(figsize=(8, 2.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    a = np.geomspace(0.1, 1000, 200)
    left.plot(a, a / (BIAS + ALPHA * a**2) ** BETA)
    left.axvspan(0.1, float(maps_CHW.max()), alpha=0.2, label="range of our first maps")
    left.set(title="one active channel", xlabel="input", ylabel="output", xscale="log", yscale="log")
    left.legend()
    for scale, label in ((1.0, "as they are"), (255 * 0.226, "pixels on 0..255, as in the paper")):
        x_CHW = maps_CHW * scale
        with torch.inference_mode():
            y_CHW = PaperLRN()(torch.from_numpy(x_CHW)[None])[0].numpy()
        on = x_CHW > 0.02 * x_CHW.max()
        factor = y_CHW[on] / x_CHW[on] * BIAS**BETA
        print(f"LRN {label}: the strongest 1 % of the values are damped to {100 * np.quantile(factor, 0.01):.1f} %")
        right.hist(factor, bins=60, range=(0, 1.02), label=label)
    right.set(title="damping by LRN", xlabel="output / input, 1 where nothing is active", yscale="log", ylabel="values")
    right.legend()
    return figure


def pooling() -> Image.Image:
    """One map, and both pools of it, enlarged to the same size."""
    maps_CHW = torch.from_numpy(np.maximum(before_relu(), 0))
    strongest = int(maps_CHW.mean(dim=(1, 2)).argmax())
    one = maps_CHW[strongest][None]
    overlapping, plain = nn.MaxPool2d(3, 2)(one), nn.MaxPool2d(2, 2)(one)
    print(
        f"pools of map {strongest}: mean {float(overlapping.mean()):.3f} overlapping, {float(plain.mean()):.3f} plain"
    )
    side = 216
    paper = Image.new("L", (3 * side + 2 * 8, side), 255)
    for index, each in enumerate((one, overlapping, plain)):
        grey = np.round(255 * np.sqrt(each[0].numpy() / float(one.max()))).astype(np.uint8)
        paper.paste(Image.fromarray(grey).resize((side, side), Image.Resampling.NEAREST), (index * (side + 8), 0))
    return paper


def dropout() -> Image.Image:
    """The 4096 numbers of the first hidden layer as 64 x 64 pixels: all of them, and three draws."""
    model = CHECKPOINT.build()
    with torch.inference_mode():
        pre = CHECKPOINT.contract.preprocessing
        x = PixelClassifier(nn.Identity(), pre.mean, pre.std)(torch.from_numpy(pixels()[None]))
        hidden = model.classifier[:3](model.get_submodule("features")(x).flatten(1))
    print(f"first hidden layer: {100 * float((hidden == 0).float().mean()):.0f} % of 4096 are 0 before dropout")
    torch.manual_seed(SEED)
    draws = [hidden, *(nn.Dropout(0.5).train()(hidden) for _ in range(3))]
    maps = np.stack([draw.numpy().reshape(64, 64) for draw in draws])
    return Image.fromarray(np.asarray(draw_maps(LayerMaps("hidden", "Dropout", maps)))).resize((936, 240), 0)


def augmentation() -> Image.Image:
    """Rows: the 256 x 256 picture and crops with flips; the paper's colour noise; ten times as much."""
    side = 96
    whole = open_rgb(photo())
    scale = 256 / min(whole.size)
    whole = whole.resize((round(whole.width * scale), round(whole.height * scale)))
    left, top = (whole.width - 256) // 2, (whole.height - 256) // 2
    square = np.asarray(whole.crop((left, top, left + 256, top + 256)))
    rng = np.random.default_rng(SEED)
    crops = [random_crop(square, 224, 224, rng) for _ in range(5)]
    crops = [crop[:, ::-1] if number % 2 else crop for number, crop in enumerate(crops)]
    colours = measure_colours(sample_photos(), 0)
    print(f"principal components of the sample photos' colours: {colours}")
    middle = square[16:240, 16:240]
    noisy = [[add_colour_noise(middle, colours, 0.1 * strength, rng) for _ in range(5)] for strength in (1.0, STRONG)]
    paper = Image.new("RGB", (6 * (side + 4), 3 * (side + 4)), "white")
    for row, pictures in enumerate(([square, *crops], [middle, *noisy[0]], [middle, *noisy[1]])):
        for column, each in enumerate(pictures):
            small = Image.fromarray(np.ascontiguousarray(each)).resize((side, side), Image.Resampling.BOX)
            paper.paste(small, (column * (side + 4), row * (side + 4)))
    return paper.quantize(128)


def groups() -> Figure:
    """Which input channels each convolution of alexnet-2012 reads."""
    arch = FAMILY["alexnet-2012"]
    figure = Figure(figsize=(8, 2.2), layout="constrained")
    inputs = 3
    for index, axes in enumerate(figure.subplots(1, 5)):
        width, count = arch.widths[index], arch.groups[index]
        table = np.kron(np.eye(count), np.ones((width // count, inputs // count)))
        axes.imshow(table, aspect="auto", cmap="Greys", vmin=0, vmax=1.5, interpolation="nearest")
        weights = width * inputs // count * KERNELS[index] ** 2
        axes.set(title=f"convolution {index + 1}\n{weights:,} weights", xlabel=f"{inputs} inputs")
        axes.set(ylabel=f"{width} filters", xticks=[], yticks=[])
        inputs = width
    return figure


def rates() -> Figure:
    """The learning rate over the epochs: fixed steps, a made-up validation error for ``paper``, and ``modern``."""
    figure = Figure(figsize=(8, 2.8), layout="constrained")
    axes = figure.subplots()
    errors = [(epoch, max(40.0, 90.0 - 2 * epoch)) for epoch in range(1, 91)]  # it stops falling after epoch 25
    epochs = np.arange(0, 90, 0.1)
    for name, known in (("torchvision", False), ("paper", True), ("modern", False)):
        recipe = get_recipe(name)  # type: ignore[arg-type]
        seen = [[pair for pair in errors if pair[0] <= epoch] if known else [] for epoch in epochs]
        rate = [recipe.lr_at(e, s) if e < recipe.epochs else np.nan for e, s in zip(epochs, seen, strict=True)]
        label = f"{name}, for an error that stops falling after epoch 25" if known else name
        axes.plot(epochs, rate, label=label, linestyle="--" if known else "-")
    axes.set(xlabel="epoch", ylabel="learning rate", yscale="log", ylim=(5e-6, 3e-2))
    axes.legend()
    return figure


if __name__ == "__main__":
    main()
