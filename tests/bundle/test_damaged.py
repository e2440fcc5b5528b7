"""One bad bundle in a store is a row that says why, and nothing takes another bundle in its place without a word."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from alexnet_deploy.bundle.listing import list_bundles
from alexnet_deploy.bundle.manifest import MANIFEST, MODEL, Manifest
from alexnet_deploy.bundle.store import find_bundle, resolve_engine, some_bundle_names
from alexnet_deploy.bundle.verified import verify
from alexnet_deploy.errors import ArtifactError, DeployError, InputError
from tests.helpers.command import Command

Damage = Callable[[Path], object]


def _manifest(text: bytes) -> Damage:
    return lambda bundle: (bundle / MANIFEST).write_bytes(text)


def _instead(name: str, make: Damage) -> Damage:
    def damage(bundle: Path) -> None:
        (bundle / name).unlink()
        make(bundle / name)

    return damage


def _listed(name: str) -> Damage:
    def damage(bundle: Path) -> None:
        raw = json.loads((bundle / MANIFEST).read_text())
        raw["files"][name] = {"sha256": "", "bytes": 0}
        (bundle / MANIFEST).write_text(json.dumps(raw))

    return damage


def _link_to_nothing(bundle: Path) -> None:
    shutil.rmtree(bundle)
    bundle.symlink_to("nowhere")


DAMAGES: dict[str, Damage] = {
    "manifest is a FIFO": _instead(MANIFEST, os.mkfifo),
    "manifest is a folder": _instead(MANIFEST, Path.mkdir),
    "manifest is a device": _instead(MANIFEST, lambda path: path.symlink_to("/dev/zero")),
    "manifest is a link to nothing": _instead(MANIFEST, lambda path: path.symlink_to("nowhere")),
    "manifest is a link to itself": _instead(MANIFEST, lambda path: path.symlink_to(path.name)),
    "manifest is unreadable": _instead(MANIFEST, lambda path: path.symlink_to("/proc/self/mem")),
    "manifest is missing": lambda bundle: (bundle / MANIFEST).unlink(),
    "manifest is empty": _manifest(b""),
    "manifest is huge": _manifest(b" " * ((16 << 20) + 1)),
    "manifest is deep": _manifest(b'{"a":' + b"[" * 100_000),
    "manifest is deep in a field": _manifest(b'{"schema":1,"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    "manifest is a list": _manifest(b"[]"),
    "manifest is binary": _manifest(bytes(range(256))),
    "manifest is not UTF-8": _manifest(b'{"schema": 1, "precision": "caf\xe9"}'),
    "manifest has a lone surrogate": _manifest(rb'{"schema": 1, "precision": "\ud800"}'),
    "manifest has a huge number": _manifest(b'{"schema": ' + b"9" * 5000 + b"}"),
    "manifest has an infinite number": _manifest(b'{"schema": 1e999}'),
    "manifest has NaN": _manifest(b'{"schema": NaN}'),
    "manifest has a key twice": _manifest(b'{"schema": 1, "schema": 1}'),
    "manifest has control characters": _manifest(b'{"schema": 1, "\\u001b[2J\\u202e": 1}'),
    "file has an odd name": _listed("../secret"),
    "file has a name with a line break": _listed("a\nb"),
    "file has a name that is too long": _listed("x" * 300),
    "model is missing": lambda bundle: (bundle / MODEL).unlink(),
    "model is truncated": lambda bundle: (bundle / MODEL).write_bytes(b""),
    "model is a FIFO": _instead(MODEL, os.mkfifo),
    "model is a folder": _instead(MODEL, Path.mkdir),
    "model is a device": _instead(MODEL, lambda path: path.symlink_to("/dev/zero")),
    "model is a link to itself": _instead(MODEL, lambda path: path.symlink_to(path.name)),
    "bundle is a link to nothing": _link_to_nothing,
}


@pytest.fixture(params=DAMAGES.values(), ids=DAMAGES.keys())
def damaged(request: pytest.FixtureRequest, here: Path) -> Path:
    """A store of two bundles, of which the newest is damaged."""
    store = here / "engines"
    newest = list_bundles(store)[0][0]
    shutil.copytree(newest, store / "good", symlinks=True)
    request.param(newest)
    return newest


def test_a_damaged_bundle_is_a_row_and_no_command_takes_another_instead(command: Command, damaged: Path) -> None:
    store = damaged.parent
    rows = {directory.name: found for directory, found in list_bundles(store)}
    assert isinstance(rows["good"], Manifest)
    assert isinstance(rows[damaged.name], ArtifactError)

    listed = command("engines")
    assert listed.code == 0
    assert "good" in listed.out
    assert "damaged" in listed.out
    assert listed.out.replace("\n", "").isprintable()
    errors = {row["engine"]: row["error"] for row in json.loads(command("engines", "--json").out)}
    assert errors["good"] is None
    assert errors[damaged.name]

    with pytest.raises(ArtifactError, match="or name the engine to use"):
        resolve_engine(None, store).__enter__()
    with pytest.raises(ArtifactError, match="or name the engine to use"):
        some_bundle_names(store)
    with pytest.raises(DeployError):
        verify(find_bundle(damaged.name, store))
    refused = command("inspect", damaged.name)
    assert refused.code == 1
    assert refused.error


def test_a_damaged_bundle_that_is_older_is_in_nobodys_way(here: Path) -> None:
    store = here / "engines"
    (newest, _), (older, _) = list_bundles(store)[:2]
    (older / MODEL).unlink()
    with resolve_engine(None, store) as engine:
        assert engine.name == newest.name


def test_a_bundle_whose_files_are_links_is_whole_if_their_content_is(here: Path) -> None:
    """As git-annex, DVC and the Hugging Face cache keep files: the hashes decide, not the place."""
    bundle = list_bundles(here / "engines")[0][0]
    (bundle / MODEL).rename(here / "blob")
    (bundle / MODEL).symlink_to(here / "blob")
    verify(bundle)
    (here / "blob").write_bytes(b"other")
    with pytest.raises(ArtifactError, match="has 5 bytes"):
        verify(bundle)


@pytest.mark.parametrize("name", ["x" * 300, "a/" * 3000, "caf\udce9", "nul\0nul"])
def test_an_engine_of_an_impossible_name_is_missing(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="no such engine"):
        find_bundle(name, tmp_path)


def test_a_store_that_is_no_folder_is_one_line(command: Command, here: Path) -> None:
    for store in ("nope", "engines/alexnet.onnx", "x" * 300):
        refused = command("engines", "--store", store)
        assert refused.code == 1
        assert refused.error == f"error: {store}: no such folder; name a folder of engine bundles as --store"


def test_the_default_store_need_not_exist(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ran = command("engines")
    assert (ran.code, ran.out) == (0, "engines/ holds no engine; build one: alexnet-deploy build-engine\n")


def test_a_file_that_the_manifest_does_not_list_is_shown(command: Command, here: Path) -> None:
    bundle = list_bundles(here / "engines")[0][0]
    (bundle / "extra\x1b.bin").touch()
    assert r"extra\x1b.bin" in command("inspect", bundle.name).out
    assert json.loads(command("inspect", bundle.name, "--json").out)["unlisted"] == ["extra\x1b.bin"]
