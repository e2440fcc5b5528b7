"""How long does a new process take to answer?

    python -m benchmarks.cold_start PHOTOS [--store engines] [--rounds 10]

From the second round on, the files of Python and the libraries are in the page cache, as on any machine in use.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from alexnet_deploy.images.find import find_images
from benchmarks.render import save_and_print
from benchmarks.rounds import Report, Row, argument_parser, in_turn
from benchmarks.scaling import run

QUESTION = "Cold start: seconds from the shell to the end of the command"
GOALS = {"--help": "≤ 0.3", "infer on one photo": "≤ 1.5"}


def main() -> None:
    """Parse the flags, measure, save."""
    parser = argument_parser(__doc__, "cold_start")
    parser.set_defaults(rounds=10)
    args = parser.parse_args()
    photo = next(find_images([args.photos]))
    save_and_print(compare(photo, args.store.resolve() / "alexnet-int8", args.rounds), args.output)


def compare(photo: Path, bundle: Path, rounds: int) -> Report:
    """One row per command."""
    commands: dict[str, list[str | Path]] = {
        "--help": ["--help"],
        "infer on one photo": ["infer", photo.resolve(), "--engine", bundle],
    }
    readings = in_turn({name: partial(run, arguments) for name, arguments in commands.items()}, rounds)
    seconds = {name: [each for each, _ in found] for name, found in readings.items()}
    return Report(QUESTION, [Row(name, "s", seconds[name], goal=GOALS[name]) for name in commands])


if __name__ == "__main__":
    main()
