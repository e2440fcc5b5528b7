"""Does ``infer`` keep its speed, and its memory, from hundreds to tens of thousands of files?

    python -m benchmarks.scaling PHOTOS [--store engines] [--rounds 3] [--sizes 300,3000,30000]

Runs the command as a user types it, each time in a new process, on folders of links to the photos.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from itertools import cycle, islice
from pathlib import Path

from alexnet_deploy.images.find import find_images
from benchmarks.render import save_and_print
from benchmarks.rounds import ROOT, Report, Row, argument_parser, in_turn

QUESTION = "Scaling: the whole `infer` command, start included, by number of files"


def main() -> None:
    """Parse the flags, measure, save."""
    parser = argument_parser(__doc__, "scaling")
    parser.set_defaults(rounds=3)
    parser.add_argument("--sizes", default="300,3000,30000")
    args = parser.parse_args()
    sizes = list(map(int, args.sizes.split(",")))
    save_and_print(compare(args.photos, args.store.resolve() / "alexnet-int8", sizes, args.rounds), args.output)


def compare(photos: Path, bundle: Path, sizes: list[int], rounds: int) -> Report:
    """Speed and peak memory at each size, and the peak memory of the largest compared with the smallest."""
    with tempfile.TemporaryDirectory() as temporary:
        folders = {size: link(photos, Path(temporary) / str(size), size) for size in sizes}

        def reading(size: int) -> tuple[float, float]:
            output = Path(temporary) / "answers.jsonl"
            seconds, peak_MiB = run(["infer", folders[size], "--engine", bundle, "--format", "jsonl", "-o", output])
            with output.open(encoding="utf-8") as lines:
                if (answered := sum(1 for _ in lines)) != size:
                    sys.exit(f"infer answered {answered} of {size} files")
            return size / seconds, peak_MiB

        readings = in_turn({f"{size} files": partial(reading, size) for size in sizes}, rounds)
    rates, peaks = ({size: [got[which] for got in readings[f"{size} files"]] for size in sizes} for which in (0, 1))
    rows = [Row(f"{size:,} files", "images/s", rates[size]) for size in sizes]
    rows += [Row(f"{size:,} files, peak memory", "MiB", peaks[size]) for size in sizes]
    first, last = sizes[0], sizes[-1]
    rows.append(Row(f"peak memory, {last:,} files", "MiB", peaks[last], f"{first:,} files", peaks[first], "≤ 1.05"))
    return Report(QUESTION, rows)


def link(photos: Path, folder: Path, size: int) -> Path:
    """Make a folder of ``size`` links to the photos, repeating them as often as needed."""
    folder.mkdir()
    originals = [file.resolve() for file in find_images([photos])]
    for number, original in enumerate(islice(cycle(originals), size)):
        (folder / f"{number:06d}{original.suffix}").symlink_to(original)
    return folder


def run(arguments: list[str | Path], code: Path = ROOT) -> tuple[float, float]:
    """Run the ``alexnet-deploy`` of the checkout ``code``: seconds, and peak memory in MiB. A failure ends it all."""
    started = time.perf_counter()
    command = [sys.executable, "-m", "alexnet_deploy", *map(str, arguments)]
    with tempfile.TemporaryFile("w+") as stderr:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=stderr, cwd=code)
        _, status, usage = os.wait4(process.pid, 0)  # usage of this child, not the maximum over all children
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            stderr.seek(0)
            sys.exit(f"{' '.join(command)}: exit {process.returncode}\n{stderr.read()[-2000:]}")
    return seconds, usage.ru_maxrss / 1024


if __name__ == "__main__":
    main()
