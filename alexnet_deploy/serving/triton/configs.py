"""The ModelConfig of each model of a repository, as the fields of ``config.pbtxt``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alexnet_deploy.errors import UsageError, require_positive
from alexnet_deploy.precision.types import float_type, is_weights_only, quantized_type
from alexnet_deploy.serving.triton.choose import ANSWER, DECODE, PHOTOS, TritonModel

LABELS_FILE = "labels.txt"
IMAGE, PROBABILITIES, FEATURES = "image", "probabilities", "features"
"""As ``serve`` calls its input of encoded files, and its output: probabilities, or those of a feature engine."""


@dataclass(frozen=True, slots=True)
class TritonSettings:
    """What Triton does with requests; raises UsageError for a value out of range.

    ``instances`` is the number of copies of an engine (per GPU where there are some). ``max_delay_s`` is how long a
    request waits for others, as in ``serve``; ``max_queue`` how many may wait (None: Triton sets no limit).
    """

    instances: int = 1
    max_delay_s: float = 0.002
    max_queue: int | None = None

    def __post_init__(self) -> None:
        require_positive(instances=self.instances, max_queue=self.max_queue)
        if not 0 <= self.max_delay_s <= 60:
            raise UsageError(f"`max_delay` {self.max_delay_s}: is not within 0..60 seconds")


def plan_files(model: TritonModel) -> dict[str, str]:
    """The file in the version folder by compute capability as Triton writes it: ``{"8.9": "model.plan"}``.

    A plan that serves several of them is one file.
    """
    one = len({path for _, path in model.plans}) == 1
    names: dict[Path, str] = {}
    for plan, path in model.plans:
        names.setdefault(path, "model.plan" if one else f"model.{plan.target}.plan")
    return {_capability(plan.target): names[path] for plan, path in model.plans}


def _capability(target: str) -> str:
    digits = target.removeprefix("sm")
    return f"{digits[:-1]}.{digits[-1]}"


def engine_config(model: TritonModel, settings: TritonSettings) -> dict[str, Any]:
    """Pixels in, logits out, or features."""
    contract = model.engine.contract
    pixels = _pixels_dims(model)
    config = _common(model, model.name) | {
        "input": [{"name": contract.input_name, "data_type": "TYPE_UINT8", "dims": _dims(model, *pixels)}],
        "output": [_scores(model, contract.output_name)],
    }
    if model.static:
        config["model_warmup"] = [_warm_up(model, 1)]
    else:
        tuned = {model.batch.opt, model.batch.max, *(profile.opt for profile in model.profiles)}
        config["model_warmup"] = [_warm_up(model, images) for images in sorted({1, *tuned})]
        config |= _batching(settings, settings.max_delay_s, sorted(tuned))
    if model.plans:
        files = plan_files(model)
        return config | {
            "platform": "tensorrt_plan",
            "backend": "tensorrt",
            "default_model_filename": next(iter(files.values())),
            "cc_model_filenames": files,
            "instance_group": [_on_gpu(model, settings)],
        }
    return config | {
        "backend": "onnxruntime",
        "optimization": _sound_onnxruntime(model.engine.precision),
        "default_model_filename": "model.onnx",
        "instance_group": [{"count": settings.instances, "kind": "KIND_AUTO"}],
    }


def runs_unoptimised(precision: str) -> bool:
    """Whether no optimisation of ONNX Runtime may run in Triton: quantised activations, and float16 between them.

    One that runs at every level computes the scales of a bias in float16, where they become 0. Where we open a session
    it is left out by its name (machine/onnx_session.py), and Triton hands on no such names.
    """
    return quantized_type(precision) is not None and not is_weights_only(precision) and float_type(precision) == "fp16"


def _sound_onnxruntime(precision: str) -> dict[str, Any]:
    """Options with which Triton's ONNX Runtime computes what the graph says, in the precision that it says.

    The levels are those of the backend's own source (triton-inference-server/onnxruntime_backend, src/onnxruntime.cc):
    -1 basic, 1 extended, 2 none; without one, all optimisations.
    """
    cuda = {"name": "cuda", "parameters": {"use_tf32": "0"}}  # by default a GPU rounds float32 to 10 bits of mantissa
    options: dict[str, Any] = {"execution_accelerators": {"gpu_execution_accelerator": [cuda]}}
    if runs_unoptimised(precision):
        options["graph"] = {"level": 2}
    elif quantized_type(precision) in ("int8", "fp8"):
        # The extended ones compute an FP8 Gemm wrongly (runtime/onnxruntime/runner.py). Some layers of int8 they turn
        # into integers, which gains nothing, and overflows on a processor where ``saturates_int8``.
        options["graph"] = {"level": -1}
    return options


def _on_gpu(model: TritonModel, settings: TritonSettings) -> dict[str, Any]:
    """Instances with a context for each profile of the plans.

    Without names of profiles, Triton uses the first alone, and refuses a plan in which that one has fewer images than
    ``max_batch_size``. Of several that take a batch, it uses the one whose ``opt`` is nearest.
    """
    group: dict[str, Any] = {"count": settings.instances, "kind": "KIND_GPU"}
    return group | {"profile": list(map(str, range(len(model.profiles))))} if model.profiles else group


def decode_config(model: TritonModel, settings: TritonSettings) -> dict[str, Any]:
    """Encoded files in, pixels out; one process, which decodes in threads."""
    return _python(model, DECODE, settings) | {
        "input": [_image(model)],
        "output": [
            {
                "name": model.engine.contract.input_name,
                "data_type": "TYPE_UINT8",
                "dims": _dims(model, *_pixels_dims(model)),
            }
        ],
    }


def answer_config(model: TritonModel, settings: TritonSettings) -> dict[str, Any]:
    """Logits in, probabilities out."""
    logits = _scores(model, model.engine.contract.output_name)
    return _python(model, ANSWER, settings) | {
        "input": [{key: logits[key] for key in ("name", "data_type", "dims")}],
        "output": [_scores(model, PROBABILITIES)],
    }


def ensemble_config(model: TritonModel) -> dict[str, Any]:
    """Encoded files in, probabilities or features out: the models one after the other."""
    contract = model.engine.contract
    answers = ANSWER in model.beside_roles
    output, found = (PROBABILITIES, "step_logits") if answers else (FEATURES, FEATURES)
    steps = [
        (model.beside(DECODE), {IMAGE: IMAGE}, {contract.input_name: "step_pixels"}),
        (model.name, {contract.input_name: "step_pixels"}, {contract.output_name: found}),
    ]
    if answers:
        steps.append((model.beside(ANSWER), {contract.output_name: found}, {output: output}))
    return _common(model, model.beside(PHOTOS)) | {
        "platform": "ensemble",
        "input": [_image(model)],
        "output": [_scores(model, output)],
        "ensemble_scheduling": {
            "step": [
                {"model_name": name, "model_version": -1, "input_map": given, "output_map": got}
                for name, given, got in steps
            ]
        },
    }


def _common(model: TritonModel, name: str) -> dict[str, Any]:
    return {"name": name, "max_batch_size": model.max_batch_size}


def _python(model: TritonModel, role: str, settings: TritonSettings) -> dict[str, Any]:
    """Without a delay of its own: an image has waited in the engine's queue, or will."""
    config = _common(model, model.beside(role)) | {
        "backend": "python",
        "default_model_filename": "model.py",
        "instance_group": [{"count": 1, "kind": "KIND_CPU"}],
    }
    return config if model.static else config | _batching(settings, 0.0)


