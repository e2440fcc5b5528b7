"""What a command needs before it starts: a package, an open engine."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from alexnet_deploy.adoption.import_options import NO_IMPORT_OPTIONS, ImportOptions
from alexnet_deploy.bundle.manifest import CONFIDENCE, MODEL
from alexnet_deploy.cli.collector import starting
from alexnet_deploy.cli.flags import in_flags
from alexnet_deploy.cli.output.terminal import note
from alexnet_deploy.cli.quantities import Devices
from alexnet_deploy.errors import UnavailableError, one_line

if TYPE_CHECKING:
    from alexnet_deploy.inference.engine import OpenEngine
    from alexnet_deploy.runtime.select import Runtime

_log = logging.getLogger(__name__)

# OpenVINO also imports its converter, which no command uses, and does without it: half of the time of its import. Only
# here, because a program of the user's may need both OpenVINO's converter and this package.
sys.modules.setdefault("openvino.tools.ovc", None)  # type: ignore[arg-type]


@contextmanager
def running(
    engine: str | Path | None,
    store: Path,
    runtime: Runtime,
    threads: int | None,
    import_options: ImportOptions = NO_IMPORT_OPTIONS,
    *,
    verify: bool = True,
    full_decode: bool = False,
    tf32: bool = False,
    device: Devices | None = None,
    features: bool = False,
    layer: str | None = None,
) -> Iterator[OpenEngine]:
    """An open engine; one line on the standard error names its runtime."""
    with starting():
        from alexnet_deploy.inference.engine import open_engine

        opened = open_engine(
            engine,
            runtime=runtime,
            threads=threads,
            store=store,
            import_options=import_options,
            verify=verify,
            full_decode=full_decode,
            tf32=tf32,
            device=None if device is None else device.wanted,
            features=features,
            layer=layer,
        )
    with opened:
        note_passed_over(opened.passed_over, unused_gpu=opened.unused_gpu)
        ends_at = "" if (found := opened.contract.features) is None else f" up to layer {found.layer}"
        runners = " and ".join(each.description for each in opened.cards)
        note(f"running {opened.name} ({opened.precision}){ends_at} with {runners}")
        if str(engine).endswith(".onnx"):  # a bundle was built with them
            note(f"images: {opened.contract.preprocessing.describe()}")
        yield opened


def note_other_runtime(opened: OpenEngine) -> None:
    """Say where the rule for unknown answers was fitted, if another runtime runs it: each rounds in its own way."""
    folder = opened.onnx_path.parent
    if opened.onnx_path.name != MODEL or not (folder / CONFIDENCE).is_file():
        return
    from alexnet_deploy.evaluation.confidence.record import read_confidence

    def runtime(description: str) -> str:
        return description.partition(" on ")[0].rpartition(" ")[0]  # "OpenVINO 2026.4.1 on CPU"

    fit = read_confidence(folder, opened.contract)
    if fit is not None and all(runtime(fit.runtime) != runtime(each.description) for each in opened.cards):
        note(
            f"the rule for unknown answers was fitted in {fit.runtime}; another runtime rounds differently, so a few "
            "marks near the threshold may differ from its"
        )


def files_of(engine: str | None, opened: OpenEngine) -> list[Path]:
    """All files of an engine: those of its bundle, or an ONNX with the files of its weights."""
    if engine is not None and engine.endswith(".onnx"):
        from alexnet_deploy.onnx_graph.weights_data import external_files

        return [Path(engine), *external_files(Path(engine))]
    return list(opened.onnx_path.parent.iterdir())


def note_passed_over(reasons: Iterable[object], *, unused_gpu: bool) -> None:
    """Print why earlier runtimes were not used: with ``--verbose``, or if a GPU was not used."""
    for reason in reasons:
        if unused_gpu:
            note(f"not used: {in_flags(reason)}", style="dim")
        else:
            _log.info("not used: %s", in_flags(reason))


def exit_where_left_out(unreadable: Sequence[str], images: int) -> None:
    """Exit code 3 if some files could not be read; ``images`` is the number of those that were."""
    if unreadable:
        total = images + len(unreadable)
        note(f"{len(unreadable)} of {total} images cannot be read; the result contains the reason", style="yellow")
        raise typer.Exit(3)


@contextmanager
def needs(extra: str) -> Iterator[None]:
    """Turn a missing package into the name of the extra that brings it; a fault of our own modules stays what it is."""
    try:
        yield
    except ImportError as exc:
        if (exc.name or "").partition(".")[0] in ("alexnet_deploy", "training"):
            raise
        if isinstance(exc.__cause__, KeyboardInterrupt):  # as pybind11 reports Ctrl-C: "initialization failed"
            raise KeyboardInterrupt from exc
        if not isinstance(exc, ModuleNotFoundError):
            raise UnavailableError(
                f"a package of this command cannot be imported ({one_line(exc, 200)}); reinstall: "
                f"pip install --force-reinstall 'alexnet-deploy[{extra}]'"
            ) from exc
        raise UnavailableError(f"this command needs {exc.name}; pip install 'alexnet-deploy[{extra}]'") from exc
