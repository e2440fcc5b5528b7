"""The picture of a run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training.loop.record.curves import plot_curves
from training.loop.run import EpochMetrics


@pytest.mark.parametrize("epochs", [1, 3])
def test_every_panel_shows_something_even_of_one_epoch(tmp_path: Path, epochs: int) -> None:
    rows = [EpochMetrics(e, 0.1 / e, 2.0 / e, 1.5 / e, 10.0 * e, 100.0, 1.0) for e in range(1, epochs + 1)]
    with Image.open(plot_curves(rows, tmp_path / "curves.png")) as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    colours = ((31, 119, 180), (255, 127, 14), (127, 127, 127))  # matplotlib's tab:blue, orange and gray
    for panel, colour in zip(np.array_split(pixels[50:-50], 3, axis=1), colours, strict=True):
        # The middle of a mark has the colour itself; the legend of the first panel has some lines more.
        assert (np.abs(panel - colour).sum(2) < 10).sum() >= 4
