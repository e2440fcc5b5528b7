"""``package``: engines as a model repository of Triton."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from alexnet_deploy.cli import options as opt
from alexnet_deploy.cli.flags import in_flags
from alexnet_deploy.cli.output.tables import print_json, print_line, size
from alexnet_deploy.cli.output.terminal import note
from alexnet_deploy.errors import UsageError
from alexnet_deploy.files import is_inside


@opt.with_import_options
def package(
    engines: Annotated[list[str], opt.engine_argument()],
    triton: Annotated[Path, typer.Option(metavar="DIR", help="Folder to write the model repository to.")],
    preprocess: Annotated[
        bool,
        typer.Option("--preprocess", help="Add models that take image files and return probabilities, or features."),
    ] = False,
    targets: Annotated[
        list[str] | None,
        typer.Option(
            "--target", metavar="SM", help="Serve the TensorRT plan for it (sm90); repeatable.  [default: ONNX]"
        ),
    ] = None,
    kserve: Annotated[bool, typer.Option("--kserve", help="Add a manifest for KServe.")] = False,
    instances: Annotated[int, typer.Option(help="Number of copies of each engine.")] = 1,
    max_delay: Annotated[
        float, opt.time_option("--max-delay", "How long an image waits for others.", default="2ms")
    ] = 0.002,
    max_queue: Annotated[
        int | None, typer.Option(help="Requests that may wait per model; more are refused.  [default: no limit]")
    ] = None,
    store: opt.Store = opt.STORE,
    import_options: opt.ImportOptions = opt.NO_IMPORT_OPTIONS,
    json_: opt.Json = False,
) -> None:
    """Write engines as a model repository of NVIDIA Triton.

    With --preprocess clients send whole image files, which Triton decodes as infer does.
    """
    from alexnet_deploy.serving.triton.configs import TritonSettings
    from alexnet_deploy.serving.triton.repository import package_triton

    for engine in engines:
        if is_inside(Path(engine), triton):
            raise UsageError(f"`triton` {triton}: holds the input {engine} and would be replaced; name another folder")
    written = package_triton(
        engines,
        triton,
        store=store,
        targets=tuple(targets or ()),
        preprocess=preprocess,
        kserve_manifest=kserve,
        settings=TritonSettings(instances, max_delay, max_queue),
        import_options=import_options,
    )
    for text in written.notes:
        note(in_flags(text, package), style="yellow")
    if json_:
        print_json({"repository": str(written.path), "models": list(written.models), "bytes": written.bytes})
        return
    print_line(f"{written.path}: {size(written.bytes)}, models {', '.join(written.models)}")
    print_line(f"Serve it with: tritonserver --model-repository {written.path}")
