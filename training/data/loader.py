"""Batches of labelled images, in an order that depends on the seed and the step alone."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import DataLoader, Dataset, Sampler

from alexnet_deploy.contract import Preprocessing
from alexnet_deploy.errors import InputError, UsageError
from alexnet_deploy.images.decode import load_pixels, open_crop, open_photo, to_pixels
from alexnet_deploy.images.photo import Box, Photo
from alexnet_deploy.images.ten_crops import picture_for_crops, ten_crops
from training.data.augment import Colours, add_colour_noise, random_box, random_crop
from training.data.balance import balanced_order
from training.data.lists.listing import ImageList
from training.data.pixel_cache import PixelCache
from training.recipes.recipe import Recipe

if TYPE_CHECKING:
    from training.data.policies import Policy

Item = tuple[int, int]
"""(epoch, view): with it a worker draws the same crop in every run.

View v shows image v % n of n: an epoch that shows an image more than once has a crop of its own for each view.
"""
Sample = tuple[NDArray[np.uint8], int]
"""Pixels ``[H, W, 3]`` (ten crops: ``[10, H, W, 3]``) and the class number."""
Batch = tuple[torch.Tensor, torch.Tensor]
"""uint8 pixels ``[n, H, W, 3]`` (ten crops: ``[n, 10, H, W, 3]``) and int64 targets ``[n]``."""


class TrainingCrops(Dataset[Sample]):
    """Random crop, flip, policy and colour, drawn from (seed, epoch, view): the same for any workers and restarts.

    ``colours`` are needed where ``recipe.pca_sigma`` is not 0. ``cache`` saves decoding. It has JPEGs in full; without
    it they are decoded by the rule of ``pre.decoding``, where a crop keeps enough pixels.
    """

    def __init__(
        self,
        images: ImageList,
        pre: Preprocessing,
        recipe: Recipe,
        seed: int,
        colours: Colours | None = None,
        cache: PixelCache | None = None,
    ) -> None:
        if recipe.pca_sigma and colours is None:
            raise ValueError(f"the recipe {recipe.name} adds colour noise; pass the result of measure_colours")
        self.images, self.pre, self.recipe, self.seed, self.colours = images, pre, recipe, seed, colours
        self.cache = cache
        self._policy: Policy | None = None
        if recipe.augment != "none":
            from training.data.policies import Policy  # kornia takes seconds to import

            self._policy = Policy(recipe.augment)

    def __len__(self) -> int:
        return len(self.images.files)

    def __getitem__(self, item: Item) -> Sample:
        epoch, view = item
        index = view % len(self.images.files)
        rng = np.random.default_rng((self.seed, epoch, view))
        pixels = self._crop(index, epoch, rng)
        if self.recipe.flip and rng.random() < 0.5:
            pixels = pixels[:, ::-1]
        if self._policy is not None:
            pixels = self._policy(pixels, int(rng.integers(2**63)))
        if self.colours is not None:
            pixels = add_colour_noise(pixels, self.colours, self.recipe.pca_sigma, rng)
        return np.ascontiguousarray(pixels), self.images.targets[index]

    def _crop(self, index: int, epoch: int, rng: np.random.Generator) -> NDArray[np.uint8]:
        height, width = (self.recipe.side_at(epoch, side) for side in (self.pre.height, self.pre.width))
        if self.recipe.view == "inference":
            return to_pixels(self._open(index, self.pre), self.pre)
        if self.recipe.crop_scale is None:
            whole = picture_for_crops(self.pre)
            crop_HWC = random_crop(to_pixels(self._open(index, whole), whole), self.pre.height, self.pre.width, rng)
            if (height, width) == crop_HWC.shape[:2]:
                return crop_HWC
            return np.asarray(Image.fromarray(crop_HWC).resize((width, height), Image.Resampling.BILINEAR))
        choose = partial(random_box, scale=self.recipe.crop_scale, rng=rng)
        if self.cache:
            photo = Photo.in_full(self.cache.open(index))
            box: Box = choose(*photo.size)
        else:
            photo, box = open_crop(self.images.files[index], choose, self.pre, height, width)
        # Pillow resizes the box with antialiasing and crops in one pass.
        return np.asarray(photo.image.resize((width, height), Image.Resampling.BILINEAR, box=photo.place(box)))

    def _open(self, index: int, pre: Preprocessing) -> Photo:
        if self.cache:
            return Photo.in_full(self.cache.open(index))
        return open_photo(self.images.files[index], pre)


class EvalImages(Dataset[Sample]):
    """Images as inference sees them, through ``load_pixels``, or the paper's ten test views of each."""

    def __init__(self, images: ImageList, pre: Preprocessing, *, ten_crop: bool = False) -> None:
        self.images, self.pre, self.ten_crop = images, pre, ten_crop

    def __len__(self) -> int:
        return len(self.images.files)

    def __getitem__(self, index: int) -> Sample:
        pixels = load_pixels(self.images.files[index], picture_for_crops(self.pre) if self.ten_crop else self.pre)
        if self.ten_crop:
            pixels = ten_crops(pixels, self.pre)
        return pixels, self.images.targets[index]


