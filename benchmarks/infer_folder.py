"""How fast, and in how much memory, does ``infer`` go through a folder, beside decoding alone and a plain loop?

    python benchmarks/infer_folder.py PHOTOS [--engine engines/alexnet-int8] [--repeat 5] [--times 10]

Alternates three ways over the same files, each in a process of its own: ``ours`` (infer.predict), ``decode`` (our
decoding threads with nothing behind them: the limit), ``plain`` (the same engine in a loop that decodes and computes
in turn, batch by batch). ``--times`` repeats the listing, for memory: it must not grow with the number of files.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from itertools import chain, islice, repeat
from pathlib import Path

import numpy as np

from alexnet_deploy.bundle import open_bundle
from alexnet_deploy.images import find_images, load_pixels
from alexnet_deploy.infer import BATCH, predict, read_batches, top_answers
from alexnet_deploy.runners import open_runner

WAYS = ("ours", "decode", "plain")


def once(way: str, photos: str, engine: Path, times: int) -> dict[str, float]:
    """One pass in this process: images/s after a warm-up batch, and the process's peak memory."""
    files = list(find_images([photos]))
    opened = open_runner(open_bundle(engine))
    runner, contract = opened.runner, opened.runner.contract
    pre = contract.preprocessing
    runner(np.zeros((BATCH, pre.height, pre.width, 3), np.uint8))
    listing = chain.from_iterable(repeat(files, times))
    started = time.perf_counter()
    if way == "ours":
        count = sum(1 for _ in predict(runner, listing))
    elif way == "decode":
        count = sum(len(read.files) for read in read_batches(listing, pre))
    else:
        count = 0
        while some := list(islice(listing, BATCH)):
            pixels_NHWC = np.stack([load_pixels(file, pre) for file in some])
            count += len(top_answers(runner(pixels_NHWC), contract, 5))
    seconds = time.perf_counter() - started
    peak_MiB = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"images": count, "images_per_s": count / seconds, "peak_MiB": peak_MiB}


def main() -> None:
    """Parse, run the ways in turn, print medians, spreads and ratios."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("photos")
    parser.add_argument("--engine", type=Path, default=Path("engines/alexnet-int8"))
    parser.add_argument("--repeat", type=int, default=5, help="rounds of all ways")
    parser.add_argument("--times", type=int, default=1, help="how often a pass goes through the folder")
    parser.add_argument("--way", choices=WAYS, help="one pass in this process, as JSON (what a round starts)")
    options = parser.parse_args()
    if options.way:
        print(json.dumps(once(options.way, options.photos, options.engine, options.times)))
        return
    rows: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for _ in range(options.repeat):
        for way in WAYS:
            command = [sys.executable, __file__, options.photos, "--way", way, "--engine", str(options.engine)]
            done = subprocess.run([*command, "--times", str(options.times)], capture_output=True, text=True, check=True)
            rows[way].append(json.loads(done.stdout))
    for way in WAYS:
        rates = [row["images_per_s"] for row in rows[way]]
        ratios = [row["images_per_s"] / ours["images_per_s"] for row, ours in zip(rows[way], rows["ours"], strict=True)]
        print(
            f"{way:7s} {rows[way][0]['images']:7.0f} images  median {statistics.median(rates):7.1f} images/s "
            f"({min(rates):.1f}..{max(rates):.1f})  x{statistics.median(ratios):.2f} of ours  "
            f"peak {max(row['peak_MiB'] for row in rows[way]):.0f} MiB"
        )


if __name__ == "__main__":
    main()
