"""How fast is ``infer --ray`` on one and two nodes, beside ``infer`` on the same files and cores?

    python -m benchmarks.ray.speed PHOTOS [--store engines] [--rounds 3] [--size 6000]

A node is one core of this machine, so one node is compared with ``infer`` on one core, two nodes with ``infer`` on two.
The whole commands are timed; a few files show what Ray costs before the first image.
"""

from __future__ import annotations

import itertools
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.ray.nodes import cluster, infer_command
from benchmarks.render import save_and_print
from benchmarks.rounds import RESULTS, ROOT, Report, Row, argument_parser, in_turn
from benchmarks.scaling import link

QUESTION = "Ray: the whole `infer --ray` command on one and two nodes of one core each"
FEW = 32


def main() -> None:
    """Parse the flags, measure, save."""
    parser = argument_parser(__doc__, "ray.speed")
    parser.set_defaults(rounds=3, output=RESULTS / "ray_speed.json")
    parser.add_argument("--size", type=int, default=6000)
    args = parser.parse_args()
    save_and_print(compare(args.photos, args.store.resolve() / "alexnet-int8", args.size, args.rounds), args.output)


def compare(photos: Path, engine: Path, size: int, rounds: int) -> Report:
    """Images per second of each way, and the seconds that Ray takes for a few images."""
    numbers = itertools.count()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        many, few = link(photos, folder / "many", size), link(photos, folder / "few", FEW)

        def plain(images: Path, count: int, cores: int) -> Callable[[], float]:
            output = folder / "plain.parquet"
            options = ["--engine", engine, "--format", "parquet", "-o", output]
            return lambda: _rate(infer_command([images, *options], cores=cores), count, None)

        def on_ray(images: Path, count: int, nodes: int) -> Callable[[], float]:
            def run() -> float:
                with cluster(nodes) as (address, _, env):
                    output = folder / f"ray-{next(numbers)}"
                    options = ["--engine", engine, "--ray", address, "-o", output, "--part-size", "256"]
                    return _rate(infer_command([images, *options], cores=nodes), count, env)

            return run

        readings = in_turn(
            {
                "infer, 1 core": plain(many, size, 1),
                "1 node": on_ray(many, size, 1),
                "infer, 2 cores": plain(many, size, 2),
                "2 nodes": on_ray(many, size, 2),
                "few, infer": plain(few, FEW, 2),
                "few": on_ray(few, FEW, 2),
            },
            rounds,
        )
    plain_two, ray_two = (
        [_beyond(size, many, start) for many, start in zip(readings[way], readings[short], strict=True)]
        for way, short in (("infer, 2 cores", "few, infer"), ("2 nodes", "few"))
    )
    one, two = f"1 node, {size:,} files", f"2 nodes, {size:,} files"
    rows = [
        Row(one, "images/s", readings["1 node"], "infer, 1 core", readings["infer, 1 core"]),
        Row(two, "images/s", readings["2 nodes"], "infer, 2 cores", readings["infer, 2 cores"]),
        Row(two, "images/s", readings["2 nodes"], "1 node", readings["1 node"]),
        Row(f"{two}, without the start", "images/s", ray_two, "infer, 2 cores", plain_two),
        Row(f"the start: 2 nodes, {FEW} files", "s", [FEW / rate for rate in readings["few"]]),
    ]
    return Report(QUESTION, rows)


def _beyond(size: int, rate: float, few: float) -> float:
    """Images per second from the first few images on: what a long run comes to."""
    return (size - FEW) / (size / rate - FEW / few)


def _rate(command: list[str], count: int, env: dict[str, str] | None) -> float:
    started = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - started
    if done.returncode:
        sys.exit(f"{' '.join(command)}: exit {done.returncode}\n{done.stderr[-2000:]}")
    return count / seconds


if __name__ == "__main__":
    main()
