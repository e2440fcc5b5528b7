"""How long until there is an answer, in a new process?

    python -m benchmarks.cold_start PHOTOS [--store engines] [--rounds 10]

The files of Python and of the libraries are in the system's cache from the second round on, as on any machine in use.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from alexnet_deploy.images.find import find_images
from benchmarks.rounds import Report, Row, finish, in_turn, parser
from benchmarks.scaling import run

QUESTION = "Cold start: seconds from the shell to the end of the command"
GOALS = {"--help": "≤ 0.3", "infer on one photo": "≤ 1.5"}


def main() -> None:
    """Parse, measure."""
    flags = parser(__doc__, "cold_start")
    flags.set_defaults(rounds=10)
    asked = flags.parse_args()
    finish(
        compare(next(find_images([asked.photos])), asked.store.resolve() / "alexnet-int8", asked.rounds), asked.output
    )


def compare(photo: Path, bundle: Path, rounds: int) -> Report:
    """A row a command."""
    commands: dict[str, list[str | Path]] = {
        "--help": ["--help"],
        "infer on one photo": ["infer", photo.resolve(), "--engine", bundle],
    }
    seconds = in_turn({name: partial(_seconds, arguments) for name, arguments in commands.items()}, rounds)
    return Report(QUESTION, [Row(name, "s", seconds[name], goal=GOALS[name]) for name in commands])


def _seconds(arguments: list[str | Path]) -> float:
    return run(arguments)[0]


if __name__ == "__main__":
    main()
