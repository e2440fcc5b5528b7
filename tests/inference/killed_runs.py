"""A run that is killed again and again until its output is complete: ``python -m tests.inference.killed_runs``.

Each try is a fork of this process that kills itself with SIGKILL: after a random row, or at a random operation on a
file in the folder of the output, which covers each step of the last write. Half of the kills also cut some bytes off
the journal, as a power cut does. Prints what happened as JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from alexnet_deploy.inference import journal
from alexnet_deploy.inference.prediction import Answer, Prediction
from alexnet_deploy.inference.to_file import predict_to_file
from alexnet_deploy.inference.writers import check_writer

ROWS = 60
SETTINGS = {"engine": "e"}
FILES = [f"{i:02} é,\udce9.jpg" for i in range(ROWS)]
_FILE_OPERATIONS = ("open", "os.rename", "os.remove", "os.truncate", "os.mkdir", "os.rmdir", "shutil.rmtree")


def answers(files: Iterator[str]) -> Iterator[Prediction]:
    """A row that follows from the name alone; every seventh image fails."""
    for file in files:
        number = int(file[:2])
        if number % 7 == 3:
            yield Prediction(file, (), f"{file}: cannot be decoded")
        else:
            yield Prediction(file, (Answer(number, f"class {number}", 1 / (1 + number)),))


def run(output: Path, format_: Any, files: list[str] = FILES) -> None:
    """One try, from start to end."""
    predict_to_file(answers, [files], output, settings=SETTINGS, format_=format_, top_k=1, resume=True)


def killed_try(output: Path, format_: Any, rng: random.Random) -> bool:
    """One try in a process of its own, killed at a random moment; False if it ended before."""
    after_rows, after_operations = rng.randrange(1, 2 * ROWS), rng.randrange(1, 40)
    by_row = rng.random() < 0.5
    child = os.fork()
    if child == 0:
        count = 0

        def kill_at_operation(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal count
            if event in _FILE_OPERATIONS and output.name in str(arguments[0]):
                count += 1
                if count == after_operations:
                    os.kill(os.getpid(), signal.SIGKILL)

        def killing(files: Iterator[str]) -> Iterator[Prediction]:
            for row, prediction in enumerate(answers(files)):
                if by_row and row == after_rows:
                    os.kill(os.getpid(), signal.SIGKILL)
                yield prediction

        if not by_row:
            sys.addaudithook(kill_at_operation)
        predict_to_file(killing, [FILES], output, settings=SETTINGS, format_=format_, top_k=1, resume=True)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def main() -> None:
    """Kill until ``--kills`` runs have been killed; each output that becomes complete is compared."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("format")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kills", type=int, default=40)
    args = parser.parse_args()
    journal.FLUSH_S = 0.0  # these runs are shorter than the time that rows wait
    check_writer(args.format, args.folder / "rows")  # pyarrow is imported once, not in each fork
    expected = args.folder / "expected"
    run(expected, args.format)
    rng = random.Random(args.seed)
    kills = cuts = complete = wrong = 0
    output = args.folder / "rows"
    path = journal.journal_of(output)
    while kills < args.kills or path.exists():
        if kills < args.kills and killed_try(output, args.format, rng):
            kills += 1
            if path.exists() and rng.random() < 0.5:
                os.truncate(path, max(0, path.stat().st_size - rng.randrange(200)))
                cuts += 1
            continue
        if not output.exists() or path.exists():
            run(output, args.format)
        complete += 1
        wrong += output.read_bytes() != expected.read_bytes()
        left = sorted(os.listdir(args.folder))
        wrong += left != ["expected", "rows"]
        output.unlink()
    print(json.dumps({"kills": kills, "cuts": cuts, "complete": complete, "wrong": wrong}))


if __name__ == "__main__":
    main()
