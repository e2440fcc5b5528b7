"""Engines to a model repository of Triton, written whole or not at all.

repository/
  alexnet-deploy.json        what is here and what it was made from; Triton reads folders only
  requirements.txt           what Triton's Python needs (with preprocess)
  inferenceservice.yaml      for KServe, if asked for
  NAME/                      pixels -> logits
    config.pbtxt  labels.txt  1/model.onnx or 1/model.plan
  NAME-decode/               image files -> pixels          (with preprocess)
  NAME-probabilities/        logits -> probabilities        (with preprocess)
  NAME-photos/               the three as an ensemble: image files -> probabilities

A feature engine (built with ``until``) has no NAME-probabilities: its NAME-photos returns the features.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import alexnet_deploy
from alexnet_deploy.adoption.import_options import NO_IMPORT_OPTIONS, ImportOptions
from alexnet_deploy.bundle.manifest import Engine
from alexnet_deploy.bundle.store import STORE, resolve_engine
from alexnet_deploy.bundle.verified import held
from alexnet_deploy.errors import ArtifactError, InputError, UsageError, printable
from alexnet_deploy.files import atomic_directory, check_directory, sha256_of
from alexnet_deploy.json_format import JsonFormat, convert
from alexnet_deploy.onnx_graph.onnx_file import contract_in, fixed_batch, load_onnx
from alexnet_deploy.onnx_graph.weights_data import external_files
from alexnet_deploy.serving.triton import configs, kserve
from alexnet_deploy.serving.triton.choose import (
    ANSWER,
    DECODE,
    PHOTOS,
    TritonModel,
    capability_for,
    choose_model,
    refuse_equal_names,
)
from alexnet_deploy.serving.triton.config_text import to_pbtxt
from alexnet_deploy.serving.triton.configs import TritonSettings
from alexnet_deploy.serving.triton.python_models import REQUIREMENTS, requirements, write_python_model

RECORD = "alexnet-deploy.json"
CONFIG = "config.pbtxt"
VERSION = "1"
_FORMAT = JsonFormat("record of a model repository", 1, "make the repository again")
_DEFAULTS = TritonSettings()


@dataclass(frozen=True, slots=True)
class Repository:
    """What ``package_triton`` wrote: ``models`` are the names in Triton, those that a client calls first."""

    path: Path
    models: tuple[str, ...]
    bytes: int
    notes: tuple[str, ...]


def package_triton(
    engines: Sequence[str],
    repository: Path,
    *,
    store: Path = STORE,
    targets: Sequence[str] = (),
    preprocess: bool = False,
    kserve_manifest: bool = False,
    settings: TritonSettings = _DEFAULTS,
    import_options: ImportOptions = NO_IMPORT_OPTIONS,
) -> Repository:
    """Write the model repository of ``engines`` (bundles or ONNX files, feature engines too) to ``repository``.

    Triton serves the ONNX with its ONNX Runtime backend, or with ``targets``, such as ``sm89`` or ``l4``, the plans of
    the full TensorRT for them. ``preprocess`` adds an ensemble that takes encoded image files. A repository of ours is
    replaced as a whole; on an error it is as it was.

    Raises UsageError for engines of one name, ``NAME@RUNTIME`` and what is no target, InputError for an engine that is
    missing or without a plan for a target, and for a folder that holds anything else.
    """
    if not engines:
        raise UsageError("`engines`: name one or more engines")
    targets = [capability_for(target) for target in targets]
    _refuse_runtimes(engines, store)
    _refuse_foreign(repository)
    check_directory(repository)
    with ExitStack() as resources:
        models = [
            _chosen(engine, targets)
            for engine in (
                resources.enter_context(resolve_engine(name, store, options, features=True))
                for name, options in zip(engines, import_options.for_each(engines), strict=True)
            )
        ]
        refuse_equal_names(models, preprocess=preprocess)
        with atomic_directory(repository) as folder:
            for model in models:
                with held(model.engine):  # its weights may lie in a file of their own, copied after the graph
                    _write_model(folder, model, settings, preprocess=preprocess)
            if preprocess:
                (folder / REQUIREMENTS).write_text(requirements(), encoding="utf-8")
            if kserve_manifest:
                manifest = kserve.inference_service(Path(os.path.abspath(repository)).name, models, _bytes_in(folder))
                (folder / kserve.MANIFEST).write_text(manifest, encoding="utf-8")
            _write_record(folder, models)
            total = _bytes_in(folder)
    roles = (PHOTOS,) if preprocess else ()
    names = [name for model in models for name in (*map(model.beside, roles), model.name)]
    return Repository(repository, tuple(names), total, tuple(note for model in models for note in _notes(model)))


def _chosen(engine: Engine, targets: Sequence[str]) -> TritonModel:
    with held(engine):
        engine = engine.hashed()  # what is copied later is compared with it
        return choose_model(engine, fixed_batch(load_onnx(engine.onnx_path)), targets)


def _refuse_runtimes(engines: Sequence[str], store: Path) -> None:
    """UsageError for an engine with a runtime, as ``serve`` takes it."""
    for text in engines:
        name, at, _ = text.rpartition("@")
        if at and not _exists(text, store) and _exists(name, store):
            raise UsageError(f"{text}: Triton runs engines with runtimes of its own; name the engine {name}")


def _exists(name: str, store: Path) -> bool:
    return os.path.lexists(name) or os.path.lexists(store / name)


def _write_model(folder: Path, model: TritonModel, settings: TritonSettings, *, preprocess: bool) -> None:
    own = _folder(folder, configs.engine_config(model, settings), model)
    if model.plans:
        for (_, path), name in zip(model.plans, configs.plan_files(model).values(), strict=True):
            _copy(model.engine, path, own / name)
    else:
        _copy(model.engine, model.engine.onnx_path, own / "model.onnx")
        for file in external_files(own / "model.onnx"):
            if file.name == "model.onnx":
                raise InputError(
                    f"{model.engine.name}: its weights are in another {file.name}; save it with them inside"
                )
            file.parent.mkdir(parents=True, exist_ok=True)
            _copy(model.engine, model.engine.onnx_path.parent / file.relative_to(own), file)
        # Read from the copy: the original could be replaced meanwhile by a model with other labels.
        if contract_in(load_onnx(own / "model.onnx"), source=model.engine.name) != model.engine.contract:
            raise ArtifactError(f"{model.engine.name}: was replaced while it was read; package it again")
    if preprocess:
        contract = model.engine.contract
        write_python_model(_folder(folder, configs.decode_config(model, settings), model), DECODE, contract)
        if ANSWER in model.beside_roles:
            write_python_model(_folder(folder, configs.answer_config(model, settings), model), ANSWER, contract)
        ensemble = _folder(folder, configs.ensemble_config(model), model)
        # Object stores have no empty folders, and Triton wants a version.
        (ensemble / "README").write_text("An ensemble has no file of its own.\n", encoding="utf-8")


def _folder(repository: Path, config: dict[str, Any], model: TritonModel) -> Path:
    """The folder of version 1 of a new model, with its configuration beside it."""
    folder = repository / str(config["name"])
    version = folder / VERSION
    version.mkdir(parents=True)
    (folder / CONFIG).write_text(to_pbtxt(config), encoding="utf-8")
    if any("label_filename" in output for output in config["output"]):
        labels = "".join(f"{printable(label)}\n" for label in model.engine.contract.labels)
        (folder / configs.LABELS_FILE).write_text(labels, encoding="utf-8")
    return version


def _copy(engine: Engine, source: Path, to: Path) -> None:
    """Copy a file of an engine, and prove that the copy is the one that was opened."""
    shutil.copyfile(source, to)
    if source.name in engine.files and sha256_of(to) != engine.files[source.name].sha256:
        raise ArtifactError(f"{engine.name}: was replaced while it was copied; package it again")


def _write_record(folder: Path, models: Sequence[TritonModel]) -> None:
    record = {
        "schema": _FORMAT.schema,
        "alexnet_deploy": alexnet_deploy.__version__,
        "models": [
            {
                "model": model.name,
                "engine": model.engine.name,
                "precision": model.engine.precision,
                "engine_sha256": model.engine.content_sha256(),
                "plans": [{"target": plan.target, "tensorrt": plan.version} for plan, _ in model.plans],
                "contract": json.loads(model.engine.contract.to_json()),
            }
            for model in models
        ],
        "files": sorted(_files_in(folder)),
    }
    (folder / RECORD).write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _refuse_foreign(repository: Path) -> None:
    """InputError if the folder holds anything that an earlier call did not write."""
    if not os.path.isdir(repository) or not os.listdir(repository):
        return
    record = repository / RECORD
    if not os.path.lexists(record):
        raise InputError(
            f"{repository}: exists and is not a model repository of alexnet-deploy ({RECORD} is missing), so it will "
            "not be replaced; choose another folder"
        )
    raw: dict[str, Any] = _FORMAT.read(record, dict)
    with _FORMAT.checking(str(record)):
        listed = convert(raw["files"], list[str])
    others = sorted(_files_in(repository) - {RECORD, *listed})
    if others:
        raise InputError(
            f"{repository}: holds {others[0]}, which is not of this repository, so it will not be replaced; move it, "
            "or choose another folder"
        )


def _files_in(folder: Path) -> set[str]:
    """Relative paths of all files and links, without what Python compiles beside its sources."""
    found: set[str] = set()
    for root, folders, files in os.walk(folder):
        names = [*files, *(name for name in folders if os.path.islink(os.path.join(root, name)))]
        if os.path.basename(root) != "__pycache__":
            found.update(os.path.relpath(os.path.join(root, name), folder) for name in names)
    return found


def _bytes_in(folder: Path) -> int:
    return sum((folder / name).stat().st_size for name in _files_in(folder))


def _notes(model: TritonModel) -> list[str]:
    notes = []
    if model.name != model.engine.name:
        notes.append(f"{model.engine.name}: is called {model.name} in Triton, where other characters are not allowed")
    if model.plans:
        plan = model.plans[0][0]
        if plan.options is not None and plan.options.version_compatible:
            notes.append(
                f"{model.name}: its plan needs a Triton with TensorRT {plan.version}, or a later one of its major "
                "version, started with --backend-config=tensorrt,version-compatible=true, which lets it run the code "
                "in the plan"
            )
        else:
            notes.append(
                f"{model.name}: its plan needs a Triton with TensorRT {plan.version}, the version that built it"
            )
    elif configs.runs_unoptimised(model.engine.precision):
        notes.append(
            f"{model.name}: Triton runs its ONNX without ONNX Runtime's optimisations, which compute "
            f"{model.engine.precision} wrongly: right, and slower than in `serve`; a plan for the GPU, or int8 without "
            "fp16, has its full speed"
        )
    if model.static:
        notes.append(
            f"{model.name}: takes {model.batch.max} images per request, no more and no fewer: its batch is fixed"
        )
    return notes
