"""``build_engine``: any classifier ONNX -> an engine bundle whose precision is proved."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from alexnet_deploy.build.feature_engine import end_at, require_layer
from alexnet_deploy.build.plan_config import choose_batch
from alexnet_deploy.build.plans import BuiltPlans, build_plans
from alexnet_deploy.build.proof import describe_fallback, fallbacks, proof_notes, require_nodes
from alexnet_deploy.build.settings import BuildSettings
from alexnet_deploy.build.targets import is_limit_here, why_no_plan_here
from alexnet_deploy.build.typed_onnx import tool_versions, write_typed_onnx
from alexnet_deploy.build.verify import trial_pixels, verify_bundle
from alexnet_deploy.bundle.manifest import MODEL, Engine, Manifest, save_manifest, write_bundle
from alexnet_deploy.bundle.store import STORE
from alexnet_deploy.contract import BatchProfile, Precision
from alexnet_deploy.errors import InputError, ProofError, UnavailableError, UsageError, require_one_of
from alexnet_deploy.files import is_inside
from alexnet_deploy.images.choose import CalibrationSet, choose_images
from alexnet_deploy.onnx_graph.onnx_file import load_onnx, save_onnx, set_contract
from alexnet_deploy.precision.calibration.record import require_names
from alexnet_deploy.precision.float_model import FloatModel, import_float_model
from alexnet_deploy.precision.settings import CalibrationSettings
from alexnet_deploy.precision.types import float_type, instead_of_float16, is_weights_only, method_for, quantized_type
from alexnet_deploy.progress import Progress, no_progress
from alexnet_deploy.runtime.tensorrt.support import undocumented
from alexnet_deploy.verification.float16_range import require_float16_range

BORROWED = "the calibration of its probabilities"
"""How the note of a bundle begins whose calibration is that of its source, until it gets its own."""
Accept = Callable[[Engine, Path], None]
"""Judges a finished engine beside its float32 ONNX, such as ``profiling.speedup.SpeedCheck``; raises a DeployError."""


def build_engine(
    onnx: str | Path,
    output: str | Path | None = None,
    *,
    precision: Precision = "fp32",
    calibration_data: str | Path | CalibrationSet | None = None,
    settings: BuildSettings | None = None,
    accept: Accept | None = None,
    on_progress: Progress = no_progress,
) -> Path:
    """Build ``onnx`` into the bundle ``output`` (None: ``engines/<model>-<precision>``) and return its folder.

    ``calibration_data`` is for quantised precisions: a folder of images like those of production, or images already
    chosen (``CalibrationRecord.calibration_set`` returns those of a bundle). Without TensorRT the bundle has no plan,
    and a note in it gives the reason. The bundle appears whole, or ``output`` stays as it was. ``accept`` is called
    with the finished engine and its float32 ONNX before that; what it raises ends the build.

    Raises UsageError for arguments that contradict each other, ProofError if a layer did not get its precision and
    ``settings.allow_fallback`` does not name it, and the errors of the stages.
    """
    settings = settings or BuildSettings()
    images = choose_calibration(precision, calibration_data, settings)
    with new_bundle(Path(onnx), output, precision, settings, images) as bundle:
        if settings.until is not None:
            require_layer(bundle.model, settings.until)
        on_progress("precision", 0, 1)
        bundle.notes.extend(write_typed_onnx(bundle.model, bundle.folder, precision, images, settings, on_progress))
        on_progress("precision", 1, 1)
        if settings.until is not None:
            bundle = replace(bundle, model=end_at(bundle.model, bundle.folder, settings.until))
        finish_bundle(bundle, on_progress, accept)
    return bundle.path


@dataclass(frozen=True, slots=True)
class UnfinishedBundle:
    """A bundle that is being built."""

    path: Path
    """Its final folder."""
    folder: Path
    """The folder that its files are written to until then."""
    scratch: Path
    """A folder for temporary files."""
    model: FloatModel
    batch: BatchProfile
    precision: Precision
    settings: BuildSettings
    calibration: CalibrationSet | None
    notes: list[str] = field(default_factory=list)

    def photos(self) -> NDArray[np.uint8]:
        """``trial_pixels`` of this engine."""
        return trial_pixels(self.model.contract.preprocessing, self.settings.verify_images, self.calibration)


def choose_calibration(
    precision: Precision, calibration_data: str | Path | CalibrationSet | None, settings: BuildSettings
) -> CalibrationSet | None:
    """The calibration images, None without any; UsageError if data, settings and precision do not fit.

    int8 and fp8 need them, weights alone do not; for fp32 and fp16 there are none.
    """
    require_one_of(get_args(Precision), precision=precision)
    dtype = quantized_type(precision)
    if dtype is None:
        given = {
            "calibration_data": calibration_data,
            "exclude": settings.exclude,
            "calibration_method": settings.calibration_method,
            "calibration_images": settings.calibration_images != CalibrationSettings().calibration_images,
        }
        for name, value in given.items():
            if value:
                raise UsageError(f"`{name}` is for quantised precisions; build with one of them, or leave it out")
        return None
    method_for(dtype, settings.calibration_method)  # before any image is read
    if calibration_data is None and is_weights_only(dtype):
        if settings.calibration_method is not None:
            raise UsageError(
                f"`calibration_method` {settings.calibration_method}: needs `calibration_data`; give both, or neither"
            )
        if settings.calibration_images != CalibrationSettings().calibration_images:
            raise UsageError(
                f"`calibration_images` {settings.calibration_images}: needs `calibration_data`; give both, or neither"
            )
        return None
    if calibration_data is None:
        raise UsageError(
            f"{dtype} needs `calibration_data`: without the value ranges of real images its scales would be guesses; "
            "give a folder of photos like those of production, not the ones you evaluate on"
        )
    chosen = calibration_data
    if not isinstance(chosen, CalibrationSet):
        chosen = choose_images(Path(chosen), count=settings.calibration_images, seed=settings.seed)
    require_names(chosen)
    return chosen


def default_output(onnx: Path, precision: Precision, store: Path = STORE, *, until: str | None = None) -> Path:
    """The default folder of a bundle."""
    return store / f"{onnx.stem}-{precision.replace('+', '-')}{'' if until is None else '-features'}"


@contextmanager
def new_bundle(
    onnx: Path,
    output: str | Path | None,
    precision: Precision,
    settings: BuildSettings,
    calibration: CalibrationSet | None,
) -> Iterator[UnfinishedBundle]:
    """Start a bundle with ``onnx`` as its float model; it appears as a whole when the block ends without an error."""
    path = default_output(onnx, precision, until=settings.until) if output is None else Path(output)
    if is_inside(onnx, path):
        raise UsageError(f"`output` {path}: holds the input {onnx} and would be replaced; choose another name")
    with write_bundle(path) as folder, TemporaryDirectory(dir=folder.parent, prefix=f".{path.name}.work-") as scratch:
        images = None if settings.verify_images is None else Path(settings.verify_images)
        model = import_float_model(onnx, Path(scratch) / "float.onnx", settings.import_options, images=images)
        notes = list(model.notes)
        contract = model.contract
        names_classes = settings.until is None  # the features of a layer have neither probabilities nor a rule
        if names_classes and contract.is_calibrated and quantized_type(precision) is not None:
            notes.append(f"{BORROWED} was fitted to float32; fit its own: alexnet-deploy calibrate-confidence")
        if contract.rejection is not None:
            # Its threshold stands for a share of the answers of one engine.
            if names_classes:
                notes.append(
                    f"the rule for unknown answers of {onnx} is left out: each engine needs its own; fit one: "
                    "alexnet-deploy calibrate-confidence"
                )
            contract = replace(contract, rejection=None)
        if settings.full_decode:
            contract = contract.decoded("full")
        if contract != model.contract:
            model = replace(model, contract=contract)
            graph = load_onnx(model.path)
            set_contract(graph, model.contract)
            save_onnx(graph, model.path)
        batch = choose_batch(model, settings)
        yield UnfinishedBundle(path, folder, Path(scratch), model, batch, precision, settings, calibration, notes)


def finish_bundle(bundle: UnfinishedBundle, on_progress: Progress, accept: Accept | None = None) -> None:
    """Build the plans of the typed ONNX in ``bundle``, prove their precision and write the manifest."""
    require_nodes(bundle.settings.allow_fallback, bundle.folder / MODEL)
    bundle.notes.extend(_float16_notes(bundle))
    built = _proved_plans(bundle, on_progress)
    achieved = {plan.plan.file: plan.achieved for plan in built.plans}
    engine, float_onnx = _engine(bundle, built)
    verified = verify_bundle(engine, float_onnx, bundle.photos())
    if accept is not None:
        accept(engine, float_onnx)
    doubts = undocumented((each.plan.builder, [layer.got for layer in each.achieved]) for each in built.plans)
    notes = (*bundle.notes, *verified.notes, *doubts, *proof_notes(achieved))
    manifest = Manifest(
        precision=bundle.precision,
        contract=bundle.model.contract,
        batch=bundle.batch,
        tools=tool_versions(),
        plans=tuple(plan.plan for plan in built.plans),
        achieved=achieved,
        verification=verified.answers,
        feature_verification=verified.features,
        notes=notes,
    )
    save_manifest(manifest, bundle.folder)


def _float16_notes(bundle: UnfinishedBundle) -> list[str]:
    if float_type(bundle.precision) != "fp16":
        return []
    return require_float16_range(
        bundle.folder / MODEL, bundle.photos(), name=str(bundle.path), instead=instead_of_float16(bundle.precision)
    )


def _engine(bundle: UnfinishedBundle, built: BuiltPlans) -> tuple[Engine, Path]:
    """The engine in ``bundle``, and the float32 ONNX that it was made from."""
    onnx_path = bundle.folder / MODEL
    plans = tuple((plan.plan, bundle.folder / plan.plan.file) for plan in built.plans)
    engine = Engine(bundle.path.name, onnx_path, bundle.model.contract, bundle.precision, bundle.batch, plans)
    # The float32 model of an fp32 bundle has moved into it.
    return engine, bundle.model.path if bundle.model.path.exists() else onnx_path


def _proved_plans(bundle: UnfinishedBundle, on_progress: Progress) -> BuiltPlans:
    """The plans, each of whose layers has its precision or is allowed not to; ProofError else.

    Where no target is asked for, a GPU for which NVIDIA documents no such plan does not end the build, whichever
    TensorRT is installed: the ONNX runs there as well, and a note has the reason.
    """
    if not bundle.settings.targets and (reason := why_no_plan_here()) is not None:
        bundle.notes.append(f"no TensorRT plan: {reason}")
        return BuiltPlans(())
    try:
        built = _build_plans(bundle, on_progress)
        _require_proof(bundle, built)
    except (InputError, ProofError, UnavailableError) as exc:
        if bundle.settings.targets or not is_limit_here(bundle.precision):
            raise
        for file in bundle.folder.glob("*.plan"):
            file.unlink()
        reason = str(exc).removeprefix(f"{bundle.path}: not written: ")
        bundle.notes.append(f"no TensorRT plan for this GPU: {reason}")
        return BuiltPlans(())
    bundle.notes.extend(f"no plan: {reason}" for reason in built.passed_over)
    bundle.notes.extend(built.remarks)
    return built


def _build_plans(bundle: UnfinishedBundle, on_progress: Progress) -> BuiltPlans:
    timings = bundle.settings.timing_cache
    return build_plans(
        bundle.folder / MODEL,
        bundle.folder,
        batch=bundle.batch,
        targets=bundle.settings.targets,
        options=bundle.settings.plan_options,
        timings=None if timings is None else Path(timings),
        source=bundle.model.source,
        on_progress=on_progress,
    )


def _require_proof(bundle: UnfinishedBundle, built: BuiltPlans) -> None:
    allowed = bundle.settings.allow_fallback
    missed = [
        f"{each.plan.file}: {describe_fallback(layer)}"
        for each in built.plans
        for layer in fallbacks(each.achieved, allowed)
    ]
    if missed:
        raise ProofError(
            f"{bundle.path}: not written: {len(missed)} layers did not get their precision, first in {missed[0]}; "
            "accept them with `allow_fallback` (a name or regular expression), or choose other `targets` or another "
            "precision"
        )