def check_batch(batch: int, count: int, world: int = 1) -> None:
    """UsageError if ``world`` processes cannot share global batches of ``batch`` out of ``count`` images."""
    if world > count:
        raise UsageError(f"{world} processes for {count} training images: start fewer (torchrun --nproc-per-node)")
    if batch % world:
        raise UsageError(f"`batch` {batch}: is not a multiple of {world} processes; choose one that is")
    if count < batch:
        raise UsageError(f"`batch` {batch}: exceeds the {count} training images; lower it, or leave it out")


class ResumableBatchSampler(Sampler[list[Item]]):
    """Endless batches of items from ``first_step`` on, for one process of ``world``.

    The order of an epoch comes from (seed, epoch); the last short batch is dropped. Each process takes every
    ``world``-th item of the global batch, so a global batch holds the same images however many share it. An epoch shows
    each image ``repeats`` times or, with ``balanced`` (the class of each image), each class equally often.
    """

    def __init__(
        self,
        count: int,
        batch: int,
        seed: int,
        first_step: int,
        rank: int,
        world: int,
        *,
        repeats: int = 1,
        balanced: Sequence[int] | None = None,
    ) -> None:
        check_batch(batch, count, world)
        self.count, self.batch, self.seed, self.repeats, self.balanced = count, batch, seed, repeats, balanced
        self.first_step, self.rank, self.world = first_step, rank, world
        self.steps_per_epoch = count * repeats // batch

    def __iter__(self) -> Iterator[list[Item]]:
        epoch, step = divmod(self.first_step, self.steps_per_epoch)
        while True:
            order = self._order(np.random.default_rng((self.seed, epoch)))
            for s in range(step, self.steps_per_epoch):
                mine = order[s * self.batch : (s + 1) * self.batch][self.rank :: self.world]
                yield [(epoch, int(i)) for i in mine]
            epoch, step = epoch + 1, 0

    def _order(self, rng: np.random.Generator) -> NDArray[np.int64]:
        """The views of one epoch."""
        if self.balanced is not None:
            return balanced_order(self.balanced, self.count * self.repeats, rng)
        return np.concatenate([rng.permutation(self.count) + i * self.count for i in range(self.repeats)])


def training_batches(crops: TrainingCrops, sampler: ResumableBatchSampler, workers: int) -> Iterator[Batch]:
    """This process's share of each global batch, without end. InputError if an image cannot be read."""
    return _batches(crops, workers, batch_sampler=sampler, prefetch_factor=4 if workers else None)


def eval_batches(
    images: ImageList, pre: Preprocessing, *, batch: int, workers: int, ten_crop: bool = False
) -> Iterator[Batch]:
    """All images once, in the order of the list, preprocessed as in inference or as ten crops.

    Raises InputError if an image cannot be read.
    """
    return _batches(EvalImages(images, pre, ten_crop=ten_crop), workers, batch_size=batch)


def _batches(dataset: Dataset[Sample], workers: int, **options: Any) -> Iterator[Batch]:
    loader = DataLoader(
        _ErrorsAsValues(dataset), num_workers=workers, collate_fn=_collate, worker_init_fn=_start_session, **options
    )
    try:
        for batch in loader:
            if isinstance(batch, InputError):
                raise batch
            yield batch
    except (EOFError, ConnectionError) as exc:
        # A worker died while it transferred a batch. torch's handler of SIGCHLD raises a RuntimeError: here, so that it
        # does not come while the first error is reported. Typer would take an EOFError for the end of the input.
        time.sleep(0.5)
        raise ConnectionError("a process that decodes images ended while it transferred a batch") from exc


class _ErrorsAsValues(Dataset[Sample | InputError]):
    """Returns an InputError as a value: raised in a worker, it would arrive as a page of traceback."""

    def __init__(self, dataset: Dataset[Sample]) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]  # both of ours are sized

    def __getitem__(self, index: Any) -> Sample | InputError:
        try:
            return self.dataset[index]
        except InputError as exc:
            return exc


def _start_session(worker: int) -> None:
    # Ctrl-C, and a signal to the whole process group, must reach only the trainer: it finishes its step and saves.
    os.setsid()


def _collate(items: list[Sample | InputError]) -> Batch | InputError:
    samples: list[Sample] = []
    for item in items:
        if isinstance(item, InputError):
            return item
        samples.append(item)
    pixels, targets = zip(*samples, strict=True)
    return torch.from_numpy(np.stack(pixels)), torch.tensor(targets)