def _batching(settings: TritonSettings, delay_s: float, preferred: Sequence[int] = ()) -> dict[str, Any]:
    batching: dict[str, Any] = {
        "preferred_batch_size": list(preferred),
        "max_queue_delay_microseconds": round(1e6 * delay_s),
    }
    if settings.max_queue is not None:
        # Only if asked for: with it, Triton 2.51 left one request in a hundred waiting for 504 ms (docs/triton.md).
        batching["default_queue_policy"] = {"max_queue_size": settings.max_queue}
    return {"dynamic_batching": batching}


def _dims(model: TritonModel, *sizes: int) -> list[int]:
    """The sizes after the batch, or with it where it is fixed."""
    return [model.batch.max, *sizes] if model.static else list(sizes)


def _pixels_dims(model: TritonModel) -> tuple[int, int, int]:
    pre = model.engine.contract.preprocessing
    return pre.height, pre.width, 3


def _image(model: TritonModel) -> dict[str, Any]:
    dims = [model.batch.max] if model.static else [1]  # Triton has no scalars: a request is [N, 1]
    return {"name": IMAGE, "data_type": "TYPE_STRING", "dims": dims}


def _scores(model: TritonModel, name: str) -> dict[str, Any]:
    """Without labels where there are none, and where a fixed batch has several images: Triton then counts classes
    through all of them.
    """
    contract = model.engine.contract
    output = {"name": name, "data_type": "TYPE_FP32", "dims": _dims(model, contract.outputs)}
    if not contract.labels or (model.static and model.batch.max > 1):
        return output
    return output | {"label_filename": LABELS_FILE}


def _warm_up(model: TritonModel, images: int) -> dict[str, Any]:
    pixels = {
        "data_type": "TYPE_UINT8",
        "dims": _dims(model, *_pixels_dims(model)),
        "zero_data": True,
    }
    return {
        "name": f"batch {images}",
        "batch_size": images,
        "inputs": {model.engine.contract.input_name: pixels},
    }
