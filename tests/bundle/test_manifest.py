"""A bundle is whole, verified and never mixed up; a manifest that is not one is an ArtifactError."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alexnet_deploy.bundle.manifest import (
    CALIBRATION,
    MANIFEST,
    MODEL,
    Manifest,
    load_manifest,
    save_manifest,
    write_bundle,
)
from alexnet_deploy.bundle.plan_options import PlanOptions
from alexnet_deploy.bundle.verified import open_bundle, verify
from alexnet_deploy.contract import BatchProfile
from alexnet_deploy.errors import ArtifactError, InputError
from alexnet_deploy.files import sha256_of
from tests.helpers.json_values import json_values
from tests.helpers.manifests import BUNDLE, PLAN, edit, write

OPTIONS = asdict(PlanOptions())
ONE, GAP = {"min": 1, "opt": 1, "max": 1}, {"min": 8, "opt": 8, "max": 8}


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write(tmp_path / "engines" / "alexnet-int8")


def list_file(raw: dict[str, Any], name: str) -> None:
    raw["files"][name] = {"sha256": "", "bytes": 0}


def test_what_was_written_is_read(bundle: Path) -> None:
    manifest, files = load_manifest(bundle)
    assert manifest == BUNDLE == verify(bundle)[0]
    assert files.keys() == {MODEL, CALIBRATION, PLAN.file}
    assert files[MODEL].bytes == 5
    assert files[MODEL].sha256 == "9372c470eeadd5ecd9c3c74c2b3cb633f8e2f2fad799250a0f70d652b6b825e4"
    assert open_bundle(bundle).plans == ((PLAN, bundle / PLAN.file),)
    assert open_bundle(bundle).name == "alexnet-int8"


def test_two_bundles_of_one_second_are_told_apart() -> None:
    """The newest bundle is what a command means that names none, and two builds can fall into one second."""
    created = Manifest("fp32", BUNDLE.contract, BatchProfile(), {}).created
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", created)


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        (MODEL, lambda file: file.write_bytes(b"mode"), "has 4 bytes, the manifest records 5; build the bundle again"),
        (PLAN.file, lambda file: file.write_bytes(b"plan of modes"), "was edited"),
        (CALIBRATION, Path.unlink, "is missing from its bundle"),
    ],
    ids=["truncated", "edited", "missing"],
)
def test_a_damaged_file_is_named(bundle: Path, name: str, damage: Callable[[Path], object], message: str) -> None:
    damage(bundle / name)
    with pytest.raises(ArtifactError, match=f"{name}: {message}"):
        open_bundle(bundle)
    assert verify(bundle, only={MODEL, PLAN.file, CALIBRATION} - {name})[0] == BUNDLE


def test_a_file_that_cannot_be_read_is_named(bundle: Path) -> None:
    (bundle / MODEL).unlink()
    (bundle / MODEL).mkdir()
    edit(bundle, lambda raw: raw["files"][MODEL].update(bytes=(bundle / MODEL).stat().st_size))
    with pytest.raises(ArtifactError, match=r"model.onnx: is not a plain file"):
        verify(bundle)


@pytest.mark.parametrize(
    "options", [None, PlanOptions(), PlanOptions(tf32=True, profiles=(BatchProfile(1, 1, 1), BatchProfile(1, 2, 4)))]
)
def test_the_options_of_a_plan_come_back(bundle: Path, options: PlanOptions | None) -> None:
    manifest = replace(BUNDLE, plans=(replace(PLAN, options=options),))
    save_manifest(manifest, bundle)
    assert load_manifest(bundle)[0].plans[0].options == options


def test_a_bundle_from_before_there_were_options_is_read(bundle: Path) -> None:
    edit(bundle, lambda raw: raw["plans"][0].pop("options"))
    assert load_manifest(bundle)[0].plans[0].options is None


@pytest.mark.parametrize(
    ("change", "says"),
    [
        *(
            (partial(list_file, name=name), f"file name {name!r} is not allowed in a bundle")
            for name in ("../../etc/passwd", "/etc/passwd", "..", "a\nb", MANIFEST)
        ),
        (lambda raw: raw["files"].pop(MODEL), "lists no ['model.onnx']"),
        (lambda raw: raw["files"].pop(PLAN.file), "lists no ['sm89.plan']"),
        (lambda raw: raw["files"][MODEL].pop("sha256"), "sha256"),
        (lambda raw: raw.update(files=[]), "is not a valid bundle manifest"),
        (lambda raw: raw["batch"].update(max=0), "'min_batch' 1 exceeds 'max_batch' 0"),
        (lambda raw: raw["batch"].update(opt=1.5), "Expected 'int', got 'float'"),
        (lambda raw: raw.update(batch=None), "is not a valid bundle manifest"),
        (lambda raw: raw["contract"].update(schema=2), "contract schema 2"),
        (lambda raw: raw["contract"].update(labels=["only one"]), "1 labels but 2 class ids"),
        (lambda raw: raw["contract"].update(temperature=3.0), "its contract was edited"),
        (lambda raw: raw["contract"]["labels"].reverse(), "its contract was edited"),
        (lambda raw: raw["contract"]["preprocessing"].update(interpolation="bicubic"), "its contract was edited"),
        (lambda raw: raw.pop("contract_sha256"), "('contract_sha256' is missing)"),
        (lambda raw: raw.update(contract_sha256=None), "its contract was edited"),
        (lambda raw: raw["plans"][0].update(target=89), "is not a valid bundle manifest"),
        (lambda raw: raw["plans"][0].update(options=OPTIONS | {"optimization_level": 9}), "'optimization_level' 9"),
        (lambda raw: raw["plans"][0].update(options=OPTIONS | {"hardware_compatible": "all"}), "hardware_compatible"),
        (lambda raw: raw["plans"][0].update(options=OPTIONS | {"profiles": [ONE, GAP]}), "batches of 2..7"),
        (lambda raw: raw["plans"][0].update(options=OPTIONS | {"surprise": 1}), "surprise"),
        (lambda raw: raw["plans"][0].update(options={}), "is missing"),
        (lambda raw: raw["achieved"][PLAN.file][0].update(got=None), "is not a valid bundle manifest"),
        (lambda raw: raw.update(surprise=1), "surprise"),
        (lambda raw: raw.pop("precision"), "precision"),
        (lambda raw: raw.pop("schema"), "bundle manifest schema None, but this version reads schema 1; build the"),
    ],
)
def test_a_manifest_that_cannot_be_is_refused(
    bundle: Path, change: Callable[[dict[str, Any]], object], says: str
) -> None:
    edit(bundle, change)
    with pytest.raises(ArtifactError) as caught:
        open_bundle(bundle)
    assert says in str(caught.value)
    assert str(caught.value).startswith(f"{bundle / MANIFEST}: ")


def test_the_form_of_a_manifest_does_not_matter(bundle: Path) -> None:
    """Its contract is compared by what it says: another indent or order of keys is no edit."""
    raw = json.loads((bundle / MANIFEST).read_text())
    raw["contract"] = dict(reversed(raw["contract"].items()))
    (bundle / MANIFEST).write_text(json.dumps(raw, indent=3))
    assert verify(bundle)[0] == BUNDLE


@given(st.data())
def test_any_value_anywhere_is_taken_or_refused(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    bundle = tmp_path_factory.getbasetemp() / "damaged"
    if not bundle.exists():
        write(bundle)
    save_manifest(BUNDLE, bundle)
    raw = json.loads((bundle / MANIFEST).read_text())
    node: Any = raw
    while True:
        key = data.draw(st.sampled_from(sorted(node) if isinstance(node, dict) else range(len(node))))
        if not (isinstance(node[key], dict | list) and node[key]) or data.draw(st.booleans()):
            break
        node = node[key]
    node[key] = data.draw(json_values)
    (bundle / MANIFEST).write_text(json.dumps(raw))
    try:
        manifest = verify(bundle)[0]
    except ArtifactError as exc:
        assert "\n" not in str(exc)
    else:
        save_manifest(manifest, bundle)
        assert verify(bundle)[0] == manifest


class TestPlace:
    @pytest.mark.parametrize("foreign", ["thesis.tex", MODEL])
    def test_a_directory_that_is_no_bundle_is_never_replaced(self, foreign: str, tmp_path: Path) -> None:
        (tmp_path / foreign).write_text("mine")
        held = "no bundle.json" if foreign == MODEL else foreign
        with pytest.raises(InputError, match=rf"holds {held}, .*choose another `output`"):
            write(tmp_path)
        assert (tmp_path / foreign).read_text() == "mine"

    def test_nor_is_a_bundle_with_a_file_of_the_users(self, bundle: Path) -> None:
        (bundle / "notes.txt").write_text("mine")
        with pytest.raises(InputError, match=r"holds notes.txt"):
            write(bundle)
        assert (bundle / "notes.txt").read_text() == "mine"

    def test_an_empty_directory_is_filled(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "empty").mkdir()
        monkeypatch.chdir(tmp_path / "empty")
        write(Path("."))
        assert verify(tmp_path / "empty")[0] == BUNDLE

    def test_a_damaged_bundle_is_replaced(self, bundle: Path) -> None:
        (bundle / MANIFEST).write_text("{")
        (bundle / PLAN.file).unlink()
        write(bundle)
        assert verify(bundle)[0] == BUNDLE

    def test_without_a_bundle_the_next_step_is_told(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"is not an engine bundle .*list the bundles: alexnet-deploy engines"):
            open_bundle(tmp_path / "nothing")


def test_a_bundle_replaced_while_it_is_verified_is_read_anew(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    newer = replace(BUNDLE, precision="fp16")

    def slowly(path: Path) -> str:
        monkeypatch.undo()
        write(bundle, newer, model=b"a new model")
        return sha256_of(path)

    monkeypatch.setattr("alexnet_deploy.bundle.verified.sha256_of", slowly)
    assert verify(bundle)[0] == newer


def test_an_engine_is_another_one_with_another_model_or_plan_but_not_with_another_note(tmp_path: Path) -> None:
    """What was found about one engine, such as that its answers are right, is remembered by this hash."""

    def hash_of(name: str, notes: tuple[str, ...] = (), **contents: bytes) -> str:
        bundle = tmp_path / name
        with write_bundle(bundle) as temporary:
            for file in (MODEL, PLAN.file, CALIBRATION):
                (temporary / file).write_bytes(contents.get(file.partition(".")[0], b"as before"))
            save_manifest(replace(BUNDLE, notes=notes), temporary)
        return open_bundle(bundle).content_sha256()

    assert hash_of("a") == hash_of("b", ("a note",), calibration=b"{}")
    assert len({hash_of("a"), hash_of("c", model=b"other"), hash_of("d", sm89=b"other")}) == 3
