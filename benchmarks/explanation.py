"""What does an explanation cost, and does a quantised engine look where its float engine looks?

    python -m benchmarks.explanation engines/alexnet-fp32 engines/alexnet-int8 [--photos samples] [--rounds 5]

The first engine is the one that the others are compared with. Times are the processor's, of all threads, for two photos
at the default patch and stride; medians over the rounds, in which all engines and runtimes take turns. The correlations
are of all photos. A second table shows the float engine with other sizes of the patch.
"""

from __future__ import annotations

import argparse
import statistics
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from alexnet_deploy.explanation.agreement import agreement
from alexnet_deploy.explanation.occlusion import Occlusion, occlude
from alexnet_deploy.explanation.settings import OcclusionSettings, occlusion_settings
from alexnet_deploy.images.decode import load_pixels
from alexnet_deploy.images.find import find_images
from alexnet_deploy.inference.engine import OpenEngine, open_engine
from alexnet_deploy.probabilities import predicted_classes
from benchmarks.rounds import ROOT

TIMED = 2
PATCHES = (32, 45, 64, 90)
RUNTIMES = ("openvino", "onnxruntime")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("engines", nargs="+", help="bundles or ONNX files; the first is the reference")
    parser.add_argument("--photos", type=Path, default=ROOT / "samples")
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    with ExitStack() as stack:
        opened = {
            (Path(engine).name, runtime): stack.enter_context(open_engine(engine, runtime=runtime))
            for engine in asked.engines
            for runtime in RUNTIMES
        }
        first = next(iter(opened.values()))
        settings = occlusion_settings(first.contract.preprocessing)
        photos = [load_pixels(path, first.contract.preprocessing) for path in find_images([asked.photos])]
        classes = [int(predicted_classes(first(pixels[None]))[0]) for pixels in photos]

        def look(engine: OpenEngine, i: int, how: OcclusionSettings) -> Occlusion:
            return occlude(engine, photos[i], classes[i], how, batch=engine.default_batch())

        times: dict[tuple[str, str], list[float]] = {key: [] for key in opened}
        for number in range(asked.rounds + 1):
            for key in (list, reversed)[number % 2](opened):  # type: ignore[operator]
                start = time.process_time()
                for i in range(min(TIMED, len(photos))):
                    look(opened[key], i, settings)
                if number:  # the first round warms up
                    times[key].append((time.process_time() - start) / min(TIMED, len(photos)))
        base = statistics.median(times[next(iter(opened))])
        reference = [look(first, i, settings) for i in range(len(photos))]
        places = reference[0].drop_YX.size
        print(f"patch {settings.patch}, stride {settings.stride}: {places} places; {len(photos)} photos")
        print(
            "| engine | runtime | CPU s per photo | to the first | rank correlation, median (lowest) | same tenth % |"
        )
        print("|---|---|---:|---:|---:|---:|")
        for key, engine in opened.items():
            found = [agreement(reference[i].drop_YX, look(engine, i, settings).drop_YX) for i in range(len(photos))]
            ranks = [each.rank_correlation for each in found if each.rank_correlation is not None]
            shared = statistics.median(each.shared_top_percent for each in found)
            seconds = statistics.median(times[key])
            print(
                f"| {key[0]} | {key[1]} | {seconds:.2f} | {seconds / base:.2f} | "
                f"{statistics.median(ranks):.3f} ({min(ranks):.3f}) | {shared:.0f} |"
            )
        print("\n| patch | places | largest drop, points: mean over the photos | of it within the strongest tenth % |")
        print("|---:|---:|---:|---:|")
        for patch in PATCHES:
            how = occlusion_settings(first.contract.preprocessing, patch=patch)
            drops = [look(first, i, how).drop_YX for i in range(len(photos))]
            largest = 100 * float(np.mean([each.max() for each in drops]))
            print(f"| {patch} | {drops[0].size} | {largest:.1f} | {np.mean([_share(each) for each in drops]):.0f} |")


def _share(drop_YX: np.ndarray) -> float:
    """How much of what all places take away, the strongest tenth of them takes, in percent."""
    falling = np.sort(np.clip(drop_YX, 0, None).ravel())[::-1]
    return 100 * float(falling[: max(1, falling.size // 10)].sum() / max(falling.sum(), 1e-30))


if __name__ == "__main__":
    main()
