"""Does a run on two Ray nodes lose a row, or write one twice, when a node or the driver is killed half-way?

    python -m benchmarks.ray.kills PHOTOS [--store engines] [--size 3000]

The two nodes are real Ray nodes on 127.0.0.2 and 127.0.0.3, each with one core. The rows are compared with those of
``infer`` on the same files, a few of which are damaged.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from benchmarks.ray.nodes import cluster, infer_command
from benchmarks.rounds import ROOT, argument_parser, environment
from benchmarks.scaling import link

QUESTION = "Two Ray nodes, one killed half-way; then the driver killed half-way"
PARTS = 20
BAD = 5


def main() -> None:
    """Parse the flags, kill, compare, save."""
    parser = argument_parser(__doc__, "ray.kills")
    parser.set_defaults(output=ROOT / "benchmarks" / "results" / "ray_kills.json")
    parser.add_argument("--size", type=int, default=3000)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        photos = damaged(link(args.photos, folder / "photos", args.size))
        found = kill_both(photos, args.store.resolve() / "alexnet-int8", folder, args.size)
    said = {"question": QUESTION, "images": args.size, "damaged": BAD, "runs": found, "environment": environment()}
    args.output.write_text(json.dumps(said, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=1))
    sys.exit(any(run["lost"] or run["twice"] or run["different"] for run in found))


def damaged(folder: Path) -> Path:
    """The folder with ``BAD`` of its links replaced by files that are no image."""
    links = sorted(folder.iterdir())
    for path in links[:: max(1, len(links) // BAD)][:BAD]:
        path.unlink()
        path.write_bytes(b"no image")
    return folder


def kill_both(photos: Path, engine: Path, folder: Path, size: int) -> list[dict[str, Any]]:
    """What became of the rows after the death of a node, and after that of the driver and ``--resume``."""
    common: list[str | Path] = [photos, "--engine", engine]
    expected = folder / "expected.parquet"
    done = subprocess.run(
        infer_command([*common, "--format", "parquet", "-o", expected]), cwd=ROOT, capture_output=True, check=False
    )
    assert done.returncode == 3, done.stderr
    found = []
    for victim in ("node", "driver"):
        with cluster(2) as (address, nodes, env):
            output = folder / victim
            ray = [*common, "--ray", address, "-o", output, "--part-size", str(-(-size // PARTS))]
            process = subprocess.Popen(infer_command(ray), cwd=ROOT, env=env, stderr=subprocess.PIPE, text=True)
            before = _wait_for_parts(output, PARTS // 3, process)
            if victim == "node":
                nodes[1].kill()
            else:
                process.kill()
            killed_at = time.perf_counter()
            said = process.communicate()[1]
            kept = _parts(output)
            if victim == "driver":
                again = subprocess.run(
                    infer_command([*ray, "--resume"]), cwd=ROOT, env=env, capture_output=True, text=True, check=False
                )
                said, code = again.stderr, again.returncode
            else:
                code = process.returncode
            seconds = time.perf_counter() - killed_at
        assert code == 3, said
        run = {"killed": victim, "parts_at_the_kill": before, "parts": _parts(output), "exit_code": code}
        run |= {"seconds_after_the_kill": round(seconds, 1), "said": said.replace(f"{folder}/", "").splitlines()}
        found.append(run | ({"parts_kept": kept} if victim == "driver" else {}) | compare(output, expected))
    return found


def compare(output: Path, expected: Path) -> dict[str, int]:
    """Rows that ``output`` lacks, has more than once, or has with another answer or order than ``expected``."""
    rows, wanted = (pq.read_table(path).to_pylist() for path in (output, expected))
    names, wanted_names = (Counter(row["file"] for row in table) for table in (rows, wanted))
    different = sum(
        row["file"] != other["file"] or row["error"] != other["error"] or _classes(row) != _classes(other)
        for row, other in zip(rows, wanted, strict=False)
    )
    return {
        "rows": len(rows),
        "errors": sum(row["error"] is not None for row in rows),
        "lost": (wanted_names - names).total(),
        "twice": (names - wanted_names).total(),
        "different": different,
    }


def _classes(row: dict[str, Any]) -> list[tuple[int, float]]:
    # A part ends in a smaller batch than the whole does, which may round the last digits of a probability otherwise.
    return [(answer["index"], round(answer["probability"], 4)) for answer in row["top"]]


def _wait_for_parts(output: Path, count: int, process: subprocess.Popen[str]) -> int:
    while _parts(output) < count:
        assert process.poll() is None, process.stderr and process.stderr.read()
        time.sleep(0.05)
    return _parts(output)


def _parts(output: Path) -> int:
    return len(list(output.glob("part-*.parquet")))


if __name__ == "__main__":
    main()
