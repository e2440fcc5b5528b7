"""``export``: from a checkpoint to an ONNX file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from alexnet_deploy.cli import options as opt
from alexnet_deploy.cli.engines import needs
from alexnet_deploy.cli.flags import in_flags
from alexnet_deploy.cli.output.replace import check_output
from alexnet_deploy.cli.output.tables import print_json, print_line, size
from alexnet_deploy.cli.output.terminal import note, reporting
from alexnet_deploy.contract import ArchitectureName


def export(
    output: Annotated[Path, typer.Option("--output", "-o", help="ONNX file to write.")] = opt.DEFAULT_ONNX,
    weights: Annotated[
        str | None,
        typer.Option(
            help="checkpoint.safetensors, a .pth, .pt or .safetensors of another tool (path or URL), or imagenet1k.  "
            "[default: the shipped one]"
        ),
    ] = None,
    architecture: Annotated[
        ArchitectureName | None,
        typer.Option("--arch", help="Architecture that another tool's file must have.  [default: by its shapes]"),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(help="Labels, one per line, for another tool's file.  [default: imagenet1k for 1000 classes]"),
    ] = None,
    ema: Annotated[bool, typer.Option("--ema/--no-ema", help="Prefer averaged weights where a file has both.")] = True,
    allow_http: Annotated[bool, typer.Option("--allow-http", help="Download without encryption.")] = False,
    parity_images: Annotated[
        Path | None, typer.Option(help="Folder of images for the proof of parity.  [default: the sample photos]")
    ] = None,
    full_decode: opt.FullDecode = False,
    json_: opt.Json = False,
) -> None:
    """Export a checkpoint to ONNX, with proof of parity.

    The graph has uint8 pixels as input and logits as output, which must equal those of PyTorch.
    """
    with needs("export"):
        from alexnet_deploy.model.export import export_with_parity

    check_output(output, "output", (weights, labels, parity_images), formats=(".onnx",))
    with reporting() as report:
        exported = export_with_parity(
            weights,
            output,
            architecture=architecture,
            labels=labels,
            ema=ema,
            allow_http=allow_http,
            parity_images=parity_images,
            full_decode=full_decode,
            on_progress=report,
        )
    contract, parity = exported.contract, exported.parity
    notes = [in_flags(text, export) for text in exported.notes]
    count = output.stat().st_size
    if json_:
        print_json({"onnx": str(output), "bytes": count, "parity": parity, "notes": notes})
        return
    for text in notes:
        note(text)
    pre = contract.preprocessing
    print_line(f"{output}  {size(count)}  {contract.architecture}, {len(contract.labels)} classes")
    print_line(f"  in   {contract.input_name} uint8 [N,{pre.height},{pre.width},3] RGB ({pre.resize})")
    print_line(f"  out  {contract.output_name} float32 [N,{len(contract.labels)}]")
    print_line(
        f"parity with torch on {parity.images} images in {parity.runtime}: max abs difference "
        f"{parity.max_abs_difference:.2e} of {parity.largest_logit:.1f}, "
        f"top-1 agreement {parity.top1_agreement_percent:.0f} %"
    )
