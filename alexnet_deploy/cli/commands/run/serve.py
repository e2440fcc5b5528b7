"""``serve``: engines behind HTTP and gRPC."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from alexnet_deploy.cli import options as opt
from alexnet_deploy.cli.engines import needs
from alexnet_deploy.cli.output.terminal import note
from alexnet_deploy.cli.quantities import Bytes
from alexnet_deploy.errors import UsageError
from alexnet_deploy.runtime.select import split_runtime
from alexnet_deploy.serving.settings import Settings

if TYPE_CHECKING:
    from alexnet_deploy.serving.server import Started

_DEFAULT = Settings()


def _bytes_option(flag: str, text: str, default: str) -> Any:
    return typer.Option(flag, parser=Bytes.parse, metavar="SIZE", help=text, show_default=default)


@opt.with_import_options
def serve(
    engines: Annotated[list[str] | None, opt.engine_argument("newest bundle of the store")] = None,
    runtime: opt.Runtime = "auto",
    host: Annotated[str, typer.Option(help="Address to listen on.")] = _DEFAULT.host,
    port: Annotated[int, typer.Option(help="Port of HTTP; 0 for a free one.")] = _DEFAULT.port,
    grpc_port: Annotated[int | None, typer.Option(help="Port of gRPC.  [default: no gRPC]")] = None,
    max_batch: Annotated[
        int | None,
        typer.Option(help="Maximum number of images per call of an engine.  [default: 8 on the CPU, 32 on a GPU]"),
    ] = None,
    max_delay: Annotated[
        float, opt.time_option("--max-delay", "How long an image waits for others.", default="2ms")
    ] = _DEFAULT.max_delay_s,
    instances: Annotated[
        int | None,
        typer.Option(help="Calls of an engine at the same time, per GPU.  [default: 2 on the CPU, 1 on a GPU]"),
    ] = None,
    max_queue: Annotated[
        int, typer.Option(help="Images that may wait per engine; more are refused.")
    ] = _DEFAULT.max_queue,
    timeout: Annotated[
        float, opt.time_option("--timeout", "Maximum time per request.", default="30s")
    ] = _DEFAULT.timeout_s,
    workers: opt.Workers = None,
    threads: opt.Threads = None,
    max_images: Annotated[int, typer.Option(help="Images per request.")] = _DEFAULT.max_images,
    max_pixels: Annotated[int, typer.Option(help="Pixels per image, before it is resized.")] = _DEFAULT.max_pixels,
    max_body: Annotated[float, _bytes_option("--max-body", "Bytes per request.", "32MiB")] = float(_DEFAULT.max_body),
    max_memory: Annotated[
        float, _bytes_option("--max-memory", "Bytes of all requests that are being read or answered.", "512MiB")
    ] = float(_DEFAULT.max_memory),
    max_connections: Annotated[int, typer.Option(help="Open HTTP connections.")] = _DEFAULT.max_connections,
    idle: Annotated[
        float,
        opt.time_option("--idle", "A client that sends nothing for so long in a request is cut off.", default="10s"),
    ] = _DEFAULT.idle_s,
    drain: Annotated[
        float, opt.time_option("--drain", "Maximum time to answer what has arrived, after SIGTERM.", default="30s")
    ] = _DEFAULT.drain_s,
    reload: Annotated[
        float, opt.time_option("--reload", "How often to look for a replaced engine.", default="2s")
    ] = _DEFAULT.reload_s,
    api_key_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Keys that clients must send, one per line.")
    ] = None,
    allow_unauthenticated: Annotated[
        bool, typer.Option("--allow-unauthenticated", help="Serve other machines without a key.")
    ] = False,
    certificate: Annotated[Path | None, typer.Option(metavar="PEM", help="Certificate chain, for TLS.")] = None,
    key: Annotated[Path | None, typer.Option(metavar="PEM", help="Key of the certificate.")] = None,
    access_log: Annotated[
        bool, typer.Option("--access-log/--no-access-log", help="A line of JSON per request on the standard output.")
    ] = True,
    full_decode: opt.FullDecode = False,
    tf32: opt.Tf32 = False,
    device: opt.Device = None,
    import_options: opt.ImportOptions = opt.NO_IMPORT_OPTIONS,
    store: opt.Store = opt.STORE,
) -> None:
    """Serve engines over HTTP and gRPC, with a page.

    The page, POST /classify, and the Open Inference Protocol (REST and gRPC).

    SIGTERM and Ctrl-C end it after the requests that have arrived are answered.
    """
    _require_use(runtime, engines or [], store)
    settings = Settings(
        host=host,
        port=port,
        grpc_port=grpc_port,
        max_batch=max_batch,
        max_delay_s=max_delay,
        instances=instances,
        max_queue=max_queue,
        timeout_s=timeout,
        workers=workers,
        threads=threads,
        max_images=max_images,
        max_pixels=max_pixels,
        max_body=round(max_body),
        max_memory=round(max_memory),
        max_connections=max_connections,
        idle_s=idle,
        drain_s=drain,
        reload_s=reload,
        api_key_file=api_key_file,
        allow_unauthenticated=allow_unauthenticated,
        certificate=certificate,
        key=key,
        access_log=access_log,
        full_decode=full_decode,
        tf32=tf32,
        device=None if device is None else device.wanted,
    )
    with needs("serve"):
        from alexnet_deploy.serving.engines.sources import find_sources
        from alexnet_deploy.serving.server import serve as run_server
    sources = find_sources(engines or [], store, runtime, import_options)
    names = ", ".join(source.name for source in sources)
    run_server(sources, settings, lambda: note(f"loading {names}"), _note_ready)


def _require_use(runtime: str, engines: Sequence[str], store: Path) -> None:
    """UsageError for a ``runtime`` that contradicts the engines, as each of them names another one."""
    own = [split_runtime(engine, store=store)[1] for engine in engines]
    if own and runtime not in ("auto", *own) and None not in own:
        names = " and ".join(engines)
        raise UsageError(f"`runtime` {runtime}: contradicts {names}; leave it out, or write the engine's name alone")


def _note_ready(started: Started) -> None:
    grpc = f", gRPC on {started.grpc}" if started.grpc else ""
    note(f"serving {', '.join(started.models)} on {started.http}{grpc}; Ctrl-C ends it")
