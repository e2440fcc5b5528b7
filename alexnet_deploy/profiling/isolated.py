"""Each engine is measured in a process of its own: a fresh heap, no other runtime's threads, a crash that costs a row.

The request goes in on the standard input, the answer comes back in a file, both as JSON: libraries print to the
standard output what they like.
"""

from __future__ import annotations

import ctypes
import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from alexnet_deploy import errors
from alexnet_deploy.bundle.manifest import Engine, Plan
from alexnet_deploy.contract import BatchProfile, ModelContract
from alexnet_deploy.errors import DeployError, UnavailableError
from alexnet_deploy.machine.watch import Watched
from alexnet_deploy.profiling.engine import EngineProfile, Row, Settings, profile_here, refuse_batches
from alexnet_deploy.profiling.latency import Latency

# The same modules as here, wherever they come from, and no others: `-m` would look into the current folder first.
_CHILD = "import sys; sys.path[:] = sys.argv[1:]; from alexnet_deploy.profiling.isolated import answer; answer()"
_PR_SET_PDEATHSIG = 1


def profile_engine(engine: Engine, settings: Settings | None = None) -> EngineProfile:
    """Measure ``engine`` in a process of its own, which ends with this call, or with this process.

    Raises UsageError for a batch size outside the engine's profile, whatever ``profile_here`` raises there, and
    UnavailableError that names the engine and the signal where the process was killed or crashed, KeyboardInterrupt
    where that was Ctrl-C.
    """
    settings = settings or Settings()
    refuse_batches(engine, settings.batches)
    with TemporaryDirectory(prefix="alexnet-deploy-") as folder:
        file = Path(folder) / "answer.json"
        request = {
            "engine": _engine_out(engine),
            "settings": dataclasses.asdict(settings),
            "answer": str(file),
            "parent": os.getpid(),
        }
        # What libraries print to the standard output goes to the error output: the former is ours.
        ended = subprocess.run(
            [sys.executable, "-c", _CHILD, *sys.path], input=json.dumps(request), text=True, stdout=2, check=False
        )
        if ended.returncode == -signal.SIGINT:
            raise KeyboardInterrupt  # a shell lets what it starts in the background ignore it, and that one only
        if ended.returncode != 0:
            raise UnavailableError(f"{engine.name}: {_end_of(ended.returncode)}")
        answer = json.loads(file.read_bytes())
    if "error" in answer:
        kind, message = answer["error"]
        raise getattr(errors, kind)(message)
    return _profile_in(answer["profile"])


def answer() -> None:
    """What the process of its own does."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it inside a library's call, too, and without a traceback
    request = json.loads(sys.stdin.read())
    _end_with(request["parent"])
    given: dict[str, Any]
    try:
        settings = Settings(**request["settings"] | {"batches": tuple(request["settings"]["batches"])})
        given = {"profile": dataclasses.asdict(profile_here(_engine_in(request["engine"]), settings))}
    except DeployError as exc:
        given = {"error": [type(exc).__name__, str(exc)]}
    Path(request["answer"]).write_text(json.dumps(given), encoding="utf-8")


def _end_with(parent: int) -> None:
    """Nobody waits for the answer of an orphan, and whoever measures next needs the cores (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it went before it was asked about
            sys.exit(1)


def _end_of(code: int) -> str:
    if code >= 0:
        return f"the process that measured it ended with code {code}; what it said stands above"
    name = signal.Signals(-code).name
    if name == "SIGKILL":
        return "the process that measured it was killed (SIGKILL), as for lack of memory; free some, or lower --batch"
    return f"the process that measured it ended by {name}; try another --runtime"


def _engine_out(engine: Engine) -> dict[str, Any]:
    return {
        "name": engine.name,
        "onnx_path": str(engine.onnx_path),
        "contract": engine.contract.to_json(),
        "precision": engine.precision,
        "batch": None if engine.batch is None else dataclasses.asdict(engine.batch),
        "plans": [[dataclasses.asdict(plan), str(path)] for plan, path in engine.plans],
    }


def _engine_in(raw: dict[str, Any]) -> Engine:
    return Engine(
        name=raw["name"],
        onnx_path=Path(raw["onnx_path"]),
        contract=ModelContract.from_json(raw["contract"], source=raw["onnx_path"]),
        precision=raw["precision"],
        batch=None if raw["batch"] is None else BatchProfile(**raw["batch"]),
        plans=tuple((Plan(**plan), Path(path)) for plan, path in raw["plans"]),
    )


def _profile_in(raw: dict[str, Any]) -> EngineProfile:
    """What ``dataclasses.asdict`` took apart; JSON made its tuples lists."""
    rows = tuple(
        Row(
            Latency(**row["latency"] | {"samples_ns": tuple(row["latency"]["samples_ns"])}),
            Watched(**row["machine"] | {key: tuple(row["machine"][key]) for key in ("gpu_limited_by", "invalid")}),
        )
        for row in raw["rows"]
    )
    settings = Settings(**raw["settings"] | {"batches": tuple(raw["settings"]["batches"])})
    return EngineProfile(**raw | {"settings": settings, "passed_over": tuple(raw["passed_over"]), "rows": rows})
