"""``infer --ray``: the same rows from all machines of a Ray cluster, into a folder of Parquet parts."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alexnet_deploy.cli.output.image_bars import image_bars
from alexnet_deploy.cli.output.terminal import note
from alexnet_deploy.errors import UsageError

if TYPE_CHECKING:
    from alexnet_deploy.images.sources import Source


def infer_on_ray(
    images: Callable[[], Iterable[Path | Source]],
    output: str | None,
    address: str,
    *,
    format_: str | None,
    watch: Path | None,
    part_size: int | None,
    resume: bool,
    overwrite: bool,
    compute: dict[str, Any],
    **engine: Any,
) -> tuple[int, int]:
    """Write the rows of ``images`` into the folder ``output``: how many there are, and how many of them failed.

    ``compute`` are fields of ``RaySettings``; ``engine`` is what ``predict_on_ray`` takes.
    """
    if watch is not None:
        raise UsageError("`watch` runs on one machine; leave out `ray`")
    if format_ not in (None, "parquet"):
        raise UsageError(f"`format` {format_}: `ray` writes a folder of Parquet parts; leave out `format`")
    if output is None:
        raise UsageError("`ray` writes a folder of Parquet parts; give `output`, a new folder or an address")
    from alexnet_deploy.inference.ray.parts import PART_SIZE
    from alexnet_deploy.inference.ray.probe import require_ray

    require_ray()
    from alexnet_deploy.inference.ray.run import RaySettings, predict_on_ray

    verbose = logging.getLogger().isEnabledFor(logging.DEBUG)
    settings = RaySettings(
        address, **compute, part_size=PART_SIZE if part_size is None else part_size, quiet=not verbose
    )
    begun = False
    with image_bars() as bars:
        task = bars.add_task("images", total=None)

        def show(rows: int, total: int) -> None:
            nonlocal begun
            begun = True  # called once the folder is begun: a part may be there before its rows are shown
            bars.update(task, completed=rows, total=total)

        try:
            result = predict_on_ray(
                images, output, settings, resume=resume, overwrite=overwrite, on_rows=show, **engine
            )
        except UsageError:
            raise
        except BaseException:
            if begun:
                note(f"{output} keeps the parts so far; the same command with --resume goes on")
            raise
    if result.runs:
        note(f"ran {' and '.join(sorted(result.runs))}")
    for machine, rows in sorted(result.machines.items()):
        note(f"{machine}: {rows} images")
    if len(result.runs) > 1:
        note("the runtimes differ, and so may the last digits; name one with --runtime", style="yellow")
    note(f"wrote {output}")
    if result.resumed:
        note(f"{result.resumed} of {result.rows} rows come from the run before")
    return result.rows, result.failed
