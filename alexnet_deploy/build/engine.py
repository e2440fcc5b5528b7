"""build-engine as one function: any classifier ONNX -> a proved engine bundle."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from alexnet_deploy.build.options import EngineOptions
from alexnet_deploy.build.plans import Build, build_plans
from alexnet_deploy.build.proof import explain, fallbacks
from alexnet_deploy.build.typed_onnx import Report, TypedOnnx, tools
from alexnet_deploy.bundle.manifest import MODEL, Manifest, save_manifest, write_bundle
from alexnet_deploy.contract import BatchProfile
from alexnet_deploy.errors import ProofError, UsageError
from alexnet_deploy.onnx_graph.adopt import adopt
from alexnet_deploy.onnx_graph.onnx_file import fixed_batch, load_onnx, save_onnx, set_contract
from alexnet_deploy.runtime.tensorrt_library import installed


def build_engine(onnx_path: Path, out: Path, options: EngineOptions, *, on_progress: Report | None = None) -> Manifest:
    """Build ``onnx_path`` into the bundle ``out``; it appears whole, or ``out`` stays as it was.

    Where no TensorRT is installed the bundle has no plan and its notes say so. Raises UsageError for options that
    contradict each other, ProofError where a layer did not get its precision and ``allow_fallback`` does not name
    it, and what the stages raise.
    """
    report = on_progress or (lambda stage, done, total: None)
    quantized = options.precision.startswith(("int8", "fp8"))
    if quantized and options.calibration is None:
        raise UsageError(
            f"--{options.precision.partition('+')[0]} needs --calibration-data DIR: without the value ranges of real "
            "images its scales would be guesses; give a folder of photos like those of production, not the ones you "
            "evaluate on"
        )
    if not quantized and (options.exclude or options.method):
        flag = "--exclude" if options.exclude else "--calibration-method"
        raise UsageError(f"{flag} says how --int8 or --fp8 is made; add one of them, or leave it out")
    if options.bound and not (quantized and options.precision.endswith("+fp16")):
        raise UsageError("--max-drop keeps layers of --int8 or --fp8 in float16; build with one of them and --fp16")
    with write_bundle(out) as bundle, TemporaryDirectory(dir=bundle.parent, prefix=f".{out.name}.work-") as scratch:
        adopted = Path(scratch) / "model.onnx"
        contract = adopt(onnx_path, adopted, options.import_options)
        model = load_onnx(adopted)
        notes = []
        if contract.temperature != 1.0:
            # It was fitted to another engine's probabilities, and would pass for this one's.
            notes.append(
                f"the temperature {contract.temperature:.4g} of {onnx_path} is left out: each engine has its own; fit "
                "it with: alexnet-deploy calibrate-confidence"
            )
            contract = replace(contract, temperature=1.0)
            set_contract(model, contract)
            save_onnx(model, adopted)
        fixed = fixed_batch(model)
        batch = _batch(fixed, onnx_path, options.batch)
        report("precision", 0, 1)
        typed = TypedOnnx(adopted, contract, fixed, options, str(onnx_path), report)
        typed.write(bundle)
        report("precision", 1, 1)
        notes += typed.notes
        built = _plans(bundle, onnx_path, batch, options, notes, report)
        achieved = {plan.plan.file: plan.achieved for plan in built.plans}
        missed = [
            f"{file}: {explain(layer)}"
            for file, layers in achieved.items()
            for layer in fallbacks(layers, options.allow_fallback)
        ]
        if missed:
            raise ProofError(
                f"{out}: not written: {len(missed)} layers did not get their precision, first in {missed[0]}; "
                "accept them with --allow-fallback NAME (a regular expression), or choose another --target or precision"
            )
        allowed = [layer for layers in achieved.values() for layer in fallbacks(layers)]
        notes += [f"allowed fallback: {explain(layer)}" for layer in allowed]
        manifest = Manifest(
            precision=options.precision,
            contract=contract,
            batch=batch,
            tools=tools(),
            plans=tuple(plan.plan for plan in built.plans),
            achieved=achieved,
            notes=tuple(notes),
        )
        save_manifest(manifest, bundle)
    return manifest


def _batch(fixed: int | None, onnx_path: Path, asked: BatchProfile | None) -> BatchProfile:
    if fixed is None:
        return asked or BatchProfile()
    if asked is not None and (asked.min, asked.max) != (fixed, fixed):
        raise UsageError(
            f"{onnx_path}: takes batches of exactly {fixed}; leave out --min-batch and --max-batch, "
            "or export it with a dynamic batch"
        )
    return BatchProfile(fixed, fixed, fixed)


def _plans(
    bundle: Path, onnx_path: Path, batch: BatchProfile, options: EngineOptions, notes: list[str], report: Report
) -> Build:
    if not options.targets and not installed():
        notes.append(
            "no TensorRT plan: none is installed; pip install 'alexnet-deploy[rtx]' builds plans on any machine"
        )
        return Build(())
    built = build_plans(
        bundle / MODEL,
        bundle,
        batch=batch,
        targets=options.targets,
        source=str(onnx_path),
        on_progress=lambda target, done, total: report(f"TensorRT {target}", done, total),
    )
    notes += [f"no plan: {reason}" for reason in built.passed_over]
    return built
