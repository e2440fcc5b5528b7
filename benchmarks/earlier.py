"""How fast is a folder of photos classified, compared with an earlier commit of this repository?

    git worktree add ../earlier COMMIT
    python -m benchmarks.earlier PHOTOS ../earlier --earlier-store STORE [--store engines] [--large LARGE_PHOTOS]

Each side runs its own code as a user types it, on engines that it built itself (``alexnet-fp32`` and ``alexnet-int8``
in its store), with the packages of this environment. Only speed is compared, so the checkpoints of the two commits may
differ, but not in size.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

from alexnet_deploy.images.find import find_images
from benchmarks.render import save_and_print
from benchmarks.rounds import ROOT, Report, Row, argument_parser, in_turn, stdout_of
from benchmarks.scaling import run

QUESTION = "Before and after: the same commands of this commit and of an earlier one"
RUNTIMES = ("openvino", "onnxruntime")
SECONDS = "1s"
"""Of each pass of the engine alone."""
Measure = Callable[[Path, Path], float]
"""The code and the engines of one side -> one reading."""


def main() -> None:
    """Parse the flags, measure, save."""
    parser = argument_parser(__doc__, "earlier")
    parser.add_argument("checkout", type=Path, help="of the earlier commit")
    parser.add_argument("--earlier-store", type=Path, required=True, help="engines that the earlier commit built")
    parser.add_argument("--large", type=Path, help="folder of photos of a phone's size")
    args = parser.parse_args()
    sides = {"now": (ROOT, args.store.resolve()), "earlier": (args.checkout.resolve(), args.earlier_store.resolve())}
    folders = {"photos": args.photos.resolve()} | ({"large photos": args.large.resolve()} if args.large else {})
    save_and_print(compare(sides, folders, args.rounds), args.output)


def compare(sides: dict[str, tuple[Path, Path]], folders: dict[str, Path], rounds: int) -> Report:
    """``sides`` has the code and the engines of ``now`` and ``earlier``."""
    rows = []
    for case, unit, measure in cases(folders):
        found = in_turn({side: partial(measure, *where) for side, where in sides.items()}, rounds)
        rows.append(Row(case, unit, found["now"], "earlier", found["earlier"]))
    return Report(QUESTION, rows)


def cases(folders: dict[str, Path]) -> Iterator[tuple[str, str, Measure]]:
    """Name, unit and measurement of each row."""
    for kind, folder in folders.items():
        count = len(list(find_images([folder])))
        for precision, runtime in product(("fp32", "int8"), RUNTIMES):
            measure = partial(infer_rate, precision=precision, runtime=runtime, photos=folder, count=count)
            yield f"infer, {count} {kind}, {precision}, {runtime}", "images/s", measure
    yield "infer, one photo, int8", "s", partial(infer_seconds, photos=next(find_images([folders["photos"]])))
    for runtime, batch in product(RUNTIMES, (1, 32)):
        case = f"engine alone, int8, {runtime}, batch {batch}"
        yield case, "images/s", partial(engine_rate, runtime=runtime, batch=batch)


def infer_rate(code: Path, store: Path, *, precision: str, runtime: str, photos: Path, count: int) -> float:
    """Images per second of the whole command."""
    return count / infer_seconds(code, store, precision=precision, runtime=runtime, photos=photos)


def infer_seconds(
    code: Path, store: Path, *, photos: Path, precision: str = "int8", runtime: str = "openvino"
) -> float:
    """Seconds of the whole command, start included."""
    with TemporaryDirectory() as folder:
        output = Path(folder) / "answers.jsonl"
        bundle = store / f"alexnet-{precision}"
        return run(["infer", photos, "--engine", bundle, "--runtime", runtime, "-o", output], code)[0]


def engine_rate(code: Path, store: Path, *, runtime: str, batch: int) -> float:
    """Images per second of the engine alone, by ``profile``."""
    command = [sys.executable, "-m", "alexnet_deploy", "profile", store / "alexnet-int8", "--runtime", runtime]
    shown = json.loads(stdout_of([*command, "--batch-sizes", str(batch), "--duration", SECONDS, "--json"], code))
    return float(shown[0]["batches"][0]["images_per_s"])


if __name__ == "__main__":
    main()
