"""Checkpoint -> ONNX: pixels in, logits out; parity with torch is proved before the file appears."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import nn

from alexnet_deploy.bundle.manifest import Engine
from alexnet_deploy.bundle.store import DEFAULT_ONNX
from alexnet_deploy.contract import NEW_DECODING, ModelContract
from alexnet_deploy.errors import ProofError, UsageError
from alexnet_deploy.files import atomic_file
from alexnet_deploy.images.samples import parity_pixels
from alexnet_deploy.model.architecture import PixelClassifier
from alexnet_deploy.model.checkpoint import Checkpoint, load_weights
from alexnet_deploy.onnx_graph.onnx_file import IR_VERSION, OPSET, save_onnx, set_contract
from alexnet_deploy.progress import Progress, no_progress
from alexnet_deploy.runtime.select import open_runner

# Legend: N batch, H height, W width, C channel (RGB), K class

RELATIVE_TOLERANCE = 1e-4
"""Allowed largest absolute logit difference, as a share of the largest logit.

float32 sums of up to 9216 products in another order differ by about 1e-6; a wrong weight, layout or normalisation
changes 1e-2 and more.
"""


@dataclass(frozen=True, slots=True)
class Parity:
    """How far the logits of the ONNX file are from those of torch on the same pixels."""

    images: int
    max_abs_difference: float
    largest_logit: float
    top1_agreement_percent: float
    runtime: str

    @property
    def holds(self) -> bool:
        """Whether another order of float32 sums can explain the difference."""
        return (
            self.max_abs_difference <= RELATIVE_TOLERANCE * max(1.0, self.largest_logit)
            and self.top1_agreement_percent == 100
        )


@dataclass(frozen=True, slots=True)
class Exported:
    """What ``export_with_parity`` made; ``notes`` are those of the checkpoint."""

    contract: ModelContract
    parity: Parity
    notes: tuple[str, ...]


def export(
    weights: str | Path | None = None,
    output: str | Path = DEFAULT_ONNX,
    *,
    architecture: str | None = None,
    labels: str | Path | None = None,
    ema: bool = True,
    allow_http: bool = False,
    parity_images: str | Path | None = None,
    full_decode: bool = False,
    on_progress: Progress = no_progress,
) -> Path:
    """Export a checkpoint to the ONNX file ``output``, prove that its answers are those of torch, and return its path.

    ``weights``, ``architecture``, ``labels``, ``ema`` and ``allow_http`` are those of ``load_weights``. The graph takes
    ``pixels`` uint8 ``[N, H, W, 3]`` RGB and returns ``logits`` float32 ``[N, K]``; N is free. ``parity_images`` is a
    folder of images for the proof (None: the sample photos). The contract in the file says that large JPEGs are decoded
    at a reduced size (``NEW_DECODING``), or with ``full_decode`` in full.

    Raises InputError or ArtifactError for weights that cannot be used, UsageError where ``output`` is the file of the
    weights or labels, UnavailableError where a download fails or ``output`` cannot be written, and ProofError where the
    answers differ; ``output`` is then as it was.
    """
    export_with_parity(
        weights,
        output,
        architecture=architecture,
        labels=labels,
        ema=ema,
        allow_http=allow_http,
        parity_images=parity_images,
        full_decode=full_decode,
        on_progress=on_progress,
    )
    return Path(output)


def export_with_parity(
    weights: str | Path | None = None,
    output: str | Path = DEFAULT_ONNX,
    *,
    architecture: str | None = None,
    labels: str | Path | None = None,
    ema: bool = True,
    allow_http: bool = False,
    parity_images: str | Path | None = None,
    full_decode: bool = False,
    on_progress: Progress = no_progress,
) -> Exported:
    """Do the same as ``export``, and return what the file holds and how far it is from torch."""
    _refuse_inputs(Path(output), weights=weights, labels=labels)
    checkpoint = load_weights(
        weights, architecture, labels=labels, ema=ema, allow_http=allow_http, on_progress=on_progress
    )
    contract = checkpoint.contract.decoded("full" if full_decode else NEW_DECODING)
    checkpoint = replace(checkpoint, contract=contract)
    pixels_NHWC = parity_pixels(parity_images, checkpoint.contract.preprocessing)
    on_progress("export", 0, 1)
    parity = export_onnx(checkpoint, Path(output), pixels_NHWC=pixels_NHWC)
    on_progress("export", 1, 1)
    return Exported(checkpoint.contract, parity, checkpoint.notes)


def _refuse_inputs(output: Path, **inputs: str | Path | None) -> None:
    """UsageError if ``output`` is the file of one of the parameters ``inputs``, by any of its names."""
    for name, value in inputs.items():
        with contextlib.suppress(OSError, ValueError):
            if value is not None and output.samefile(value):
                raise UsageError(f"`output` {output}: is the file of `{name}`, which it would replace; name another")


def export_onnx(checkpoint: Checkpoint, output: Path, *, pixels_NHWC: NDArray[np.uint8]) -> Parity:
    """Write a loaded ``checkpoint`` as ONNX; ``pixels_NHWC`` are real images for the proof of parity.

    Raises ProofError if the answers of the file differ from torch's; ``output`` is then as it was.
    """
    pre = checkpoint.contract.preprocessing
    classifier = PixelClassifier(checkpoint.build(), pre.mean, pre.std).eval()
    model = _to_onnx(classifier, checkpoint)
    with torch.inference_mode():
        expected_NK = classifier(torch.from_numpy(pixels_NHWC)).numpy()
    with atomic_file(output) as temporary:
        save_onnx(model, temporary)
        parity = _parity(temporary, checkpoint, pixels_NHWC, expected_NK)
        if not parity.holds:
            raise ProofError(
                f"{output}: not written: {parity.runtime} differs from torch by {parity.max_abs_difference:.3g} in a "
                f"logit and agrees on {parity.top1_agreement_percent:.1f} % of {parity.images} images; "
                "please report it with the versions of torch and onnx"
            )
    return parity


def _to_onnx(classifier: PixelClassifier, checkpoint: Checkpoint) -> onnx.ModelProto:
    contract = checkpoint.contract
    pre = contract.preprocessing
    # Two images: torch.export treats a batch of one as a constant.
    example = torch.zeros(2, pre.height, pre.width, 3, dtype=torch.uint8)
    with _quiet_exporter():
        program = torch.onnx.export(
            classifier,
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=[contract.input_name],
            output_names=[contract.output_name],
            dynamic_shapes=({0: torch.export.Dim("N", min=1)},),
            verbose=False,
        )
    if program is None:
        raise ProofError(
            f"torch {torch.__version__} returned no ONNX program; install the tested versions (constraints.txt)"
        )
    model = program.model_proto
    _name_by_module(model, classifier)
    model.ir_version = IR_VERSION
    model.producer_name, model.producer_version = "alexnet-deploy", ""
    set_contract(model, contract)
    return model


def _name_by_module(model: onnx.ModelProto, classifier: nn.Module) -> None:
    """Name each node after the PyTorch module it came from: ``features.0/Conv``, ``pixels/Cast``.

    The exporter's own metadata is removed: it holds stack traces with paths of the exporting machine.
    """
    modules = {name for name, _ in classifier.named_modules() if name}
    taken: Counter[str] = Counter()
    module = "pixels"  # the nodes before the model: layout, cast, normalisation
    for node in model.graph.node:
        scopes = next((entry.value for entry in node.metadata_props if entry.key == "pkg.torch.onnx.name_scopes"), "")
        inside = [name for name in modules if f"'{name}'" in scopes and name != "model"]
        if inside:
            module = max(inside, key=len).removeprefix("model.")
        elif module != "pixels":
            module = "flatten"  # AlexNet.forward flattens between its two submodules
        name = f"{module}/{node.op_type}"
        taken[name] += 1
        node.name = name if taken[name] == 1 else f"{name}_{taken[name]}"
        del node.metadata_props[:]
    del model.graph.metadata_props[:]
    for value in (*model.graph.value_info, *model.graph.input, *model.graph.output, *model.graph.initializer):
        del value.metadata_props[:]


def _parity(
    onnx_path: Path, checkpoint: Checkpoint, pixels_NHWC: NDArray[np.uint8], expected_NK: NDArray[np.float32]
) -> Parity:
    contract = checkpoint.contract
    # Always on the CPU: a GPU's TF32 products differ more than float32 sums in another order.
    opened = open_runner(Engine(onnx_path.name, onnx_path, contract, "fp32", None), "onnxruntime")
    try:
        logits_NK = opened.runner(pixels_NHWC)
    finally:
        opened.runner.close()
    return Parity(
        images=len(pixels_NHWC),
        max_abs_difference=float(np.abs(logits_NK - expected_NK).max()),
        largest_logit=float(np.abs(expected_NK).max()),
        top1_agreement_percent=float(100 * (logits_NK.argmax(1) == expected_NK.argmax(1)).mean()),
        runtime=opened.runner.description,
    )


@contextlib.contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Hide the exporter's warnings (a missing torchvision, a deprecation of its own): a user cannot act on them."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            yield
    finally:
        logger.setLevel(level)
